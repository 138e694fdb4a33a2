"""The ranker's attention over past events for a batch of devices, forwards and backwards.

Keys are sums of the embeddings of an event's ad, queries the same sums for the rows that are trained. The large
matrices hold a number for each row and event; every pass over them counts. So the softmax is taken to base two, whose
exponential is several times faster, and is never divided by its sum; what it yields is. Thin products are computed
transposed, with the long side last.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from sottovoce.client.cohort_batches import CohortBatch
from sottovoce.client.workspace import Workspace


class EventAttention:
    """Attention of one batch.

    Args:
        batch: D devices, N trained rows, E events.
        d: embedding width.
        buffer: memory to use.
    """

    def __init__(self, batch: CohortBatch, d: int, buffer: Workspace) -> None:
        (D, N), E = batch.weight.shape, batch.events.shape[1]
        self._batch, self._root = batch, 1.0 / math.sqrt(d)
        self._events = batch.events.flatten(0, 1)
        self._share, self._pull = buffer("share", D, N, E), buffer("pull", D, N, E)
        self._values = buffer("values", D, E, d)

    def forward(self, embedding: Tensor, outcome: Tensor, gain: Tensor, out: Tensor) -> None:
        """Write what each row attends to.

        Args:
            embedding: (flat, d).
            outcome: (D, E, d) embedding of each event's outcome.
            gain: (D, E) its first-order weight.
            out: (D, N, d).
        """
        D, N, d = out.shape
        if self._events.shape[1]:
            keys = functional.embedding_bag(self._events, embedding, mode="sum").view(D, -1, d)
        else:  # nothing of an ad is remembered, and an empty bag is refused
            keys = torch.zeros_like(self._values)
        self._keys, self._query = keys.mT, keys[:, keys.shape[1] - N :]
        self._gain = (gain + 1.0)[:, None]
        values = torch.addcmul(outcome, keys, self._gain.mT, out=self._values)
        share = torch.bmm(self._query, self._keys, out=self._share)
        torch.add(self._batch.bias, share, alpha=self._root / math.log(2.0), out=share)
        share.sub_(share.amax(-1, keepdim=True)).exp2_()
        self._scale = self._batch.past / share.sum(-1)[:, None]
        self._attended = torch.bmm(values.mT, share.mT).mul_(self._scale)
        out.copy_(self._attended.mT)

    def backward(self, slope: Tensor, to_events: Tensor, to_outcomes: Tensor, to_gain: Tensor) -> None:
        """Write the gradients of keys, outcomes and gains.

        Args:
            slope: (D, N, d) gradient of what `forward` wrote.
            to_events: (D, E, d), of each history embedding of an event.
            to_outcomes: (D, E, d).
            to_gain: (D, E).
        """
        N = slope.shape[1]
        slopes = slope.mT * self._scale
        mean = torch.linalg.vecdot(slopes, self._attended, dim=1)
        pull = torch.bmm(slopes.mT, self._values.mT, out=self._pull).sub_(mean[..., None]).mul_(self._share)
        to_values = torch.bmm(slopes, self._share)
        to_keys = torch.bmm(self._query.mT, pull)
        to_keys[..., to_keys.shape[2] - N :] += torch.bmm(self._keys, pull.mT)
        torch.addcmul(to_keys.mul_(self._root), to_values, self._gain, out=to_events.mT)
        to_outcomes.copy_(to_values.mT)
        torch.linalg.vecdot(to_values, self._keys, dim=1, out=to_gain)
