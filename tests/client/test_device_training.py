"""A whole device offers itself for training when every gate is open, and takes part with the declared message only."""

import shutil
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from bundle_line import NOW, SCHEMA
from flwr.app import MessageType
from small_device import ALL, DAY, NONE, Phone, filled, live
from small_store import in_memory, quick_folder

from sottovoce.client.app import Node, client_app
from sottovoce.client.controls import pause
from sottovoce.client.device_node import phone_of
from sottovoce.client.device_training import ROUNDS
from sottovoce.client.fleet import LocalTraining
from sottovoce.client.phone_node import Pace, phone_app
from sottovoce.client.training_offer import Condition, Hold
from sottovoce.client.training_past import TrainingPast, read_past, write_past
from sottovoce.client.wire import read_arrays
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import DeviceError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.optimizer import PrivateStep, ServerOptimizer
from sottovoce.server.participation import Participation
from sottovoce.server.round import Coordinator
from sottovoce.simulations.grid import InProcessGrid

CONFIG = RankerConfig(embedding_width=4, tower_width=4, hidden_width=4)
REST = Condition(battery=1.0, charging=True, idle=True, unmetered=True, thermal=0)
WEEK = NOW + 9 * DAY

tmp_path = in_memory


@pytest.fixture(scope="module")
def weeks():
    """Three phones that were used for nine days, by three people who click otherwise."""
    with quick_folder() as name:
        folders = []
        for person in range(3):
            folder = Path(name) / str(person)
            with closing(filled(folder, most=0).open()) as device:
                for day in range(9):
                    live(device, NOW + day * DAY, day, click=(day + person) % 3 == 0, hour=day % 4)
            folders.append(folder)
        yield folders


@pytest.fixture
def phones(tmp_path, weeks):
    for person, folder in enumerate(weeks):
        shutil.copytree(folder, tmp_path / str(person))
    return [Phone(tmp_path / str(person)) for person in range(len(weeks))]


def holds(device, condition=REST, now=WEEK):
    return set(device.training(condition, now).holds)


def test_a_device_at_rest_offers_itself_and_each_condition_of_the_phone_closes_a_gate(phones):
    with closing(phones[0].open(WEEK)) as device:
        assert device.training(REST, WEEK).joins
        gates = {
            Hold.POWER: {"charging": False, "battery": 0.1},
            Hold.IN_USE: {"idle": False},
            Hold.METERED: {"unmetered": False},
            Hold.HOT: {"thermal": 2},
        }
        for hold, change in gates.items():
            offer = device.training(msgspec.structs.replace(REST, **change), WEEK)
            assert (offer.holds, offer.comes) == ((hold,), False)
        assert len(holds(device, Condition())) == 4


def revoked(device):
    device.allow(NONE)


def paused(device):
    device.decide(pause)


def reset(device):
    device.forget_interests(WEEK)


def wiped(device):
    device.delete_all(WEEK)


def damaged(device):
    device.rounds.write_bytes(b"no rounds")


def just_trained(device):
    assert write_past(device.rounds, TrainingPast().joined("run", 1, WEEK - timedelta(minutes=1)))


GATES = {
    revoked: {Hold.NO_CONSENT, Hold.TOO_LITTLE},
    paused: {Hold.PAUSED, Hold.TOO_LITTLE},
    reset: {Hold.TOO_LITTLE},
    wiped: {Hold.UNTRIED, Hold.TOO_LITTLE},
    damaged: {Hold.NO_RECORD},
    just_trained: {Hold.TOO_SOON},
}


@pytest.mark.parametrize(("change", "closed"), GATES.items(), ids=[change.__name__ for change in GATES])
def test_each_gate_of_the_person_closes_and_it_does_not_show(phones, change, closed):
    with closing(phones[0].open(WEEK)) as device:
        change(device)
        assert holds(device) == closed
        assert device.training(REST, WEEK).comes
    with closing(phones[0].open(WEEK)) as device:
        assert holds(device) == closed


