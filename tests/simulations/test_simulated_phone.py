"""A phone that trains on its own log does what the simulated device of the same person does."""

from contextlib import ExitStack
from dataclasses import fields, replace
from datetime import timedelta
from functools import cache

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from sottovoce.client.app import Node, client_app
from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.events import decode_log
from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import Instruction, instruction_record
from sottovoce.client.own_examples import own_examples
from sottovoce.client.phone_node import phone_app
from sottovoce.client.training_offer import OfferRules
from sottovoce.client.wire import read_arrays
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.optimizer import PrivateStep, ServerOptimizer
from sottovoce.server.participation import Participation
from sottovoce.server.round import Coordinator
from sottovoce.simulations import market, phone
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.market import DAY_S, DELAYS, DEVICE_CLASSES, TRAIN_DAYS, Log, Market
from sottovoce.simulations.simulated_phone import TRAINED_FROM, simulated_phone

PERSONAL = RankerConfig(embedding_width=4, tower_width=4, hidden_width=4, personal_variance=1.0)
LINEAR = RankerConfig(embedding_width=0, personal_variance=1.0)
WORLD = Market(0)
DATA = market.load(24)
LEARNERS = np.flatnonzero(WORLD.people(np.arange(24)).learn)
ANYBODY = OfferRules(examples=1, days=0)
"""A simulated device trains from its first row; a phone waits for five, and for a week of use."""

LONGEST_S = 20 + 3_600
"""No outcome of the market takes longer."""


