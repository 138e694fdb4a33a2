"""Who takes part in a round: one independent coin for every enrolled device."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.entropy import Source
from sottovoce.privacy.events import Event, NonPrivate, PoissonGaussian


@dataclass(frozen=True, slots=True)
class PoissonSampler:
    """Draws Poisson cohorts, and is the only thing that may say so to an accountant.

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

    def draw(self, source: Source) -> npt.NDArray[np.int64]:
        """Indices of the devices that join, ascending, shape (cohort,), each in 0 ... population - 1.

        The probability is exact to 2**-53.
        """
        return np.flatnonzero(source.uniform53(self.population) < self.rate).astype(np.int64)

    def event(self, noise_multiplier: float) -> Event:
        """The privacy event of releasing one sum over a cohort drawn here, with noise of `noise_multiplier` or none."""
        if noise_multiplier == 0:
            return NonPrivate(sampling_rate=self.rate)
        return PoissonGaussian(sampling_rate=self.rate, noise_multiplier=noise_multiplier)
