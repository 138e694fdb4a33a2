"""Does a release do what its plan says? Checks of what an audit block recorded, and how one check reports.

An audit block is a run of the real mechanism whose devices are known to the auditor (`simulations.audit_block`). Each
check compares what was recorded with the law that the plan promises, at a false-alarm probability fixed in advance, and
says how large a fault it would have seen. Noise is checked in `conformance_noise`, cohorts in `conformance_cohorts`;
here are the bound on a device, the public denominator and the debit.

A check that passes proves nothing beyond its power.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SURE = 3.0902
"""Standard deviations that a Gaussian passes with probability 0.001: a stated power is at least 0.999."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One promise of the plan, and whether the recorded run keeps it.

    Attributes:
        name: of the check.
        passed: whether the run looks as promised.
        statistic: what was compared, see `measured`.
        p_value: chance, if the promise holds, of a statistic as far off; null where nothing is left to chance.
        alarm: the check fails below this p-value: its share of the audit's false alarms.
        expected: in words.
        measured: in words.
        detail: how it was compared.
        power: what it would have seen with probability at least 0.999.
    """

    name: str
    passed: bool
    statistic: float
    p_value: float | None
    alarm: float
    expected: str
    measured: str
    detail: str
    power: str


def judged(name: str, statistic: float, p_value: float, alarm: float, *words: str) -> Check:
    """A check that fails below its alarm level; `words` are expected, measured, detail and power."""
    expected, measured, detail, power = words
    p_value = min(1.0, float(p_value))
    return Check(
        name=name,
        passed=p_value >= alarm,
        statistic=float(statistic),
        p_value=p_value,
        alarm=alarm,
        expected=expected,
        measured=measured,
        detail=detail,
        power=power,
    )


def certain(name: str, faults: int, *words: str) -> Check:
    """A check without chance: it fails at the first fault; `words` as in `judged`."""
    expected, measured, detail, power = words
    return Check(
        name=name,
        passed=faults == 0,
        statistic=float(faults),
        p_value=None,
        alarm=0.0,
        expected=expected,
        measured=measured,
        detail=detail,
        power=power,
    )


def clip_norm(lengths: npt.ArrayLike, bound: float, std: float, alarm: float) -> Check:
    """Whether canaries that tried to give more than the bound arrive with exactly the bound.

    A shorter arrival is a fault too: canaries that do not arrive would let every other check of them pass.

    Args:
        lengths: (n,) released length along a canary's own direction, one for each round it took part in.
        bound: C.
        std: of the noise in that direction.
        alarm: false-alarm probability.
    """
    from scipy import stats

    seen = np.asarray(lengths, np.float64)
    error = std / math.sqrt(len(seen)) if len(seen) else math.inf
    mean = float(seen.mean()) if len(seen) else bound
    distance = (mean - bound) / error if len(seen) else 0.0
    least = (stats.norm.isf(alarm / 2) + SURE) * error
    return judged(
        "clip norm",
        mean / bound,
        2 * stats.norm.sf(abs(distance)),
        alarm,
        f"mean length {bound:g}",
        f"mean length {mean:.4g} over {len(seen)} participations",
        "exact normal test of the mean; each canary's own update is longer than the bound",
        f"a device that moves the sum by {1 + least / bound:.2f} times the bound"
        if len(seen)
        else "none: no canary took part",
    )


def largest_canary(lengths: npt.ArrayLike, owner: npt.ArrayLike, bound: float, std: float, alarm: float) -> Check:
    """Whether any single canary, averaged over its own rounds, moves the sum by more than the bound.

    Args:
        lengths: as in `clip_norm`.
        owner: (n,) which canary each belongs to.
        bound: C.
        std: of the noise in that direction.
        alarm: false-alarm probability.
    """
    from scipy import stats

    seen, who = np.asarray(lengths, np.float64), np.asarray(owner, np.int64)
    rounds = np.bincount(who, minlength=1)
    took = rounds > 0
    total = np.bincount(who, weights=seen, minlength=1)
    distance = (total[took] - bound * rounds[took]) / (std * np.sqrt(rounds[took]))
    worst = float(distance.max()) if len(distance) else 0.0
    usual = float(np.median(rounds[took])) if len(distance) else 0.0
    level = stats.norm.isf(alarm / max(1, len(distance)))
    return judged(
        "largest canary",
        worst,
        len(distance) * stats.norm.sf(worst) if len(distance) else 1.0,
        alarm,
        f"no canary longer than {bound:g}",
        f"the longest of {len(distance)} lies {worst:.2f} standard errors above",
        "exact normal test for each canary, Bonferroni over canaries",
        f"one canary in {usual:.0f} rounds that is {1 + (level + SURE) * std / math.sqrt(usual) / bound:.1f} times "
        "too long"
        if usual
        else "none: no canary took part",
    )


def denominator(
    crowd: npt.ArrayLike, members: npt.ArrayLike, sizes: npt.ArrayLike, planned: float, std: float, alarm: float
) -> Check:
    """Whether the sum is divided by the public constant and not by the number of devices that took part.

    Regression of what was released on what division by the realised number would have changed: slope 0 for the public
    constant, 1 for the realised number.

    Args:
        crowd: (rounds,) released sum of devices that all give one unit in the same place, in units of one device.
        members: (rounds,) how many of them took part.
        sizes: (rounds,) devices that took part.
        planned: the public denominator q * N.
        std: of the noise, in units of one device.
        alarm: false-alarm probability.
    """
    from scipy import stats

    got, count = np.asarray(crowd, np.float64), np.asarray(members, np.float64)
    change = count * (planned / np.maximum(np.asarray(sizes, np.float64), 1.0) - 1.0)
    weight = float(change @ change)
    slope = float(change @ (got - count)) / weight if weight else 0.0
    error = std / math.sqrt(weight) if weight else math.inf
    least = (stats.norm.isf(alarm / 2) + SURE) * error
    return judged(
        "denominator",
        slope,
        2 * stats.norm.sf(abs(slope) / error),
        alarm,
        f"every sum divided by {planned:g}",
        f"slope {slope:.3f} on the realised number (0: the constant, 1: the realised number)",
        f"exact normal test of the slope over rounds with {int(np.min(sizes))} to {int(np.max(sizes))} devices",
        "division by the realised number" if least < 1 else f"none: only a slope of {least:.2g} or more",
    )


def replies(dropped: Sequence[str]) -> Check:
    """Whether every reply was used: an update that is refused leaves nothing to look at, and hides what it would show.

    Args:
        dropped: a line for each reply that was not usable.
    """
    return certain(
        "replies",
        len(dropped),
        "every reply usable",
        f"{len(dropped)} were not, the first: {dropped[0]}" if dropped else "all were",
        "as the coordinator reports it, round by round",
        "a single reply that the coordinator refuses",
    )


def debit(before: Iterable[int], after: Iterable[int], strangers: int) -> Check:
    """Whether every release was in the ledger before anybody was asked for it.

    Args:
        before: for each round, spent releases on disk when its first device was asked; -1 when nobody was asked.
        after: for each round, spent releases on disk once it was released.
        strangers: reservations whose event is not that of the plan.
    """
    faults = late = 0
    rounds = 0
    for rounds, (asked, released) in enumerate(zip(before, after, strict=True), 1):
        late += asked not in (-1, rounds)
        faults += released != rounds
    return certain(
        "debit",
        faults + late + strangers,
        f"{rounds} releases, each debited before a device was asked, with the event of the plan",
        f"{faults} rounds without their debit, {late} asked before it was on disk, {strangers} foreign events",
        "the ledger file is read from outside when a device is asked, and after the release",
        "a single missing, late or different debit",
    )
