"""Who takes part in a round: one independent coin for every enrolled device, a cut-down cohort, or everybody.

The sampler that draws a cohort also names the privacy event of releasing its sum, so that the accountant hears of the
law that was really used.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.entropy import Source
from sottovoce.privacy.events import Gaussian, Noisy, PoissonGaussian, TruncatedPoissonGaussian

Cohort = npt.NDArray[np.int64]


class Sampler(Protocol):
    """Draws cohorts, and is the only thing that may say how to an accountant."""

    @property
    def expected(self) -> float:
        """Devices in an average cohort; a public number."""
        ...

    def draw(self, source: Source) -> Cohort:
        """Indices of the devices that join, ascending, shape (cohort,), each in 0 ... population - 1."""
        ...

    def event(self, noise_multiplier: float) -> Noisy:
        """The privacy event of releasing one sum over a cohort drawn here, with noise of `noise_multiplier` > 0."""
        ...


@dataclass(frozen=True, slots=True)
class PoissonSampler:
    """Draws Poisson cohorts.

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
        if self.population < 1 or not 0 < self.rate <= 1:
            raise ValueError(f"needs population >= 1 and 0 < rate <= 1, got {self.population} and {self.rate}")

    @property
    def expected(self) -> float:
        """Q * N."""
        return self.rate * self.population

    def draw(self, source: Source) -> Cohort:
        """Indices of the devices that join; the probability is exact to 2**-53."""
        return np.flatnonzero(source.uniform53(self.population) < self.rate).astype(np.int64)

    def event(self, noise_multiplier: float) -> Noisy:
        """A Poisson-sampled Gaussian."""
        return PoissonGaussian(sampling_rate=self.rate, noise_multiplier=noise_multiplier)


@dataclass(frozen=True, slots=True)
class TruncatedPoissonSampler:
    """Draws Poisson cohorts and cuts those above a public cap down to a random subset; filled in by its own module."""

    population: int
    rate: float
    cap: int

    @property
    def expected(self) -> float:
        """min(q * N, cap)."""
        return min(self.rate * self.population, self.cap)

    def draw(self, source: Source) -> Cohort:
        """Placeholder law until merge."""
        raise NotImplementedError

    def event(self, noise_multiplier: float) -> Noisy:
        """A truncated Poisson-sampled Gaussian."""
        return TruncatedPoissonGaussian(
            population=self.population, sampling_rate=self.rate, cap=self.cap, noise_multiplier=noise_multiplier
        )


@dataclass(frozen=True, slots=True)
class EveryoneSampler:
    """Every enrolled device takes part in every round: sampling hides nobody."""

    population: int

    @property
    def expected(self) -> float:
        """N."""
        return float(self.population)

    def draw(self, source: Source) -> Cohort:  # noqa: ARG002 - nothing is left to chance
        """All of them."""
        return np.arange(self.population, dtype=np.int64)

    def event(self, noise_multiplier: float) -> Noisy:
        """A plain Gaussian."""
        return Gaussian(noise_multiplier=noise_multiplier)
