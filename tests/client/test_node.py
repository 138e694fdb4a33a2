"""What a node checks before it trains, so that no row of one device can reach into another's update."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict

from sottovoce.client.app import Node, client_app
from sottovoce.client.device_ledger import DeviceLedger
from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import Instruction, Reply, instruction_record, read_instruction, read_reply, reply_record
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.privacy.errors import DataError, UpdateError
from sottovoce.privacy.record import RecordTarget
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.market import load

CONFIG = RankerConfig(embedding_width=4, tower_width=4, hidden_width=4)


@pytest.fixture(scope="module")
def node():
    dataset = load(40, seed=0)
    return Node(dataset.train, dataset.schema, CONFIG, 0)


def bent(node, name, value):
    column = np.array(getattr(node.examples, name))
    column.reshape(-1)[0] = value
    return replace(node.examples, **{name: column})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", -1),
        ("device", 10**6),
        ("context", 10**6),
        ("catalogue", 10**6),
        ("ad", -1),
        ("ad", 10**6),
        ("labels", 2),
        ("labels", -1),
    ],
)
def test_a_row_outside_the_schema_is_refused_before_any_round(node, name, value):
    with pytest.raises(DataError, match=name):
        Node(bent(node, name, value), node.schema, CONFIG, 0)


def instruction(node, **changes):
    weights = {name: value.numpy() for name, value in initial(node.schema, CONFIG, 0).items()}
    fields = {
        "run_id": "run",
        "round": 1,
        "plan_hash": "plan",
        "clip_norm": 0.5,
        "training": LocalTraining(),
        "parameters": weights,
        "devices": np.arange(node.examples.devices),
        "schema_digest": node.schema.digest(),
    }
    return Instruction(**(fields | changes))


def ask(node, asked):
    app = client_app(lambda context: node)
    InProcessGrid(app, 1)  # gives this process the identity that messages need
    message = Message(instruction_record(asked), 1, MessageType.TRAIN)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    return app(message, context).content


def test_a_node_answers_with_a_sum_that_its_coordinator_takes(node):
    asked = instruction(node)
    reply = read_reply(ask(node, asked), asked)
    norm = np.sqrt(sum(float(np.square(value).sum()) for value in reply.total.values()))
    assert 0 < norm <= 0.5 * node.examples.devices


def test_the_ranker_trains_where_the_node_says(node):
    elsewhere = Node(node.examples, node.schema, CONFIG, 0, accelerator="nowhere")
    with pytest.raises(RuntimeError, match="nowhere"):
        ask(elsewhere, instruction(elsewhere))


def test_parameters_of_another_model_are_refused(node):
    wrong = {name: np.zeros((2, 2), np.float32) for name in initial(node.schema, CONFIG, 0)}
    with pytest.raises(UpdateError, match="another model"):
        ask(node, instruction(node, parameters=wrong))


def test_parameters_of_another_schema_with_the_same_shapes_are_refused(node):
    first, *others = node.schema.features
    other = msgspec.structs.replace(node.schema, features=(msgspec.structs.replace(first, seed=9), *others))
    assert CONFIG.shapes(other) == CONFIG.shapes(node.schema)
    with pytest.raises(UpdateError, match="another schema"):
        ask(node, instruction(node, schema_digest=other.digest()))


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": np.array([3, 3])},
        {"devices": np.array([4, 3])},
        {"clip_norm": float("nan")},
        {"clip_norm": float("inf")},
        {"clip_norm": 0.0},
    ],
)
def test_an_instruction_that_would_count_somebody_twice_or_unbounded_is_refused(node, changes):
    with pytest.raises(UpdateError):
        read_instruction(instruction_record(instruction(node, **changes)))


def test_a_reply_that_carries_one_record_more_is_dropped(node):
    asked = instruction(node)
    total = {name: np.zeros_like(value) for name, value in asked.parameters.items()}
    for extra in ({"metrics": MetricRecord({"loss": 0.3})}, {"note": ConfigRecord({"rows": 7})}):
        record = reply_record(Reply("run", 1, "plan", total, len(asked.devices)))
        read_reply(record, asked)
        record.update(extra)
        with pytest.raises(UpdateError, match="records"):
            read_reply(record, asked)


def test_rounding_the_sum_for_the_wire_cannot_part_neighbours_by_more_than_the_bound(node):
    """Zeroing one device moves the rounded sum by at most C, for every device."""
    asked = instruction(node)
    whole = read_reply(ask(node, asked), asked).total
    for device in range(node.examples.devices):
        others = instruction(node, devices=np.delete(asked.devices, device))
        left = read_reply(ask(node, others), others).total
        moved = np.sqrt(sum(float(np.square(np.float64(whole[n]) - left[n]).sum()) for n in whole))
        assert moved <= 0.5


def test_weights_that_are_not_numbers_make_every_device_count_as_zero(node):
    weights = {name: np.full(value.shape, np.nan, np.float32) for name, value in instruction(node).parameters.items()}
    asked = instruction(node, parameters=weights)
    reply = read_reply(ask(node, asked), asked)
    assert not any(torch.from_numpy(value).any() for value in reply.total.values())


def test_a_device_beyond_its_cap_contributes_zero_and_the_reply_looks_the_same(node):
    fresh = Node(node.examples, node.schema, CONFIG, 0)
    asked = instruction(fresh, max_participations=2)
    first, second, third = (read_reply(ask(fresh, asked), asked) for _ in range(3))
    assert any(value.any() for value in first.total.values())
    assert all(np.array_equal(first.total[name], second.total[name]) for name in first.total)
    assert not any(value.any() for value in third.total.values())
    assert third.devices == first.devices == len(asked.devices)


def test_a_node_keeps_a_limit_of_its_own_whatever_it_is_asked(node):
    strict = Node(node.examples, node.schema, CONFIG, 0, max_participations=1)
    asked = instruction(strict, max_participations=None)
    first, second = (read_reply(ask(strict, asked), asked) for _ in range(2))
    assert any(value.any() for value in first.total.values())
    assert not any(value.any() for value in second.total.values())


@pytest.fixture
def phone(node, tmp_path):
    """One device, with room in its own ledger for two of the rounds asked below."""
    ledger = DeviceLedger(tmp_path / "device.db", epsilon=2.0, delta=1e-5, records=1000)
    ledger.enrol()
    return Node(node.examples.take(np.array([0])), node.schema, CONFIG, 0, ledger=ledger)


PRIVATE = LocalTraining(steps=4, record=RecordTarget(sampling_rate=0.25, noise_multiplier=2.0))


def test_a_phone_joins_until_its_own_budget_is_spent_then_sends_zeros_and_says_nothing(phone):
    sent = []
    for round in range(1, 12):
        asked = instruction(phone, training=PRIVATE, round=round, devices=np.array([0]), max_participations=20)
        reply = read_reply(ask(phone, asked), asked)
        sent.append(any(value.any() for value in reply.total.values()))
        assert not reply.total["table"][0].any()
    assert sent[0]
    assert not sent[-1]
    assert sent == sorted(sent, reverse=True)
    assert phone.ledger.participations() == sum(sent)
    assert phone.ledger.spent().epsilon <= 2.0


def test_a_linear_model_is_never_trained_with_record_level_privacy(node):
    """Its units are unknown there: noise of one size would not be what was asked for."""
    linear = RankerConfig(embedding_width=0)
    weights = {name: value.numpy() for name, value in initial(node.schema, linear, 0).items()}
    hosts = Node(node.examples, node.schema, linear, 0)
    with pytest.raises(UpdateError, match="linear model"):
        ask(hosts, instruction(node, parameters=weights, training=PRIVATE))
    plain = instruction(node, parameters=weights)
    assert any(value.any() for value in read_reply(ask(hosts, plain), plain).total.values())


def test_the_cap_of_the_run_is_asked_before_the_ledger(phone):
    for round in (1, 2):
        asked = instruction(phone, training=PRIVATE, round=round, devices=np.array([0]), max_participations=1)
        ask(phone, asked)
    assert phone.ledger.participations() == 1


def test_a_ledger_belongs_to_one_device(node, phone):
    with pytest.raises(ValueError, match="each keeps its own"):
        Node(node.examples, node.schema, CONFIG, 0, ledger=phone.ledger)
