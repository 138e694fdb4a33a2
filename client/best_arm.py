"""How probable it is that each candidate is the best one, when what each is worth is not known exactly.

A candidate is worth `fixed + ceiling * P(click)`, and the click logit is normal: the arm's offset moves it. Candidates
of one arm share one offset, so they rise and fall together; arms are independent.

The probability that arm a is the best is the integral of the product of the other arms' distribution functions with
respect to its own. It is taken over one common set of amounts: for every candidate those at evenly spaced
quantiles of its own, and those where two candidates of one arm change places. However unlike the arms are, no
distribution function then moves much from one amount to the next, and the trapezoidal rule between them will do.

====================================  =====================================================================
case                                  what happens
====================================  =====================================================================
nothing is uncertain                  the most valuable has 1, ties fall to the first
a fixed amount among uncertain ones   has the probability that none of them is above it
two candidates of one arm             the one above wins on each stretch; equal ones fall to the first
never above another of its arm         has 0
====================================  =====================================================================

Source: Thompson 1933, Biometrika 25 (probability matching); Agrawal and Goyal 2012, arXiv:1111.1797.
"""

from functools import cache, reduce
from itertools import accumulate, combinations
from math import copysign, erf, exp, sqrt
from operator import ge

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

REACH = 6.0
"""Standard deviations on either side; beyond lies 2e-9."""

AMOUNTS = 240
"""Amounts at which distribution functions are evaluated, for all candidates together."""

_STEPS = 256
_NORMAL = np.array([(1.0 + erf(place / _STEPS / sqrt(2.0))) / 2.0 for place in range(-8 * _STEPS, 8 * _STEPS + 2)])
_RISE = np.diff(_NORMAL)
_TINY = 1e-150


