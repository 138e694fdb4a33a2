"""Train thousands of devices together, each exactly as if it were alone.

A phone is a fleet of one; a simulation worker hosts thousands. Devices of like size are trained in batches: dense
weights carry a leading device axis and run as batched matrix products; embedding tables are cut down to the rows each
device touches and laid end to end in one flat table, so that one lookup and one sum serve the whole batch. No operation
mixes two devices: the result equals training each device alone, to float32 rounding.

Only the sum of the clipped updates leaves this module.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sottovoce.client.clipped_sum import ClippedSum, LocalUpdates
from sottovoce.client.cohort_batches import CohortBatch, chunks, prepare
from sottovoce.client.examples import Examples
from sottovoce.client.first_order_steps import FirstOrderSteps
from sottovoce.client.local_steps import LocalSteps
from sottovoce.client.stacked_weights import InputLayout, Table
from sottovoce.client.workspace import Workspace
from sottovoce.models.ranker import RankerConfig
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.record import RecordTarget


class LocalTraining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every device does in a round.

    Attributes:
        steps: full-batch gradient steps on the device's rows, at most 1,000.
        learning_rate: of those steps. A table row moves by its mean gradient over the impressions that show it, and
            not over all of the device's: otherwise an ad seen once in fifty impressions would hardly be heard.
        max_rows: newest rows a device trains on, at most 100,000; older ones still count as its history. With `record`
            the public figure for the rows of a device instead, all of which may be drawn.
        record: what an update may reveal about one record of the device; None trains without that guarantee. With it
            devices train without history, see `record_level`.
    """

    steps: int = 2
    learning_rate: float = 0.3
    max_rows: int = 64
    record: RecordTarget | None = None

    def __post_init__(self) -> None:
        """Refuse training that cannot move."""
        if not (1 <= self.steps <= 1_000 and 0 < self.learning_rate < math.inf and 1 <= self.max_rows <= 100_000):
            raise ValueError("local steps (to 1000), learning rate and max_rows (to 100000) must be positive")


@dataclass(frozen=True, slots=True)
class FleetUpdate:
    """The sum of one fleet's clipped updates.

    Attributes:
        total: per parameter, the sum over devices of (new - old), each device clipped to the bound as a whole.
        devices: how many devices were asked, with or without rows.
        clipped: how many were scaled down; for the simulation to look at, never part of a reply.
    """

    total: dict[str, npt.NDArray[np.float64]]
    devices: int
    clipped: int


def fleet_update(
    parameters: Mapping[str, Tensor],
    examples: Examples,
    schema: FeatureSchema,
    config: RankerConfig,
    training: LocalTraining,
    clip_norm: float,
    devices: npt.NDArray[np.integer],
    chunk_rows: int = 4096,
    *,
    device: str | torch.device = "cpu",
    workers: int = 1,
) -> FleetUpdate:
    """Train `devices` from the same parameters and add up their clipped updates.

    Guarantees, for every input:
      * each device moves the total by at most `clip_norm` in L2 norm over all parameters together;
      * a device whose update is not finite, or who owns no rows, contributes exactly zero;
      * the padding row of the table is never moved.

    Args:
        parameters: by name, shapes as in `ranker.shapes`, float32.
        examples: rows of at least these devices.
        schema: of the ids in `examples`.
        config: sizes of the ranker.
        training: local steps.
        clip_norm: C, largest L2 norm of one device's whole update.
        devices: indices into `examples`; a repeated index trains twice.
        chunk_rows: padded rows held at once by a worker, which bounds the memory.
        device: where the arithmetic happens, such as "cpu" or "cuda".
        workers: threads that train side by side; each should be left one core, see `torch.set_num_threads`.

    Raises:
        ValueError: no worker.

    Source: McMahan et al. 2018, arXiv:1710.06963, algorithm 1 (device side).
    """
    if workers < 1:
        raise ValueError(f"a fleet needs at least one worker, got {workers}")
    fleet = _Fleet(parameters, schema, config, training, torch.device(device))
    cohort = list(fleet.chunks(examples, devices, chunk_rows))

    def part(worker: int) -> ClippedSum:
        total = ClippedSum(fleet.layout, fleet.shared, fleet.table)
        for _, updates in fleet.train(examples, cohort[worker::workers]):
            total.add(updates, clip_norm)
        return total

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(part, range(workers))) if workers > 1 else [part(0)]
    sums = [one.total() for one in parts]
    # Worker after worker: which of them is faster must not change the sum.
    total = {name: sum((one[name] for one in sums[1:]), start=sums[0][name]) for name in parameters}
    return FleetUpdate(total, len(devices), sum(one.clipped for one in parts))


