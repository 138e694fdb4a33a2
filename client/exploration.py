"""Exploration: which of the best candidates is shown, with a probability that is known exactly.

Always showing what looks best never tells how good the others are. So one of the first K candidates is drawn, and the
probability it was drawn with is kept: only then can another ranker be judged later from what this one showed
(`simulations.off_policy`). The probabilities are computed first and the draw is made from them, never the other way
round, in whole parts of 2**-40: a uniform number of 53 bits falls to each candidate with exactly its probability, and
they add up to exactly 1.

Formal guarantees, of `thompson` and `epsilon`, for K candidates at or above the floor of the place:

* each is drawn with at least epsilon / K, up to 2**-40, so an importance weight is at most K / epsilon;
* no candidate below the floor is drawn, and none behind the first `candidates`.

How close `thompson` is to Thompson sampling is a matter of quadrature: see `client.best_arm`; on random markets with 8
candidates the largest error was 0.0013, the median one below 0.0003. It is no error of a propensity: what is stored is
what was drawn with.

====================================================  ===========================================
case                                                  answer
====================================================  ===========================================
no candidate reaches the floor                        None
one candidate reaches it, or the method is `none`     the first that does, propensity 1
a number is not finite or out of range                the first that reaches the floor, propensity 1, a reason
the uniform number is not in [0, 1)                   the same
====================================================  ===========================================

Source: Thompson 1933; Horvitz and Thompson 1952 for what propensities are good for; Li et al. 2011, arXiv:1003.5956.
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sottovoce.client.best_arm import Floats, best_probabilities
from sottovoce.client.personal import logit

Method = Literal["none", "epsilon", "thompson"]
Places = npt.NDArray[np.int64]

PARTS = 2**40
"""A probability is a whole number of parts of one; so is every sum of them, exactly, in a float."""

LARGEST_OFFSET = 50.0
"""Of a click logit, in either direction; beyond, something is broken."""

LARGEST_VARIANCE = 100.0
"""Of a click logit, as in the manifest."""


class Exploration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is tried out.

    Attributes:
        method: `none` shows the best; `epsilon` any of them now and then; `thompson` each as often as it may be best.
        candidates: K, how many of the best take part.
        epsilon: share of requests where each of the K has the same chance; the lower, the larger a weight may get.
    """

    method: Method = "none"
    candidates: Annotated[int, Meta(ge=1, le=32)] = 8
    epsilon: Annotated[float, Meta(ge=0.01, le=1)] = 0.05


class Candidates(NamedTuple):
    """Scored ads in the order of the auction, best first; equal ones in the order in which ties fall.

    Attributes:
        value: (n,) int64, micro-units per thousand impressions: what is held against the floor.
        worth: (n,) int64, what they are ranked by: `value` and the long-term term; falling.
        moving: (n,) int64, the part of `worth` that is proportional to P(click); 0 for `cpm`.
        chance: (n,) float64, P(click) that `worth` was computed with.
        arm: (n,) int64, equal numbers share one offset, as `Posterior.beliefs` gives.
        mean: (n,) float64, expected offset of the click logit that is not yet in `chance`; 0 where it is.
        variance: (n,) float64, of that offset; the same for candidates of one arm.
    """

    value: Places
    worth: Places
    moving: Places
    chance: Floats
    arm: Places
    mean: Floats
    variance: Floats


class Drawn(NamedTuple):
    """What was drawn.

    Attributes:
        place: position in the candidates.
        propensity: the probability it was drawn with.
        places: (K,) positions of all that took part, rising.
        propensities: (K,) their probabilities; the sum is exactly 1.
        reason: why nothing was tried out although it was asked for; empty otherwise.
    """

    place: int
    propensity: float
    places: Places
    propensities: Floats
    reason: str = ""


def explore(rule: Exploration, candidates: Candidates, floor: int, draw: float) -> Drawn | None:
    """One of the first K candidates at or above the floor; None when none is. Never raises on numbers.

    Args:
        rule: see `Exploration`.
        candidates: see there.
        floor: of the place, in micro-units per thousand impressions.
        draw: uniform in [0, 1); the only randomness.
    """
    places = np.flatnonzero(candidates.value >= floor)[: rule.candidates].astype(np.int64)
    if not len(places):
        return None
    if rule.method == "none" or len(places) == 1:
        return _greedy(places, "")
    if not 0.0 <= draw < 1.0:
        return _greedy(places, "the uniform number is not in [0, 1)")
    best = np.zeros(len(places))
    best[0] = 1.0
    if rule.method == "thompson":
        fault = _fault(candidates, places)
        if fault:
            return _greedy(places, fault)
        best = _thompson(candidates, places)
        if not np.isfinite(best).all():
            return _greedy(places, "the probabilities cannot be computed")
    parts = in_parts((1.0 - rule.epsilon) * best + rule.epsilon / len(places))
    ends = np.cumsum(parts)
    chosen = int(np.searchsorted(ends, int(draw * PARTS), side="right"))
    propensities = parts / PARTS
    return Drawn(int(places[chosen]), float(propensities[chosen]), places, propensities)


def in_parts(probabilities: Floats) -> Places:
    """Whole numbers that add up to `PARTS`, each within half a part of its probability; the largest takes the rest.

    Args:
        probabilities: (K,) at least 0, with a sum of 1 up to rounding.
    """
    parts = np.rint(probabilities * PARTS).astype(np.int64)
    parts[np.argmax(parts)] += PARTS - parts.sum()
    return parts


def _greedy(places: Places, reason: str) -> Drawn:
    certain = np.zeros(len(places))
    certain[0] = 1.0
    return Drawn(int(places[0]), 1.0, places, certain, reason)


def _fault(candidates: Candidates, places: Places) -> str:
    """What keeps the probabilities from being computed; each test is written so that NaN fails it."""
    columns = (candidates.chance, candidates.mean, candidates.variance)
    chances, means, variances = (column[places].tolist() for column in columns)
    if not all(0.0 <= chance <= 1.0 for chance in chances):
        return "a chance of a click is no probability"
    if not all(abs(mean) <= LARGEST_OFFSET for mean in means):
        return f"an expected offset is not within {LARGEST_OFFSET:g}"
    if not all(0.0 <= variance <= LARGEST_VARIANCE for variance in variances):
        return f"a variance is not within 0 ... {LARGEST_VARIANCE:g}"
    return ""


def _thompson(candidates: Candidates, places: Places) -> Floats:
    """Probability of each to be worth the most under the posterior."""
    moving = np.maximum(candidates.moving[places], 0).astype(np.float64)
    odds = logit(candidates.chance[places])
    # As `logit` reads a chance of 0 or 1, so that the worth at offset 0 is the one the auction ranked by.
    ceiling = moving * (1.0 + np.exp(-odds))
    fixed = candidates.worth[places] - moving
    spread = np.sqrt(candidates.variance[places])
    return best_probabilities(fixed, ceiling, odds + candidates.mean[places], spread, candidates.arm[places])
