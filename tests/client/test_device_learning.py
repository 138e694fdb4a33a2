"""A device learns its owner's taste where it may, forgets it where it should, and decides the same way again."""

from contextlib import closing
from datetime import timedelta

import msgspec
import numpy as np
import pytest
from bundle_line import NOW, scorer_of
from small_device import ALL, CATEGORIES, DAY, NONE, filled, live, page
from small_store import in_memory

from sottovoce.client import personal_data
from sottovoce.client.combination_posterior import Posterior as PartsPosterior
from sottovoce.client.combination_posterior import learned
from sottovoce.client.controls import mute, pause, resume
from sottovoce.client.device_learning import KEPT, LESSONS, MOST, MOST_BYTES, NOTHING, Learning
from sottovoce.client.device_lesson import Lesson
from sottovoce.client.events import Event, EventLog
from sottovoce.client.exploration import Exploration
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.posterior import Posterior, Shown, updated
from sottovoce.client.replay import replay
from sottovoce.client.trace import traced
from sottovoce.models.atomic import write_atomically

MINUTE = timedelta(minutes=1)
LATER = NOW + 31 * MINUTE
"""When the outcome of what was shown at NOW is known."""

NO_LEARNING = ALL.replace(b"11111111111", b"11111111101")
SECRET = b"a secret of 16 by"
THOMPSON = PickerPolicy(exploration=Exploration(method="thompson", epsilon=0.05))

tmp_path = in_memory


@pytest.fixture
def phone(tmp_path):
    return filled(tmp_path, most=0)


@pytest.fixture
def device(phone):
    with closing(phone.open()) as opened:
        yield opened


def given(device, now=LATER, number=99):
    """The taste that the next decision is given."""
    device.pick(page(number), now)
    return device.asked.posterior


def test_an_impression_teaches_once_its_outcome_had_its_time_and_a_click_is_liked(device):
    first = live(device, NOW, click=True)
    arm = f"cat:{CATEGORIES[int(first.winner.crid[1:]) % 3]}"
    assert given(device, NOW + 29 * MINUTE) is None
    taste = given(device)
    assert taste == updated(Posterior(), [Shown(arm, first.winner.scores[0], True)])
    assert taste.arms[0].mean > 0
    live(device, LATER, 1)
    assert given(device, LATER + 31 * MINUTE).arms[0].mean < taste.arms[0].mean


def no_consent(device):
    device.allow(NONE)


def no_learning(device):
    device.allow(NO_LEARNING)


def paused(device):
    device.decide(pause)


@pytest.mark.parametrize("change", [no_consent, no_learning, paused], ids=lambda one: one.__name__)
def test_nothing_is_learnt_while_it_is_not_allowed(device, change):
    change(device)
    live(device, NOW, click=True)
    device.allow(ALL)
    device.decide(resume)
    assert device.store.get(LESSONS, msgspec.Raw) is None
    assert given(device) is None


def test_nothing_is_learnt_from_a_sensitive_page_or_from_an_ad_that_was_named_only(device):
    live(device, NOW, category="286")
    device.happened("impression", "a1", NOW)
    device.happened("click", "a1", NOW)
    assert given(device) is None


@pytest.mark.parametrize("change", [no_consent, no_learning, paused], ids=lambda one: one.__name__)
def test_a_revocation_counts_in_the_next_decision_and_so_does_taking_it_back(device, change):
    live(device, NOW, click=True)
    before = given(device)
    assert before.arms
    change(device)
    assert given(device) is None
    device.allow(ALL)
    device.decide(resume)
    assert given(device) == before


def muted(device, crid):
    device.decide(lambda one: mute(one, "seats", "s" + crid[1:]))


def reset(device, crid):
    device.forget_interests(LATER)


def deleted_in_part(device, crid):
    assert personal_data.delete_ad(device.store, "a0" if crid != "a0" else "a1", LATER) == 1


def deleted(device, crid):
    device.delete_all(LATER)


@pytest.mark.parametrize("change", [muted, reset, deleted_in_part, deleted], ids=lambda one: one.__name__)
def test_what_is_hidden_reset_or_deleted_is_gone_from_the_next_decision_and_after_a_restart(phone, change):
    with closing(phone.open()) as device:
        crid = live(device, NOW, click=True).winner.crid
        for one in ("a0", "a1"):
            device.happened("impression", one, NOW)
        assert given(device) is not None
        change(device, crid)
        assert given(device, LATER + MINUTE) is None
        assert (change is muted) == bool(device._learning.lessons)
    with closing(phone.open(LATER)) as device:
        assert given(device, LATER + MINUTE) is None


