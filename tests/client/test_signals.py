import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, Told, event, market, request

from sottovoce.client.events import EventLog
from sottovoce.client.personal import logit, sigmoid
from sottovoce.client.picker import Picker
from sottovoce.client.request import RequestExt

LOG = EventLog((event("impression", 0, 90), event("click", 0, 80), event("impression", 0, 60)))


def signals(table, consent=ALLOWED, log=LOG, pricing="cpc", variance=0.0, **changes):
    picker = Picker(SCHEMA, Told(table), market(1, pricing), variance)
    return picker.pick(request(**changes), log, consent, NOW).evidence.signals


def share(found):
    return {effect.group: effect.share for effect in found.effects}


TABLES = st.lists(st.floats(-6, 6), min_size=8, max_size=8)


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_the_shares_add_up_to_the_change_from_the_ad_alone_to_everything(table):
    found = signals(table)
    assert sum(share(found).values()) == pytest.approx(float(logit(found.given) - logit(found.bare)), abs=1e-6)
    assert found.bare == pytest.approx(float(sigmoid(table[0])), abs=1e-6)
    assert found.given == pytest.approx(float(sigmoid(table[7])), abs=1e-6)
    assert abs(found.effects[0].share) == max(map(abs, share(found).values()))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=4, max_size=4), st.floats(-3, 3))
def test_a_group_that_adds_up_gets_what_it_adds_and_one_that_does_nothing_gets_nothing(others, own):
    added = signals([*others, *(value + own for value in others)])
    assert share(added)["device"] == pytest.approx(own, abs=1e-4)
    assert share(signals([*others, *others]))["device"] == pytest.approx(0, abs=1e-6)


def test_the_personal_layer_gets_exactly_its_offset_whatever_else_is_known():
    table = [-1.0, 0.5, 0.3, -2.0, 1.0, 2.0, 0.7, 0.0]
    without, found = signals(table), signals(table, variance=1.0)
    offset = share(found)["habit"]
    assert abs(offset) > 0.1
    winner = Picker(SCHEMA, Told(table), market(1), 1.0).pick(request(), LOG, ALLOWED, NOW).winner
    assert found.given == pytest.approx(winner.scores[0], abs=1e-6)
    assert sum(share(found).values()) == pytest.approx(float(logit(found.given) - logit(found.bare)), abs=1e-6)
    for group, value in share(without).items():
        assert share(found)[group] == pytest.approx(value, abs=1e-5)
    assert found.bare == without.bare
    assert logit(found.given) - logit(without.given) == pytest.approx(offset, abs=1e-5)


def test_a_combination_costs_one_call_and_the_offset_none():
    scorer = Told([-1.0] * 8)
    decision = Picker(SCHEMA, scorer, market(1), 1.0).pick(request(), LOG, ALLOWED, NOW)
    before = scorer.calls
    assert len(decision.evidence.signals.effects) == 4
    assert scorer.calls - before == 8


def test_only_what_the_model_was_given_is_measured():
    assert set(share(signals([0.0] * 8, ANONYMOUS))) == {"page"}
    assert set(share(signals([0.0] * 8, log=EventLog(), variance=1.0))) == {"page", "device"}
    assert share(signals([0.0] * 8, log=EventLog(), ext=RequestExt({}))) == {}


def test_for_an_ad_paid_per_conversion_it_is_the_chance_of_one():
    found = signals([0.0] * 7 + [1.0], pricing="cpa")
    assert found.of == "conversion"
    assert found.bare == pytest.approx(0.5 * 0.25)
    assert sum(share(found).values()) == pytest.approx(float(logit(found.given) - logit(found.bare)), abs=1e-6)
