"""The audit block: a run of the real mechanism in which every device is the auditor's own.

Coordinator, sampler, wire messages, clipper, noise, denominator, server step, budget and ledger are those of any run.
Only the data is chosen: half the devices are canaries, each with a direction of its own that nobody else touches and an
update that is longer than the bound; the rest are a crowd that all move one common place by exactly the bound. A coin
for each canary decides whether it contributes; one that is out is a device replaced by zero, the neighbouring data set
that the guarantee speaks of.

A canary's direction is spread over two tensors, so that a bound kept for each tensor alone would show. The direction
across it, in the same two places, is touched by nobody: it holds noise and nothing else.

The block keeps clip norm, noise, family, sampling, rate and entropy of the plan. Its population is its own, of public
size; it takes at most `MOST_ROUNDS` rounds and sets no participation cap, which is tested where it is kept.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sottovoce.client.fleet import LocalTraining
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.clip import Clipper
from sottovoce.privacy.entropy import Entropy
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.optimizer import PrivateStep, ServerOptimizer
from sottovoce.server.participation import Participation
from sottovoce.server.round import Coordinator, RoundRecord
from sottovoce.simulations.audit_nodes import Canaries, Witness, canary_app
from sottovoce.simulations.grid import InProcessGrid

MOST_ROUNDS = 200
NODES = 2

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a block is built of; a planted bug swaps one for a broken one.

    Attributes:
        sampled: the plan that the coordinator follows, from the promised one.
        noised: the plan that the private step follows, from the promised one.
        entropy: from the given one.
        budget: who pays, for a delta and a ledger.
        step: who releases: takes what `PrivateStep` takes, and the witness.
        clipper: who bounds a device, for a clip norm.
    """

    sampled: Callable[[MechanismPlan], MechanismPlan] = lambda plan: plan
    noised: Callable[[MechanismPlan], MechanismPlan] = lambda plan: plan
    entropy: Callable[[Entropy], Entropy] = lambda entropy: entropy
    budget: Callable[[float, Ledger], Budget] = lambda delta, ledger: Budget(math.inf, delta, ledger)
    step: Callable[[dict[str, torch.Tensor], ServerOptimizer, MechanismPlan, str, Witness], PrivateStep] = (
        lambda parameters, optimizer, plan, run_id, witness: PrivateStep(parameters, optimizer, plan, run_id)  # noqa: ARG005
    )
    clipper: Callable[[float], Clipper] = Clipper


@dataclass(frozen=True, slots=True)
class Block:
    """What one audited run released, and what the auditor knows about it.

    Attributes:
        plan: the promise that the run is held against.
        included: (canaries,) whether each contributes.
        table: (rounds, canaries) released sums at each canary's place in the first tensor, in weight units.
        dense: (rounds, canaries) the same in the second.
        crowd: (rounds,) released sum at the crowd's place.
        error: (rounds, places) how exactly `released` can be read from float32 weights, in the same units.
        asked: (rounds, population) who was asked, as the devices saw it.
        canary: (canaries,) each canary's number in the population.
        debited_before: (rounds,) releases on the ledger when the first device was asked; -1 when nobody was.
        debited_after: (rounds,) releases on the ledger after the round.
        strangers: reservations whose event is not the plan's.
        dropped: replies that were not usable.
    """

    plan: MechanismPlan
    included: npt.NDArray[np.bool_]
    table: Floats
    dense: Floats
    crowd: Floats
    error: Floats
    asked: npt.NDArray[np.bool_]
    canary: npt.NDArray[np.int64]
    debited_before: tuple[int, ...]
    debited_after: tuple[int, ...]
    strangers: int
    dropped: tuple[str, ...]

    @property
    def std(self) -> float:
        """Promised standard deviation of the noise on the sum, in weight units."""
        return _std(self.plan)

    @property
    def released(self) -> Floats:
        """(rounds, places) every released sum, in units of the promised noise."""
        return np.concatenate([self.crowd[:, None], self.table, self.dense], axis=1) / self.std

    @property
    def along(self) -> Floats:
        """(rounds, canaries) released sums in each canary's direction, in units of the promised noise."""
        return (self.table + self.dense) / (math.sqrt(2.0) * self.std)

    @property
    def across(self) -> Floats:
        """(rounds, canaries) the same in the direction that nobody touches."""
        return (self.table - self.dense) / (math.sqrt(2.0) * self.std)

    @property
    def untouched(self) -> Floats:
        """(rounds, places) all that is noise and nothing else, in units of the promised noise."""
        return np.concatenate([self.across, self.along[:, ~self.included]], axis=1)

    @property
    def took_part(self) -> npt.NDArray[np.bool_]:
        """(rounds, canaries) which canaries were asked, in or out."""
        return self.asked[:, self.canary]


