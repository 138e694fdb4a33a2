"""Are cohorts drawn as the accountant was told: every device by a coin of its own, in every round anew?

All take `asked`, shape (rounds, devices): which devices were asked in which round, as the devices saw it. Rates alone
would not do: cohorts of a fixed size, or devices in turn, have the right rate and give no amplification of the kind
that is claimed.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.conformance import SURE, Check, judged

Asked = npt.NDArray[np.bool_]

_NOTHING = 1e-9
"""A variance below it is rounding: everybody is in every cohort."""


@dataclass(frozen=True, slots=True)
class Law:
    """How cohorts are promised to be drawn.

    Attributes:
        devices: enrolled.
        coin: chance q of each device's own coin.
        cap: a cohort above it is cut down to it at random; None for no cap. Tests that take devices as independent are
            then near the truth and no longer exact; with a cap well above the mean the difference is nil.
    """

    devices: int
    coin: float
    cap: int | None = None

    def sizes(self) -> npt.NDArray[np.float64]:
        """Probability of each size of a cohort, shape (devices + 1,)."""
        from scipy import stats

        chances = stats.binom.pmf(np.arange(self.devices + 1), self.devices, self.coin)
        if self.cap is not None:
            chances[self.cap] += chances[self.cap + 1 :].sum()
            chances[self.cap + 1 :] = 0.0
        return np.asarray(chances, np.float64)

    @property
    def rate(self) -> float:
        """Chance that a device is in a cohort."""
        if self.cap is None:
            return self.coin
        return float(self.sizes() @ np.arange(self.devices + 1)) / self.devices


def cohort_rate(asked: Asked, law: Law, alarm: float) -> Check:
    """Whether devices are asked at the promised rate over the whole run: exact binomial test."""
    from scipy import stats

    rate = law.rate
    count, total = int(asked.sum()), asked.size
    expected = total * rate
    error = math.sqrt(expected * (1 - rate)) / expected
    return judged(
        "sampling rate",
        count / total,
        float(_two_sided(count, total, rate)),
        alarm,
        f"rate {rate:g}",
        f"rate {count / total:.6g}: {count} participations of {total}",
        "exact binomial test",
        f"a rate off by {100 * error * (stats.norm.isf(alarm / 2) + SURE):.1f} %"
        if rate < 1
        else "a single device left out",
    )


def device_rates(asked: Asked, law: Law, alarm: float) -> Check:
    """Whether any device is asked too often or too rarely: exact binomial tests, Bonferroni over devices."""
    rate = law.rate
    rounds, devices = asked.shape
    counts = asked.sum(0)
    tails = _two_sided(counts, rounds, rate)
    worst = int(np.argmin(tails))
    most = int(_quantile(rounds, rate, alarm / (2 * devices)))
    return judged(
        "rate of each device",
        float(counts[worst]),
        devices * float(tails[worst]),
        alarm,
        f"{rounds * rate:.1f} rounds of {rounds} for each device",
        f"{counts.min()} to {counts.max()} rounds, the oddest {counts[worst]}",
        f"exact binomial test for each of {devices} devices, Bonferroni",
        f"a device that is asked in {most + 1} rounds or more" if most < rounds else "none: too few rounds",
    )


def cohort_spread(asked: Asked, law: Law, alarm: float) -> Check:
    """Whether the size of cohorts varies as independent coins make it: variance N q (1 - q), 0 for a fixed size.

    The variance of the size is the sum of all covariances between devices, so that dependence between any devices in
    the same direction shows.
    """
    return _spread("cohort size spread", asked.sum(1), law.sizes(), alarm, "cohorts of one fixed size")


def device_spread(asked: Asked, law: Law, alarm: float) -> Check:
    """Whether devices differ in how often they are asked as much as coins make them: variance T q (1 - q).

    Devices that take turns differ too little, favoured devices too much.
    """
    coins = Law(asked.shape[0], law.rate)
    return _spread("spread between devices", asked.sum(0), coins.sizes(), alarm, "devices that take turns")


def shared_members(asked: Asked, law: Law, alarm: float) -> Check:
    """Whether two rounds share as many devices as chance has it: exact binomial tests, Bonferroni.

    A cohort that was drawn once and used twice shares all its members; a rule that spares the devices of the round
    before shares none.
    """
    rounds, devices = asked.shape
    rate = law.rate
    together = rate * rate
    numbers = asked.astype(np.float32)
    one, other = np.triu_indices(rounds, 1)
    shared = np.rint((numbers @ numbers.T)[one, other]).astype(np.int64)
    follows = shared[other == one + 1]
    tests = len(shared) + 2
    tails = [float(_two_sided(shared, devices, together).min())] if len(shared) else [1.0]
    # Pairs that have no round in common are independent of each other: their sum is binomial.
    halves = [part for part in (follows[::2], follows[1::2]) if len(part)]
    tails += [float(_two_sided(part.sum(), devices * len(part), together)) for part in halves]
    most = int(_quantile(devices, together, alarm / (2 * tests)))
    return judged(
        "rounds in common",
        float(shared.max(initial=0)),
        tests * min(tails),
        alarm,
        f"{devices * together:.2f} devices in common between any two rounds",
        f"at most {shared.max(initial=0)}, on average {shared.mean() if len(shared) else 0:.2f}; between neighbours "
        f"{follows.mean() if len(follows) else 0:.2f}",
        f"exact binomial tests of {len(shared)} pairs and of neighbouring rounds, Bonferroni",
        f"two rounds with {most + 1} devices in common, where a cohort has {devices * rate:.0f}"
        if len(shared) and most < devices
        else "none: nothing to compare",
    )


def _two_sided(count: npt.ArrayLike, total: int, chance: float) -> npt.NDArray[np.float64]:
    """Twice the smaller tail of a binomial, at most 1."""
    from scipy import stats

    count = np.asarray(count)
    tails = np.minimum(stats.binom.cdf(count, total, chance), stats.binom.sf(count - 1, total, chance))
    return np.asarray(np.minimum(1.0, 2 * tails), np.float64)


def _quantile(total: int, chance: float, tail: float) -> float:
    from scipy import stats

    return float(stats.binom.isf(tail, total, chance))


def _spread(name: str, counts: npt.NDArray[np.int64], law: npt.NDArray[np.float64], alarm: float, fault: str) -> Check:
    """Sum of squared deviations of counts from their mean, by Chernoff's bound; `law` is P[count = 0, 1, ...]."""
    values = np.arange(len(law))
    mean = float(law @ values)
    variance = float(law @ np.square(values - mean))
    total = float(np.square(counts - mean).sum())
    steady = float(np.square(math.floor(mean + 0.5) - mean))
    stands_out = _chernoff(len(counts) * steady, len(counts), law) < alarm
    return judged(
        name,
        total / (len(counts) * variance) if variance > _NOTHING else float(total > _NOTHING),
        _chernoff(total, len(counts), law),
        alarm,
        f"variance {variance:.4g}",
        f"variance {total / len(counts):.4g} over {len(counts)} counts",
        "squared deviations from the known mean, Chernoff's bound with the exact law of a count: valid at any size",
        fault if stands_out else f"none: {fault} would not stand out at this size",
    )


def _chernoff(total: float, count: int, law: npt.NDArray[np.float64]) -> float:
    """Upper bound, two-sided, on the chance that `count` counts deviate by `total` or farther from expectation.

    P(S >= s) <= exp(-l s) E[exp(l (K - mean)^2)]^count for every l > 0, and likewise below for l < 0.
    """
    from scipy import optimize, special

    values = np.arange(len(law))
    mean = float(law @ values)
    squares = np.square(values - mean)
    variance = float(law @ squares)
    if variance <= _NOTHING:
        return float(total <= _NOTHING)
    likely = law > 1e-300
    weights, squares = np.log(law[likely]), squares[likely]

    def exponent(tilt: float) -> float:
        return float(count * special.logsumexp(weights + tilt * squares) - tilt * total)

    side = (0.0, 10.0 / variance) if total > count * variance else (-1e4 / variance, 0.0)
    best = optimize.minimize_scalar(exponent, bounds=side, method="bounded", options={"xatol": 1e-9 / variance})
    return min(1.0, 2 * math.exp(min(0.0, float(best.fun))))
