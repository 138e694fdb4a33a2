"""The round loop: pay, draw, ask, add up, release, keep.

Flower carries the messages; everything that decides what is released is here and in `optimizer`. Errors, silence and
unusable replies are ordinary: they count as zero, the noise and the denominator stay as planned, and the round closes
by its deadline.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import FloatArrays, Instruction, Reply, instruction_record, read_reply
from sottovoce.privacy.entropy import Entropy
from sottovoce.privacy.errors import BudgetError, ConfigError, UpdateError
from sottovoce.privacy.events import NoiseKind
from sottovoce.privacy.ledger import Realised, Reservation
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server import checkpoint
from sottovoce.server.cohort import Population, enrol, replies, stragglers
from sottovoce.server.collecting import WAIT_FOR_ALL, Collecting
from sottovoce.server.observer import RoundObserver, Stopwatch, Traffic, Unobserved, carried
from sottovoce.server.optimizer import PrivateStep
from sottovoce.server.participation import Participation
from sottovoce.server.robust import ADD_ALL, Robust
from sottovoce.server.secure_collect import SecureAggregation, Wire, collect_securely


class Purse(Protocol):
    """What pays for a round: a campaign's `Budget`, or a `Selection` that was paid for as a whole."""

    def reserve(self, plan: MechanismPlan, run_id: str, round: int, noise_kind: NoiseKind) -> Reservation:
        """Debit one round; on return it is on disk."""
        ...

    def commit(self, paid: Reservation, artifact_sha256: str, realised: Realised | None = None) -> None:
        """Record that the release happened."""
        ...


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a round.

    Attributes:
        round: from 1.
        cohort: devices drawn. Secret from outsiders while the epsilon relies on secret cohorts.
        answered: devices whose node sent a usable reply.
        capped: devices drawn that had reached their cap and were not asked.
        dropped: one line for each unusable reply.
        seconds: wall time.
        silent: nodes that had not answered at all when the round closed.
        late: replies to the round before that came after it had closed; they are in no round.
        skipped: fewer devices answered than `Collecting.minimum`: the round is paid for, nothing was released.
    """

    round: int
    cohort: int
    answered: int
    capped: int = 0
    dropped: tuple[str, ...]
    seconds: float
    silent: int = 0
    late: int = 0
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Coordinator:
    """A run in progress.

    Attributes:
        grid: where the nodes are.
        plan: the mechanism, fixed for the whole run.
        budget: what it draws on.
        step: the model and its private step.
        training: what devices do.
        entropy: where cohorts and noise come from.
        run_id: of this run.
        schema_digest: for checkpoints.
        folder: for checkpoints.
        participation: how often each device was asked.
        collecting: when a round closes.
        robust: how single updates are added up.
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
        unanswered: ids of messages of the last round that nobody had answered when it closed.
        observer: is told what happens.
        secure: takes sums without seeing their parts, whose noise the nodes add; None for sums in clear.

    Raises:
        ConfigError: the plan's epsilon does not cover how rounds close, or how updates are added up.
    """

    grid: Grid
    plan: MechanismPlan
    budget: Purse
    step: PrivateStep
    training: LocalTraining
    entropy: Entropy
    run_id: str
    schema_digest: str
    folder: Path
    participation: Participation
    collecting: Collecting = WAIT_FOR_ALL
    robust: Robust = ADD_ALL
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    observer: RoundObserver = field(default_factory=Unobserved)
    unanswered: set[str] = field(default_factory=set)
    secure: SecureAggregation | None = None

    def __post_init__(self) -> None:
        """Refuse what the plan does not cover, before anything is paid for."""
        self.collecting.require(self.plan)
        self.robust.require(self.plan)
        if self.secure is not None:
            self.secure.require(self.plan, self.collecting, self.robust)

    def run(self, after: int, on_round: Callable[[RoundRecord], None]) -> str | None:
        """All rounds after round `after`.

        Args:
            after: last round that is in the model already.
            on_round: called when a round is released and kept.

        Returns:
            None when the plan was finished; why it ended early when the budget refused a round, which is the case after
            a crash: the lost round was paid for and has to be paid again.

        Raises:
            ConfigError: the plan was made for another population than the one enrolled.
        """
        population = enrol(self.grid, self.collecting.deadline_s, clock=self.clock, sleep=self.sleep)
        unread = len(set(self.grid.get_node_ids()) - set(population.nodes))
        self.observer.enrolled(len(population.nodes), population.devices, unread)
        if population.devices != self.plan.population:
            raise ConfigError(
                f"{population.devices} devices enrolled, the plan is for {self.plan.population}",
                "start the nodes that are missing and continue the run; epsilon depends on the whole population",
            )
        self.robust.require_single(int(np.diff(population.first).max()))
        for number in range(after + 1, self.plan.rounds + 1):
            try:
                record = self.round(number, population)
            except BudgetError as error:
                self.observer.skipped(number, error.what)
                if number == after + 1 and not after:
                    raise
                return f"round {number} of {self.plan.rounds} was not run: {error.what}"
            on_round(record)
        return None

    def round(self, number: int, population: Population) -> RoundRecord:
        """One round; raises BudgetError, with nothing asked of anybody, when it cannot be paid for."""
        began, watch = self.clock(), Stopwatch(self.clock)
        self.observer.opened(number)
        with watch.phase("pay"):
            reservation = self.budget.reserve(self.plan, self.run_id, number, self._noise_kind)
        with watch.phase("draw"):
            cohort = self.plan.sampler().draw(self.entropy.generator("cohort", number))
            joining = self.participation.admit(cohort)
        with watch.phase("ask"):
            late = stragglers(self.grid, self.unanswered)
            total, answered, dropped, noisy = self._collect(number, population, joining)
        skipped = answered < self.collecting.minimum
        if not skipped:
            with watch.phase("release"):
                self.step.step(total, reservation, None if noisy else self.entropy.generator("noise", number))
        facts = checkpoint.Facts(
            run_id=self.run_id,
            round=number,
            plan_hash=self.plan.digest(),
            schema_digest=self.schema_digest,
            ledger_length=reservation.seq,
            ledger_hash=reservation.hash,
        )
        with watch.phase("keep"):
            data = checkpoint.write(self.folder, self.step.state(), facts)
        realised = Realised(
            population=population.devices,
            cohort=len(cohort),
            answered=answered,
            busiest=self.participation.busiest,
            salt=secrets.token_hex(16),
        )
        with watch.phase("keep"):
            self.budget.commit(reservation, hashlib.sha256(data).hexdigest(), realised)
        if skipped:
            self.observer.skipped(number, "fewer devices answered than collect.minimum asks for")
        else:
            self.observer.released(number, watch.seconds, reservation.seq)
        return RoundRecord(
            round=number,
            cohort=len(cohort),
            answered=answered,
            capped=len(cohort) - len(joining),
            dropped=tuple(dropped),
            seconds=self.clock() - began,
            silent=len(self.unanswered),
            late=late,
            skipped=skipped,
        )

    @property
    def _noise_kind(self) -> NoiseKind:
        return self.entropy.kind if self.plan.noise_multiplier else "none"

    def _collect(
        self, number: int, population: Population, cohort: npt.NDArray[np.int64]
    ) -> tuple[dict[str, npt.NDArray[np.float64]], int, list[str], bool]:
        """Ask the cohort and add up what is usable, in the order of the nodes: their speed must not change the sum.

        The sum, devices in it, what was dropped, and whether the sum holds its noise already. A secure sum that fails
        is one that nobody answered: zeros, to which the coordinator adds the noise of the plan.
        """
        parameters: FloatArrays = {name: value.numpy() for name, value in self.step.parameters.items()}
        asked = {
            node: Instruction(
                self.run_id,
                number,
                self.plan.digest(),
                self.plan.clip_norm,
                self.training,
                parameters,
                devices,
                self.schema_digest,
                self.plan.max_participations,
            )
            for node, devices in population.split(cohort, everybody=self.secure is not None)
        }
        if self.secure is not None:
            wire = Wire(self.grid, self.collecting.deadline_s, self.clock, self.sleep, self.unanswered)
            got = collect_securely(self.secure, wire, self.plan, population, asked)
            self.observer.answered(number, wire.traffic)
            zeros = {name: np.zeros(value.shape) for name, value in parameters.items()}
            return got.total or zeros, got.answered, got.dropped, got.total is not None
        messages = [
            Message(instruction_record(instruction), node, MessageType.TRAIN, group_id=str(number))
            for node, instruction in asked.items()
        ]
        usable: dict[int, Reply] = {}
        dropped: list[str] = []
        traffic = Traffic(sent=sum(map(carried, messages)))
        answers = replies(
            self.grid,
            messages,
            self.collecting.deadline_s,
            traffic.failed,
            clock=self.clock,
            sleep=self.sleep,
            unanswered=self.unanswered,
        )
        answered = 0
        for message in answers if messages else ():
            traffic.received += carried(message)
            node = message.metadata.src_node_id
            if node not in asked or node in usable:
                dropped.append(f"node {node}: not asked, or answered twice")
                traffic.replies["duplicate"] += 1
                continue
            try:
                usable[node] = read_reply(message.content, asked[node])
                traffic.replies["used"] += 1
            except UpdateError as error:
                dropped.append(f"node {node}: {error.what}")
                traffic.replies["malformed"] += 1
                continue
            answered += usable[node].devices
            if 0 < self.collecting.goal <= answered:
                break
        traffic.settle(len(messages))
        self.observer.answered(number, traffic)
        sums = [usable[node].total for node in population.nodes if node in usable]
        total = self.robust.total(sums, parameters, sum(len(one.devices) for one in asked.values()))
        return total, answered, dropped, False
