"""Is the noise as large, as Gaussian and as fresh as the plan promises? Checks on coordinates that hold nothing else.

All take `noise`, shape (rounds, places): released sums at places that no device touched, in units of the promised
standard deviation, so that every number should be an independent standard normal.
"""

import math

import numpy as np

from sottovoce.privacy.conformance import SURE, Check, Floats, certain, judged

FAR = 3.5
"""Where the tail begins, in standard deviations: one number in 2,149 lies beyond."""

MOST_LAGS = 50
"""Lags that are looked at; a repeat at any distance is found by `repeated_noise`."""


def noise_size(noise: Floats, alarm: float) -> Check:
    """Whether the noise has the promised variance: exact chi-square test over everything."""
    from scipy import stats

    count = noise.size
    total = float(np.square(noise).sum())
    low, high = stats.chi2.isf(1 - alarm / 2, count), stats.chi2.isf(alarm / 2, count)
    least, most = math.sqrt(low / stats.chi2.isf(1e-3, count)), math.sqrt(high / stats.chi2.ppf(1e-3, count))
    return judged(
        "noise size",
        math.sqrt(total / count),
        2 * min(stats.chi2.cdf(total, count), stats.chi2.sf(total, count)),
        alarm,
        "standard deviation as promised",
        f"{math.sqrt(total / count):.5f} of the promised",
        f"exact chi-square test of {count} numbers",
        f"noise below {least:.4f} or above {most:.4f} of the promised",
    )


def noise_size_by_round(noise: Floats, alarm: float) -> Check:
    """Whether each single round has the promised variance: exact chi-square tests, Bonferroni over rounds."""
    from scipy import stats

    rounds, places = noise.shape
    totals = np.square(noise).sum(1)
    tails = 2 * np.minimum(stats.chi2.cdf(totals, places), stats.chi2.sf(totals, places))
    worst = int(np.argmin(tails))
    level = alarm / (2 * rounds)
    least = math.sqrt(stats.chi2.isf(1 - level, places) / stats.chi2.isf(1e-3, places))
    return judged(
        "noise size by round",
        math.sqrt(totals[worst] / places),
        rounds * tails[worst],
        alarm,
        "standard deviation as promised in every round",
        f"round {worst + 1} has {math.sqrt(totals[worst] / places):.4f} of the promised",
        f"exact chi-square test of {places} numbers in each of {rounds} rounds, Bonferroni",
        f"a single round with noise below {least:.3f} of the promised",
    )


def normal_shape(noise: Floats, grid: float, alarm: float) -> Check:
    """Whether the noise is Gaussian: Kolmogorov and Smirnov's test.

    Rounding to the grid moves no number past the middle between two grid points, so that the distribution function is
    compared there.

    Args:
        noise: see the module.
        grid: width of the release grid in the same units; 0 for none.
        alarm: false-alarm probability.
    """
    from scipy import special, stats

    ordered = np.sort(noise, axis=None)
    count = len(ordered)
    place = np.arange(1, count + 1) / count
    last = np.append(np.diff(ordered) > grid / 4, True)
    first = np.append(True, last[:-1])
    above = place[last] - special.ndtr(ordered[last] + grid / 2)
    below = special.ndtr(ordered[first] - grid / 2) - (place[first] - 1 / count)
    distance = max(float(above.max()), float(below.max()), 0.0)
    level = float(stats.kstwo.isf(alarm, count))
    return judged(
        "noise shape",
        distance,
        float(stats.kstwo.sf(distance, count)) if distance > 0 else 1.0,
        alarm,
        "Gaussian noise",
        f"its distribution function is off by at most {distance:.5f}",
        f"Kolmogorov-Smirnov test of {count} numbers between grid points",
        f"any law whose distribution function is off by {level + math.sqrt(math.log(2e3) / (2 * count)):.4f} somewhere",
    )


