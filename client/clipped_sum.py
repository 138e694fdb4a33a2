"""The sum of clipped updates, batch after batch: all that leaves a fleet.

Norms and sums are taken in float64, so that what a device adds does not depend on who else is in the sum.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sottovoce.client.cohort_batches import CohortBatch
from sottovoce.client.first_order_steps import FirstOrderSteps
from sottovoce.client.local_steps import LocalSteps
from sottovoce.client.stacked_weights import InputLayout, Table, Weights
from sottovoce.client.workspace import Workspace
from sottovoce.privacy.clip import clip_factors


class LocalUpdates:
    """What the devices of a batch learnt, before clipping.

    Args:
        batch: D devices.
        learnt: their weights after training.
        shared: dense weights that they started from.
        table: embeddings that they started from.
        buffer: memory to use; the updates live there until the next batch.

    Attributes:
        norms: (D,) L2 norm of each whole update; NaN or infinite where it is not finite.
    """

    def __init__(
        self, batch: CohortBatch, learnt: LocalSteps | FirstOrderSteps, shared: Weights, table: Table, buffer: Workspace
    ) -> None:
        self._batch = batch
        first, embedding = table.rows(batch.row)
        count, flat, d = len(batch.weight), len(batch.owner), embedding.shape[1]
        self._table = buffer("moved table", flat, 1 + d, dtype=torch.float64)
        torch.sub(learnt.first[1:], first[1:], out=self._table[:, 0])
        torch.sub(learnt.embedding[1:], embedding[1:], out=self._table[:, 1:])
        self._dense = {}
        squares = self._table.new_zeros(count).index_add_(0, batch.owner, torch.linalg.vecdot(self._table, self._table))
        for name, value in learnt.dense.items():
            moved = buffer(f"moved {name}", *value.shape, dtype=torch.float64)
            self._dense[name] = torch.sub(value, shared[name], out=moved).view(count, -1)
            squares += torch.linalg.vector_norm(self._dense[name], dim=1).square_()
        self.norms: npt.NDArray[np.float64] = squares.sqrt_().cpu().numpy()

    def add_clipped(self, clip_norm: float, dense: Weights, table: Tensor) -> int:
        """Add the clipped updates to sums by the fleet's names; how many were scaled down.

        An update that is not finite is replaced by zeros: NaN times zero would be NaN.
        """
        factors = clip_factors(self.norms, clip_norm)
        scale = torch.from_numpy(factors).to(table.device)
        scales = scale[self._batch.owner]
        if not factors.all():
            self._table[scales == 0] = 0.0
            for value in self._dense.values():
                value[scale == 0] = 0.0
        for name, value in self._dense.items():
            dense[name].view(-1).addmv_(value.T, scale)
        self._table *= scales[:, None]
        columns = torch.arange(table.shape[1], device=table.device)
        places = (self._batch.row[1:, None] * table.shape[1] + columns).flatten()
        table.view(-1).scatter_add_(0, places, self._table.flatten())
        return int((factors < 1).sum())


class ClippedSum:
    """A running sum over batches.

    Args:
        layout: of the ranker's input.
        shared: dense weights of the fleet.
        table: of the embeddings.

    Attributes:
        clipped: updates that were scaled down so far.
    """

    def __init__(self, layout: InputLayout, shared: Weights, table: Table) -> None:
        self._layout = layout
        self._dense = {name: torch.zeros_like(value[0], dtype=torch.float64) for name, value in shared.items()}
        self._table = torch.zeros(table.shape, dtype=torch.float64, device=shared["head.bias"].device)
        self.clipped = 0

    def add(self, updates: LocalUpdates, clip_norm: float) -> None:
        """Add the updates of a batch, each clipped to `clip_norm`."""
        self.clipped += updates.add_clipped(clip_norm, self._dense, self._table)

    def total(self) -> dict[str, npt.NDArray[np.float64]]:
        """The sum so far, by the ranker's names."""
        whole = {"table": self._table, **self._layout.unstacked(self._dense)}
        return {name: value.cpu().numpy() for name, value in whole.items()}
