"""What was released, in terms an accountant understands: the closed list of privacy events.

The ledger stores these events and never an epsilon, so that the loss can be recomputed at any time, by anyone, with any
accountant. Law of this file: no class, field or meaning is ever removed or changed; a new field must be optional; an
event that is not in the list is refused. `accountant` maps each class to the third-party one by a closed table; nothing
read from a ledger ever chooses what code is loaded.
"""

from typing import Literal

import msgspec

Purpose = Literal["train", "clip_count", "metric", "eval", "tuning", "preprocess", "calibration", "audit", "analytics"]
"""Why something was released; every purpose draws on the same budget."""

NoiseKind = Literal["secure", "seeded", "none"]
"""`secure`: from the operating system; `seeded`: reproducible, no guarantee; `none`: exact sums."""

Adjacency = Literal["zero_out", "add_remove"]
"""Neighbours differ by one device, whose contribution counts as zero; or by one record that is added or removed.
Sampled Gaussian noise costs the same under both: the sum moves by one clipped vector, or not at all."""

MICRO = 1_000_000
"""Pure shares are counted in whole millionths of an epsilon, so that adding them up never rounds."""


def _check(rate: float, noise: float) -> None:
    """Refuse parameters no accountant may see."""
    if not 0 < rate <= 1 or not 0 < noise < float("inf"):
        raise ValueError(f"needs 0 < sampling_rate <= 1 and 0 < noise_multiplier < inf, got {rate} and {noise}")


class PoissonGaussian(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="poisson_gaussian"):
    """One sum over a Poisson-sampled cohort of clipped updates, plus Gaussian noise.

    With adjacency `add_remove` it is one step on one device, over a Poisson-sampled batch of clipped record gradients.

    Attributes:
        sampling_rate: probability q with which each device (or record) joins, independently of all others, 0 < q <= 1.
        noise_multiplier: z, standard deviation of the noise on the sum divided by the clip norm, z > 0.
        scheme: how the cohort was drawn.
        adjacency: which data sets are neighbours: see `DeviceClaim` and `RecordClaim`.

    Source: Mironov, Talwar, Zhang 2019, arXiv:1908.10530, section 3.
    """

    sampling_rate: float
    noise_multiplier: float
    scheme: Literal["poisson"] = "poisson"
    adjacency: Adjacency = "zero_out"

    def __post_init__(self) -> None:
        """Refuse parameters no accountant may see."""
        _check(self.sampling_rate, self.noise_multiplier)


class TruncatedPoissonGaussian(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="truncated_poisson_gaussian"
):
    """Like `PoissonGaussian`, but a cohort above a public cap is cut down to a random subset of that size.

    Cutting makes the others' places depend on whether a device joined, which costs privacy: it is accounted as such.

    Attributes:
        population: enrolled devices N.
        sampling_rate: q before the cut, 0 < q <= 1.
        cap: largest cohort, 1 ... N.
        noise_multiplier: z > 0.
        adjacency: which data sets are neighbours.

    Source: Chua et al. 2025, arXiv:2508.15089.
    """

    population: int
    sampling_rate: float
    cap: int
    noise_multiplier: float
    adjacency: Literal["zero_out"] = "zero_out"

    def __post_init__(self) -> None:
        """Refuse parameters no accountant may see."""
        _check(self.sampling_rate, self.noise_multiplier)
        if not 1 <= self.cap <= self.population:
            raise ValueError(f"needs 1 <= cap <= population, got {self.cap} and {self.population}")


class Gaussian(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="gaussian"):
    """One sum over every enrolled device, plus Gaussian noise: nothing is hidden by sampling.

    Attributes:
        noise_multiplier: z > 0.
        adjacency: which data sets are neighbours.
    """

    noise_multiplier: float
    adjacency: Literal["zero_out"] = "zero_out"

    def __post_init__(self) -> None:
        """Refuse parameters no accountant may see."""
        _check(1.0, self.noise_multiplier)


class Pure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="pure"):
    """Any release with a pure guarantee (delta 0), such as counts with two-sided geometric noise.

    Attributes:
        micro_epsilon: its epsilon in millionths, a whole number above 0.
        adjacency: which data sets are neighbours.
    """

    micro_epsilon: int
    adjacency: Literal["zero_out"] = "zero_out"

    def __post_init__(self) -> None:
        """Refuse parameters no accountant may see."""
        if not 1 <= self.micro_epsilon <= 2**53:
            raise ValueError(f"needs 1 <= micro_epsilon <= 2**53, got {self.micro_epsilon}")


Noisy = PoissonGaussian | TruncatedPoissonGaussian | Gaussian
"""What a `MechanismPlan` with noise releases in a round."""


class RepeatAndSelect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="repeat_and_select"):
    """A random number of whole runs of which only the best by a private or public score is released.

    The number of runs is drawn from a truncated negative binomial law and is never released. Nothing is charged for the
    single runs, and nothing of those that lost may leave.

    Attributes:
        event: what each round of a run releases.
        rounds: rounds of a run, 1 or more.
        mean: expected number of runs, above 1.
        shape: of the law, 0 or more: 0 is logarithmic, 1 geometric.

    Source: Papernot and Steinke 2021, arXiv:2110.03620, theorem 2.
    """

    event: Noisy
    rounds: int
    mean: float
    shape: float

    def __post_init__(self) -> None:
        """Refuse parameters no accountant may see."""
        if self.rounds < 1 or not 1 < self.mean < float("inf") or not 0 <= self.shape < float("inf"):
            raise ValueError(f"needs rounds >= 1, mean > 1 and shape >= 0, got {self}")


class NonPrivate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="non_private"):
    """A sum released without noise: its epsilon is infinite, and so is that of everything it is composed with.

    Attributes:
        sampling_rate: probability with which each device joined, for the record only.
    """

    sampling_rate: float


Event = PoissonGaussian | TruncatedPoissonGaussian | Gaussian | Pure | RepeatAndSelect | NonPrivate
