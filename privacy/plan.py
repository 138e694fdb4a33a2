"""One immutable plan of a private release, from which sampler, clipper, noise, event and claims all come.

Because the same object draws the cohort, bounds each device, scales the noise and names the event, the figure that is
accounted cannot differ from what was done.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self, get_args

import msgspec

from sottovoce.privacy import accountant
from sottovoce.privacy.chain import digest
from sottovoce.privacy.claim import DeviceClaim
from sottovoce.privacy.clip import Clipper
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import Event, Gaussian, NoiseKind, Purpose
from sottovoce.privacy.planned import Cohorts, Settings
from sottovoce.privacy.release import Family, SumNoise
from sottovoce.privacy.sampling import EveryoneSampler, PoissonSampler, Sampler, TruncatedPoissonSampler

Sampling = Literal["poisson", "truncated_poisson", "none"]


@dataclass(frozen=True, slots=True)
class MechanismPlan:
    """What is released each round, and how often.

    Every device update is clipped to `clip_norm`; the updates of a cohort are summed; Gaussian noise of standard
    deviation `noise_multiplier` times the sensitivity is added to the sum; the result is divided by `expected_cohort`,
    a public constant, whatever number of devices answered.

    Attributes:
        population: enrolled devices N, public.
        sampling_rate: probability q with which each joins a round, 0 < q <= 1; 1 without sampling.
        clip_norm: C, largest L2 norm of one device's update, in weight units.
        noise_multiplier: z = standard deviation of the noise on the sum / sensitivity. 0 is the loudly non-private
            plan: its epsilon is infinite everywhere.
        rounds: how many releases are planned.
        delta: probability with which the guarantee may fail, below 1 / population.
        purpose: why it is released.
        sampling: `poisson`; `truncated_poisson`, with a largest cohort; `none`, everybody in every round.
        cap: largest cohort of truncated sampling.
        max_participations: most rounds of one run a device takes part in; beyond, it contributes zero, which leaves the
            law of sampling as it is. None for no cap.
        cohorts: `secret` when an outsider cannot learn who takes part. `visible` claims no amplification at all.
        noise: `gaussian`, rounded to a public grid with the sum, or the exact `discrete_gaussian` on integers.
    """

    population: int
    sampling_rate: float
    clip_norm: float
    noise_multiplier: float
    rounds: int
    delta: float
    purpose: Purpose = "train"
    sampling: Sampling = "poisson"
    cap: int | None = None
    max_participations: int | None = None
    cohorts: Cohorts = "secret"
    noise: Family = "gaussian"

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be run or that promises nothing.

        Raises:
            ConfigError: names the value.
        """
        self._check_population()
        self._check_sampling()
        self._check_mechanism()
        for name, kind in (("purpose", Purpose), ("cohorts", Cohorts), ("noise", Family)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ConfigError(f"{name} {value!r} unknown", f"use one of {', '.join(get_args(kind))}")

    def _check_population(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"rounds = {self.rounds}: a plan needs at least one", "set rounds to 1 or more")
        if self.population < 1:
            raise ConfigError(f"population = {self.population}: nobody to protect", "enrol at least one device")
        if not 0 < self.delta < 1 / self.population:
            raise ConfigError(
                f"delta = {self.delta} must be above 0 and below 1/population = {1 / self.population:.3g}",
                "choose a smaller delta: at 1/population, publishing one device in full would pass",
            )
        if self.max_participations is not None and self.max_participations < 1:
            raise ConfigError(
                f"max_participations = {self.max_participations}: nobody could take part", "set it to 1 or more"
            )

    def _check_sampling(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(f"sampling_rate = {self.sampling_rate} is not in (0, 1]", "set it above 0 and at most 1")
        if self.sampling not in get_args(Sampling):
            raise ConfigError(f"sampling {self.sampling!r} unknown", f"use one of {', '.join(get_args(Sampling))}")
        if self.sampling == "none" and self.sampling_rate != 1:
            raise ConfigError(f"sampling_rate = {self.sampling_rate} without sampling", "set it to 1")
        if (self.cap is not None) != (self.sampling == "truncated_poisson"):
            raise ConfigError(f"cap = {self.cap} with sampling {self.sampling!r}", "a cap goes with truncated_poisson")
        if self.cap is not None and not 1 <= self.cap <= self.population:
            raise ConfigError(f"cap = {self.cap} is not 1 ... {self.population}", "set it well above the mean cohort")

    def _check_mechanism(self) -> None:
        if not 0 < self.clip_norm < math.inf:
            raise ConfigError(f"clip_norm = {self.clip_norm} is not positive and finite", "set clip_norm above 0")
        if not 0 <= self.noise_multiplier < math.inf:
            raise ConfigError(
                f"noise_multiplier = {self.noise_multiplier} is not a standard deviation",
                "set it to 0 (not private) or more",
            )

    @property
    def expected_cohort(self) -> float:
        """The public number every sum is divided by."""
        return self.sampler().expected

    def sampler(self) -> Sampler:
        """Who draws the cohorts."""
        if self.sampling == "none":
            return EveryoneSampler(self.population)
        if self.cap is not None:
            return TruncatedPoissonSampler(self.population, self.sampling_rate, self.cap)
        return PoissonSampler(self.population, self.sampling_rate)

    def clipper(self) -> Clipper:
        """Who bounds each device."""
        return Clipper(self.clip_norm)

    def summed_noise(self) -> SumNoise:
        """Who turns a sum into a release."""
        return SumNoise(self.noise_multiplier, self.clipper().sensitivity, self.noise, self.digest())

    def event(self) -> Event:
        """The privacy event of one round: what sampling hides counts only while cohorts are secret."""
        if self.cohorts == "visible" and self.noise_multiplier:
            return Gaussian(noise_multiplier=self.noise_multiplier)
        return self.sampler().event(self.noise_multiplier)

    def charged(self, rounds: int | None = None) -> dict[Event, int]:
        """What `rounds` rounds of one run are charged; None for all that are planned."""
        count = self.rounds if rounds is None else rounds
        if self.cohorts == "visible" and self.max_participations is not None:
            count = min(count, self.max_participations)
        return {self.event(): count}

    def settings(self) -> Settings:
        """Every setting, as the ledger keeps it."""
        told: Settings = msgspec.to_builtins(self)
        return told

    @classmethod
    def read(cls, settings: Settings) -> Self:
        """The plan with `settings`, as a ledger keeps it.

        Raises:
            ConfigError: a setting is missing, unknown or impossible.
        """
        try:
            return msgspec.convert(settings, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"the ledger's plan cannot be read: {error}", "use the version that wrote it") from None

    def digest(self) -> str:
        """SHA-256 of the settings as canonical JSON, in hexadecimal."""
        return digest(self.settings())

    def claims(
        self, rounds: int | None = None, max_participations: int | None = None, noise_kind: NoiseKind = "secure"
    ) -> tuple[DeviceClaim, DeviceClaim]:
        """What `rounds` rounds of this plan cost: for an outsider, and for somebody who knows the cohorts.

        Args:
            rounds: releases made; None for all that are planned.
            max_participations: most rounds any one device took part in, if it was counted. None for the plan's cap, or
                for the worst case, every round.
            noise_kind: where the noise comes from; only `secure` supports a guarantee.
        """
        most = self.max_participations if max_participations is None else max_participations
        counts = {self.event(): self.rounds if rounds is None else rounds}
        outside, name = accountant.published(self.charged(rounds), self.delta)
        inside = accountant.epsilon_without_sampling(counts, self.delta, most)
        sure = noise_kind == "secure"
        return (
            DeviceClaim(outside, self.delta, accountant=name, guarantee=sure and outside < math.inf),
            DeviceClaim(
                inside,
                self.delta,
                observer="knows_cohorts",
                accountant="the exact Gaussian formula",
                guarantee=sure and inside < math.inf,
            ),
        )