def normal_tails(noise: Floats, alarm: float) -> Check:
    """Whether as many numbers lie far out as a Gaussian has there: neither tails that are cut off nor heavy ones."""
    from scipy import stats

    count = noise.size
    far = int((np.abs(noise) > FAR).sum())
    chance = 2 * stats.norm.sf(FAR)
    return judged(
        "noise tails",
        far,
        2 * min(stats.binom.cdf(far, count, chance), stats.binom.sf(far - 1, count, chance)),
        alarm,
        f"{count * chance:.1f} of {count} numbers beyond {FAR} standard deviations",
        f"{far}",
        "exact binomial test",
        f"tails cut off at {FAR} standard deviations"
        if count * math.log1p(-chance) < math.log(alarm / 2)
        else "none: too few numbers to reach the tail",
    )


def public_grid(released: Floats, grid: float, error: Floats) -> Check:
    """Whether every released number lies on the public grid.

    Args:
        released: (rounds, places) in units of the promised standard deviation, at any places.
        grid: width of the grid in the same units.
        error: (rounds, places) how exactly each number could be read; where that is above an eighth of the grid it is
            left out.
    """
    clear = error < grid / 8
    off = np.abs(released - np.rint(released / grid) * grid) > error
    faults, seen = int((off & clear).sum()), int(clear.sum())
    return certain(
        "public grid",
        faults,
        f"multiples of {grid:.3g} standard deviations",
        f"{faults} of {seen} readable numbers off the grid, {released.size - seen} not readable",
        "numbers are read from float32 weights; those read to less than an eighth of the grid count",
        "a single number off the grid" if seen else "none: the weights are too coarse to see the grid",
    )


def repeated_noise(noise: Floats, alarm: float) -> Check:
    """Whether any two rounds share noise, as after a seed was used twice: exact test of every pair of rounds.

    For independent Gaussian rounds the squared cosine between two is Beta(1/2, (places - 1)/2), whatever their size.
    """
    from scipy import stats

    rounds, places = noise.shape
    lengths = np.linalg.norm(noise, axis=1, keepdims=True)
    unit = noise / np.where(lengths > 0, lengths, 1.0)
    cosines = np.triu(unit @ unit.T, 1)
    pairs = rounds * (rounds - 1) // 2
    one, other = np.unravel_index(int(np.argmax(np.abs(cosines))), cosines.shape)
    worst = min(1.0, abs(float(cosines[one, other])))
    law = stats.beta(0.5, (places - 1) / 2)
    level = math.sqrt(law.isf(alarm / max(1, pairs)))
    return judged(
        "repeated noise",
        worst,
        pairs * law.sf(worst**2) if pairs else 1.0,
        alarm,
        "no two rounds alike",
        f"rounds {one + 1} and {other + 1} have correlation {float(cosines[one, other]):.4f}, the largest of {pairs}"
        if pairs
        else "one round only",
        f"exact test of the correlation of {places} numbers, Bonferroni over pairs",
        f"a pair of rounds that shares {level + SURE / math.sqrt(places):.2f} of its noise"
        if pairs
        else "none: there is one round",
    )


def lagged_noise(noise: Floats, along: str, alarm: float) -> Check:
    """Whether noise depends on earlier noise: correlation at each lag over all rounds, or over places within a round.

    Args:
        noise: see the module.
        along: `rounds` or `places`.
        alarm: false-alarm probability.
    """
    from scipy import stats

    series = noise if along == "rounds" else noise.T
    lags = min(MOST_LAGS, len(series) - 1)
    mean_square = max(float(np.square(series).mean()), np.finfo(np.float64).tiny)
    scores = [
        float((series[:-lag] * series[lag:]).sum()) / (mean_square * math.sqrt(series[lag:].size))
        for lag in range(1, lags + 1)
    ]
    worst = max(scores, key=abs, default=0.0)
    lag = scores.index(worst) + 1 if scores else 0
    count = series[lag:].size
    level = stats.norm.isf(alarm / (2 * max(1, lags)))
    return judged(
        f"noise lag over {along}",
        worst / math.sqrt(count),
        2 * lags * stats.norm.sf(abs(worst)) if lags else 1.0,
        alarm,
        "no correlation with what came before",
        f"correlation {worst / math.sqrt(count):.5f} at lag {lag}, the largest of {lags} lags",
        f"normal test of {count} products, Bonferroni over lags",
        f"a correlation of {(level + SURE) / math.sqrt(count):.4f} at one lag" if lags else "none: nothing before",
    )
