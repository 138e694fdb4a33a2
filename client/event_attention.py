"""The ranker's attention over past events for a batch of devices, forwards and backwards.

Keys are sums of the embeddings of an event's ad, queries the same sums for the rows that are trained. The large
matrices hold a number for each row and event; every pass over them counts. So the softmax is taken to base two, whose
exponential is several times faster, is never divided by its sum, and the sum comes out of the same product as the
attended values, from a column of ones. Thin products are computed transposed, with the long side last.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from sottovoce.client.cohort_batches import CohortBatch
from sottovoce.client.workspace import Workspace


class EventAttention:
    """Attention of one batch; buffers are shared between batches.

    Args:
        batch: D devices, N trained rows, E events.
        d: embedding width.
        buffer: memory to use.
    """

    def __init__(self, batch: CohortBatch, d: int, buffer: Workspace) -> None:
        (D, N), (E, history) = batch.weight.shape, batch.events.shape[1:]
        self._batch, self._root = batch, 1.0 / math.sqrt(d)
        self._events = batch.events.view(-1, history)
        self._share, self._pull = buffer("share", D, N, E), buffer("pull", D, N, E)
        # One more than d: ones beside the values, and beside the slopes what the softmax takes off.
        self._valued, self._sloped = buffer("valued", D, E, d + 1), buffer("sloped", D, d + 1, N)
        self._valued[..., d] = 1.0
        self._values, self._slopes = self._valued[..., :d], self._sloped[:, :d]

    def forward(self, embedding: Tensor, outcome: Tensor, gain: Tensor, out: Tensor) -> None:
        """Write what each row attends to.

        Args:
            embedding: (flat, d).
            outcome: (D, E, d) embedding of each event's outcome.
            gain: (D, E) its first-order weight.
            out: (D, N, d).
        """
        D, N, d = out.shape
        keys = functional.embedding_bag(self._events, embedding, mode="sum").view(D, -1, d)
        self._keys, self._query = keys.mT, keys[:, keys.shape[1] - N :]
        self._gain = (gain + 1.0)[:, None]
        torch.addcmul(outcome, keys, self._gain.mT, out=self._values)
        scale = self._root / math.log(2.0)
        share = torch.baddbmm(self._batch.bias, self._query, self._keys, alpha=scale, out=self._share)
        share.sub_(share.amax(-1, keepdim=True)).exp2_()
        attended = torch.bmm(self._valued.mT, share.mT)
        self._scale = self._batch.past / attended[:, d:]
        self._attended = attended[:, :d].mul_(self._scale)
        out.copy_(self._attended.mT)

    def backward(self, slope: Tensor, to_events: Tensor, to_outcomes: Tensor, to_gain: Tensor) -> None:
        """Write the gradients of keys, outcomes and gains.

        Args:
            slope: (D, N, d) gradient of what `forward` wrote.
            to_events: (D, E, d), of each history embedding of an event.
            to_outcomes: (D, E, d).
            to_gain: (D, E).
        """
        N, d = slope.shape[1:]
        torch.mul(slope.mT, self._scale, out=self._slopes)
        torch.linalg.vecdot(self._slopes, self._attended, dim=1, out=self._sloped[:, d]).neg_()
        to_values = torch.bmm(self._slopes, self._share)
        pull = torch.bmm(self._sloped.mT, self._valued.mT, out=self._pull).mul_(self._share)
        to_keys = torch.bmm(self._query.mT, pull)
        to_keys[..., to_keys.shape[2] - N :] += torch.bmm(self._keys, pull.mT)
        torch.addcmul(to_keys.mul_(self._root), to_values, self._gain, out=to_events.mT)
        to_outcomes.copy_(to_values.mT)
        torch.linalg.vecdot(to_values, self._keys, dim=1, out=to_gain)