def test_without_a_model_there_is_nothing_to_train(phones):
    for path in (phones[0].folder / "bundles").glob("*.svb"):
        path.unlink()
    with closing(phones[0].open(WEEK)) as device:
        assert Hold.OTHER_SCHEMA in holds(device)
        with pytest.raises(DeviceError, match="nothing to train"):
            phone_of(device, CONFIG, 0, lambda: REST, lambda: WEEK)


class Round:
    """One round of three devices at one coordinator, and every update that was sent."""

    def __init__(self, devices, folder, hosted_first=lambda: None):
        folder.mkdir()
        self.sent, self.devices = {}, devices
        hosted = [
            phone_of(one, CONFIG, order, lambda: REST, lambda: WEEK, pace=Pace(wait=lambda _: None))
            for order, one in enumerate(devices)
        ]
        self.apps = [phone_app(one) for one in hosted]
        self.rows = [one.examples() for one in hosted]
        hosted_first()
        plan = MechanismPlan(3, 1.0, 0.5, 1.0, 1, 1e-2, sampling="none", max_participations=1)
        start = initial(SCHEMA, CONFIG, 0)
        self.before = {name: value.numpy().copy() for name, value in start.items()}
        with Ledger.open(folder / "ledger.db", create=True) as ledger:
            step = PrivateStep(start, ServerOptimizer(kind="fedavg", learning_rate=1.0, averaging=0.0), plan, "run")
            Coordinator(
                grid=InProcessGrid(self.answer, len(devices)),
                plan=plan,
                budget=Budget(float("inf"), plan.delta, ledger),
                step=step,
                training=LocalTraining(),
                entropy=SeededEntropy(0),
                run_id="run",
                schema_digest=SCHEMA.digest(),
                folder=folder / "checkpoints",
                participation=Participation.begin(folder / "asked", len(devices), 1),
            ).run(0, lambda record: None)
            self.after = {name: value.numpy() for name, value in step.parameters.items()}

    def answer(self, message, context):
        number = int(context.node_config["partition-id"])
        reply = self.apps[number](message, context)
        if message.metadata.message_type == MessageType.TRAIN:
            node = Node(self.rows[number], SCHEMA, CONFIG, number)
            alone = client_app(lambda _: node)(message, context)
            self.sent[number] = reply.content, alone.content
        return reply


def test_three_devices_train_a_round_and_send_the_declared_update_and_no_more(phones, tmp_path):
    with ExitStack() as stack:
        devices = [stack.enter_context(closing(one.open(WEEK))) for one in phones]
        done = Round(devices, tmp_path / "run")
        assert sorted(done.sent) == [0, 1, 2]
        for sent, alone in done.sent.values():
            assert set(sent) == {"reply", "total"}
            assert dict(sent["reply"]) == dict(alone["reply"])
            ours, theirs = read_arrays(sent, "total"), read_arrays(alone, "total")
            assert ours.keys() == theirs.keys() == done.before.keys()
            assert any(value.any() for value in ours.values())
            for name, value in ours.items():
                np.testing.assert_array_equal(value, theirs[name])
        assert any((done.after[name] != value).any() for name, value in done.before.items())
        for device in devices:
            assert read_past(device.rounds).run("run").rounds == 1
            assert holds(device) == {Hold.TOO_SOON}
            device.delete_all(WEEK)
            assert Hold.TOO_SOON in holds(device)


def test_a_device_whose_owner_revokes_while_it_is_a_node_sends_zeros_of_the_same_form(phones, tmp_path):
    with ExitStack() as stack:
        devices = [stack.enter_context(closing(one.open(WEEK))) for one in phones]
        done = Round(devices, tmp_path / "run", lambda: devices[1].allow(NONE))
        for number, (sent, alone) in done.sent.items():
            ours, full = read_arrays(sent, "total"), read_arrays(alone, "total")
            assert {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in full.items()}
            assert any(value.any() for value in ours.values()) == (number != 1)
            assert any(value.any() for value in full.values())
        assert not (phones[1].folder / ROUNDS).exists()
        devices[1].allow(ALL)
        assert holds(devices[1]) == set()
