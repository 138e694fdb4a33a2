"""Local gradient steps of a batch of devices, with the ranker's gradient written out.

What is computed is what `ranker.logits` and autograd compute for each device alone; the tests hold the two against each
other. It is written out because autograd allocates every intermediate anew and copies the shared weights before the
first step. Here intermediates live in buffers that the next batch uses again, the first step reads the shared weights
as they are, and the gradient of a dense weight is added to it within the matrix product.

Only the derivative of the loss with respect to the scores comes from autograd, so that the loss stands in one place.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from sottovoce.client.cohort_batches import CohortBatch
from sottovoce.client.event_attention import EventAttention
from sottovoce.client.local_offsets import loss_slope
from sottovoce.client.stacked_weights import InputLayout, Table, Weights
from sottovoce.client.workspace import Workspace


class LocalSteps:
    """Local training of one batch.

    Args:
        batch: D devices, N trained rows, E events.
        layout: of the ranker's input.
        shared: dense weights of the fleet, with a leading axis of 1.
        table: embeddings of the fleet.
        buffer: memory to use; what was learnt lives there until the next batch.
        personal_variance: of the personal layer, 0 for none.

    Attributes:
        dense: weights by the fleet's names, each (D, ...) after a step.
        first: (flat,) first-order weights of the flat rows.
        embedding: (flat, d).
    """

    def __init__(
        self,
        batch: CohortBatch,
        layout: InputLayout,
        shared: Weights,
        table: Table,
        buffer: Workspace,
        personal_variance: float,
    ) -> None:
        self._batch, self._layout, self._buffer = batch, layout, buffer
        self._personal_variance = personal_variance
        self._shared = shared
        self.dense = dict(shared)
        self.first, self.embedding = table.rows(batch.row)
        self._layers = sum(name.startswith("cross.") for name in shared) // 2
        (D, N), E, d = batch.weight.shape, batch.events.shape[1], self.embedding.shape[1]
        self._attention = EventAttention(batch, d, buffer)
        # One over the share, written out to the width of an embedding: broadcasting over so few columns is slow.
        self._rarity = torch.div(1.0, batch.share.expand(-1, d), out=buffer("rarity", len(batch.share), d))

        # What is read, and its gradients, one below the other.
        contexts, fields = shared["tower.weight"].shape[1] // d, layout.ad.stop // d
        requests = self._requests = (len(batch.read) - D * N * fields - D * E) // (D * contexts)
        self._rows = buffer("rows", len(batch.read), d)
        sizes = [D * N * fields, D * requests * contexts, D * E]
        ads, context, outcomes = torch.split(self._rows, sizes)
        self._ads, self._context = ads.view(D, N, -1), context.view(D, requests, -1)
        self._outcomes = outcomes.view(D, E, d)
        self._first = buffer("first", len(batch.read))
        ads, context, outcomes = torch.split(self._first, sizes)
        self._ad_first, self._context_first = ads.view(D, N, -1), context.view(D, requests, -1)
        self._outcome_first = outcomes.view(D, E)
        sizes = [D * N * layout.places, sizes[1], D * E, D * E]
        self._gradients = buffer("gradients", sum(sizes), d)
        inputs, context, outcomes, events = torch.split(self._gradients, sizes)
        self._to_x0, self._to_context = inputs.view(D, N, -1), context.view(D, requests, -1)
        self._to_outcomes, self._to_events = outcomes.view(D, E, d), events.view(D, E, d)

        self._x0 = buffer("x0", D, N, layout.width)
        self._x0[..., layout.counts] = batch.counts
        self._x0[..., layout.inputs :] = 0.0
        self._cuts = [self._x0[..., cut] for cut in (layout.ad, layout.attended, layout.user)]
        self._to_cuts = [self._to_x0[..., cut] for cut in (layout.attended, layout.user)]
        self._user, self._to_user = (
            buffer(name, D, requests, shared["tower.bias"].shape[2]) for name in ("user", "to_user")
        )
        self._hidden = buffer("hidden", D, N, shared["hidden.bias"].shape[2])
        self._to_hidden = buffer("to_hidden", *self._hidden.shape)
        self._crossed = [buffer(f"crossed{k}", D, N, layout.width) for k in range(self._layers)]
        self._inputs = [self._x0, *(buffer(f"input{k}", D, N, layout.width) for k in range(self._layers))]
        self._outer = buffer("outer", D, N, layout.width)

    def step(self, rate: float) -> None:
        """One full-batch gradient step of every device, at this learning rate."""
        self._rate = rate
        self._read()
        batch = self._batch
        self._backward(loss_slope(self._forward(), batch.labels, batch.weight, self._personal_variance))
        self._move_rows()

    def _read(self) -> None:
        """Look up all rows that are read one by one."""
        torch.index_select(self.embedding, 0, self._batch.read, out=self._rows)
        torch.index_select(self.first, 0, self._batch.read, out=self._first)

    def _move_rows(self) -> None:
        """Step down the gradient of each flat row, the sum over the places that show it."""
        summed = functional.embedding_bag(self._batch.order, self._gradients, self._batch.starts, mode="sum")
        self.embedding[1:].addcmul_(summed, self._rarity, value=-self._rate)
        bump = torch.zeros_like(self.first).scatter_add_(0, self._batch.read, self._first)
        self.first[1:].addcmul_(bump[1:], self._rarity[:, 0], value=-self._rate)

    def _forward(self) -> Tensor:
        """Scores, (D, heads, N)."""
        weights, layout = self.dense, self._layout
        ad, attended, user = self._cuts
        ad.copy_(self._ads)
        self._attention.forward(self.embedding, self._outcomes, self._outcome_first, attended)
        user.copy_(
            self._affine(self._context, "tower", weights["tower.bias"], self._context.shape[2], self._user).relu_()
        )
        for layer, crossed in enumerate(self._crossed):
            x, bias = self._inputs[layer], weights[f"cross.{layer}.bias"]
            if layer:
                self._affine(x, f"cross.{layer}", bias, layout.inputs, crossed)
                torch.addcmul(x, self._x0, crossed, out=self._inputs[layer + 1])
            else:
                # x0 * c + x0, as the one product x0 * (c + 1).
                self._affine(x, f"cross.{layer}", bias + 1.0, layout.inputs, crossed)
                torch.mul(x, crossed, out=self._inputs[layer + 1])
        x = self._inputs[-1]
        self._affine(x, "hidden", weights["hidden.bias"], layout.inputs, self._hidden).relu_()
        self._head = 1.0 / math.sqrt(layout.inputs + self._hidden.shape[2])
        many = (len(x), -1, -1)
        scores = torch.baddbmm(weights["head.bias"], weights["head.input"].expand(many), x.mT, alpha=self._head)
        scores.baddbmm_(weights["head.hidden"].expand(many), self._hidden.mT, alpha=self._head)
        scores.baddbmm_(weights["interest.weight"].expand(many), self._batch.counts.mT)
        scores[:, 0] += self._ad_first.sum(-1).add_(self._context_first.sum(-1))
        return scores

    def _backward(self, slope: Tensor) -> None:
        """Gradients of all that was read, from the top down; every dense weight is read before it moves."""
        weights, layout = self.dense, self._layout
        x, outer, inner = self._inputs[-1], self._outer, self._to_hidden
        _spread(slope, weights["head.input"] * self._head, outer)
        _spread(slope, weights["head.hidden"] * self._head, inner)
        self._move("head.input", slope, x, self._head)
        self._move("head.hidden", slope, self._hidden, self._head)
        self._move("interest.weight", slope, self._batch.counts, 1.0)
        self._shift("head.bias", slope.sum(-1, keepdim=True))

        _through_relu(inner, self._hidden, inner)
        down = 1.0 / math.sqrt(layout.inputs)
        self._back(inner, "hidden", down, outer)
        self._move("hidden.weight", x.mT, inner, down)
        self._shift("hidden.bias", inner.sum(1, keepdim=True))

        for layer in reversed(range(self._layers)):
            into, crossed = outer if layer else self._to_x0, self._crossed[layer]
            if layer == self._layers - 1:
                torch.mul(outer, crossed, out=self._to_x0)
            else:
                self._to_x0.addcmul_(outer, crossed)
            change = torch.mul(outer, self._x0, out=crossed)
            self._back(change, f"cross.{layer}", down, into)
            self._move(f"cross.{layer}.weight", self._inputs[layer].mT, change, down)
            self._shift(f"cross.{layer}.bias", change.sum(1, keepdim=True))
        if not self._layers:
            self._to_x0.copy_(outer)

        attended, user = self._to_cuts
        if self._requests == 1:
            user = user.sum(1, keepdim=True)
        user = _through_relu(user, self._user, self._to_user)
        down = 1.0 / math.sqrt(self._context.shape[2])
        many = (len(slope), -1, -1)
        torch.bmm(user, (weights["tower.weight"] * down).mT.expand(many), out=self._to_context)
        self._move("tower.weight", self._context.mT, user, down)
        self._shift("tower.bias", user.sum(1, keepdim=True))

        self._attention.backward(attended, self._to_events, self._to_outcomes, self._outcome_first)
        click = slope[:, 0, :, None]
        self._ad_first.copy_(click)
        self._context_first.copy_(click if self._requests == click.shape[1] else click.sum(1, keepdim=True))

    def _affine(self, x: Tensor, layer: str, bias: Tensor, inputs: int, out: Tensor) -> Tensor:
        """A dense layer in the ranker's scaling: by the shared weights at once, later by each device's own."""
        weight, alpha = self.dense[f"{layer}.weight"], 1.0 / math.sqrt(inputs)
        if len(weight) < len(x):
            torch.addmm(bias[0], x.flatten(0, 1), weight[0], alpha=alpha, out=out.view(-1, out.shape[2]))
        else:
            torch.baddbmm(bias, x, weight, alpha=alpha, out=out)
        return out

    def _back(self, gradient: Tensor, layer: str, alpha: float, into: Tensor) -> None:
        """Add what a dense layer hands back to its inputs."""
        weight = self.dense[f"{layer}.weight"]
        if len(weight) < len(gradient):
            into.view(-1, into.shape[2]).addmm_(gradient.flatten(0, 1), weight[0].T, alpha=alpha)
        else:
            into.baddbmm_(gradient, weight.mT, alpha=alpha)

    def _move(self, name: str, left: Tensor, right: Tensor, alpha: float) -> None:
        """Step down the gradient `alpha * left @ right` of a dense weight."""
        value = self.dense[name]
        if value is self._shared[name]:
            out = self._buffer(name, len(left), *value.shape[1:])
            self.dense[name] = torch.baddbmm(value, left, right, alpha=-self._rate * alpha, out=out)
        else:
            value.baddbmm_(left, right, alpha=-self._rate * alpha)

    def _shift(self, name: str, gradient: Tensor) -> None:
        """Step down the gradient of a bias."""
        self.dense[name] = torch.sub(self.dense[name], gradient, alpha=self._rate)


def _spread(slope: Tensor, weight: Tensor, out: Tensor) -> None:
    """Product of (D, heads, N), transposed, and (D or 1, heads, k): with one head a plain multiplication."""
    if slope.shape[1] == 1:
        torch.mul(slope.mT, weight, out=out)
    else:
        torch.bmm(slope.mT, weight.expand(len(slope), -1, -1), out=out)


def _through_relu(slope: Tensor, out_of_relu: Tensor, out: Tensor) -> Tensor:
    """The gradient before a rectifier, from what came out of it."""
    through: Tensor = torch.ops.aten.threshold_backward.grad_input(slope, out_of_relu, 0.0, grad_input=out)
    return through