def update_norms(
    parameters: Mapping[str, Tensor],
    examples: Examples,
    schema: FeatureSchema,
    config: RankerConfig,
    training: LocalTraining,
    devices: npt.NDArray[np.integer],
    chunk_rows: int = 4096,
    *,
    device: str | torch.device = "cpu",
) -> npt.NDArray[np.float64]:
    """L2 norm of the whole update of each of `devices` before any clipping, shape (devices,).

    ==========================  ===============
    device                      norm
    ==========================  ===============
    owns no rows                0
    update holds NaN            NaN
    update overflows            infinite or NaN
    ==========================  ===============

    Args:
        parameters: by name, shapes as in `ranker.shapes`, float32.
        examples: rows of at least these devices.
        schema: of the ids in `examples`.
        config: sizes of the ranker.
        training: local steps.
        devices: indices into `examples`, rising.
        chunk_rows: padded rows held at once, which bounds the memory.
        device: where the arithmetic happens, such as "cpu" or "cuda".
    """
    norms = np.zeros(len(devices))
    fleet = _Fleet(parameters, schema, config, training, torch.device(device))
    for chunk, updates in fleet.train(examples, fleet.chunks(examples, devices, chunk_rows)):
        norms[np.searchsorted(devices, chunk)] = updates.norms
    return norms


class _Fleet:
    """What all devices start from and do."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        schema: FeatureSchema,
        config: RankerConfig,
        training: LocalTraining,
        device: torch.device,
    ) -> None:
        self._schema, self._training, self._device = schema, training, device
        self.layout = InputLayout(schema, config)
        scales = config.scales(schema)
        self._scales = (
            {**self.layout.stacked(scales, device), "table": scales["table"][:, 0].to(device)} if scales else {}
        )
        started = {name: value / scales[name] if scales else value for name, value in parameters.items()}
        self.shared = self.layout.stacked(started, device)
        self.table = Table(started["table"], device)
        self._config = config
        self._seen = training.max_rows + schema.history_length

    def chunks(
        self, examples: Examples, devices: npt.NDArray[np.integer], chunk_rows: int
    ) -> Iterator[npt.NDArray[np.int64]]:
        return chunks(examples, np.asarray(devices, np.int64), self._seen, chunk_rows)

    @torch.no_grad()
    def train(
        self, examples: Examples, cohort: Iterable[npt.NDArray[np.int64]]
    ) -> Iterator[tuple[npt.NDArray[np.int64], LocalUpdates]]:
        """Each group of devices and what it learnt."""
        training, buffer = self._training, Workspace(self._device)
        for chunk in cohort:
            taken = examples.take(chunk, newest=self._seen)
            batch = prepare(taken, self._schema, training.max_rows, self.layout.places).to(self._device)
            learnt = self._begin(batch, buffer)
            for _ in range(training.steps):
                learnt.step(training.learning_rate)
            yield chunk, LocalUpdates(batch, learnt, self.shared, self.table, buffer)

    def _begin(self, batch: CohortBatch, buffer: Workspace) -> LocalSteps | FirstOrderSteps:
        """The devices of a batch before their first step."""
        personal = self._config.personal_variance
        if not self._config.embedding_width:
            return FirstOrderSteps(batch, self._schema, self.shared, self.table, self._scales, personal)
        return LocalSteps(batch, self.layout, self.shared, self.table, buffer, personal)