def test_what_was_learnt_survives_a_restart_sealed(phone):
    with closing(phone.open()) as device:
        live(device, NOW, click=True)
        before = given(device)
        assert b'"lessons"' in device.export(NOW)
    assert not [path for path in phone.folder.rglob("*") if path.is_file() and b"lessons" in path.read_bytes()]
    with closing(phone.open(LATER)) as device:
        assert (given(device), device.notes) == (before, ())


def test_a_lesson_is_on_the_disk_once_its_impression_is(phone):
    device = phone.open()
    live(device, NOW, click=True)
    left = {path: path.read_bytes() for path in phone.folder.rglob("*") if path.is_file()}
    before = given(device)
    device.close()
    for path, data in left.items():
        write_atomically(path, data)
    with closing(phone.open(LATER)) as device:
        assert given(device) == before
        assert before.arms


WRONG = [7, {"a": 1}, [{"ts": "never"}], [{"ts": NOW, "crid": "a1", "chance": 7.0}], [None] * (KEPT + 1)]


@pytest.mark.parametrize("value", WRONG, ids=["a number", "an object", "no time", "no chance", "too many"])
def test_a_damaged_value_counts_as_none_with_a_note_until_something_is_learnt_again(phone, value):
    with closing(phone.open()) as device:
        live(device, NOW, click=True)
        device.store.put(LESSONS, value, learned=True)
    with closing(phone.open(LATER)) as device:
        assert given(device) is None
        assert any("cannot be read and counts as nothing" in note for note in device.notes)
        live(device, LATER, 1, click=True)
        assert given(device, LATER + 31 * MINUTE).arms
        assert device.notes == ()


def test_a_choice_that_no_model_of_the_person_made_teaches_no_taste(phone):
    broken = []

    class Model:
        def __init__(self, bundle):
            self.model = scorer_of(bundle)

        def scores(self, *inputs):
            if broken:
                raise RuntimeError("gone")
            return self.model.scores(*inputs)

    phone.scorer = Model
    with closing(phone.open()) as device:
        broken.append("from now on")
        decision = live(device, NOW, click=True)
        assert (decision.fallback, decision.mode, len(decision.winner.scores)) == ("contextual", "personalised", 1)
        assert given(device) is None


def test_whatever_goes_wrong_while_learning_a_decision_is_made(device, monkeypatch):
    live(device, NOW, click=True)

    def broken(*_):
        raise FloatingPointError("lost")

    monkeypatch.setattr("sottovoce.client.device_learning.updated", broken)
    monkeypatch.setattr(device.store, "put", lambda *_, **__: broken())
    assert device.pick(page(1), LATER).winner
    assert device.asked.posterior is None
    assert "FloatingPointError" in " ".join(device.notes)


def test_an_impression_that_is_no_event_leaves_what_was_learnt_alone(device):
    live(device, NOW, click=True)
    before = given(device)
    decision = device.pick(page(1), NOW)
    with pytest.raises(ValueError, match="time zone"):
        device.happened("impression", decision, NOW.replace(tzinfo=None))
    assert given(device) == before
    assert before.arms


def test_lessons_stay_few_and_go_with_the_events_they_are_about(device):
    learning, store = Learning(device.store), device.store
    long = tuple(f"{number:032x}" for number in range(16))
    for number in range(KEPT + 20):
        learning.add(Lesson(NOW + number * MINUTE, "a1", 0.5, long if number % 2 else ()))
    assert len(msgspec.json.encode(learning.lessons)) <= MOST_BYTES
    assert learning.lessons[-1].ts == NOW + (KEPT + 19) * MINUTE
    assert len(learning.lessons) > 50
    learning.forget()
    for number in range(KEPT + 20):
        learning.add(Lesson(NOW + number * MINUTE, "a1", 0.5))
    assert len(learning.lessons) == KEPT
    store.append(Event(NOW + 100 * DAY, "impression", "a1", "c1"), NOW)
    learning.add(Lesson(NOW + 100 * DAY, "a1", 0.5))
    assert len(learning.lessons) == 1


