"""What an observer can make of a run about each canary: log-likelihood ratios of having been in the data.

A canary that is in moves the sum by `clip` in its own direction in every round it takes part in; one that is out moves
nothing. The likelihoods are those of the promised mechanism, so that no other score of the same releases guesses better
while the promise holds. When it does not, the scores only get worse, and bounds on them stay valid.

All take releases in the canaries' directions, shape (rounds, canaries), in units of the promised noise, and `clip` in
the same units.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Observer = Literal["final_model", "every_round", "knows_cohorts"]

SEES: dict[Observer, str] = {
    "final_model": "the last model only",
    "every_round": "every release, but not who took part",
    "knows_cohorts": "every release, and who took part in each round",
}
"""The pre-registered observers, in words."""


def final_model(released: Floats, rate: float, clip: float) -> Floats:
    """For whoever sees only the sum of all rounds: shape (canaries,)."""
    from scipy import special, stats

    rounds = len(released)
    total = released.sum(0)
    times = np.arange(rounds + 1)
    chances = stats.binom.logpmf(times, rounds, rate)
    likely = chances > -50
    moved = times[likely, None] * clip
    ratio = special.logsumexp(chances[likely, None] + (moved * total - moved**2 / 2) / rounds, axis=0)
    return np.asarray(ratio, np.float64)


def every_round(released: Floats, rate: float, clip: float) -> Floats:
    """For whoever sees every release while cohorts are secret: shape (canaries,)."""
    ratio = released * clip - clip**2 / 2
    if rate < 1:
        ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + ratio)
    return np.asarray(ratio.sum(0), np.float64)


def knows_cohorts(released: Floats, took_part: npt.NDArray[np.bool_], clip: float) -> Floats:
    """For whoever also knows who took part: shape (canaries,); 0 for a canary that never did."""
    return np.asarray(np.where(took_part, released * clip - clip**2 / 2, 0.0).sum(0), np.float64)


def scores(observer: Observer, released: Floats, took_part: npt.NDArray[np.bool_], rate: float, clip: float) -> Floats:
    """The scores of one observer, shape (canaries,)."""
    if observer == "final_model":
        return final_model(released, rate, clip)
    if observer == "every_round":
        return every_round(released, rate, clip)
    return knows_cohorts(released, took_part, clip)
