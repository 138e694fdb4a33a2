"""A phone as a node: one device from its own store, behind its own gate, and one error for whatever fails."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import cache

import msgspec
import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from small_store import in_memory

from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.events import Event
from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import Instruction, instruction_record, read_enrolment, read_reply
from sottovoce.client.personal_data import delete_since
from sottovoce.client.phone_node import ERROR_CODE, NO_ANSWER, Pace, phone_app
from sottovoce.client.question import Question, question_record, read_answer
from sottovoce.client.training_offer import Hold, Invitation
from sottovoce.client.training_past import read_past
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.market import Market
from sottovoce.simulations.simulated_phone import AT_REST, simulated_phone

CONFIG = RankerConfig(embedding_width=4, tower_width=4, hidden_width=4)
WORLD = Market(0)
START = {name: value.numpy() for name, value in initial(WORLD.schema, CONFIG, 0).items()}
ASKED = Instruction(
    "r" * 16, 1, "p" * 64, 0.5, LocalTraining(), START, np.array([0]), WORLD.schema.digest(), max_participations=3
)
tmp_path = in_memory

PERSON = 3
"""Of the market: agrees to everything and clicked."""


@pytest.fixture(autouse=True, scope="module")
def drawn_once():
    """The people of a block and their log take a tenth of a second."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("block_people", "block_log"):
            patched.setattr(Market, name, cache(getattr(Market, name)))
        yield


@pytest.fixture
def phone(tmp_path):
    hosted, around = simulated_phone(WORLD, PERSON, tmp_path, CONFIG, 0)
    with closing(hosted.store):
        yield hosted, around


def send(phone, kind, record):
    app = phone_app(phone)
    InProcessGrid(app, 1)  # gives this process the identity that messages need
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    return app(Message(record, 1, kind), context)


def trains(phone, **changes):
    """Whether anything is in the phone's update; it answers in any case."""
    asked = replace(ASKED, **changes)
    reply = read_reply(send(phone, MessageType.TRAIN, instruction_record(asked)).content, asked)
    return any(value.any() for value in reply.total.values())


def measured(phone, query="popularity", **changes):
    marks = {"popularity": np.zeros(0), "calibration": np.linspace(-4, 0, 5), "clip": np.array([0.1, 1.0])}
    asked = Question(
        "run", 1, "plan", query, 100.0, marks.get(query, np.zeros(0)), LocalTraining(), START, np.array([0])
    )
    record = question_record(replace(asked, **changes))
    return read_answer(send(phone, MessageType.EVALUATE, record).content, asked, asked.size(len(WORLD.share))).total


def refuses(message):
    assert message.has_error()
    assert (message.error.code, message.error.reason) == (ERROR_CODE, NO_ANSWER)
    return True


def test_a_phone_enrols_as_one_device_at_its_place(phone):
    enrolment = read_enrolment(send(phone[0], MessageType.QUERY, RecordDict()).content)
    assert (enrolment.devices, enrolment.order) == (1, 0)


def test_a_phone_trains_once_a_round_at_its_own_pace_and_as_often_as_it_may(phone):
    hosted, around = phone
    said = []
    for number in (1, 1, 2, 3, 4, 5):
        said.append(trains(hosted, round=number))
        around.now += timedelta(minutes=6)
    assert said == [True, False, True, True, False, False]
    assert trains(hosted, run_id="another")
    assert not trains(hosted, run_id="a third")  # too soon after it
    assert read_past(hosted.past).run("r" * 16).rounds == 3


