"""The scale of each row of codes: exact, or rounded up to one byte; kept from the version before where it still fits.

One byte: a scale is one of 256 levels, evenly spaced in logarithm over the table's own range, and a row stores which.
Rounding goes up to the next level, so nothing clips. The levels themselves are stored, not a formula: reading them is a
gather, which every runtime computes alike; an exponential is not.

Kept: a row whose scale changes has all its codes change, and an update then carries every byte of it. Which rows keep
theirs follows from two released models, so it is post-processing and costs no privacy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

CODES = 127
"""Codes run from -127 to 127."""

LEVELS = 256
"""Scales that one byte tells apart."""

SLACK = 2.0
"""A kept scale may be this many times the smallest that does not clip; new levels reach this far beyond the table."""

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class RowScales:
    """Scales of all rows.

    Attributes:
        values: (rows, 1) float32, above 0.
        levels: (256, 1) float32, rising, which all `values` are among; None where each row has a float32 of its own.
    """

    values: Tensor
    levels: Tensor | None = None

    @property
    def codes(self) -> Tensor:
        """(rows, 1) int8, the place of each value among the levels less 128."""
        if self.levels is None:
            raise ValueError("scales of four bytes have no codes")
        return (_place(self.levels, self.values) - LEVELS // 2).to(torch.int8)


def row_scales(vectors: Tensor, one_byte: bool = False, previous: RowScales | None = None) -> RowScales:
    """Scales under which no value of `vectors` goes beyond `CODES`.

    Guarantees, with m a row's largest magnitude: without `previous` the scale is m / 127, in one byte at most
    (4 * largest m / smallest m above 0) ** (1 / 255) times that, which is under 2 for all of float32; 1.04 where rows
    differ up to 5,000 times. With `previous` it is at most 2 * m / 127 in either form. For a row of zeros it is
    whatever is at hand. Scales are never below the smallest normal number.

    With `previous`, a row keeps its scale unless it would clip or is more than twice m / 127. In one byte that needs
    the levels too: they are kept as a whole, unless a row would clip or have more than twice m / 127 with every one of
    them; then, or where `previous` has none, all scales are new.

    Args:
        vectors: (rows, d) float32, finite, d at least 1.
        one_byte: whether to round up to 256 levels.
        previous: scales of the same rows in the version before.

    Raises:
        ValueError: `previous` is of other rows, or not finite and above 0.
    """
    largest = vectors.abs().amax(1, keepdim=True)
    least = (largest / CODES).clamp_min(TINY)
    used = largest > 0
    if previous is None:
        return _rounded_up(least, _levels(least[used])) if one_byte else RowScales(least)
    old = previous.values
    if old.shape != least.shape or not bool((torch.isfinite(old) & (old > 0)).all()):
        raise ValueError(f"previous scales must be {tuple(least.shape)}, finite and above 0, got {tuple(old.shape)}")
    fits = ~used | ((least <= old) & (old <= SLACK * least))
    wanted = torch.where(fits, old, least)
    if not one_byte:
        return RowScales(wanted)
    levels = previous.levels
    if levels is None or bool((wanted > levels[-1]).any()):
        return _rounded_up(least, _levels(least[used]))
    kept = _rounded_up(wanted, levels)
    if bool((kept.values > SLACK * least)[used].any()):
        return _rounded_up(least, _levels(least[used]))
    return kept


def _rounded_up(least: Tensor, levels: Tensor) -> RowScales:
    return RowScales(levels[:, 0][_place(levels, least)], levels)


def _place(levels: Tensor, least: Tensor) -> Tensor:
    """Place of the smallest level that is not below each of `least`."""
    return torch.searchsorted(levels[:, 0].contiguous(), least.contiguous())


def _levels(least: Tensor) -> Tensor:
    """(256, 1) levels that reach beyond `least`, so that rows of the next versions find theirs too."""
    low, high = (least.min(), least.max()) if len(least) else (torch.tensor(1.0), torch.tensor(1.0))
    ends = torch.stack([(low / SLACK).clamp_min(TINY), high * SLACK]).double().log()
    return torch.linspace(float(ends[0]), float(ends[1]), LEVELS, dtype=torch.float64).exp().float()[:, None]
