"""Local gradient steps of a batch of devices for the linear model: first-order weights, interest counts, biases.

The gradient is the sum over a device's rows, not their mean: a row of the table then hears each impression that shows
it alike, on a busy device and on a quiet one, and the clip alone decides how loud a busy device may be. Weights are in
the units of `models.units` throughout.
"""

import torch
from torch import Tensor

from sottovoce.client.cohort_batches import CohortBatch
from sottovoce.client.local_offsets import loss_slope
from sottovoce.client.stacked_weights import Table, Weights
from sottovoce.models.schema import FeatureSchema


class FirstOrderSteps:
    """Local training of one batch; what it learnt has the form of `LocalSteps`.

    Args:
        batch: D devices, N trained rows, E events.
        schema: of the ids.
        shared: dense weights of the fleet, with a leading axis of 1 and heads transposed.
        table: first-order weights of the fleet.
        scales: units of the dense weights, by name and in the same form, and of the rows of the table, (rows,).
        personal_variance: of the personal layer, 0 for none.

    Attributes:
        dense: weights by the fleet's names, each (D, ...).
        first: (flat,) first-order weights of the flat rows.
        embedding: (flat, 0).
    """

    def __init__(
        self,
        batch: CohortBatch,
        schema: FeatureSchema,
        shared: Weights,
        table: Table,
        scales: Weights,
        personal_variance: float,
    ) -> None:
        self._batch, self._scales, self._personal_variance = batch, scales, personal_variance
        self.first, self.embedding = table.rows(batch.row)
        self._by_head = [self.first, *self.embedding.unbind(1)]
        self.dense = {name: value.repeat(len(batch.weight), 1, 1) for name, value in shared.items()}
        self._unit = scales["table"][batch.row]
        (D, N), E = batch.weight.shape, batch.events.shape[1]
        ads, outcomes = D * N * len(schema.ad), D * E
        self._ads = batch.read[:ads].view(D, N, len(schema.ad))
        # Once for a device, or row by row.
        self._context = batch.read[ads : len(batch.read) - outcomes].view(D, -1, len(schema.context))
        self._trained = (batch.weight > 0).to(batch.weight.dtype)

    def step(self, rate: float) -> None:
        """One full-batch gradient step of every device, at this learning rate."""
        batch = self._batch
        slope = loss_slope(self._forward(), batch.labels, self._trained, self._personal_variance)
        once = self._context.shape[1] == 1
        places = torch.cat([self._ads.flatten(), self._context.flatten()])
        for head, weights in enumerate(self._by_head):
            mine = slope[:, head, :, None]
            by_read = [
                mine.expand(self._ads.shape),
                (mine.sum(1, keepdim=True) if once else mine).expand(self._context.shape),
            ]
            summed = torch.zeros_like(weights).scatter_add_(0, places, torch.cat([part.flatten() for part in by_read]))
            weights[1:] -= rate * (self._unit * summed)[1:]
        self._move("head.bias", slope.sum(-1, keepdim=True), rate)
        if "interest.weight" in self.dense:
            self._move("interest.weight", slope @ batch.counts, rate)

    def _move(self, name: str, gradient: Tensor, rate: float) -> None:
        self.dense[name] -= rate * self._scales[name] * gradient

    def _forward(self) -> Tensor:
        """Scores of the shared weights, (D, heads, N)."""
        served = {name: value * self._scales[name] for name, value in self.dense.items()}
        if "interest.weight" in served:
            scores = torch.baddbmm(served["head.bias"], served["interest.weight"], self._batch.counts.mT)
        else:
            scores = served["head.bias"].repeat(1, 1, self._batch.counts.shape[1])
        for head, weights in enumerate(self._by_head):
            weight = weights * self._unit
            scores[:, head] += weight[self._ads].sum(-1) + weight[self._context].sum(-1)
        return scores
