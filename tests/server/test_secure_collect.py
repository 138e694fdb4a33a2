"""A secure round closes by its deadline whoever is silent, counts what came, and is refused where it could not hold."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from secure_sessions import POOL, Nodes

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import Instruction
from sottovoce.client.secure_messages import KEYS, MASKED, RECORD, SHARES, UNMASK, Session, read, record
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.cohort import Population
from sottovoce.server.collecting import Collecting
from sottovoce.server.observer import carried
from sottovoce.server.robust import Robust
from sottovoce.server.secure_collect import SecureAggregation, Wire, collect_securely
from sottovoce.simulations.faults import SimulatedClock
from sottovoce.simulations.grid import InProcessGrid

NODES, SIZE = 10, 6
PLAN = MechanismPlan(NODES, 1.0, 1.0, 1.0, 1, 1e-3, sampling="none", noise="discrete_gaussian")
POPULATION = Population(tuple(range(1, NODES + 1)), np.arange(NODES + 1), tuple(range(NODES)))
SECURE = SecureAggregation({place: POOL[place].public_key() for place in range(NODES)}, 0.3)


class Phones(InProcessGrid):
    """Phones by hand, each a vector of its place plus one; `bend` says how node and question go wrong."""

    def __init__(self, bend=None):
        super().__init__(self.answer, NODES)
        self.bend, self.nodes, self.asked = bend or {}, None, []

    def answer(self, message, context):
        kind, place = message.metadata.message_type, context.node_id - 1
        self.asked.append((kind, place))
        if kind == KEYS and self.nodes is None:
            vectors = {one: np.full(SIZE, one + 1) for one in range(NODES)}
            self.nodes = Nodes(read(message.content, Session), vectors)
        told = RecordDict({RECORD: message.content[RECORD]})
        fault = self.bend.get((kind, place))
        if fault == "error":
            return Message(Error(2, "gone"), reply_to=message)
        if fault == "malformed":
            return Message(RecordDict(), reply_to=message)
        return Message(self.nodes.answer(kind, place, told), reply_to=message)

    def pull_messages(self, message_ids):
        found = super().pull_messages(message_ids)
        kept = []
        for message in found:
            fault = self.bend.get((message.metadata.message_type, message.metadata.src_node_id - 1))
            kept += [] if fault == "silent" else [message, message] if fault == "twice" else [message]
        return kept


def collected(bend=None, deadline=80.0):
    grid, clock = Phones(bend), SimulatedClock()
    wire = Wire(grid, deadline, clock, clock.sleep)
    weights = {"table": np.zeros((3, 2), np.float32)}
    asked = {
        node: Instruction("run", 1, PLAN.digest(), 1.0, LocalTraining(), weights, np.array([0]), "schema")
        for node in POPULATION.nodes
    }
    got = collect_securely(SECURE, wire, PLAN, POPULATION, asked)
    return got, wire, clock, grid


def whole(grid, got):
    return np.rint(got.total["table"].ravel() / grid.nodes.session.encoding().width).astype(int).tolist()


def test_everybody_answers_and_the_sum_comes_at_once():
    got, wire, clock, grid = collected()
    assert whole(grid, got) == [55] * SIZE
    assert (got.answered, got.dropped, wire.unanswered, clock()) == (NODES, [], set(), 0.0)
    assert wire.traffic.replies == {"used": 4 * NODES, "silent": 0}
    assert wire.traffic.sent > 4 * NODES * 32
    assert wire.traffic.received > NODES * (NODES - 1) * 82


@pytest.mark.parametrize(("kind", "closed"), [(KEYS, 10.0), (SHARES, 20.0), (MASKED, 70.0), (UNMASK, 80.0)])
def test_a_silent_node_costs_the_part_of_the_deadline_that_its_question_has_and_is_not_asked_again(kind, closed):
    got, wire, clock, grid = collected({(kind, 4): "silent"})
    assert clock() == pytest.approx(closed)
    assert wire.traffic.replies["silent"] == len(wire.unanswered) == 1
    assert got.answered == (NODES if kind == UNMASK else NODES - 1)
    assert whole(grid, got) == [55 if kind == UNMASK else 50] * SIZE
    later = (KEYS, SHARES, MASKED, UNMASK)[(KEYS, SHARES, MASKED, UNMASK).index(kind) + 1 :]
    assert not any((one, 4) in grid.asked for one in later)


def test_silence_at_several_questions_still_leaves_time_for_the_next_and_the_round_closes_by_its_deadline():
    got, wire, clock, grid = collected({(KEYS, 0): "silent", (SHARES, 1): "silent", (UNMASK, 2): "silent"})
    assert clock() == pytest.approx(80.0)
    assert wire.traffic.replies["silent"] == len(wire.unanswered) == 3
    assert whole(grid, got) == [55 - 1 - 2] * SIZE


def test_one_silent_node_too_many_ends_the_round_without_a_sum_and_what_came_is_counted():
    got, wire, clock, grid = collected(dict.fromkeys(((MASKED, place) for place in range(4)), "silent"))
    assert got.total is None
    assert (got.answered, clock()) == (0, 70.0)
    assert "6 of 10 nodes are left" in got.dropped[-1]
    assert wire.traffic.replies == {"used": 2 * NODES + 6, "silent": 4}
    assert not any(kind == UNMASK for kind, _ in grid.asked)


def test_errors_duplicates_and_what_cannot_be_read_are_told_apart():
    got, wire, _, grid = collected({(KEYS, 0): "error", (SHARES, 1): "malformed", (MASKED, 2): "twice"})
    assert whole(grid, got) == [55 - 1 - 2] * SIZE
    used = (NODES - 1) + (NODES - 2) * 3
    assert wire.traffic.replies == {"used": used, "error": 1, "malformed": 1, "duplicate": 1, "silent": 0}
    assert len(got.dropped) == 1
    assert got.dropped[0].startswith("node 2: ")


def test_packed_messages_are_counted_with_their_bytes():
    told = record(collected()[3].nodes.session)
    assert carried(Message(told, 1, KEYS)) == len(told[RECORD]["body"]) > 100


def test_rounds_that_close_early_are_refused():
    with pytest.raises(ConfigError, match=r"collect\.goal = 5"):
        SECURE.require(PLAN, Collecting(goal=5))
    SECURE.require(PLAN, Collecting(minimum=5))


def test_rules_that_look_at_single_updates_are_refused():
    with pytest.raises(ConfigError, match="nobody sees single updates"):
        SECURE.require(replace(PLAN, noise_multiplier=0.0), Collecting(), Robust(rule="median"))


@pytest.mark.parametrize("sampling", ["poisson", "truncated_poisson"])
def test_an_epsilon_that_does_not_hold_against_the_coordinator_is_refused(sampling):
    sampled = replace(PLAN, sampling=sampling, sampling_rate=0.5, cap=9 if sampling != "poisson" else None)
    with pytest.raises(ConfigError, match="does not hold against it"):
        SECURE.require(sampled, Collecting())
    SECURE.require(replace(sampled, cohorts="visible"), Collecting())
    SECURE.require(replace(sampled, noise_multiplier=0.0), Collecting())
