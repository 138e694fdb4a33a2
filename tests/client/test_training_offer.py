"""Every gate says no alone, says so in its own words, and shows only what says nothing about the person."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sottovoce.client.consent import Consent
from sottovoce.client.training_offer import (
    LEARNING_ONLY,
    Condition,
    DeviceState,
    Hold,
    Invitation,
    OfferRules,
    offer,
)

AGREED = Consent(True, True, True, True, ("test",))
NIGHT = Condition(battery=1.0, charging=True, idle=True, unmetered=True, thermal=0)
READY = DeviceState(
    condition=NIGHT,
    consent=AGREED,
    paused=False,
    days=30,
    examples=50,
    schema="abc",
    recorded=True,
    rounds=2,
    last_round=6,
    since_s=86_400.0,
)
ROUND = Invitation("learn", "abc", round=9, cap=5)
RULES = OfferRules(separation_rounds=2, participations=4)


def phone(**changes):
    return msgspec.structs.replace(READY, condition=msgspec.structs.replace(NIGHT, **changes))


def device(**changes):
    return msgspec.structs.replace(READY, **changes)


def asked(**changes):
    return msgspec.structs.replace(ROUND, **changes)


def consenting(**changes):
    return device(consent=msgspec.structs.replace(AGREED, **changes))


NAN = float("nan")

TABLE = [
    # what it is about, state, invitation, the reasons that say no
    ("at rest", READY, ROUND, ()),
    ("not charging, at the limit", phone(charging=False, battery=0.30), ROUND, ()),
    ("not charging, below it", phone(charging=False, battery=0.2999), ROUND, (Hold.POWER,)),
    ("charging, empty", phone(battery=0.0), ROUND, ()),
    ("battery unknown", phone(charging=False, battery=NAN), ROUND, (Hold.POWER,)),
    ("in use", phone(idle=False), ROUND, (Hold.IN_USE,)),
    ("on a metered network", phone(unmetered=False), ROUND, (Hold.METERED,)),
    ("lightly warm", phone(thermal=1), ROUND, ()),
    ("moderately warm", phone(thermal=2), ROUND, (Hold.HOT,)),
    ("another schema", READY, asked(schema="abd"), (Hold.OTHER_SCHEMA,)),
    ("no schema on either side", device(schema=""), asked(schema=""), (Hold.OTHER_SCHEMA,)),
    ("no consent to learning", consenting(learn=False), ROUND, (Hold.NO_CONSENT,)),
    ("no consent to reports, asked to learn", consenting(report=False), ROUND, ()),
    ("no consent to reports, asked to measure", consenting(report=False), asked(purpose="report"), (Hold.NO_CONSENT,)),
    ("no consent to learning, asked to measure", consenting(learn=False), asked(purpose="report"), ()),
    ("paused", device(paused=True), ROUND, (Hold.PAUSED,)),
    ("wiped a week ago", device(days=7), ROUND, ()),
    ("wiped six days ago", device(days=6), ROUND, (Hold.UNTRIED,)),
    ("five examples", device(examples=5), ROUND, ()),
    ("four examples", device(examples=4), ROUND, (Hold.TOO_LITTLE,)),
    ("five minutes ago", device(since_s=300.0), ROUND, ()),
    ("just before", device(since_s=299.9), ROUND, (Hold.TOO_SOON,)),
    ("when is unknown", device(since_s=NAN), ROUND, (Hold.TOO_SOON,)),
    ("never before", device(since_s=None, last_round=None, rounds=0), ROUND, ()),
    ("two rounds later", device(last_round=7), ROUND, ()),
    ("one round later", device(last_round=8), ROUND, (Hold.ROUND_TOO_SOON,)),
    ("the same round again", device(last_round=9), ROUND, (Hold.ROUND_TOO_SOON,)),
    ("an earlier round", device(last_round=12), ROUND, (Hold.ROUND_TOO_SOON,)),
    ("its own cap is reached", device(rounds=4), ROUND, (Hold.CAP,)),
    ("the run's cap is reached", device(rounds=3), asked(cap=3), (Hold.CAP,)),
    ("no cap asked, its own holds", device(rounds=4), asked(cap=None), (Hold.CAP,)),
    ("its record is damaged", device(recorded=False), ROUND, (Hold.NO_RECORD,)),
    (
        "measuring has no separation and no cap",
        device(rounds=9, since_s=0.0, last_round=9),
        asked(purpose="report"),
        (),
    ),
    (
        "several at once, in a fixed order",
        msgspec.structs.replace(phone(thermal=6, unmetered=False), paused=True, examples=0),
        ROUND,
        (Hold.METERED, Hold.HOT, Hold.PAUSED, Hold.TOO_LITTLE),
    ),
]


@pytest.mark.parametrize(("state", "to", "holds"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_gate_names_every_reason_that_says_no(state, to, holds):
    answer = offer(state, to, RULES)
    assert answer.holds == holds
    assert answer.joins == (not holds)
    assert answer.comes == all(hold.personal for hold in holds)
    assert all(hold.words in answer.words for hold in holds)


def test_what_a_host_does_not_know_refuses_everything_that_can_refuse():
    unknown = offer(DeviceState(), Invitation("learn", "abc"), OfferRules())
    never_joined = {Hold.TOO_SOON, Hold.ROUND_TOO_SOON, Hold.CAP}
    assert set(unknown.holds) == set(Hold) - never_joined


def test_codes_and_words_are_closed_and_tell_reasons_apart():
    assert len({hold.code for hold in Hold}) == len({hold.words for hold in Hold}) == len(Hold) == 13
    assert {hold for hold in Hold if not hold.personal} == {
        Hold.POWER,
        Hold.IN_USE,
        Hold.METERED,
        Hold.HOT,
        Hold.OTHER_SCHEMA,
    }


SHARES = st.floats(0, 1)
VIOLATIONS = {
    Hold.POWER: st.floats(0, 0.2999).map(lambda battery: (phone(charging=False, battery=battery), ROUND)),
    Hold.IN_USE: st.just((phone(idle=False), ROUND)),
    Hold.METERED: st.just((phone(unmetered=False), ROUND)),
    Hold.HOT: st.integers(2, 6).map(lambda thermal: (phone(thermal=thermal), ROUND)),
    Hold.OTHER_SCHEMA: st.text().filter(lambda text: text != "abc").map(lambda text: (READY, asked(schema=text))),
    Hold.NO_CONSENT: st.just((consenting(learn=False), ROUND)),
    Hold.PAUSED: st.just((device(paused=True), ROUND)),
    Hold.UNTRIED: st.integers(0, 6).map(lambda days: (device(days=days), ROUND)),
    Hold.TOO_LITTLE: st.integers(0, 4).map(lambda rows: (device(examples=rows), ROUND)),
    Hold.TOO_SOON: st.floats(-math.inf, 299.99).map(lambda seconds: (device(since_s=seconds), ROUND)),
    Hold.ROUND_TOO_SOON: st.integers(8, 10**9).map(lambda last: (device(last_round=last), ROUND)),
    Hold.CAP: st.integers(4, 10**9).map(lambda rounds: (device(rounds=rounds), ROUND)),
    Hold.NO_RECORD: st.just((device(recorded=False), ROUND)),
}


@given(st.sampled_from(list(Hold)), st.data())
def test_any_single_violated_gate_refuses_and_is_the_only_one_named(hold, data):
    state, to = data.draw(VIOLATIONS[hold])
    assert offer(state, to, RULES).holds == (hold,)
    measuring = offer(state, msgspec.structs.replace(to, purpose="report"), RULES).holds
    assert measuring == (() if hold in LEARNING_ONLY or hold is Hold.NO_CONSENT else (hold,))


@given(st.sets(st.sampled_from([hold for hold in Hold if hold is not Hold.OTHER_SCHEMA])), SHARES)
def test_nothing_makes_up_for_a_violated_gate(broken, battery):
    """Whatever else is violated with it, each is named, and a full battery does not outweigh a missing consent."""
    condition = Condition(
        battery=0.0 if Hold.POWER in broken else battery,
        charging=Hold.POWER not in broken,
        idle=Hold.IN_USE not in broken,
        unmetered=Hold.METERED not in broken,
        thermal=3 if Hold.HOT in broken else 1,
    )
    state = DeviceState(
        condition=condition,
        consent=Consent(learn=Hold.NO_CONSENT not in broken),
        paused=Hold.PAUSED in broken,
        days=0 if Hold.UNTRIED in broken else 8,
        examples=0 if Hold.TOO_LITTLE in broken else 9,
        schema="abc",
        recorded=Hold.NO_RECORD not in broken,
        rounds=7 if Hold.CAP in broken else 0,
        last_round=9 if Hold.ROUND_TOO_SOON in broken else None,
        since_s=1.0 if Hold.TOO_SOON in broken else None,
    )
    answer = offer(state, ROUND, RULES)
    assert set(answer.holds) == broken
    assert answer.joins == (not broken)


@pytest.mark.parametrize(
    "wrong",
    [
        {"battery": 1.1},
        {"battery": NAN},
        {"thermal": 0},
        {"examples": 0},
        {"separation_s": -1.0},
        {"separation_s": 6 * 86_400 + 1.0},
        {"separation_rounds": 0},
        {"participations": 0},
        {"days": -1},
    ],
)
def test_rules_that_are_none_cannot_be_read(wrong):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, OfferRules)
