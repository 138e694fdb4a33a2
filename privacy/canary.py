"""How much did the run leak at least? Lower bounds on epsilon from a game with canary devices.

Each canary is put into the data by a fair coin, and a guesser who sees what an observer sees says which are in. If it
is right more often than the claimed privacy allows, the claim is false. All bounds hold at a confidence fixed before
the game; none says that a mechanism is private. They are far below the truth even for an optimal guesser: a run that
leaks nothing visible here may still leak.

===========================  =========================================================================
function                     holds for
===========================  =========================================================================
`one_run`                    every mechanism: what it exceeds, the mechanism does not have
`one_run_gaussian`           mechanisms whose whole trade-off curve is a Gaussian one; elsewhere a figure
`counted`                    canaries that do not influence each other's score; a cross-check
`fitted`                     nothing: an estimate, no bound
===========================  =========================================================================
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.accountant import epsilon_without_sampling
from sottovoce.privacy.events import Gaussian

Scores = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]

SHARES = (0.1, 0.2, 0.5)
"""Shares of the canaries that are guessed; a bound is the best of them, at a significance divided by their number."""

HIGHEST = 40.0
"""No bound is looked for above this: no game of a million canaries could show it."""


@dataclass(frozen=True, slots=True)
class Guesses:
    """The outcome of one game.

    Attributes:
        canaries: how many coins were thrown.
        made: for how many a guess was made.
        right: how many guesses were right.
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        """Refuse an outcome that no game has."""
        if not 0 <= self.right <= self.made <= self.canaries:
            raise ValueError(f"needs 0 <= right <= made <= canaries, got {self}")


def guess(scores: Scores, included: Coins, share: float) -> Guesses:
    """Guess the canaries with the most telling scores: positive is in, negative is out, zero is not guessed.

    Args:
        scores: (canaries,) log-likelihood ratio of in against out; any other score is allowed and only guesses worse.
        included: (canaries,) the coins.
        share: of the canaries to guess, 0 < share <= 1.
    """
    most = max(1, round(share * len(scores)))
    chosen = np.argsort(-np.abs(scores), kind="stable")[:most]
    chosen = chosen[scores[chosen] != 0]
    right = int(((scores[chosen] > 0) == included[chosen]).sum())
    return Guesses(len(scores), len(chosen), right)


def one_run(outcome: Guesses, delta: float, significance: float) -> float:
    """Largest epsilon that the outcome refutes for every (epsilon, delta) mechanism.

    (epsilon, delta) is refuted when P[B >= right] + 2 m delta max_i P[right - i <= B < right] / i < significance, with
    B binomial over the guesses and success probability e^epsilon / (1 + e^epsilon).

    Args:
        outcome: of the game.
        delta: of the claim.
        significance: chance with which the bound may be above the truth.

    Source: Steinke, Nasr, Jagielski 2023, arXiv:2305.08846 (main theorem for approximate privacy).
    """
    from scipy import special, stats

    def refuted(epsilon: float) -> bool:
        chance = special.expit(epsilon)
        tail = stats.binom.sf(outcome.right - 1, outcome.made, chance)
        below = stats.binom.pmf(np.arange(outcome.right)[::-1], outcome.made, chance)
        steps = np.cumsum(below) / np.arange(1, outcome.right + 1)
        p_value = tail + 2 * outcome.canaries * delta * float(steps.max(initial=0.0))
        return bool(p_value < significance)

    return _largest(refuted)


def one_run_gaussian(outcome: Guesses, delta: float, significance: float) -> float:
    """Epsilon at `delta` of the largest Gaussian trade-off curve that the outcome refutes.

    Tighter than `one_run` because it uses the whole curve and not one point of it. For an observer from whom sampling
    hides nothing the claimed curve is Gaussian, and the bound is one on the claim; for others it is a figure.

    Args:
        outcome: of the game.
        delta: at which the curve is read.
        significance: chance with which the bound may be above the truth.

    Source: Mahloujifar, Melis, Chaudhuri 2024, arXiv:2410.22235 (recursion over the number of right guesses).
    """
    from scipy import special

    def refuted(mu: float) -> bool:
        def least_wrong(right: float) -> float:
            return float(special.ndtr(special.ndtri(min(right, 1.0)) - mu))

        return not possible(outcome, least_wrong, significance)

    mu = _largest(refuted)
    return epsilon_without_sampling([(Gaussian(noise_multiplier=1 / mu), 1)], delta) if mu else 0.0


