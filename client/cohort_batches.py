"""Cut a cohort into batches of devices of like size, and lay the rows of a batch side by side.

What no weight touches is worked out here once and used in every local step: who sees whom, interest counts, the flat
table of the rows each device meets, and where each row's gradient will have to be collected.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sottovoce.client.examples import Examples
from sottovoce.client.touched_rows import touched_rows
from sottovoce.models.schema import FeatureSchema

MOST_PADDING = 0.2
"""The padded rows of a cohort hold a smaller share of padding than this."""

GROUP_ROWS = 300.0
"""Rows that could be trained in the time that another group costs, however small it is; measured."""

HIDDEN = -1e4 / math.log(2.0)
"""Added to the attention of a row to what it may not see, in units of log 2."""


class CohortBatch(NamedTuple):
    """D devices with up to E rows each, of which the newest N are trained on; rows stand at the right, newest last.

    Attributes:
        read: flat rows that are read one by one: (D, N, ad features) those of the ads; (D, N, context features) or,
            where nothing changes from row to row, (D, 1, context features); (D, E) outcomes of events.
        events: (D, E, history features) flat rows that are read as a sum.
        bias: (D, N, E) 0 where a row sees an event, else `HIDDEN`.
        past: (D, 1, N) 1 for rows that see an event, else 0.
        counts: (D, N, 2 * history features + 2), see `batch.Interest`.
        labels: (D, N, heads).
        weight: (D, N) share of each row in its device's loss; 0 for padding.
        owner: (flat - 1,) device of each flat row, without the padding row.
        row: (flat,) row of the whole table; the first is the padding row.
        share: (flat - 1, 1) share of its device's trained rows that show the flat row, without the padding row.
        order: places of the gradient of each flat row, grouped by flat row without the padding row.
        starts: (flat - 1,) begin of each group.
    """

    read: Tensor
    events: Tensor
    bias: Tensor
    past: Tensor
    counts: Tensor
    labels: Tensor
    weight: Tensor
    owner: Tensor
    row: Tensor
    share: Tensor
    order: Tensor
    starts: Tensor

    def to(self, device: torch.device) -> "CohortBatch":
        """The batch on that device."""
        return CohortBatch(*(part.to(device) for part in self))


def chunks(
    examples: Examples, devices: npt.NDArray[np.int64], newest: int, chunk_rows: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Devices with rows, grouped by like size: few groups, less than a fifth of whose padded rows are padding.

    Args:
        examples: their rows.
        devices: indices.
        newest: how many of a device's rows count.
        chunk_rows: most padded rows of a group with more than one device.
    """
    lengths = np.minimum(examples.offsets[devices + 1] - examples.offsets[devices], newest)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    if not len(order):
        return
    widths, counts = np.unique(lengths[order], return_counts=True)
    widths, ends = widths[::-1], np.concatenate([[0], np.cumsum(counts[::-1])])
    price, real = GROUP_ROWS, int(lengths.sum())
    bounds = _cheapest(widths, ends, price, chunk_rows)
    while real <= (1.0 - MOST_PADDING) * sum(widths[j] * (ends[k] - ends[j]) for j, k in bounds):
        price /= 2.0
        bounds = _cheapest(widths, ends, price, chunk_rows)
    for begin, end in bounds:
        parts = -(-(ends[end] - ends[begin]) // max(1, chunk_rows // int(widths[begin])))
        yield from np.array_split(devices[order[ends[begin] : ends[end]]], parts)


def _cheapest(
    widths: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], price: float, chunk_rows: int
) -> list[tuple[int, int]]:
    """Runs of falling widths, as begin and end, so that padded rows and `price` rows for each group cost least.

    At a price below one row no run holds two widths, and nothing is padded.

    Args:
        widths: falling.
        ends: (widths + 1,) devices before each width.
        price: of a group, in rows.
        chunk_rows: where a run is cut into several groups.
    """
    least, begins = np.zeros(len(widths) + 1), np.zeros(len(widths) + 1, np.int64)
    for end in range(1, len(widths) + 1):
        rows = widths[:end] * (ends[end] - ends[:end])
        costs = least[:end] + rows + price * np.ceil(rows / chunk_rows)
        begins[end] = np.argmin(costs)
        least[end] = costs[begins[end]]
    found: list[tuple[int, int]] = []
    end = len(widths)
    while end:
        found.append((int(begins[end]), end))
        end = int(begins[end])
    return found[::-1]


