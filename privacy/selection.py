"""Tuning with random stopping: many runs for little more than the price of one.

Adding up k tuning runs costs about as much as k runs. When instead the number of runs is random, nothing of the runs
that lost is ever released, and neither is their number, the price is that of one run and a little. It is paid at once,
before the number is drawn.
"""

import math
from dataclasses import dataclass, field, replace

from sottovoce.privacy.chain import digest
from sottovoce.privacy.entropy import Source
from sottovoce.privacy.events import Event, NoiseKind, Noisy, Purpose, RepeatAndSelect
from sottovoce.privacy.ledger import Realised, Reservation
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.planned import Cohorts, Settings

LEAST_SHAPE = 0.01


@dataclass(frozen=True, slots=True)
class SelectionPlan:
    """A random number of runs of one mechanism, of which the best is released.

    Attributes:
        run: what every run does, whatever else differs between them.
        mean: expected number of runs, above 1.
        shape: of the law of that number: 0 is logarithmic, which costs least for its mean, 1 is geometric.

    Raises:
        ValueError: a mean or shape out of range, or a run without noise.

    Source: Papernot and Steinke 2021, arXiv:2110.03620, definition 1 and theorem 2.
    """

    run: MechanismPlan
    mean: float
    shape: float = 0.0
    purpose: Purpose = field(default="tuning", init=False)

    def __post_init__(self) -> None:
        """Refuse what has no account, or cannot be drawn."""
        self.event()
        if 0 < self.shape < LEAST_SHAPE:
            raise ValueError(f"shape {self.shape} is 0 to all purposes but rounding; use 0, or {LEAST_SHAPE} or more")

    @property
    def population(self) -> int:
        """Of every run."""
        return self.run.population

    @property
    def delta(self) -> float:
        """Of every run."""
        return self.run.delta

    @property
    def rounds(self) -> int:
        """One release: that of the best run."""
        return 1

    def event(self) -> Event:
        """The privacy event of the whole selection."""
        inner = self.run.event()
        if not isinstance(inner, Noisy):
            raise ValueError("runs without noise cannot be selected from privately")
        return RepeatAndSelect(event=inner, rounds=self.run.rounds, mean=self.mean, shape=self.shape)

    def charged(self, rounds: int | None = None) -> dict[Event, int]:
        """What the selection is charged: its event, once."""
        return {self.event(): 1 if rounds is None else rounds}

    def settings(self) -> Settings:
        """Those of the run, and how many runs are expected."""
        return {**self.run.settings(), "selection_mean": self.mean, "selection_shape": self.shape}

    def digest(self) -> str:
        """SHA-256 of the settings as canonical JSON, in hexadecimal."""
        return digest(self.settings())

    @property
    def cohorts(self) -> Cohorts:
        """Of every run."""
        return self.run.cohorts

    @property
    def max_participations(self) -> int | None:
        """No cap spans the runs: their number is secret."""
        return None

    def chance(self, count: int) -> float:
        """Probability of exactly `count` runs, 1 or more. The law is public; what it gave is not."""
        return _mass(count, _success(self.mean, self.shape), self.shape)

    def draw(self, source: Source) -> int:
        """How many runs to make, at least 1. Secret: whoever learns it learns more than was paid for.

        The law is the truncated negative binomial of the source, by inversion of a uniform of 53 bits.
        """
        chance = _success(self.mean, self.shape)
        point, total, count = float(source.uniform53(1)[0]), 0.0, 0
        while total <= point and count < 100_000:
            count += 1
            total += _mass(count, chance, self.shape)
        return count


def _success(mean: float, shape: float) -> float:
    """The parameter gamma that gives the law its mean, by bisection on its logarithm."""
    low, high = -60.0, 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean(math.exp(middle), shape) > mean else (low, middle)
    return math.exp(high)


def _mean(chance: float, shape: float) -> float:
    if chance >= 1.0:
        return 1.0
    if shape == 0:
        return (1 / chance - 1) / math.log(1 / chance)
    return shape * (1 - chance) / (chance * -math.expm1(shape * math.log(chance)))


def _mass(count: int, chance: float, shape: float) -> float:
    """Probability of `count` runs."""
    if shape == 0:
        return math.exp(count * math.log1p(-chance)) / (count * math.log(1 / chance))
    binomial = math.lgamma(count + shape) - math.lgamma(shape) - math.lgamma(count + 1)
    scale = shape * math.log(chance)
    return math.exp(binomial + count * math.log1p(-chance) + scale) / -math.expm1(scale)


class Selection:
    """A selection that was paid for: pays for every round of its runs, and records none of them.

    Args:
        plan: what was paid for.
        paid: the reservation of the whole.
    """

    def __init__(self, plan: SelectionPlan, paid: Reservation) -> None:
        if paid.plan_hash != plan.digest():
            raise ValueError("the reservation pays for another plan")
        self._plan = plan
        self._paid = paid
        self._rounds: dict[str, int] = {}

    def reserve(self, plan: MechanismPlan, run_id: str, round: int, noise_kind: NoiseKind) -> Reservation:  # noqa: ARG002
        """One round of one run; nothing is written, since it was paid for at the start.

        Runs may differ in their clip norm: noise is relative to it, so that the event is the same.

        Raises:
            ValueError: another mechanism, or a round that is not the run's next one within the plan.
        """
        if replace(plan, clip_norm=self._plan.run.clip_norm) != self._plan.run:
            raise ValueError("only the mechanism that was paid for may run")
        if round != self._rounds.get(run_id, 0) + 1 or round > plan.rounds:
            raise ValueError(f"round {round} of run {run_id} is not the next of {plan.rounds}")
        self._rounds[run_id] = round
        return self._paid.covering(run_id, round, plan.digest())

    def commit(self, paid: Reservation, artifact_sha256: str, realised: Realised | None = None) -> None:
        """Nothing: a round of a run is no release; the best run is, see `Ledger.commit`."""