def test_only_the_newest_impressions_are_learnt_from(device):
    learning = Learning(device.store)
    for number in range(MOST + 5):
        learning.add(Lesson(NOW + number * MINUTE, "a1", 0.5))
        device.store.append(Event(NOW + number * MINUTE, "impression", "a1", "c1"), NOW, wait=False)
    told = device.catalogue, device.controls, device.consent, NOW + DAY
    taste = learning.learnt(device.log, *told).taste
    assert taste == updated(Posterior(), [Shown(f"cat:{CATEGORIES[1]}", 0.5, False)] * MOST)


def test_old_impressions_are_left_out_by_the_day_so_that_most_new_ones_add_to_what_was_worked_out(device, monkeypatch):
    learning, folded = Learning(device.store), []

    def counted(*told):
        folded.append(told)
        return learned(*told)

    monkeypatch.setattr("sottovoce.client.device_learning.learned", counted)
    for number in range(MOST + 40):
        when = NOW + number * timedelta(hours=2)
        learning.add(Lesson(when, "a1", None, (f"{number % 3:032x}",), ("td1",)))
        device.store.append(Event(when, "impression", "a1", "c1"), NOW, wait=False)
        if number >= MOST:
            learning.learnt(device.log, device.catalogue, device.controls, device.consent, when + DAY)
    days = 40 * 2 // 24 + 1
    assert len(folded) <= (days + 1) * MOST + 40


def test_parts_are_learnt_one_after_the_other_from_what_was_shipped(device):
    learning, shipped = Learning(device.store), learned(PartsPosterior(), ["9" * 32], ["td1"], True)
    expected = shipped
    for number in range(6):
        when, part = NOW + number * MINUTE, f"{number % 2:032x}"
        learning.add(Lesson(when, "a1", None, (part,), ("td1",)))
        device.store.append(Event(when, "impression", "a1", "c1"), NOW, wait=False)
        if number % 3 == 0:
            device.store.append(Event(when, "click", "a1", "c1"), NOW, wait=False)
        expected = learned(expected, [part], ["td1"], number % 3 == 0)
        asked = device.log, device.catalogue, device.controls, device.consent, when + DAY, shipped
        assert learning.learnt(*asked) == (None, expected)
        assert Learning(device.store).learnt(*asked) == (None, expected)
    device.store.append(Event(NOW + DAY, "click", "a1", "c1"), NOW)  # a late click of the last one
    assert learning.learnt(device.log, *asked[1:]) == Learning(device.store).learnt(device.log, *asked[1:])
    assert learning.learnt(device.log, *asked[1:]).parts != expected
    assert learning.learnt(*asked[:3], device.consent.__class__(), *asked[4:]) == NOTHING


def lived(phone, decisions):
    """Decisions of a device that learns, explores, is restarted and told all sorts of things; with their traces."""
    rng, traces, now = np.random.default_rng(5), [], NOW
    device = phone.open(policy=THOMPSON)
    device._uniform = rng.random
    told = {
        9: lambda one: one.decide(lambda before: mute(before, "crids", "a1")),
        17: no_learning,
        21: lambda one: one.allow(ALL),
        29: paused,
        33: lambda one: one.decide(resume),
    }
    for number in range(decisions):
        if number % 20 == 19:
            device.close()
            device = phone.open(now, policy=THOMPSON)
            device._uniform = rng.random
        if number in told:
            told[number](device)
        decision = live(device, now, number, click=bool(rng.random() < 0.4))
        traces.append(traced(device.asked, decision, SECRET))
        now += timedelta(minutes=int(rng.integers(5, 90)))
    device.close()
    return traces, now


def test_fifty_decisions_of_a_device_that_learns_are_made_the_same_way_again(phone):
    traces, now = lived(phone, 50)
    with closing(phone.open(now, policy=THOMPSON)) as device:

        def again(trace, learns=True):
            prefix = EventLog(device.log.events[: trace.log.events])
            learnt = device.learnt(prefix, trace.controls, trace.consent, trace.now) if learns else NOTHING
            return replay(trace, device.catalogue, device.build, device.log, SECRET, THOMPSON, None, *learnt)

        assert {(one.identical, one.changed) for one in map(again, traces)} == {(True, ())}
        without = [again(trace, learns=False) for trace in traces]
        assert sum("posterior" in one.changed for one in without) > 35
        assert sum(not one.identical for one in without) > 25
