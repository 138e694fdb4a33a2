"""Score impressions as each device would: with its own past, and nothing that came later."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sottovoce.client.cohort_batches import chunks
from sottovoce.client.examples import Examples
from sottovoce.client.personal import NEWEST, offsets, shifted
from sottovoce.models.batch import Batch
from sottovoce.models.model import Model
from sottovoce.models.ranker import Parameters
from sottovoce.models.request import Request, without_twins
from sottovoce.models.schema import FeatureSchema

BATCH_ROWS = 16_384
"""Padded rows scored at once, which bounds the memory."""

PAST_ROWS = 4_096
"""Likewise where every row sees a history of its own."""


def score(
    parameters: Parameters, schema: FeatureSchema, model: Model, past: Examples, rows: Examples
) -> npt.NDArray[np.float64]:
    """Predicted probabilities of `rows`, shape (rows, heads), each device's personal layer in place.

    Args:
        parameters: of the model, without a device axis.
        schema: of the ids.
        model: that they belong to.
        past: each device's own history; its newest `history_length` rows are shown to the model, and its newest
            `personal.NEWEST` rows fit the personal layer.
        rows: what to score, of the same devices in the same order.
    """
    out = np.zeros((rows.rows, len(schema.heads)))
    lengths = np.diff(rows.offsets)
    busy = np.flatnonzero(lengths)
    busy = busy[np.argsort(-lengths[busy], kind="stable")]
    start = 0
    while start < len(busy):
        count = max(1, BATCH_ROWS // int(lengths[busy[start]]))
        devices = busy[start : start + count]
        batch, place = _requests(schema, past, rows, devices)
        with torch.no_grad():
            chances = model.chances(parameters, batch, schema).double().numpy()
        real = place >= 0
        out[place[real]] = chances[real]
        start += count
    if model.personal_variance:
        owners = rows.owners
        out[:, 0] = shifted(out[:, 0], personal_offsets(parameters, schema, model, past, busy)[owners])
    return out


def personal_offsets(
    parameters: Parameters, schema: FeatureSchema, model: Model, past: Examples, devices: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """What the personal layer of each device adds to its click logits, shape (all devices,); 0 for those not asked.

    Args:
        parameters: of the model, without a device axis.
        schema: of the ids.
        model: that they belong to.
        past: rows of all devices.
        devices: whose layer is fitted, each once.
    """
    own = past.take(devices)
    place, chances = score_past(parameters, schema, model, own, NEWEST)
    fitted = offsets(chances[:, 0], own.labels[place, 0], own.owners[place], own.devices, model.personal_variance)
    found = np.zeros(past.devices)
    found[devices] = fitted
    return found


def score_past(
    parameters: Parameters, schema: FeatureSchema, model: Model, rows: Examples, newest: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Predicted probabilities of each device's newest training rows, each seen with the rows before it only.

    Args:
        parameters: of the model, without a device axis.
        schema: of the ids.
        model: that they belong to.
        rows: what to score.
        newest: rows of a device that are scored; older ones still count as history.

    Returns:
        The scored rows, as indices into `rows`, rising; and their probabilities, shape (scored, heads).
    """
    out = np.zeros((rows.rows, len(schema.heads)))
    chosen = np.zeros(rows.rows, bool)
    seen = newest + schema.history_length
    for chunk in chunks(rows, np.arange(rows.devices), seen, PAST_ROWS):
        taken = rows.take(chunk, newest=seen)
        batch, _, weight = pad(taken, schema, newest)
        with torch.no_grad():
            chances = model.chances(parameters, batch, schema).double().numpy()
        scored = weight.numpy() > 0
        first = rows.offsets[chunk + 1] - np.diff(taken.offsets)
        place = first[:, None] + np.arange(scored.shape[1])
        out[place[scored]] = chances[scored]
        chosen[place[scored]] = True
    index = np.flatnonzero(chosen)
    return index, out[index]


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

    ad = np.where(real[..., None], examples.ads(index), 0)
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


def requests(schema: FeatureSchema, past: Examples, rows: Examples, devices: npt.NDArray[np.integer]) -> list[Request]:
    """One serving request per device with rows: its context, its past, its different ads as candidates."""
    made = []
    for device in devices:
        batch, _ = _requests(schema, past, rows, np.asarray([device]))
        context, ad, events, outcomes = (part[0].numpy().astype(np.int32) for part in batch[:4])
        made.append(Request(context[:1], events, outcomes, without_twins(ad)[0]))
    return made


def _requests(
    schema: FeatureSchema, past: Examples, rows: Examples, devices: npt.NDArray[np.integer]
) -> tuple[Batch, npt.NDArray[np.int64]]:
    """Padded requests of some devices, and the row of each candidate or -1."""
    lengths = np.diff(rows.offsets)[devices]
    width = int(lengths.max())
    real = np.arange(width) < lengths[:, None]
    place = np.where(real, rows.offsets[devices][:, None] + np.arange(width), -1)
    ad = np.where(real[..., None], rows.ads(place), 0)

    context = rows.device[devices][:, None, :]
    if rows.context.shape[1]:
        moment = np.where(real[..., None], rows.context[place], 0)
        context = np.concatenate([np.broadcast_to(context, (*place.shape, context.shape[-1])), moment], -1)

    length = schema.history_length
    event = past.offsets[devices + 1][:, None] - length + np.arange(length)
    known = event >= past.offsets[devices][:, None]
    event = np.where(known, event, 0)
    if past.rows:
        events = np.where(known[..., None], past.catalogue[past.ad[event], : len(schema.history)], 0)
        outcomes = np.where(known, schema.outcome_row("seen") + past.labels[event].sum(-1, dtype=np.int64), 0)
    else:
        events = np.zeros((*event.shape, len(schema.history)), np.int64)
        outcomes = np.zeros(event.shape, np.int64)

    def ids(array: npt.NDArray[np.integer]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).long()

    visible = torch.from_numpy(known[:, None, :].astype(np.float32))
    return Batch(ids(context), ids(ad), ids(events), ids(outcomes), visible), place