def possible(outcome: Guesses, least_wrong: Callable[[float], float], chance: float) -> bool:
    """Whether a mechanism may give as many right guesses, or more, with probability `chance`.

    Let p_i be the probability of exactly i right guesses. Swapping one coin turns a right guess into a wrong one, so
    that for every i the expected share of right guesses where at least i are right, R_i, and that of wrong guesses
    where at least i - 1 are right, W_{i-1}, obey W_{i-1} >= f^{-1}(R_i), f^{-1} being `least_wrong`. Going down from
    the outcome, each p_{i-1} is made as small as that permits; all of them have to fit into 1.

    Args:
        outcome: of the game.
        least_wrong: the smallest probability that one of two neighbouring data sets may give to an event, from the
            probability that the other gives it; rising, at most its argument.
        chance: of at least `outcome.right` right guesses.
    """
    most = outcome.made / outcome.canaries
    right = chance * outcome.right / outcome.canaries
    wrong = chance * (outcome.made - outcome.right) / outcome.canaries
    for number in range(outcome.right, 0, -1):
        needed = least_wrong(right)
        if needed > wrong:
            right += (needed - wrong) * (number - 1) / (outcome.made - number + 1)
            wrong = needed
        if right + wrong > most * (1 + 1e-12):
            return False
    return True


def counted(scores: Scores, included: Coins, delta: float, significance: float) -> float:
    """Bound from the rates of right and wrong alarms at the threshold zero and at each share's, after Clopper-Pearson.

    Canaries count as independent trials, which they are in an audit block whose mechanism is as promised: it shows what
    as many separate runs with one canary each would have found.

    Source: Jagielski et al. 2020, arXiv:2006.07709; Nasr et al. 2021, arXiv:2101.04535.
    """
    from scipy import stats

    inside, outside = scores[included], scores[~included]
    if not len(inside) or not len(outside):
        return 0.0
    # From both ends: a high score says in, a low one says out.
    sides = ((inside, outside), (-outside, -inside))
    level = significance / (2 * 2 * (len(SHARES) + 1))
    best = 0.0
    for hits, misses in sides:
        ordered = np.sort(np.abs(scores))[::-1]
        cuts = [0.0, *(float(ordered[max(1, round(share * len(scores))) - 1]) for share in SHARES)]
        for cut in cuts:
            true, false = int((hits > cut).sum()), int((misses > cut).sum())
            least = stats.beta.ppf(level, true, len(hits) - true + 1) if true else 0.0
            most = stats.beta.isf(level, false + 1, len(misses) - false) if false < len(misses) else 1.0
            if least > delta:
                best = max(best, math.log((least - delta) / most))
    return best


def fitted(scores: Scores, included: Coins, delta: float) -> float:
    """ESTIMATE, no bound: epsilon between the Gaussians fitted to the scores of canaries in and out.

    It tends to be too large: two fitted spreads that differ by chance look like a leak.

    Args:
        scores: (canaries,) a score that is near Gaussian on either side.
        included: (canaries,) the coins.
        delta: at which epsilon is read.

    Returns:
        Epsilon; `inf` when a side has no spread at all, or above `HIGHEST`.

    Source: Andrew et al. 2023, arXiv:2302.03098.
    """
    from scipy import stats

    sides = [scores[included], scores[~included]]
    if min(len(side) for side in sides) < 2:
        return 0.0
    if min(float(side.std()) for side in sides) == 0:
        return math.inf
    one, other = (stats.norm(side.mean(), side.std(ddof=1)) for side in sides)
    low, high = (min(one.ppf(1e-15), other.ppf(1e-15)), max(one.isf(1e-15), other.isf(1e-15)))
    middles = np.linspace(low, high, 40_001)
    width = middles[1] - middles[0]
    first, second = one.logpdf(middles), other.logpdf(middles)

    def over(epsilon: float) -> bool:
        gaps = [np.exp(a) * np.maximum(0.0, -np.expm1(epsilon + b - a)) for a, b in ((first, second), (second, first))]
        return max(float(gap.sum() * width) for gap in gaps) > delta

    found = _largest(over)
    return found if found < HIGHEST - 1e-3 else math.inf


def _largest(refuted: Callable[[float], bool]) -> float:
    """Largest number up to `HIGHEST` that is refuted, rounded down to 1e-6; 0 when none is.

    What refutes one number refutes every smaller one, so that a step in the wrong direction could only lose.
    """
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, HIGHEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
