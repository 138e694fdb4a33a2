"""A coordinator over marker devices on a grid where things go wrong, held against what must come out of every round."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sottovoce.client.fleet import LocalTraining
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.clip import SLACK
from sottovoce.privacy.entropy import Entropy
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.collecting import Collecting
from sottovoce.server.optimizer import PrivateStep, ServerOptimizer
from sottovoce.server.participation import Participation
from sottovoce.server.round import Coordinator, RoundRecord
from sottovoce.simulations.bent_replies import POISONS
from sottovoce.simulations.faults import Faults, Rates, SimulatedClock
from sottovoce.simulations.faulty_grid import FaultyGrid
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.markers import TABLE, Markers

GRACE_S = 5.0
"""A round has to be closed so long after its deadline."""

_ROUNDING = 1e-3
"""Of one device's update, for float32 weights."""

_UNSURE = "a flipped bit"
"""May be noticed or not, and is bounded either way."""


@dataclass(slots=True)
class MarkedRun:
    """A run in progress; each round's move of the weights is held against the replies that were sent.

    Attributes:
        coordinator: the one that ships.
        grid: what disturbs it.
        markers: of its devices.
        violations: a line for each promise that was broken.
        noise: (squares, draws) of what moved the weights besides replies, in units of the promised noise.
        on_round: called after each round.
        closed: rounds that ended by their deadline.
    """

    coordinator: Coordinator
    grid: FaultyGrid
    markers: Markers
    on_round: Callable[[RoundRecord], None] = lambda _: None
    violations: list[str] = field(default_factory=list)
    closed: int = 0
    noise: tuple[float, int] = (0.0, 0)
    _before: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _forward: frozenset[int] = frozenset()

    def go(self) -> None:
        """All rounds."""
        self._before = self._weights()
        self.coordinator.run(0, self._check)

    def _weights(self) -> npt.NDArray[np.float64]:
        return self.coordinator.step.parameters[TABLE].numpy().astype(np.float64)

    def _check(self, record: RoundRecord) -> None:
        """What a round did, against what it had to do."""
        plan, grid = self.coordinator.plan, self.grid
        after = self._weights()
        move = (after - self._before) * plan.expected_cohort
        self._before = after
        deadline_s = self.coordinator.collecting.deadline_s
        if record.seconds > deadline_s + GRACE_S:
            self._violated(record, f"closed after {record.seconds:.1f} s")
        else:
            self.closed += 1
        if not np.isfinite(after).all():
            self._violated(record, "the model is not finite")
        # A round ends when its last reply is there or at its deadline; the clock stands still in between.
        closes = self.coordinator.clock() if record.seconds < deadline_s else np.inf
        began = self.coordinator.clock() - record.seconds
        unsure, forward = 0, set()
        for node, hosted in enumerate(self.markers.hosted, start=1):
            what = grid.sent.get(node, "nothing")
            if what == "another round":
                forward.add(node)
            if node in self._forward or what in (_UNSURE, "another round"):
                unsure += hosted
            elif grid.arrived.get(node, np.inf) - began <= min(deadline_s, closes) and self._counts(what, node, hosted):
                move -= grid.offered[node][TABLE]
        self._forward = frozenset(forward)
        self._judge(record, move, unsure)
        self.on_round(record)

    def _counts(self, what: str, node: int, hosted: int) -> bool:
        """Whether a reply has to be added up."""
        if what == "honest":
            return True
        if what not in POISONS:
            return False
        length = np.linalg.norm(self.grid.offered[node][TABLE].astype(np.float64))
        return bool(length <= self.coordinator.plan.clip_norm * hosted * (1 + SLACK))

    def _judge(self, record: RoundRecord, rest: npt.NDArray[np.float64], unsure: int) -> None:
        """What is left of a move when all that had to be counted is taken out: noise, and what nobody could notice."""
        plan = self.coordinator.plan
        if plan.noise_multiplier:
            units = rest[1:].ravel() / plan.summed_noise().std(rest.size)
            squares, draws = self.noise
            self.noise = (squares + float(np.square(units).sum()), draws + units.size)
            return
        length = float(np.linalg.norm(rest[1:]))
        if length > unsure * plan.clip_norm * (1 + SLACK) + _ROUNDING:
            self._violated(record, f"moved by {length:.3f} updates that nobody sent; {unsure} devices may have")

    def _violated(self, record: RoundRecord, what: str) -> None:
        self.violations.append(f"round {record.round}: {what}")


def marked_run(
    folder: Path, ledger: Ledger, plan: MechanismPlan, markers: Markers, rates: Rates, seed: int, entropy: Entropy
) -> MarkedRun:
    """A new run of `plan` whose ledger is open.

    Args:
        folder: for checkpoints and participation.
        ledger: pays.
        plan: of the markers' population.
        markers: who answers.
        rates: of the faults.
        seed: of the faults.
        entropy: of cohorts and noise.
    """
    clock, collecting = SimulatedClock(), Collecting(deadline_s=60.0)
    inner = InProcessGrid(markers.app(), len(markers.hosted))
    grid = FaultyGrid(inner, Faults(rates, seed), clock, collecting.deadline_s)
    coordinator = Coordinator(
        grid=grid,
        plan=plan,
        budget=Budget(float("inf"), plan.delta, ledger),
        step=PrivateStep(
            {TABLE: torch.zeros(1 + markers.size, 1)},
            ServerOptimizer(kind="fedavg", learning_rate=1.0, averaging=0.0),
            plan,
            "marked",
        ),
        training=LocalTraining(),
        entropy=entropy,
        run_id="marked",
        schema_digest="markers",
        folder=folder / "checkpoints",
        participation=Participation.begin(folder / "asked", plan.population, plan.max_participations),
        collecting=collecting,
        clock=clock,
        sleep=clock.sleep,
    )
    return MarkedRun(coordinator, grid, markers)
