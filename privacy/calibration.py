"""The least noise that keeps a plan within a budget, and a participation cap that almost nobody reaches."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from sottovoce.privacy import accountant
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import Event
from sottovoce.privacy.plan import MechanismPlan

LEAST_NOISE, MOST_NOISE = 100, 100_000_000
"""Range of `calibrated`, in thousandths."""

SELDOM = 1e-4
"""Chance of a device to be drawn more often in a run than `rare_cap` lets it take part."""


def rare_cap(sampling_rate: float, rounds: int) -> int:
    """Smallest participation cap that fewer than one device in 10,000 would exceed in a run.

    Such a cap costs next to no data, and bounds the epsilon against somebody who knows who took part.

    Args:
        sampling_rate: chance q of a device to be drawn in a round.
        rounds: of the run.
    """
    from scipy.stats import binom

    return max(1, min(rounds, int(binom.isf(SELDOM, rounds, sampling_rate))))


def calibrated(
    plan: MechanismPlan,
    epsilon: float,
    besides: Mapping[Event, int] | None = None,
    charged: Callable[[MechanismPlan], Mapping[Event, int]] = MechanismPlan.charged,
) -> MechanismPlan:
    """The plan with the least noise that keeps all its rounds within `epsilon`.

    Args:
        plan: everything but the noise multiplier, which is replaced.
        epsilon: budget, above 0.
        besides: what else the same budget pays for.
        charged: what the plan costs with a given noise; by default all its rounds, once.

    Returns:
        A plan whose noise multiplier is in thousandths, rounded up; at least 0.1, below which noise protects nobody.

    Raises:
        ConfigError: epsilon is not positive and finite, or no noise up to 100000 reaches it.
    """
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon = {epsilon} is not positive and finite", "set epsilon above 0")
    others = Counter(besides or {})

    def noisy(thousandths: int) -> MechanismPlan:
        return replace(plan, noise_multiplier=thousandths / 1000)

    def within(thousandths: int, grid: float) -> bool:
        counts = others + Counter(charged(noisy(thousandths)))
        return accountant.published(counts, plan.delta, grid)[0] <= epsilon

    # Large-deviation guess, then a search on a cheap grid, then the published grid decides.
    (rounds,) = noisy(1000).charged().values()
    rate = plan.sampling_rate if plan.cohorts == "secret" else 1.0
    guess = 1000 * rate * math.sqrt(2 * rounds * math.log(1 / plan.delta)) / epsilon
    start = int(max(500.0, min(guess, MOST_NOISE)))
    rough = _least(lambda noise: within(noise, accountant.COARSE), start, start // 16)
    found = _least(lambda noise: within(noise, accountant.FINE), MOST_NOISE if rough is None else rough, 1)
    if found is None:
        raise ConfigError(
            f"epsilon = {epsilon} at delta = {plan.delta} is out of reach: no noise multiplier up to 100000 gives it",
            "raise epsilon, or take fewer rounds or smaller cohorts",
        )
    return noisy(found)


def _least(passes: Callable[[int], bool], start: int, step: int) -> int | None:
    """Least number from `LEAST_NOISE` to `MOST_NOISE` that passes, or None; from `start` in steps that double."""
    if passes(start):
        good = start
        while good > LEAST_NOISE and passes(lower := max(LEAST_NOISE, good - step)):
            good, step = lower, 2 * step
        if good == LEAST_NOISE:
            return good
        bad = lower
    else:
        bad = start
        while bad < MOST_NOISE and not passes(higher := min(MOST_NOISE, bad + step)):
            bad, step = higher, 2 * step
        if bad == MOST_NOISE:
            return None
        good = higher
    while good - bad > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if passes(middle) else (good, middle)
    return good