def test_a_round_that_is_asked_many_times_at_once_counts_once(phone):
    hosted, around = phone

    def slowly():
        time.sleep(0.005)  # asked for after the record was read and before it is written
        return around.consent

    app = phone_app(replace(hosted, consent=slowly))
    InProcessGrid(app, 1)  # gives this process the identity that messages need
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    messages = [Message(instruction_record(ASKED), 1, MessageType.TRAIN) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = [read_reply(one.content, ASKED) for one in pool.map(lambda message: app(message, context), messages)]
    assert sum(any(value.any() for value in reply.total.values()) for reply in answers) == 1


def test_a_restart_and_a_deletion_give_no_round_back(phone, tmp_path):
    hosted, around = phone
    assert trains(hosted)
    hosted.store.delete_all(around.now)
    hosted.store.close()
    (tmp_path / "again").mkdir()
    anew, later = simulated_phone(WORLD, PERSON, tmp_path / "again", CONFIG, 0)
    with closing(anew.store):
        anew = replace(anew, past=hosted.past)
        later.now = around.now + timedelta(hours=1)
        assert not trains(anew)
        assert anew.offer(Invitation("learn", WORLD.schema.digest(), 1, 3), "r" * 16).holds == (Hold.ROUND_TOO_SOON,)


def hold(hosted):
    return hosted.offer(Invitation("learn", WORLD.schema.digest()), "run").holds


def revoked(hosted, around):
    around.consent = Consent()


def paused(hosted, around):
    around.controls = Controls(paused=True)


def reset(hosted, around):
    around.controls = Controls(since=around.now)


def wiped(hosted, around):
    hosted.store.delete_all(around.now)
    for number in range(20):
        happened = around.now - timedelta(days=2, seconds=number)
        features = {"ad_id": number, "advertiser": 0, "category": 0, "format": "320x50"}
        hosted.store.append(Event(happened, "impression", f"a{number}", "c0", features), around.now)


def damaged(hosted, around):
    hosted.past.write_bytes(b"no past")


PERSONAL = {
    revoked: {Hold.NO_CONSENT, Hold.TOO_LITTLE},
    paused: {Hold.PAUSED, Hold.TOO_LITTLE},
    reset: {Hold.TOO_LITTLE},
    wiped: {Hold.UNTRIED},
    damaged: {Hold.NO_RECORD},
}


@pytest.mark.parametrize(("change", "holds"), PERSONAL.items(), ids=[change.__name__ for change in PERSONAL])
def test_what_concerns_the_person_is_answered_with_zeros_of_the_same_size(phone, change, holds):
    hosted, around = phone
    assert hold(hosted) == ()
    change(hosted, around)
    assert set(hold(hosted)) == holds
    assert not trains(hosted)
    assert damaged is change or not hosted.past.exists()


def test_a_deletion_in_part_leaves_a_device_that_may_train_on_the_rest(phone):
    hosted, around = phone
    rows = hosted.examples().rows
    assert delete_since(hosted.store, hosted.store.log.events[rows // 2].ts, around.now)
    assert 5 <= hosted.examples().rows < rows
    assert trains(hosted)


@pytest.mark.parametrize("change", [{"battery": 0.2, "charging": False}, {"idle": False}, {"thermal": 3}])
def test_what_concerns_the_phone_is_no_answer_and_no_round(phone, change):
    hosted, around = phone
    around.condition = msgspec.structs.replace(AT_REST, **change)
    assert refuses(send(hosted, MessageType.TRAIN, instruction_record(ASKED)))
    assert not hosted.past.exists()


WRONG = {
    "another schema": replace(ASKED, schema_digest="0" * 64),
    "another model": replace(ASKED, parameters={"table": np.zeros((2, 2), np.float32)}),
    "another device": replace(ASKED, devices=np.array([1])),
}


@pytest.mark.parametrize("asked", WRONG.values(), ids=WRONG.keys())
def test_whatever_is_asked_wrongly_gets_the_one_error(phone, asked):
    assert refuses(send(phone[0], MessageType.TRAIN, instruction_record(asked)))
    assert not phone[0].past.exists()


def test_no_row_is_in_an_error_whatever_breaks(phone):
    """A damaged catalogue names values in its own error; a bug would, too."""
    hosted, _ = phone

    def broken():
        raise RuntimeError("ad 17 was clicked")

    for bent in (replace(hosted, catalogue=broken), replace(hosted, consent=broken), replace(hosted, now=broken)):
        assert refuses(send(bent, MessageType.TRAIN, instruction_record(ASKED)))
        assert refuses(send(bent, MessageType.QUERY, RecordDict()))
    for kind in (MessageType.TRAIN, MessageType.EVALUATE):
        assert refuses(send(hosted, kind, RecordDict({"hello": ConfigRecord({})})))


def test_a_measurement_is_answered_by_the_gate_of_reports_and_needs_no_consent_to_learn(phone):
    hosted, around = phone
    rows = hosted.examples().rows
    around.consent = Consent(report=True)
    assert measured(hosted).reshape(-1, 2)[:, 0].sum() == rows
    assert not trains(hosted)
    around.consent = Consent(learn=True)
    assert not measured(hosted).any()
    assert trains(hosted)


@pytest.mark.parametrize("query", ["popularity", "calibration", "clip"])
def test_an_ad_of_the_past_makes_no_measurement_longer(phone, query):
    hosted, around = phone
    before = measured(hosted, query)
    old = {"ad_id": 5, "advertiser": 40, "category": 3, "format": "1x1"}
    for number in range(3):
        when = around.now - timedelta(days=2, seconds=10 - number)
        hosted.store.append(Event(when, "impression", f"gone{number}", "c0", old), around.now)
    assert hosted.examples().catalogue.shape[0] == len(WORLD.share) + 1
    assert len(measured(hosted, query)) == len(before)
    assert query == "clip" or np.array_equal(measured(hosted, query), before)
    assert trains(hosted)


def test_a_phone_keeps_no_held_out_rows_and_says_so_as_any_error(phone):
    record = Question("run", 1, "plan", "quality", 1.0, np.array([0.0]), LocalTraining(), START, np.array([0]))
    assert refuses(send(phone[0], MessageType.EVALUATE, question_record(record)))


@pytest.mark.parametrize(("work_s", "beats"), [(0.0, 1), (0.3, 1), (4.999, 1), (5.0, 1), (5.001, 2), (61.0, 13)])
def test_answers_leave_on_the_beat_however_long_the_work_took(work_s, beats):
    moments, waited = iter([100.0 + work_s]), []
    Pace(beat_s=5.0, clock=lambda: next(moments), wait=waited.append).hold(100.0)
    assert waited == [pytest.approx(5.0 * beats - work_s)]


@pytest.mark.parametrize("beat", [0.0, -1.0, float("nan"), float("inf")])
def test_a_beat_that_is_none_is_refused(beat):
    with pytest.raises(ValueError, match="cannot leave"):
        Pace(beat_s=beat)


def test_update_zeros_and_error_take_the_same_time_and_are_made_after_the_wait(phone):
    """A message says when it was made, to the microsecond."""
    hosted, around = phone
    now, waited = [0.0], []

    def wait(seconds):
        now[0] += seconds
        waited.append(time.time())

    def read_slowly():
        now[0] += 0.7
        return hosted.catalogue()

    slow = replace(hosted, pace=Pace(5.0, lambda: now[0], wait), catalogue=read_slowly)
    for record in (instruction_record(ASKED), RecordDict(), instruction_record(ASKED)):
        before = now[0]
        answer = send(slow, MessageType.TRAIN, record)
        assert now[0] - before == pytest.approx(5.0)
        assert answer.metadata.created_at >= waited[-1]
        revoked(hosted, around)
    assert len(waited) == 3