@dataclass(slots=True)
class _Reader:
    """Reads what each round released as the difference of the weights before and after."""

    step: PrivateStep
    witness: Witness
    expected: float
    weights: Floats = field(init=False)
    moves: list[Floats] = field(default_factory=list)
    errors: list[Floats] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = self._look()

    def _look(self) -> Floats:
        """(places,) the crowd's, then the canaries' in the first tensor, then in the second."""
        weights = self.step.parameters
        return np.concatenate([weights["table"].numpy()[1:, 0], weights["dense"].numpy()]).astype(np.float64)

    def __call__(self, record: RoundRecord) -> None:
        """Take down a round that was released."""
        now = self._look()
        self.moves.append((now - self.weights) * self.expected)
        # Noisy sum, quotient and new weight are each rounded to float32.
        largest = np.maximum(np.abs(now), np.abs(self.weights))
        self.errors.append(4 * float(np.finfo(np.float32).eps) * largest * self.expected)
        self.weights = now
        self.after.append(self.witness.releases())
        self.dropped += record.dropped


def _std(promised: MechanismPlan) -> float:
    """Standard deviation of the noise on a sum of the block's size."""
    places = promised.population + 2  # the padding row, the crowd's, two for each canary
    return promised.summed_noise().std(places)


def block_plan(plan: MechanismPlan, canaries: int) -> MechanismPlan:
    """The plan of an audit block: the same mechanism on a population of its own.

    Raises:
        ConfigError: the plan has no noise, so that there is nothing to measure.
    """
    if plan.noise_multiplier == 0:
        raise ConfigError("the plan has no noise: there is no privacy to audit", "audit a private run")
    population = 2 * canaries
    cap = None
    if plan.cap is not None:
        # As far above the mean in standard deviations as the plan's own.
        spread = (1 - plan.sampling_rate) * plan.sampling_rate
        above = (plan.cap - plan.expected_cohort) / math.sqrt(spread * plan.population)
        cap = math.ceil(plan.sampling_rate * population + above * math.sqrt(spread * population))
        cap = max(1, min(population, cap))
    return replace(
        plan,
        population=population,
        rounds=min(plan.rounds, MOST_ROUNDS),
        delta=min(plan.delta, 0.5 / population),
        purpose="audit",
        cap=cap,
        max_participations=None,
    )


def run_block(
    plan: MechanismPlan,
    entropy: Entropy,
    canaries: int,
    folder: Path,
    parts: Parts = Parts(),
) -> Block:
    """Run the block of `plan` and record it.

    Args:
        plan: of the run that is audited.
        entropy: where its cohorts and noise come from; the canaries' coins come from it too.
        canaries: how many, 2 or more.
        folder: empty, for the ledger, the counts and the checkpoints of the block.
        parts: of the mechanism.

    Raises:
        ConfigError: the plan has no noise.
    """
    promised = block_plan(plan, canaries)
    followed, source = parts.sampled(promised), parts.entropy(entropy)
    included = source.generator("canaries", 0).bits(canaries) >= np.uint64(2**63)
    ledger_file = folder / "ledger.db"
    devices = Canaries(promised.population, included, promised.clip_norm, parts.clipper)
    parameters = {"table": torch.zeros(canaries + 2, 1), "dense": torch.zeros(canaries)}
    with Ledger.open(ledger_file, create=True) as ledger:
        witness = Witness(ledger_file, promised.rounds, promised.population, promised.event())
        optimizer = ServerOptimizer(kind="fedavg", learning_rate=1.0, averaging=0.0)
        step = parts.step(parameters, optimizer, parts.noised(promised), "audit", witness)
        reader = _Reader(step, witness, promised.expected_cohort)
        coordinator = Coordinator(
            grid=InProcessGrid(canary_app(devices, witness), NODES),
            plan=followed,
            budget=parts.budget(promised.delta, ledger),
            step=step,
            training=LocalTraining(),
            entropy=source,
            run_id="audit",
            schema_digest="",
            folder=folder / "checkpoints",
            participation=Participation.begin(folder / "asked.safetensors", promised.population, None),
        )
        coordinator.run(0, reader)
    moves = np.array(reader.moves)
    return Block(
        plan=promised,
        included=included,
        table=moves[:, 1 : canaries + 1],
        dense=moves[:, canaries + 1 :],
        crowd=moves[:, 0],
        error=np.array(reader.errors) / _std(promised),
        asked=witness.asked,
        canary=devices.numbers,
        debited_before=tuple(witness.before),
        debited_after=tuple(reader.after),
        strangers=witness.strangers,
        dropped=tuple(reader.dropped),
    )