def best_probabilities(
    fixed: Floats, ceiling: Floats, logit: Floats, spread: Floats, arm: npt.NDArray[np.integer]
) -> Floats:
    """Probability of each candidate to be worth the most, shape (n,); the sum is 1 up to rounding.

    Args:
        fixed: (n,) part of the worth that does not depend on a click.
        ceiling: (n,) what a certain click would add, at least 0; 0 where clicks do not matter.
        logit: (n,) expected click logit.
        spread: (n,) standard deviation of the logit, at least 0; the same for candidates of one arm.
        arm: (n,) equal numbers share one offset.

    Everything must be finite, and a logit within 100 and a spread within 10: see `exploration`, which looks.
    """
    found = np.zeros(len(fixed))
    moves = (ceiling > 0) & (spread > 0)
    floor, first = -np.inf, -1
    if not moves.all():
        sure = np.flatnonzero(~moves)
        worth = fixed[sure] + ceiling[sure] / (1.0 + np.exp(-logit[sure]))
        best = int(worth.argmax())
        first, floor = int(sure[best]), float(worth[best])
    runs = _undominated(fixed, ceiling, logit, arm, moves)
    order = [place for run in runs for place in run]
    if not order:
        found[first] = 1.0
        return found
    low, high, base, width = (column[order][:, None] for column in (fixed, ceiling, logit, spread))
    z = _quantiles(max(2, AMOUNTS // len(order)))
    amounts = (low + high / (1.0 + np.exp(-(base + width * z)))).ravel()
    crossed = [worth for run in runs if len(run) > 1 for worth in _crossings(run, fixed, ceiling, logit)]
    grid = np.sort(np.concatenate([amounts, crossed]) if crossed else amounts)
    if first >= 0:
        grid = np.concatenate([[floor], grid[grid > floor]])
    above = grid - low
    odds = np.maximum(above, _TINY) / np.maximum(high - above, _TINY)
    slope = _STEPS / width
    apart = np.minimum(np.maximum(np.log(odds) * slope + (8 * _STEPS - base * slope), 0.0), 16.0 * _STEPS)
    alone = len(runs) == len(order)
    ends = list(accumulate(map(len, runs)))
    parts = [] if alone else [apart[end - len(run) : end] for run, end in zip(runs, ends, strict=True)]
    together = apart if alone else np.array([reduce(np.minimum, part) for part in parts])
    below = np.empty((len(runs), len(grid) + 2))
    below[:, 0], below[:, -1] = 0.0, 1.0
    _normal(together, below[:, 1:-1])
    if first >= 0:
        below = below[:, 1:]
        found[first] = below[:, 0].prod()
    gains = _gains(below)
    if alone:
        found[order] = gains.sum(axis=1)
    for run, part, gain in zip(runs, parts, gains, strict=False):
        found[run] = _shared(part, gain, open_below=first < 0)
    return np.asarray(found / found.sum())


@cache
def _quantiles(number: int) -> Floats:
    """Evenly spaced standard deviations."""
    return np.linspace(-REACH, REACH, number)


def _undominated(
    fixed: Floats, ceiling: Floats, logit: Floats, arm: npt.NDArray[np.integer], moves: npt.NDArray[np.bool_]
) -> list[list[int]]:
    """Uncertain candidates by arm, without those that another of the same arm equals or beats whatever the offset."""
    runs: dict[int, list[int]] = {}
    rows = list(zip(fixed.tolist(), ceiling.tolist(), logit.tolist(), strict=True))
    for place, (number, moving) in enumerate(zip(arm.tolist(), moves.tolist(), strict=True)):
        if not moving:
            continue
        run = runs.setdefault(number, [])
        if any(all(map(ge, rows[other], rows[place])) for other in run):
            continue
        run[:] = [other for other in run if not all(map(ge, rows[place], rows[other]))]
        run.append(place)
    return list(runs.values())


def _normal(place: Floats, out: Floats) -> None:
    """The normal distribution function, to 5e-7: straight lines through exact points.

    Args:
        place: steps above -8 standard deviations, 0 ... 16 * _STEPS.
        out: of the same shape.
    """
    whole = place.astype(np.intp)
    np.multiply(place - whole, _RISE[whole], out=out)
    out += _NORMAL[whole]


def _gains(below: Floats) -> Floats:
    """What each arm gains on each stretch: its own rise, times the product of the others (mean of both ends).

    Args:
        below: (arms, amounts) distribution functions.

    Returns:
        Shape (arms, amounts - 1).
    """
    arms, amounts = below.shape
    gains = below[:, 1:] - below[:, :-1]
    if arms == 1:
        return gains
    # Rows of ones make the number of arms a power of two.
    every = np.ones((1 << (arms - 1).bit_length(), amounts))
    every[:arms] = below
    others = _others(every)[:arms]
    gains *= (others[:, :-1] + others[:, 1:]) / 2.0
    return gains


def _others(every: Floats) -> Floats:
    """Product of all rows but each one's own; without division, since a row may be 0.

    Args:
        every: (rows, columns), rows a power of two above 1.
    """
    rows, columns = every.shape
    if rows == 2:
        return every[::-1]
    pairs = every.reshape(rows // 2, 2, columns)
    beyond = _others(pairs[:, 0] * pairs[:, 1])
    return (pairs[:, ::-1] * beyond[:, None]).reshape(rows, columns)


def _shared(part: Floats, gain: Floats, open_below: bool) -> Floats:
    """What each candidate of one arm gets: on each stretch, the one above the others takes the arm's gain.

    Args:
        part: (candidates, amounts) offsets, in steps, with which each reaches each amount; the smallest is above.
        gain: of the arm on each stretch; the last one lies beyond the last amount.
        open_below: whether the first one lies before the first amount.
    """
    if len(part) == 1:
        return np.asarray(gain.sum(keepdims=True))
    sums = np.empty((len(part), len(gain)))
    sums[:, 0], sums[:, -1] = part[:, 0], part[:, -1]
    np.add(part[:, :-1], part[:, 1:], out=sums[:, 1:-1] if open_below else sums[:, :-1])
    return np.asarray(np.bincount(sums.argmin(axis=0), gain, len(part)), np.float64)


def _crossings(run: list[int], fixed: Floats, ceiling: Floats, logit: Floats) -> list[float]:
    """Amounts at which two candidates of one arm are worth the same; at most two for each pair."""
    worth: list[float] = []
    rows = [(float(fixed[i]), float(ceiling[i]), exp(float(logit[i]))) for i in run]
    for (low, high, odds), (other_low, other_high, other_odds) in combinations(rows, 2):
        # With e = exp(offset), equal worth is square * e**2 + linear * e + gap = 0.
        gap = low - other_low
        square = odds * other_odds * (high - other_high + gap)
        linear = high * odds - other_high * other_odds + gap * (odds + other_odds)
        inside = linear * linear - 4.0 * square * gap
        if inside < 0:
            continue
        half = -(linear + copysign(sqrt(inside), linear)) / 2.0
        for above, under in ((half, square), (gap, half)):
            if under and above / under > 0:
                moved = odds * (above / under)
                worth.append(low + high * moved / (1.0 + moved))
    return worth
