"""A round's collecting, by a secure sum: the coordinator asks the same of the nodes and sees one noisy total.

Every enrolled node takes part in every round, also those whose devices were not drawn: they send noise. So the nodes,
who see who their neighbours are, do not learn who was drawn.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from sottovoce.client.message import Instruction, instruction_record
from sottovoce.client.secure_messages import KEYS, MASKED, SHARES, UNMASK
from sottovoce.client.secure_node import told_to_all
from sottovoce.client.secure_sum import Registry, require_distinct
from sottovoce.privacy.errors import AggregationError, ConfigError, UpdateError
from sottovoce.privacy.events import Gaussian
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.cohort import Population, replies
from sottovoce.server.collecting import Collecting
from sottovoce.server.observer import Traffic, carried
from sottovoce.server.robust import ADD_ALL, Robust
from sottovoce.server.secure_session import open_session
from sottovoce.server.secure_sum import secure_sum

BY = {KEYS: 0.125, SHARES: 0.25, MASKED: 0.875, UNMASK: 1.0}
"""By which part of the deadline each question is closed: training gets most of it, and what one does not use is left to
those after it. One silent node would otherwise use up the time of all that follow."""


@dataclass(frozen=True, slots=True)
class SecureAggregation:
    """How sums are taken without seeing their parts.

    Attributes:
        registry: long-term public key of each node by its place in the population.
        dropout: share of the nodes that may be lost in a round.
        collusion: share of the nodes that may tell the coordinator all they know.

    Raises:
        ConfigError: two places have one key: one node would count as two.
    """

    registry: Registry
    dropout: float
    collusion: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a node that is registered twice."""
        require_distinct(self.registry)

    def require(self, plan: MechanismPlan, collecting: Collecting, robust: Robust = ADD_ALL) -> None:
        """Refuse a run that secure sums do not fit.

        Raises:
            ConfigError: the plan's epsilon counts on cohorts that the coordinator does not know, and it draws them;
                rounds close early; or a rule looks at single updates.
        """
        if robust.rule != "sum":
            raise ConfigError(
                f"robust.rule {robust.rule} with secure aggregation: nobody sees single updates",
                "set robust.rule to sum, or privacy.secure_aggregation to false",
            )
        if plan.noise_multiplier and not isinstance(plan.event(), Gaussian):
            raise ConfigError(
                "secure aggregation guards against the coordinator, which draws the cohorts: an epsilon that counts on "
                "secret cohorts does not hold against it",
                "set privacy.cohorts to visible, or privacy.sampling to none",
            )
        if collecting.goal:
            raise ConfigError(
                f"collect.goal = {collecting.goal} with secure aggregation: whoever is cut off counts as lost, and the "
                "noise of the others makes up for so many only",
                "set collect.goal to 0; the deadline and privacy.dropout say how long and for whom a round waits",
            )


@dataclass(slots=True)
class Wire:
    """The way to the nodes during one round, and what came of it.

    Attributes:
        grid: where the nodes are.
        deadline_s: longest all four questions may take together, in seconds.
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
        unanswered: gets the ids of messages that nobody answered in time.
        traffic: of the round.
    """

    grid: Grid
    deadline_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    unanswered: set[str] = field(default_factory=set)
    traffic: Traffic = field(default_factory=Traffic)
    _asked: int = 0

    def ask(self, messages: Mapping[int, Message], until: float) -> dict[int, RecordDict]:
        """The first answer of each node that was asked; waits until that moment of the clock at most."""
        sent, came, silent = list(messages.values()), {}, set[str]()
        self._asked += len(sent)
        self.traffic.sent += sum(map(carried, sent))
        answers = replies(
            self.grid,
            sent,
            max(0.0, until - self.clock()),
            self.traffic.failed,
            clock=self.clock,
            sleep=self.sleep,
            unanswered=silent,
        )
        for message in answers if sent else ():
            self.traffic.received += carried(message)
            node = message.metadata.src_node_id
            if node not in messages or node in came:
                self.traffic.replies["duplicate"] += 1
            else:
                came[node] = message.content
        self.unanswered |= silent
        return came

    def settle(self) -> None:
        """Count as silent whoever neither answered nor failed."""
        self.traffic.settle(self._asked)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a secure sum brought.

    Attributes:
        total: by name, float64, the nodes' noise included; None when too few nodes went through with it.
        answered: devices whose nodes are in it.
        dropped: one line for each unusable answer, and why there is no sum.
    """

    total: dict[str, npt.NDArray[np.float64]] | None
    answered: int
    dropped: list[str]


def collect_securely(
    secure: SecureAggregation,
    wire: Wire,
    plan: MechanismPlan,
    population: Population,
    asked: Mapping[int, Instruction],
) -> Collected:
    """One secure sum over all nodes.

    Args:
        secure: keys and tolerance.
        wire: the way to the nodes; holds the round's traffic afterwards.
        plan: of the run.
        population: of the run.
        asked: an instruction for every node of the population, those without a drawn device included.

    Raises:
        ConfigError: the population is too small for it, or no encoding fits.
    """
    one = next(iter(asked.values()))
    shapes = {name: one.parameters[name].shape for name in sorted(one.parameters)}
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    nodes = dict(zip(population.orders, population.nodes, strict=True))
    places = {node: place for place, node in nodes.items()}
    session = open_session(
        plan,
        one.run_id,
        one.round,
        population.orders,
        sum(sizes),
        told_to_all(one),
        dropout=secure.dropout,
        collusion=secure.collusion,
        phones=bool((np.diff(population.first) == 1).all()),
        random=os.urandom,
    )
    began, dropped = wire.clock(), list[str]()

    def ask(kind: str, told: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        messages = {
            nodes[place]: Message(content, nodes[place], kind, group_id=str(one.round))
            for place, content in told.items()
        }
        came = wire.ask(messages, began + BY[kind] * wire.deadline_s)
        return {places[node]: content for node, content in came.items()}

    def judge(place: int, error: UpdateError | None) -> None:
        wire.traffic.replies["malformed" if error else "used"] += 1
        if error:
            dropped.append(f"node {nodes[place]}: {error.what}")

    instructions = {places[node]: instruction_record(instruction) for node, instruction in asked.items()}
    try:
        found = secure_sum(session, secure.registry, ask, instructions, judge)
    except AggregationError as error:
        return Collected(None, 0, [*dropped, error.what])
    finally:
        wire.settle()
    flat = session.encoding().decode(found.total)
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    total = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    answered = sum(len(asked[nodes[place]].devices) for place in found.places)
    return Collected(total, answered, dropped)
