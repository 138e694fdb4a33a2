"""A round's collecting, by a secure sum: the coordinator asks the same of the nodes and sees one noisy total.

Every enrolled node takes part in every round, also those whose devices were not drawn: they send noise. So the nodes,
who see who their neighbours are, do not learn who was drawn.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from sottovoce.client.message import Instruction, instruction_record
from sottovoce.client.secure_node import told_to_all
from sottovoce.client.secure_sum import Registry
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.cohort import Population, replies
from sottovoce.server.secure_session import open_session
from sottovoce.server.secure_sum import secure_sum


@dataclass(frozen=True, slots=True)
class SecureAggregation:
    """How sums are taken without seeing their parts.

    Attributes:
        registry: long-term public key of each node by its place in the population.
        dropout: share of the nodes that may be lost in a round.
    """

    registry: Registry
    dropout: float


@dataclass(frozen=True, slots=True)
class Collected:
    """What a secure sum brought.

    Attributes:
        total: by name, float64, the nodes' noise included.
        answered: devices whose nodes are in it.
        dropped: one line for each unusable answer.
    """

    total: dict[str, npt.NDArray[np.float64]]
    answered: int
    dropped: list[str]


def collect_securely(
    secure: SecureAggregation,
    grid: Grid,
    deadline_s: float,
    plan: MechanismPlan,
    population: Population,
    asked: Mapping[int, Instruction],
) -> Collected:
    """One secure sum over all nodes.

    Args:
        secure: keys and tolerance.
        grid: where the nodes are.
        deadline_s: longest each of the four questions waits.
        plan: of the run.
        population: of the run.
        asked: an instruction for every node of the population, those without a drawn device included.

    Raises:
        AggregationError: too few nodes went through with it.
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
        phones=bool((np.diff(population.first) == 1).all()),
        random=os.urandom,
    )

    def ask(kind: str, told: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        messages = [Message(content, nodes[place], kind, group_id=str(one.round)) for place, content in told.items()]
        came: dict[int, RecordDict] = {}
        for message in replies(grid, messages, deadline_s):
            # The first answer counts; the coordinator's own transport says who sent it.
            came.setdefault(places.get(message.metadata.src_node_id, -1), message.content)
        return came

    instructions = {places[node]: instruction_record(instruction) for node, instruction in asked.items()}
    found = secure_sum(session, secure.registry, ask, instructions)
    flat = session.encoding().decode(found.total)
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    total = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    answered = sum(len(asked[nodes[place]].devices) for place in found.places)
    return Collected(total, answered, list(found.dropped))
