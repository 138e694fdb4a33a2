"""Record-level privacy on one device, and what it is worth to the device as a whole.

A device trains by itself with noise on every step, so that its update hides any single row of its history from whoever
sees the update, the coordinator included. That is another guarantee than the one for a whole device, with a ledger of
its own and a label of its own, and it is a small one: the rows of a person are alike. `group_epsilon` converts it, and
every claim made here carries that conversion.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import numpy as np

from sottovoce.privacy import accountant
from sottovoce.privacy.calibration import calibrated
from sottovoce.privacy.chain import digest
from sottovoce.privacy.claim import RecordClaim
from sottovoce.privacy.clip import Clipper
from sottovoce.privacy.composition import Counts, check_delta, grouped
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import Event, Gaussian, NoiseKind, PoissonGaussian, Purpose
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.planned import Cohorts, Settings
from sottovoce.privacy.sampling import PoissonSampler

GROUPS = (2, 5, 10)
"""Records together for which every claim prints an epsilon, beside the whole device."""

LARGE = 64
"""Largest group that mixtures of Gaussians are asked for; they would take minutes beyond."""


def group_epsilon(counts: Counts, delta: float, records: int) -> float:
    """Epsilon for several records of one device together: an upper bound.

    In each step a group of k records puts Binomial(k, q) of its members into the batch, and j of them move the sum by
    at most j clip norms. For a few records the result is less than k times the figure for one, for many far more.

    ==================  ==============================================================
    records             result
    ==================  ==============================================================
    1                   the published figure for one record
    2 to 64             mixtures of Gaussians, within 1 % of the truth
    more                the Gaussian formula, for a bound on how often they are drawn
    ==================  ==============================================================

    Args:
        counts: steps that were released, and how often.
        delta: probability with which the bound may fail, 0 < delta < 1.
        records: k, 1 or more.

    Returns:
        Epsilon for add/remove adjacency of k records; 0 for nothing.

    Raises:
        ValueError: `records` is below 1, or an event is no step on records.

    Source: Ganesh 2024, arXiv:2401.10294, section 3 (mixtures of Gaussians).
    """
    check_delta(delta)
    if records < 1:
        raise ValueError(f"a group has one record or more, got {records}")
    steps: list[tuple[PoissonGaussian, int]] = []
    group = grouped(counts)
    for event, count in ((None, 0),) if group is None else group:
        if not isinstance(event, PoissonGaussian) or event.adjacency != "add_remove":
            raise ValueError("only steps on the records of one device can be converted")
        steps.append((event, count))
    if not steps:
        return 0.0
    single = accountant.published(steps, delta)[0]
    if records == 1:
        return single
    everybody = [(Gaussian(noise_multiplier=event.noise_multiplier / records), count) for event, count in steps]
    bound = min(_drawn_seldom(steps, delta, records), accountant.epsilon_without_sampling(everybody, delta))
    if records <= LARGE and all(event.sampling_rate < 1 for event, _ in steps):
        bound = min(bound, _mixture(tuple(steps), delta, records))
    return max(single, bound)


@lru_cache(maxsize=256)
def _mixture(steps: tuple[tuple[PoissonGaussian, int], ...], delta: float, records: int) -> float:
    """Epsilon by mixtures of Gaussians.

    The grid widens with the square of the group, as the loss does, so that its relative error stays the same.
    """
    from dp_accounting.pld import privacy_loss_distribution
    from scipy.stats import binom

    drawn = np.arange(records + 1)
    total: Any = None
    for event, count in steps:
        chances = binom.pmf(drawn, records, event.sampling_rate)
        # A chance too small for a float goes where it costs most, and so does what rounding lost.
        kept = chances > 0
        kept[-1] = True
        chances[-1] += max(np.finfo(np.float64).tiny, 1.0 - float(chances.sum()))
        loss = privacy_loss_distribution.from_mixture_gaussian_mechanism(
            standard_deviation=event.noise_multiplier,
            sensitivities=[float(size) for size in drawn[kept]],
            sampling_probs=[float(chance) for chance in chances[kept]],
            value_discretization_interval=min(0.5, 1e-3 * records**2),
        ).self_compose(count)
        total = loss if total is None else total.compose(loss)
    return float(total.get_epsilon_for_delta(delta))


def _drawn_seldom(steps: list[tuple[PoissonGaussian, int]], delta: float, records: int) -> float:
    """Epsilon by the Gaussian formula, for all but delta / 2 of the ways in which a group can be drawn.

    Given who was drawn, steps are Gaussians whose squared shifts (drawn / z)**2 add up. The divergence is jointly
    convex, so that the epsilon of the largest sum, outside a chance of delta / 2, holds at delta. That largest sum is
    Chernoff's bound.
    """
    from scipy.special import logsumexp
    from scipy.stats import binom

    drawn = np.arange(records + 1)
    laws = [(binom.logpmf(drawn, records, event.sampling_rate), event.noise_multiplier) for event, _ in steps]
    counts = [count for _, count in steps]
    most = sum(count * (records / noise) ** 2 for (_, noise), count in zip(laws, counts, strict=True))

    def largest(tilt: float) -> float:
        moments = (logsumexp(law + tilt * (drawn / noise) ** 2) for law, noise in laws)
        grown = math.fsum(count * moment for count, moment in zip(counts, moments, strict=True))
        return float(grown + math.log(2 / delta)) / tilt

    shift = min(most, *(largest(tilt) for tilt in np.geomspace(1e-9, 10.0, 200)))
    return accountant.epsilon_without_sampling([(Gaussian(noise_multiplier=float(shift) ** -0.5), 1)], delta / 2)


def record_claim(
    counts: Counts, delta: float, records: int, *, guarantee: bool, epsilon: float | None = None, by: str = "PLD"
) -> RecordClaim:
    """What steps on one device's records cost, with the conversion to several records and to all of them.

    Args:
        counts: steps that were released, and how often.
        delta: probability with which the bound may fail.
        records: of the device as a whole.
        guarantee: whether the noise was from the operating system.
        epsilon: the figure for one record, where a filter promises another one; None to compute it.
        by: who computed `epsilon`.
    """
    sizes = (*(size for size in GROUPS if size < records), *((records,) if records > 1 else ()))
    one = group_epsilon(counts, delta, 1) if epsilon is None else epsilon
    together = tuple((size, max(one, group_epsilon(counts, delta, size))) for size in sizes)
    return RecordClaim(
        one, delta, accountant=by, guarantee=guarantee and one < math.inf, together=together, whole=records > 1
    )


@dataclass(frozen=True, slots=True)
class RecordPlan:
    """How one device trains with record-level privacy, and how often.

    In each step every record of the device joins the batch with probability `sampling_rate`; its gradient is clipped
    to `clip_norm`; Gaussian noise of standard deviation `noise_multiplier` times the sensitivity is added to the sum,
    which is divided by `expected_batch`. Nothing of a step depends on how many records there really are.

    Attributes:
        records: n, a public figure for the records of a device. It fixes the denominator and bounds delta; it is never
            counted from the data, which would tell whether one record is there.
        sampling_rate: q, 0 < q <= 1.
        clip_norm: C, largest L2 norm of one record's gradient.
        noise_multiplier: z = standard deviation of the noise on the sum / sensitivity, above 0.
        steps: in a round.
        participations: rounds that the device joins at most.
        delta: probability with which the guarantee may fail, below 1 / records.

    Raises:
        ConfigError: names the value.

    Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1, with Poisson batches.
    """

    records: int
    sampling_rate: float
    clip_norm: float
    noise_multiplier: float
    steps: int
    participations: int
    delta: float

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be run or that promises nothing."""
        for name in ("records", "steps", "participations"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"record-level {name} = {value}", "set it to 1 or more")
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(f"record-level sampling_rate = {self.sampling_rate}", "set it above 0 and at most 1")
        for name in ("clip_norm", "noise_multiplier"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ConfigError(f"record-level {name} = {value}", "set it above 0 and finite")
        if not 0 < self.delta < 1 / self.records:
            raise ConfigError(
                f"record-level delta = {self.delta} must be above 0 and below 1/records = {1 / self.records:.3g}",
                "choose a smaller delta: at 1/records, publishing one record in full would pass",
            )

    @property
    def population(self) -> int:
        """Units that the ledger of the device protects: its records."""
        return self.records

    @property
    def rounds(self) -> int:
        """Releases planned: every step of every round is one."""
        return self.steps * self.participations

    @property
    def purpose(self) -> Purpose:
        """Why it is released."""
        return "train"

    @property
    def cohorts(self) -> Cohorts:
        """Batches are drawn on the device and never told."""
        return "secret"

    @property
    def max_participations(self) -> int | None:
        """No cap per record: a record may be drawn in every step."""
        return None

    @property
    def expected_batch(self) -> float:
        """The public number every sum is divided by."""
        return self.sampling_rate * self.records

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on the sum of clipped gradients."""
        return self.noise_multiplier * Clipper(self.clip_norm).sensitivity

    def sampler(self, rows: int) -> PoissonSampler:
        """Who draws the batches of a device that has `rows` records, 1 or more."""
        return PoissonSampler(rows, self.sampling_rate)

    def event(self) -> Event:
        """The privacy event of one step."""
        return PoissonGaussian(
            sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier, adjacency="add_remove"
        )

    def charged(self, rounds: int | None = None) -> dict[Event, int]:
        """What `rounds` steps are charged; None for all that are planned."""
        return {self.event(): self.rounds if rounds is None else rounds}

    def settings(self) -> Settings:
        """Every setting, as the ledger keeps it."""
        told: Settings = msgspec.to_builtins(self)
        return {**told, "unit": "record"}

    def digest(self) -> str:
        """SHA-256 of the settings as canonical JSON, in hexadecimal."""
        return digest(self.settings())

    def claim(self, participations: int | None = None, noise_kind: NoiseKind = "secure") -> RecordClaim:
        """What a device reveals of one record in `participations` rounds, with the conversion beside it.

        Args:
            participations: rounds that it joined; None for all that are planned.
            noise_kind: where the noise comes from; only `secure` supports a guarantee.
        """
        joined = self.participations if participations is None else participations
        return record_claim(
            self.charged(joined * self.steps), self.delta, self.records, guarantee=noise_kind == "secure"
        )

    def group_claim(self, records: int, noise_kind: NoiseKind = "secure") -> RecordClaim:
        """What all planned rounds reveal of `records` records together: never less than of one."""
        epsilon = group_epsilon(self.charged(), self.delta, records)
        return RecordClaim(epsilon, self.delta, guarantee=noise_kind == "secure", records=records)


class RecordTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device's updates may reveal about one of its records: the section `local.record` of an experiment.

    Attributes:
        epsilon: for one record, over all rounds that a device may join; the noise is found for it.
        delta: chance with which the guarantee may fail; below 1 / `local.max_rows`.
        clip_norm: largest L2 norm of one record's gradient.
        sampling_rate: chance of each record to join a step.
        noise_multiplier: 0 finds the least noise for epsilon; a device is always told the number.
    """

    epsilon: float = 8.0
    delta: float = 1e-5
    clip_norm: Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)] = 1.0
    sampling_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25
    noise_multiplier: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0

    def __post_init__(self) -> None:
        """Refuse targets that mean nothing."""
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"record.epsilon = {self.epsilon} is not positive and finite")
        if not 1e-12 <= self.delta < 1:
            raise ValueError(f"record.delta = {self.delta} is not between 1e-12 and 1")
        if not (0 < self.clip_norm < math.inf and 0 < self.sampling_rate <= 1 and 0 <= self.noise_multiplier < 1e7):
            raise ValueError("record.clip_norm, sampling_rate or noise_multiplier is out of range")

    def plan(self, records: int, steps: int, participations: int) -> RecordPlan:
        """The plan with the noise of this target, or with the least noise that keeps it.

        Args:
            records: public figure for the records of a device.
            steps: in a round.
            participations: rounds that a device joins at most.

        Raises:
            ConfigError: the target cannot be met, or a value is out of range.
        """
        noise = self.noise_multiplier
        if not noise:
            # The same mechanism with another unit: a record in place of a device, a step in place of a round.
            like = MechanismPlan(records, self.sampling_rate, self.clip_norm, 0.0, steps * participations, self.delta)
            noise = calibrated(like, self.epsilon).noise_multiplier
        return RecordPlan(records, self.sampling_rate, self.clip_norm, noise, steps, participations, self.delta)
