"""Who takes part in a round: a coin for every enrolled device, with or without a cap on the cohort, or everybody.

A sampler draws the cohort and names the privacy event of what it drew, so that the two cannot drift apart. It is the
only thing that may say so to an accountant. All three are public in every parameter; what they draw is secret.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.entropy import Source
from sottovoce.privacy.events import Event, Gaussian, NonPrivate, PoissonGaussian, TruncatedPoissonGaussian

Cohort = npt.NDArray[np.int64]


class Sampler(Protocol):
    """Decides who takes part in a round, and what that costs."""

    @property
    def expected(self) -> float:
        """Public number of devices that sums are divided by, whatever number is drawn or answers."""
        ...

    def draw(self, source: Source) -> Cohort:
        """Indices of the devices that take part, ascending, shape (cohort,), each in 0 ... population - 1."""
        ...

    def event(self, noise_multiplier: float) -> Event:
        """The privacy event of releasing one sum over a cohort drawn here, with noise of `noise_multiplier` or none."""
        ...


@dataclass(frozen=True, slots=True)
class PoissonSampler:
    """One independent coin for every device.

    The size of a cohort varies from round to round and may be zero. It is never refilled, capped or redrawn: doing so
    would change the law that the accountant relies on (Lebeda et al. 2024, arXiv:2405.20769).

    Attributes:
        population: number of enrolled devices N, public.
        rate: probability q with which each device joins a round, 0 < q <= 1.
    """

    population: int
    rate: float

    def __post_init__(self) -> None:
        """Refuse an impossible population or rate."""
        _check(self.population, self.rate)

    @property
    def expected(self) -> float:
        """Mean size of a cohort: q * N."""
        return self.rate * self.population

    def draw(self, source: Source) -> Cohort:
        """Indices of the devices that join, ascending, shape (cohort,), each in 0 ... population - 1.

        The probability is exact to 2**-53.
        """
        return np.flatnonzero(source.uniform53(self.population) < self.rate).astype(np.int64)

    def event(self, noise_multiplier: float) -> Event:
        """The privacy event of releasing one sum over a cohort drawn here, with noise of `noise_multiplier` or none."""
        if noise_multiplier == 0:
            return NonPrivate(sampling_rate=self.rate)
        return PoissonGaussian(sampling_rate=self.rate, noise_multiplier=noise_multiplier)


@dataclass(frozen=True, slots=True)
class TruncatedPoissonSampler:
    """One independent coin for every device; when more than `cap` join, a uniformly random `cap` of them stay.

    For a server that cannot hold more than so many devices at once. The cap costs privacy when it is near the mean.
    For N = 6040, q = 0.02, z = 1, 200 rounds and delta 1e-5, epsilon is 1.853 without a cap, and 1.854, 1.95 and 2.55
    with one that lies 5.1, 4.1 and 3.6 standard deviations, sqrt(q (1 - q) N) each, above the mean.

    Attributes:
        population: number of enrolled devices N, public.
        rate: probability q with which each device joins a round before the cut, 0 < q <= 1.
        cap: most devices in a cohort, public, 1 <= cap <= population.

    Source: "Tighter Privacy Analysis for Truncated Poisson Sampling", 2025, arXiv:2508.15089.
    """

    population: int
    rate: float
    cap: int

    def __post_init__(self) -> None:
        """Refuse an impossible population, rate or cap."""
        _check(self.population, self.rate)
        if not 1 <= self.cap <= self.population:
            raise ValueError(f"needs 1 <= cap <= population, got {self.cap} and {self.population}")

    @property
    def expected(self) -> float:
        """The smaller of q * N and the cap: a public number near the mean size, and never below it."""
        return min(self.rate * self.population, float(self.cap))

    def draw(self, source: Source) -> Cohort:
        """Indices of the devices that take part, ascending, shape (at most cap,), each in 0 ... population - 1."""
        joined = PoissonSampler(self.population, self.rate).draw(source)
        if len(joined) <= self.cap:
            return joined
        # The ranks of distinct random words are a uniformly random order; equal words would favour the earlier device.
        while len(np.unique(words := source.bits(len(joined)))) < len(joined):
            pass
        return np.sort(joined[np.argsort(words)[: self.cap]])

    def event(self, noise_multiplier: float) -> Event:
        """The privacy event of releasing one sum over a cohort drawn here, with noise of `noise_multiplier` or none."""
        if noise_multiplier == 0:
            return NonPrivate(sampling_rate=self.rate)
        return TruncatedPoissonGaussian(
            population=self.population, sampling_rate=self.rate, cap=self.cap, noise_multiplier=noise_multiplier
        )


@dataclass(frozen=True, slots=True)
class EveryoneSampler:
    """No sampling: every device in every round, so that nothing rests on a cohort being secret.

    Attributes:
        population: number of enrolled devices N, public.
    """

    population: int

    def __post_init__(self) -> None:
        """Refuse an impossible population."""
        _check(self.population, 1.0)

    @property
    def expected(self) -> float:
        """Size of every cohort: N."""
        return float(self.population)

    def draw(self, source: Source) -> Cohort:  # noqa: ARG002 - a sampler that leaves nothing to chance
        """0 ... population - 1, shape (population,); takes nothing from the source."""
        return np.arange(self.population, dtype=np.int64)

    def event(self, noise_multiplier: float) -> Event:
        """The privacy event of releasing one sum over everybody, with noise of `noise_multiplier` or none."""
        if noise_multiplier == 0:
            return NonPrivate(sampling_rate=1.0)
        return Gaussian(noise_multiplier=noise_multiplier)


def _check(population: int, rate: float) -> None:
    """Refuse a population or rate with which nobody could ever take part."""
    if population < 1 or not 0 < rate <= 1:
        raise ValueError(f"needs population >= 1 and 0 < rate <= 1, got {population} and {rate}")
