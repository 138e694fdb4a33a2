"""What was released, in terms an accountant understands: the closed list of privacy events.

The ledger stores these events and never an epsilon, so that the loss can be recomputed at any time, by anyone, with any
accountant. Law of this file: no class, field or meaning is ever removed or changed; a new field must be optional; an
event that is not in the list is refused. `accountant` maps each class to the third-party one by a closed table; nothing
read from a ledger ever chooses what code is loaded.
"""

from typing import Literal

import msgspec

Purpose = Literal["train", "clip_count", "metric", "eval", "tuning", "preprocess", "calibration", "audit"]
"""Why something was released; every purpose draws on the same budget."""

NoiseKind = Literal["secure", "seeded", "none"]
"""`secure`: from the operating system; `seeded`: reproducible, no guarantee; `none`: exact sums."""


class PoissonGaussian(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="poisson_gaussian"):
    """One sum over a Poisson-sampled cohort of clipped updates, plus Gaussian noise.

    Attributes:
        sampling_rate: probability q with which each device joins, independently of all others, 0 < q <= 1.
        noise_multiplier: z, standard deviation of the noise on the sum divided by the clip norm, z > 0.
        scheme: how the cohort was drawn.
        adjacency: which data sets are neighbours, see `DeviceClaim`.

    Source: Mironov, Talwar, Zhang 2019, arXiv:1908.10530, section 3.
    """

    sampling_rate: float
    noise_multiplier: float
    scheme: Literal["poisson"] = "poisson"
    adjacency: Literal["zero_out"] = "zero_out"

    def __post_init__(self) -> None:
        """Refuse parameters no accountant may see."""
        if not 0 < self.sampling_rate <= 1 or not 0 < self.noise_multiplier < float("inf"):
            raise ValueError(f"needs 0 < sampling_rate <= 1 and 0 < noise_multiplier < inf, got {self}")


class TruncatedPoissonGaussian(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="truncated_poisson_gaussian"
):
    """One noisy sum over a Poisson cohort that is cut down to a public cap, by a uniformly random choice among those.

    Attributes:
        population: number of enrolled devices N, public, 1 or more: the law of a cut cohort depends on it.
        sampling_rate: probability q with which each device joins before the cut, 0 < q <= 1.
        cap: most devices that stay, public, 1 <= cap <= population.
        noise_multiplier: z, standard deviation of the noise on the sum divided by the clip norm, z > 0.
        adjacency: which data sets are neighbours, see `DeviceClaim`.

    Source: "Tighter Privacy Analysis for Truncated Poisson Sampling", 2025, arXiv:2508.15089.
    """

    population: int
    sampling_rate: float
    cap: int
    noise_multiplier: float
    adjacency: Literal["zero_out"] = "zero_out"

    def __post_init__(self) -> None:
        """Refuse parameters no accountant may see."""
        if not 0 < self.sampling_rate <= 1 or not 0 < self.noise_multiplier < float("inf"):
            raise ValueError(f"needs 0 < sampling_rate <= 1 and 0 < noise_multiplier < inf, got {self}")
        if not 1 <= self.cap <= self.population:
            raise ValueError(f"needs 1 <= cap <= population, got {self}")


class Gaussian(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="gaussian"):
    """One noisy sum over all enrolled devices: nothing is hidden by sampling.

    Attributes:
        noise_multiplier: z, standard deviation of the noise on the sum divided by the clip norm, z > 0.
        adjacency: which data sets are neighbours, see `DeviceClaim`.

    Source: Balle and Wang 2018, arXiv:1805.06530, theorem 8.
    """

    noise_multiplier: float
    adjacency: Literal["zero_out"] = "zero_out"

    def __post_init__(self) -> None:
        """Refuse parameters no accountant may see."""
        if not 0 < self.noise_multiplier < float("inf"):
            raise ValueError(f"needs 0 < noise_multiplier < inf, got {self}")


class NonPrivate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="non_private"):
    """A sum released without noise: its epsilon is infinite, and so is that of everything it is composed with.

    Attributes:
        sampling_rate: probability with which each device joined, for the record only.
    """

    sampling_rate: float


Event = PoissonGaussian | TruncatedPoissonGaussian | Gaussian | NonPrivate
