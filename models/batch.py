"""What the ranker reads: ids of rows of its embedding table, and what can be counted in them without any weight.

Shapes use `...` for the (possibly absent) device axis, R for requests, N for candidates, E for past events.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """What the ranker reads; all ids are rows of the embedding table.

    Attributes:
        context: (..., R, context features) int.
        ad: (..., N, ad features) int, history features first.
        events: (..., E, history features) int, past impressions, newest last.
        outcomes: (..., E) int, outcome row of each event; 0 marks an empty place.
        visible: (..., R, E) float, 1 where request r may see event e; padding is 0.
    """

    context: Tensor
    ad: Tensor
    events: Tensor
    outcomes: Tensor
    visible: Tensor


class Interest(NamedTuple):
    """The part of the input that no weight touches: computed once, reused every local step.

    Attributes:
        counts: (..., N, 2 * history features + 2): per history feature the logarithm of one plus the number of visible
            events that match the candidate and were clicked, and of those that match and were not; then the share of
            all visible events that were clicked, and of those that were not.
    """

    counts: Tensor


def interest(batch: Batch, click_row: int) -> Interest:
    """How often this device met the candidate's own feature values before, and with what outcome.

    Args:
        batch: ids; see `Batch`.
        click_row: smallest outcome row that means a click.
    """
    visible = batch.visible
    clicked = visible * (batch.outcomes >= click_row).to(visible.dtype).unsqueeze(-2)
    passed = visible - clicked
    columns = []
    for field in range(batch.events.shape[-1]):
        ad = batch.ad[..., field].unsqueeze(-1)
        same = ((ad == batch.events[..., field].unsqueeze(-2)) & (ad > 0)).to(visible.dtype)
        hits, misses = (same * clicked).sum(-1), (same * passed).sum(-1)
        columns += [torch.log(hits + 1.0), torch.log(misses + 1.0)]
    total = visible.sum(-1) + 1.0
    ones = torch.ones_like(batch.ad[..., 0]).to(visible.dtype)
    columns += [ones * (clicked.sum(-1) / total), ones * (passed.sum(-1) / total)]
    return Interest(torch.stack(columns, -1))