def prepare(examples: Examples, schema: FeatureSchema, max_rows: int, width: int) -> CohortBatch:
    """Lay out devices that all own rows.

    Args:
        examples: the newest `max_rows` + `history_length` rows of each device; see `Examples.take`.
        schema: of the ids.
        max_rows: newest rows of a device that are trained on.
        width: places of one embedding width in a row of the ranker's input, see `InputLayout.places`.
    """
    lengths = np.diff(examples.offsets)
    count, most = len(lengths), int(lengths.max())
    trained = np.minimum(lengths, max_rows)
    newest = int(trained.max())
    begin = most - newest
    place = np.arange(most)
    real = place >= (most - lengths)[:, None]
    index = np.where(real, examples.offsets[1:, None] - most + place, 0)

    ad = examples.ads(index)
    ad[~real] = 0
    labels = examples.labels[index]
    outcomes = labels.sum(-1, dtype=np.int32)
    clicked = real & (outcomes > 0)
    outcomes = np.where(real, outcomes + np.int32(schema.outcome_row("seen")), 0).astype(np.int32)
    events = ad[..., : len(schema.history)]
    device = examples.device[:, None]
    if examples.context.shape[1]:
        device = np.broadcast_to(device, (count, newest, device.shape[-1]))
        context = np.where(real[:, begin:, None], np.concatenate([device, examples.context[index[:, begin:]]], -1), 0)
    else:
        context = device

    asked = ad[:, begin:]
    parts = (asked, context, outcomes, events)
    touched = touched_rows(np.concatenate([part.reshape(count, -1) for part in parts], 1, dtype=np.int32))
    cuts = np.cumsum([math.prod(part.shape[1:]) for part in parts])
    *read, shown = (torch.from_numpy(some.astype(np.int64)) for some in np.split(touched.flat, cuts[:-1], 1))
    # A row of the batch counts with its share of the loss. Outcomes count as shown by all rows, and so does what
    # stands once for all rows; events alone add nothing, but a row met only there counts as shown by one.
    worth = np.zeros((count, cuts[-1]), np.float32)
    worth[:, : cuts[0]] = 1.0
    worth[:, cuts[0] : cuts[1]] = 1.0 if examples.context.shape[1] else newest
    worth[:, cuts[1] : cuts[2]] = newest
    worth[:, : cuts[2]] /= trained[:, None]
    share = np.add.reduceat(worth.ravel()[touched.order], touched.starts)
    share = np.clip(share, (1.0 / trained)[touched.owner], 1.0)

    return CohortBatch(
        torch.cat([some.reshape(-1) for some in read]),
        shown.view(events.shape),
        *_sight(real, begin, schema.history_length),
        torch.from_numpy(_interest(events, clicked, real, begin, schema.history_length)),
        torch.from_numpy(labels[:, begin:].astype(np.float32)),
        torch.from_numpy((real[:, begin:] / trained[:, None]).astype(np.float32)),
        torch.from_numpy(touched.owner),
        torch.from_numpy(touched.row),
        torch.from_numpy(share.astype(np.float32)[:, None]),
        torch.from_numpy(_gradient_rows(parts, width).ravel()[touched.order]),
        torch.from_numpy(touched.starts),
    )


def _sight(real: npt.NDArray[np.bool_], begin: int, history: int) -> tuple[Tensor, Tensor]:
    """Attention bias and whether a row sees anything: the `history` events before a row, of its own device."""
    most = real.shape[1]
    age = np.arange(begin, most)[:, None] - np.arange(most)
    far = np.where((age > 0) & (age <= history), np.float32(0.0), np.float32(HIDDEN))
    empty = np.where(real, np.float32(0.0), np.float32(HIDDEN))
    past = np.zeros((len(real), 1, most), np.float32)
    past[:, 0, 1:] = real[:, :-1]
    return torch.from_numpy(far) + torch.from_numpy(empty)[:, None], torch.from_numpy(past[..., begin:])


def _interest(
    events: npt.NDArray[np.int32], clicked: npt.NDArray[np.bool_], real: npt.NDArray[np.bool_], begin: int, history: int
) -> npt.NDArray[np.float32]:
    """What `batch.interest` counts, by going back one event at a time."""
    count, most, fields = events.shape
    met = events.transpose(2, 0, 1)
    # Id and outcome in one number; nothing equals that of an empty place or of a missing value.
    told = np.full((fields, count, history + most), -1, np.int32)
    told[..., history:] = np.where(met > 0, 2 * met + clicked, -1)
    asked = told[..., history + begin :]
    passed = np.where(asked < 0, -2, asked & ~1)
    hit = np.where(asked < 0, -2, asked | 1)
    hits, misses = np.zeros((2, *hit.shape), np.uint8 if history < 256 else np.uint16)
    same = np.empty(hit.shape, bool)
    for age in range(1, min(history, most - 1) + 1):
        event = told[..., history + begin - age : history + most - age]
        hits += np.equal(hit, event, out=same).view(np.uint8)
        misses += np.equal(passed, event, out=same).view(np.uint8)
    logarithm = np.log(np.arange(history + 1, dtype=np.float32) + np.float32(1.0))
    out = np.empty((count, most - begin, 2 * fields + 2), np.float32)
    for field in range(fields):
        out[..., 2 * field] = logarithm[hits[field]]
        out[..., 2 * field + 1] = logarithm[misses[field]]
    seen = []
    for kind in (clicked, real):
        so_far = np.zeros((count, history + most + 1), np.float32)
        np.cumsum(kind, 1, out=so_far[:, history + 1 :])
        seen.append(so_far[:, history + begin : history + most] - so_far[:, begin:most])
    out[..., -2] = seen[0] / (seen[1] + np.float32(1.0))
    out[..., -1] = (seen[1] - seen[0]) / (seen[1] + np.float32(1.0))
    return out


def _gradient_rows(parts: tuple[npt.NDArray[np.int32], ...], width: int) -> npt.NDArray[np.int64]:
    """Where the gradient of each place lies among the gradients of a step, all rows of one embedding width.

    They follow one another as in `LocalSteps`: inputs (D, N, width), context, outcomes, and events, one for all history
    features.
    """
    ad, context, outcomes, events = parts
    count, newest, fields = ad.shape
    most = outcomes.shape[1]
    inputs = np.arange(count * newest).reshape(count, newest, 1) * width + np.arange(fields)
    at = count * newest * width
    contexts = at + np.arange(context.size)
    at += context.size
    past = at + np.arange(count * most).reshape(count, most)
    heads = [inputs, contexts, past, np.repeat(past + count * most, events.shape[2], 1)]
    return np.concatenate([rows.reshape(count, -1) for rows in heads], 1)