@pytest.fixture(autouse=True, scope="module")
def drawn_once():
    """The people of a block and their log take a tenth of a second."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("block_people", "block_log"):
            patched.setattr(Market, name, cache(getattr(Market, name)))
        yield


def rows_of(world, device):
    kind = DEVICE_CLASSES[world.people(np.array([device])).device_class[0]]
    return own_examples(
        decode_log(phone.events_jsonl(world, device)),
        decode_catalogue(phone.catalogue_json(world)),
        world.schema,
        {"device_class": kind},
        Controls(),
        TRAINED_FROM + timedelta(days=2),
    )


def test_a_log_gives_exactly_the_rows_that_the_federation_trains_on():
    for device in LEARNERS[:10]:
        found, expected = rows_of(WORLD, int(device)), DATA.train.take(np.array([device]))
        for name in ("offsets", "device", "context", "ad", "labels", "catalogue"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    assert DATA.train.take(LEARNERS[:10]).labels.sum(0).all()


def test_only_an_ad_shown_again_before_its_outcome_and_an_outcome_after_the_log_can_differ(monkeypatch):
    """Six ads in six hours, often bought: the market knows whose click it was, a device can only go by the order."""
    busy, device, end = Market(0, advertisers=1, rows_per_device=60.0), 3, TRAIN_DAYS * DAY_S
    people = busy.block_people(0)
    whole = busy.block_log(0, people)
    mine = whole.device == device
    few = Log(*(getattr(whole, field.name)[mine] for field in fields(whole)))
    chance = np.random.default_rng(1).random((len(few.ad), 2)) < 0.5
    time = end - 1 - (few.time[-1] - few.time) // 100
    log = replace(few, time=time, click=chance[:, 0], conversion=chance.all(1))
    monkeypatch.setattr(Market, "block_log", lambda *_: log)
    found = rows_of(busy, device)
    np.testing.assert_array_equal(found.ad, log.ad)
    np.testing.assert_array_equal(found.context, busy.context_rows(log.context))
    rng, expected = busy.stream(DELAYS, device), np.zeros((len(time), 2), np.int8)
    for at in range(len(time)):
        click = int(rng.integers(1, 20))
        for head, wait in enumerate((click, click + int(rng.integers(30, 3600)))):
            when = time[at] + wait
            if (log.click, log.conversion)[head][at] and when < end:
                before = (time < when) | (np.arange(len(time)) <= at)
                expected[np.flatnonzero((log.ad == log.ad[at]) & before)[-1], : head + 1] = 1
    np.testing.assert_array_equal(found.labels, expected)
    differs = np.flatnonzero((found.labels != np.stack([log.click, log.conversion], 1)).any(1))
    assert 3 < len(differs) < len(time)
    for at in differs:
        near = (log.ad == log.ad[at]) & (np.abs(time - time[at]) <= LONGEST_S)
        assert near.sum() > 1 or time[at] + LONGEST_S >= end


def asked_of(config, **changes):
    start = {name: value.numpy() for name, value in initial(WORLD.schema, config, 0).items()}
    fields = {"run_id": "run", "round": 1, "plan_hash": "plan", "clip_norm": 0.5, "training": LocalTraining()}
    return Instruction(
        **fields, parameters=start, devices=np.array([0]), schema_digest=WORLD.schema.digest(), **changes
    )


def answer(app, asked):
    InProcessGrid(app, 1)  # gives this process the identity that messages need
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    return app(Message(instruction_record(asked), 1, MessageType.TRAIN), context).content


@pytest.mark.parametrize("config", [PERSONAL, LINEAR], ids=["a ranker", "a linear one"])
def test_a_phone_sends_the_update_of_the_simulated_device_and_nothing_else(config, tmp_path):
    asked = asked_of(config)
    for device in LEARNERS[:4]:
        hosted, _ = simulated_phone(WORLD, int(device), tmp_path / str(device), config, 0, ANYBODY)
        sent = answer(phone_app(hosted), asked)
        hosted.store.close()
        alone = Node(DATA.train.take(np.array([device])), WORLD.schema, config, 0)
        expected = answer(client_app(lambda _, node=alone: node), asked)
        assert set(sent) == {"reply", "total"}
        assert dict(sent["reply"]) == dict(expected["reply"])
        ours, theirs = read_arrays(sent, "total"), read_arrays(expected, "total")
        assert ours.keys() == theirs.keys()
        assert any(value.any() for value in ours.values())
        for name, value in ours.items():
            np.testing.assert_allclose(value, theirs[name], atol=1e-6, rtol=0)


class Federation:
    """Three phones and a coordinator that asks all of them in each of three rounds; `before` may change things."""

    def __init__(self, folder, before):
        folder.mkdir()
        self.before, self.sent, self.silent = before, [], set()
        plan = MechanismPlan(3, 1.0, 0.5, 1.0, 3, 1e-2, sampling="none", max_participations=3)
        start = initial(WORLD.schema, PERSONAL, 0)
        with ExitStack() as stack:
            self.phones = []
            for order, device in enumerate(LEARNERS[:3]):
                one = simulated_phone(WORLD, int(device), folder / str(device), PERSONAL, order, ANYBODY)
                stack.callback(one[0].store.close)
                self.phones.append((*one, phone_app(one[0])))
            ledger = stack.enter_context(Ledger.open(folder / "ledger.db", create=True))
            step = PrivateStep(start, ServerOptimizer(kind="fedavg", learning_rate=1.0, averaging=0.0), plan, "run")
            coordinator = Coordinator(
                grid=InProcessGrid(self.answer, 3),
                plan=plan,
                budget=Budget(float("inf"), plan.delta, ledger),
                step=step,
                training=LocalTraining(),
                entropy=SeededEntropy(0),
                run_id="run",
                schema_digest=WORLD.schema.digest(),
                folder=folder / "checkpoints",
                participation=Participation.begin(folder / "asked", 3, 3),
            )
            self.models = []
            coordinator.run(0, lambda record: self.released(record, step))

    def answer(self, message, context):
        number = int(context.node_config["partition-id"])
        if message.metadata.message_type == MessageType.TRAIN and number in self.silent:
            return Message(RecordDict(), reply_to=message)
        reply = self.phones[number][2](message, context)
        if message.metadata.message_type == MessageType.TRAIN:
            total = read_arrays(reply.content, "total")
            self.sent.append((int(message.metadata.group_id), number, {k: v.tobytes() for k, v in total.items()}))
        return reply

    def released(self, record, step):
        self.models.append(b"".join(value.numpy().tobytes() for value in step.parameters.values()))
        for _, around, _ in self.phones:
            around.now += timedelta(hours=1)
        self.before(self, record.round + 1)


def test_a_revoked_consent_counts_from_the_next_round(tmp_path):
    """From then on the model is, byte for byte, that of a run which this device is not part of."""

    def revoke(run, number):
        if number == 2:
            run.phones[0][1].consent = Consent(serve_personalised=True, report=True)

    def leave(run, number):
        if number == 2:
            run.silent.add(0)

    revoked, left = Federation(tmp_path / "revoked", revoke), Federation(tmp_path / "left", leave)
    stayed = Federation(tmp_path / "stayed", lambda run, number: None)
    assert revoked.models == left.models
    assert revoked.models[0] == stayed.models[0]
    assert revoked.models[1] != stayed.models[1]
    for number, node, total in revoked.sent:
        zero = not any(any(value) for value in total.values())
        assert zero == (node == 0 and number > 1), (number, node)
    assert {node for _, node, _ in revoked.sent} == {0, 1, 2}
    assert all(np.isfinite(np.frombuffer(model, np.float32)).all() for model in revoked.models)
