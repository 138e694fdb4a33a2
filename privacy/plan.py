"""One immutable plan of a private run, from which sampler, noise, event and claims all come.

Because the same object draws the cohort, scales the noise and names the event, the figure that is accounted cannot
differ from what was done.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import msgspec

from sottovoce.privacy import accountant
from sottovoce.privacy.claim import DeviceClaim
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import Event, NoiseKind, PoissonGaussian, Purpose
from sottovoce.privacy.sampling import PoissonSampler

LEAST_NOISE, MOST_NOISE = 100, 100_000_000
"""Range of `calibrate`, in thousandths."""


@dataclass(frozen=True, slots=True)
class MechanismPlan:
    """What is released each round, and how often.

    Every device update is clipped to `clip_norm`; the updates of a Poisson cohort are summed; Gaussian noise of
    standard deviation `noise_std` is added to the sum; the result is divided by `expected_cohort`, a public constant,
    whatever number of devices answered.

    Attributes:
        population: enrolled devices N, public.
        sampling_rate: probability q with which each joins a round, 0 < q <= 1.
        clip_norm: C, largest L2 norm of one device's update, in weight units.
        noise_multiplier: z = standard deviation of the noise on the sum / C. 0 is the loudly non-private plan: its
            epsilon is infinite everywhere.
        rounds: how many releases are planned.
        delta: probability with which the guarantee may fail, below 1 / population.
        purpose: why it is released.
    """

    population: int
    sampling_rate: float
    clip_norm: float
    noise_multiplier: float
    rounds: int
    delta: float
    purpose: Purpose = "train"

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be run or that promises nothing.

        Raises:
            ConfigError: names the value.
        """
        if self.rounds < 1:
            raise ConfigError(f"rounds = {self.rounds}: a plan needs at least one", "set rounds to 1 or more")
        _check(self.population, self.sampling_rate, self.delta)
        if not 0 < self.clip_norm < math.inf:
            raise ConfigError(f"clip_norm = {self.clip_norm} is not positive and finite", "set clip_norm above 0")
        if not 0 <= self.noise_multiplier < math.inf:
            raise ConfigError(
                f"noise_multiplier = {self.noise_multiplier} is not a standard deviation",
                "set it to 0 (not private) or more",
            )
        if self.purpose not in get_args(Purpose):
            raise ConfigError(f"purpose {self.purpose!r} unknown", f"use one of {', '.join(get_args(Purpose))}")

    @property
    def expected_cohort(self) -> float:
        """The public number every sum is divided by: q * N."""
        return self.sampling_rate * self.population

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on the sum, in weight units: z * C."""
        return self.noise_multiplier * self.clip_norm

    def sampler(self) -> PoissonSampler:
        """Who draws the cohorts."""
        return PoissonSampler(self.population, self.sampling_rate)

    def event(self) -> Event:
        """The privacy event of one round."""
        return self.sampler().event(self.noise_multiplier)

    def digest(self) -> str:
        """SHA-256 of the plan as canonical JSON, in hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def claims(
        self, rounds: int | None = None, max_participations: int | None = None, noise_kind: NoiseKind = "secure"
    ) -> tuple[DeviceClaim, DeviceClaim]:
        """What `rounds` rounds of this plan cost: for an outsider, and for somebody who knows the cohorts.

        Args:
            rounds: releases made; None for all that are planned.
            max_participations: most rounds any one device takes part in, enforced by a cap or counted. None for the
                worst case, every round.
            noise_kind: where the noise comes from; only `secure` supports a guarantee.
        """
        counts = {self.event(): self.rounds if rounds is None else rounds}
        inside = accountant.epsilon_without_sampling(counts, self.delta, max_participations)
        # What holds against an observer who knows more, for a device in every round, holds against an outsider.
        outside = min(
            accountant.epsilon_pld(counts, self.delta), accountant.epsilon_without_sampling(counts, self.delta)
        )
        sure = noise_kind == "secure"
        return (
            DeviceClaim(outside, self.delta, guarantee=sure and outside < math.inf),
            DeviceClaim(
                inside,
                self.delta,
                observer="knows_cohorts",
                accountant="the exact Gaussian formula",
                guarantee=sure and inside < math.inf,
            ),
        )


def _check(population: int, sampling_rate: float, delta: float) -> None:
    """Refuse a setting in which no plan makes sense."""
    if population < 1:
        raise ConfigError(f"population = {population}: nobody to protect", "enrol at least one device")
    if not 0 < sampling_rate <= 1:
        raise ConfigError(f"sampling_rate = {sampling_rate} is not in (0, 1]", "set it above 0 and at most 1")
    if not 0 < delta < 1 / population:
        raise ConfigError(
            f"delta = {delta} must be above 0 and below 1/population = {1 / population:.3g}",
            "choose a smaller delta: at 1/population, publishing one device in full would pass",
        )


def calibrate(population: int, sampling_rate: float, rounds: int, epsilon: float, delta: float) -> float:
    """The least noise that keeps `rounds` rounds within `epsilon`, by PLD.

    Args:
        population: enrolled devices N.
        sampling_rate: probability q with which each joins a round.
        rounds: releases planned, 1 or more.
        epsilon: budget, above 0.
        delta: probability with which the guarantee may fail, below 1 / population.

    Returns:
        Noise multiplier in thousandths, rounded up; at least 0.1, below which noise protects nobody.

    Raises:
        ConfigError: a value is out of range, or no noise up to 100000 reaches `epsilon`.
    """
    if rounds < 1:
        raise ConfigError(f"rounds = {rounds}: a plan needs at least one", "set rounds to 1 or more")
    _check(population, sampling_rate, delta)
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon = {epsilon} is not positive and finite", "set epsilon above 0")

    def within(thousandths: int, grid: float) -> bool:
        event: Event = PoissonGaussian(sampling_rate=sampling_rate, noise_multiplier=thousandths / 1000)
        return accountant.epsilon_pld({event: rounds}, delta, grid) <= epsilon

    # Large-deviation guess, then a search on a cheap grid, then the published grid decides.
    guess = 1000 * sampling_rate * math.sqrt(2 * rounds * math.log(1 / delta)) / epsilon
    start = int(max(500.0, min(guess, MOST_NOISE)))
    rough = _least(lambda noise: within(noise, accountant.COARSE), start, start // 16)
    found = _least(lambda noise: within(noise, accountant.FINE), MOST_NOISE if rough is None else rough, 1)
    if found is None:
        raise ConfigError(
            f"epsilon = {epsilon} at delta = {delta} is out of reach: no noise multiplier up to 100000 gives it",
            "raise epsilon, or take fewer rounds or smaller cohorts",
        )
    return found / 1000


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
