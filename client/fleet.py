"""Train thousands of devices together, each exactly as if it were alone.

A phone is a fleet of one; a simulation worker hosts thousands. Dense weights carry a leading device axis and run as
batched matrix products. Embedding tables are cut down to the rows each device touches and laid end to end in one flat
table whose ids are offset per device, so that one lookup and one scatter serve the whole fleet. No operation mixes two
devices: the result equals training each device alone, to float32 rounding.

Only the sum of the clipped updates leaves this module.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sottovoce.client.examples import Examples
from sottovoce.models.ranker import Batch, RankerConfig, interest, logits, losses, shapes
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.clip import clip_factors
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
        chunk_rows: padded rows held at once, which bounds the memory.

    Source: McMahan et al. 2018, arXiv:1710.06963, algorithm 1 (device side).
    """
    total = {name: np.zeros(shape) for name, shape in shapes(schema, config).items()}
    clipped = 0
    seen = training.max_rows + schema.history_length
    for chunk in chunks(examples, np.asarray(devices, np.int64), seen, chunk_rows):
        local = _train_chunk(parameters, examples.take(chunk, newest=seen), schema, config, training)
        clipped += _add_clipped(local, clip_norm, total)
    return FleetUpdate(total, len(devices), clipped)


def update_norms(
    parameters: Mapping[str, Tensor],
    examples: Examples,
    schema: FeatureSchema,
    config: RankerConfig,
    training: LocalTraining,
    devices: npt.NDArray[np.integer],
    chunk_rows: int = 4096,
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
    """
    asked = np.asarray(devices, np.int64)
    norms = np.zeros(len(asked))
    seen = training.max_rows + schema.history_length
    for chunk in chunks(examples, asked, seen, chunk_rows):
        local = _train_chunk(parameters, examples.take(chunk, newest=seen), schema, config, training)
        norms[np.searchsorted(asked, chunk)] = local.norms
    return norms


def chunks(
    examples: Examples, devices: npt.NDArray[np.int64], newest: int, chunk_rows: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Devices with rows, grouped by like size so that padding stays small.

    Args:
        examples: their rows.
        devices: indices.
        newest: how many of a device's rows count.
        chunk_rows: most padded rows of a group with more than one device.
    """
    lengths = np.minimum(examples.offsets[devices + 1] - examples.offsets[devices], newest)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        size = max(1, chunk_rows // width)
        yield devices[order[start : start + size]]
        start += size


def pad(examples: Examples, schema: FeatureSchema, max_rows: int) -> tuple[Batch, Tensor, Tensor]:
    """Rows of every device side by side: (batch with table ids, labels, weight), padded to the longest device.

    Row i of a device may see the `history_length` rows before it and no other: never itself, never the future, never
    another device.
    """
    lengths = np.diff(examples.offsets)
    count, width = len(lengths), int(lengths.max())
    place = np.arange(width)
    real = place < lengths[:, None]
    index = np.where(real, examples.offsets[:-1, None] + place, 0)

    ad = np.where(real[..., None], examples.catalogue[examples.ad[index]], 0)
    labels = np.where(real[..., None], examples.labels[index], 0).astype(np.float32)
    device = examples.device[:, None, :]
    if examples.context.shape[1]:
        context = np.where(real[..., None], examples.context[index], 0)
        context = np.concatenate([np.broadcast_to(device, (count, width, device.shape[-1])), context], -1)
    else:
        context = device
    outcome = np.where(real, schema.outcome_row("seen") + labels.sum(-1), 0)
    age = place[:, None] - place
    near = (age > 0) & (age <= schema.history_length)
    visible = near & real[:, None, :]
    trained = real & (place >= (lengths - max_rows)[:, None])
    weight = trained / trained.sum(1, keepdims=True)

    def tensor(array: npt.NDArray[np.generic], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)

    batch = Batch(
        tensor(context, torch.int64),
        tensor(ad, torch.int64),
        tensor(ad[..., : len(schema.history)], torch.int64),
        tensor(outcome, torch.int64),
        tensor(visible, torch.float32),
    )
    return batch, torch.from_numpy(labels), tensor(weight, torch.float32)


def flatten_tables(batch: Batch, rows: int) -> tuple[Batch, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Replace table ids by ids into one flat table holding, per device, only the rows it touches.

    Returns:
        The batch with flat ids, the owning device of each flat row, and its row in the whole table.
    """
    count = len(batch.ad)
    parts = [batch.context.reshape(count, -1), batch.ad.reshape(count, -1), batch.outcomes.reshape(count, -1)]
    ids = torch.cat(parts, 1).numpy()
    keys = ids + np.arange(count, dtype=np.int64)[:, None] * rows
    unique, inverse = np.unique(keys, return_inverse=True)
    flat = torch.from_numpy(inverse.reshape(ids.shape))
    context, ad, outcomes = torch.split(flat, [part.shape[1] for part in parts], 1)
    ad = ad.reshape(batch.ad.shape)
    return (
        Batch(
            context.reshape(batch.context.shape),
            ad,
            ad[..., : batch.events.shape[-1]],
            outcomes.reshape(batch.outcomes.shape),
            batch.visible,
        ),
        unique // rows,
        unique % rows,
    )


def row_share(batch: Batch, weight: Tensor, owner: npt.NDArray[np.int64]) -> Tensor:
    """Share of its device's trained impressions that show each flat row, shape (len(owner),), in (0, 1].

    Outcome rows count as shown by all; a row met only in the history as shown by one.
    """
    share = torch.zeros(len(owner))
    for field in range(batch.ad.shape[-1]):
        share.index_add_(0, batch.ad[..., field].reshape(-1), weight.reshape(-1))
    per_request = weight if batch.context.shape[-2] == weight.shape[-1] else weight.sum(-1, keepdim=True)
    for field in range(batch.context.shape[-1]):
        share.index_add_(0, batch.context[..., field].reshape(-1), per_request.reshape(-1))
    share[batch.outcomes.reshape(-1)] = 1.0
    return torch.maximum(share, weight.amax(-1)[torch.from_numpy(owner)]).clamp(max=1.0)


class _LocalUpdates(NamedTuple):
    """What a chunk of devices learnt, before clipping.

    Attributes:
        delta: per parameter (new - old), float64; `table` as flat rows.
        norms: (devices,) L2 norm of each whole update.
        owner: device of each flat table row.
        row: its row in the whole table.
    """

    delta: dict[str, Tensor]
    norms: npt.NDArray[np.float64]
    owner: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]


def _train_chunk(
    parameters: Mapping[str, Tensor],
    examples: Examples,
    schema: FeatureSchema,
    config: RankerConfig,
    training: LocalTraining,
) -> _LocalUpdates:
    batch, labels, weight = pad(examples, schema, training.max_rows)
    seen = interest(batch, schema.outcome_row("click"))
    batch, owner, row = flatten_tables(batch, schema.rows)
    count = examples.devices

    start = {
        name: value[torch.from_numpy(row)] if name == "table" else value.expand(count, *value.shape)
        for name, value in parameters.items()
    }
    start["table"] = torch.where(torch.from_numpy(row == 0)[:, None], 0.0, start["table"])
    local = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    padding = torch.from_numpy(row == 0)
    share = row_share(batch, weight, owner)
    for _ in range(training.steps):
        loss = (losses(logits(local, batch, seen, config), labels) * weight).sum()
        gradients = torch.autograd.grad(loss, list(local.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(local.items(), gradients, strict=True):
                value -= training.learning_rate * (gradient / share[:, None] if name == "table" else gradient)
            local["table"][padding] = 0.0

    with torch.no_grad():
        delta = {name: (value - start[name]).double() for name, value in local.items()}
        squares = torch.zeros(count, dtype=torch.float64)
        owners = torch.from_numpy(owner)
        for name, value in delta.items():
            if name == "table":
                squares.index_add_(0, owners, value.square().sum(-1))
            else:
                squares += value.square().flatten(1).sum(1)
    return _LocalUpdates(delta, np.sqrt(squares.numpy()), owner, row)


def _add_clipped(local: _LocalUpdates, clip_norm: float, total: dict[str, npt.NDArray[np.float64]]) -> int:
    """Add the clipped updates of a chunk to `total`; how many were scaled down."""
    factors = clip_factors(local.norms, clip_norm)
    scale, owners = torch.from_numpy(factors), torch.from_numpy(local.owner)
    live = scale > 0
    for name, value in local.delta.items():
        if name == "table":
            kept = torch.where(live[owners, None], value * scale[owners, None], 0.0)
            torch.from_numpy(total[name]).index_add_(0, torch.from_numpy(local.row), kept)
        else:
            kept = torch.where(live.reshape(-1, *[1] * (value.ndim - 1)), value, 0.0)
            torch.from_numpy(total[name]).add_(torch.einsum("d,d...->...", scale, kept))
    return int((factors < 1).sum())
