"""Mechanisms that are broken on purpose, to see whether the audit notices.

Each bug replaces one part of the block by a broken one; everything else stays real. The first five are those that every
audit must catch; the rest are mistakes that others have made.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from sottovoce.privacy.budget import Budget
from sottovoce.privacy.clip import Clipper
from sottovoce.privacy.entropy import Entropy, SeededEntropy, Source
from sottovoce.privacy.events import Event, NoiseKind
from sottovoce.privacy.ledger import Ledger, Realised, Reservation
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.planned import Plan
from sottovoce.privacy.release import SumNoise
from sottovoce.privacy.sampling import Cohort, Sampler
from sottovoce.server.optimizer import PrivateStep, ServerOptimizer
from sottovoce.simulations.audit_block import Parts
from sottovoce.simulations.audit_nodes import Witness

_Kind = TypeVar("_Kind", bound=MechanismPlan)


def _as(kind: type[_Kind], plan: MechanismPlan) -> _Kind:
    """The same settings under a broken plan: the digest, and so the ledger, cannot tell them apart."""
    return kind(**{entry.name: getattr(plan, entry.name) for entry in fields(plan)})


class _HalfNoise(MechanismPlan):
    def summed_noise(self) -> SumNoise:
        honest = MechanismPlan.summed_noise(self)
        return replace(honest, multiplier=honest.multiplier / 2)


@dataclass(frozen=True, slots=True)
class _Impostor:
    """Draws by another law than it says."""

    honest: Sampler
    population: int

    @property
    def expected(self) -> float:
        return self.honest.expected

    def draw(self, source: Source) -> Cohort:
        raise NotImplementedError

    def event(self, noise_multiplier: float) -> Event:
        return self.honest.event(noise_multiplier)


class _FixedSize(_Impostor):
    """As many devices in every round, drawn without replacement."""

    def draw(self, source: Source) -> Cohort:
        return np.sort(np.argsort(source.bits(self.population))[: round(self.expected)]).astype(np.int64)


class _Favours(_Impostor):
    """The right mean, but one half of the devices nine times as often as the other."""

    def draw(self, source: Source) -> Cohort:
        rate = self.expected / self.population
        chances = np.where(np.arange(self.population) % 4 < 2, 0.2, 1.8) * rate
        return np.flatnonzero(source.uniform53(self.population) < chances).astype(np.int64)


class _FixedSizePlan(MechanismPlan):
    def sampler(self) -> Sampler:
        return _FixedSize(MechanismPlan.sampler(self), self.population)


class _FavouringPlan(MechanismPlan):
    def sampler(self) -> Sampler:
        return _Favours(MechanismPlan.sampler(self), self.population)


class _Unclipped(Clipper):
    def factors(self, norms: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.ones(np.shape(norms))


class _Forgetful(Budget):
    """Lets one debit pay for two rounds, the seventh and the one before it."""

    paid: Reservation

    def reserve(self, plan: Plan, run_id: str, round: int, noise_kind: NoiseKind, querier: str = "") -> Reservation:
        if round == 7:
            return self.paid.covering(run_id, round, plan.digest())
        self.paid = super().reserve(plan, run_id, round, noise_kind, querier)
        return self.paid

    def commit(self, paid: Reservation, artifact_sha256: str, realised: Realised | None = None) -> None:
        if paid.round != 7:
            super().commit(paid, artifact_sha256, realised)


@dataclass(frozen=True, slots=True)
class _Repeating:
    """Gives the ninth round the randomness of the second, for one purpose."""

    honest: Entropy
    repeated: str
    seed: int

    @property
    def kind(self) -> Literal["secure", "seeded"]:
        return self.honest.kind

    def generator(self, purpose: str, round: int) -> Source:
        if purpose == self.repeated and round in (2, 9):
            return SeededEntropy(self.seed).generator(purpose, 2)
        return self.honest.generator(purpose, round)


def _repeat(purpose: str, entropy: Entropy) -> Entropy:
    return _Repeating(entropy, purpose, int(entropy.generator("planted bug", 0).bits(1)[0]))


class _Averaging(PrivateStep):
    """Divides the sum by the number of devices that took part, while the noise stays as planned."""

    def __init__(
        self,
        parameters: dict[str, torch.Tensor],
        optimizer: ServerOptimizer,
        plan: MechanismPlan,
        run_id: str,
        witness: Witness,
    ) -> None:
        super().__init__(parameters, optimizer, plan, run_id)
        self._planned = plan.expected_cohort
        self._witness = witness

    def step(
        self, total: Mapping[str, npt.NDArray[np.float64]], reservation: Reservation, source: Source | None
    ) -> None:
        answered = max(1, int(self._witness.asked[reservation.round - 1].sum()))
        scaled = {name: value * (self._planned / answered) for name, value in total.items()}
        super().step(scaled, reservation, source)


def _forgetful(delta: float, ledger: Ledger) -> Budget:
    return _Forgetful(math.inf, delta, ledger)


REQUIRED: Mapping[str, Parts] = {
    "half the noise": Parts(noised=lambda plan: _as(_HalfNoise, plan)),
    "no clipping": Parts(clipper=_Unclipped),
    "fixed-size cohorts": Parts(sampled=lambda plan: _as(_FixedSizePlan, plan)),
    "missing debit": Parts(budget=_forgetful),
    "repeated seed": Parts(entropy=lambda entropy: _repeat("noise", entropy)),
}
"""The five that every audit must catch. Debit and seed need nine rounds to go wrong."""

OTHERS: Mapping[str, Parts] = {
    "cohort used twice": Parts(entropy=lambda entropy: _repeat("cohort", entropy)),
    "favoured devices": Parts(sampled=lambda plan: _as(_FavouringPlan, plan)),
    "mean over those who answered": Parts(step=_Averaging),
}
"""More of the kind."""
