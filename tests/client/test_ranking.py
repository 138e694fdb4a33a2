"""What the ranking goes by besides money, through the whole picker."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, Rule, event, market
from small_market import request as page

from sottovoce.client import value
from sottovoce.client.columns import columns
from sottovoce.client.controls import Controls, Interest, InterestWeights
from sottovoce.client.events import Event, EventLog
from sottovoce.client.exploration import Exploration
from sottovoce.client.offers import offered, weighed
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.posterior import Arm, Posterior
from sottovoce.client.ranking import Ranking
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Banner, Imp
from sottovoce.client.situation import NOTHING_SET
from sottovoce.client.value import QualityRule

NOTHING = EventLog()
MORE = Controls(interests=(Interest(("1008", 8), "more"),))
"""Of the category of a0."""


def pick(policy, log=NOTHING, consent=ALLOWED, controls=None, size=5, **more):
    asked = {name: more.pop(name) for name in ("imp", "at") if name in more}
    return Picker(SCHEMA, Rule(), market(size), policy=policy).pick(page(**asked), log, consent, NOW, controls, **more)


def test_an_interest_moves_the_rank_and_not_the_value():
    plain, wanted = pick(PickerPolicy()), pick(PickerPolicy(), controls=MORE)
    assert (plain.winner.crid, wanted.winner.crid) == ("a4", "a0")
    assert wanted.winner.value == next(loser.value for loser in plain.losers if loser.crid == "a0")
    assert wanted.winner.price == pytest.approx(plain.winner.value / 2 + 0.01)
    less = Controls(interests=(Interest(("1529", 8), "less"),))
    assert pick(PickerPolicy(), controls=less).winner.crid == "a3"
    ignored = pick(PickerPolicy(interests=InterestWeights(1.0, 1.0)), controls=MORE)
    assert ignored.winner == plain.winner


def test_an_interest_lifts_no_ad_over_a_floor_that_it_does_not_reach():
    between = pick(PickerPolicy()).losers
    floor = next(loser.value for loser in between if loser.crid == "a0") + 0.005
    policy = PickerPolicy(interests=InterestWeights(100.0, 0.5), exploration=Exploration(method="thompson"))
    for draw in np.linspace(0, 0.999, 40):
        found = pick(
            policy, controls=MORE, imp=(Imp(id="1", banner=Banner(320, 50), bidfloor=floor),), draw=float(draw)
        )
        assert found.winner.crid != "a0"
        assert {loser.crid: loser.reason for loser in found.losers}["a0"] is Loss.BELOW_FLOOR
        assert floor <= found.winner.price <= found.winner.value


def test_what_a_rule_refuses_is_named():
    found = pick(PickerPolicy(quality=QualityRule(least_quality=0.6)))
    assert found.winner is None
    assert {(loser.reason, loser.rule) for loser in found.losers} == {(Loss.LOW_QUALITY, "quality")}
    assert all(loser.value for loser in found.losers)
    dear = pick(PickerPolicy(quality=QualityRule(dismissal_cost=1000.0)))
    assert {loser.reason for loser in dear.losers} == {Loss.NOT_WORTH_SHOWING}


def test_ads_that_were_just_shown_or_dismissed_fall_behind_with_consent_only():
    repeats = PickerPolicy(quality=QualityRule(repeat_cost=0.01), cool_downs=())
    seen = EventLog((event("impression", 4, 10),))
    assert pick(repeats, seen).winner.crid == "a3"
    assert pick(repeats, seen, ANONYMOUS).winner.crid == "a4"
    assert pick(repeats, EventLog((event("impression", 4, 40 * 86_400),))).winner.crid == "a4"
    tired = PickerPolicy(quality=QualityRule(dismissal_cost=1.0), cool_downs=())
    shown = EventLog((event("impression", 3, 30), event("impression", 4, 20), event("dismiss", 4, 10)))
    assert pick(tired, shown).winner.crid == "a3"
    assert pick(tired, shown, ANONYMOUS).winner.crid == "a4"


TASTE = Posterior(arms=(Arm("cat:1008", 3.0, 0.1, 1),))


def test_a_taste_decides_how_often_an_ad_is_drawn_and_only_with_consent():
    policy = PickerPolicy(exploration=Exploration(method="thompson", epsilon=0.01))
    chance = [
        dict(pick(policy, consent=consent, posterior=taste).considered)["a0"]
        for consent in (ALLOWED, ANONYMOUS)
        for taste in (None, TASTE)
    ]
    assert chance[1] > 0.9
    assert chance[0] == chance[2] == chance[3] < 0.4
    drawn = pick(policy, posterior=TASTE, draw=0.5).winner
    assert drawn.crid == "a0"
    assert drawn.scores == pytest.approx((0.1001, 0.5))
    assert pick(PickerPolicy(), posterior=TASTE) == pick(PickerPolicy())


def test_a_posterior_that_makes_no_sense_tries_nothing_out_and_says_so():
    policy = PickerPolicy(exploration=Exploration(method="thompson"))
    broken = Posterior(arms=(Arm("cat:1008", float("nan"), 1.0, 1),))
    found = pick(policy, posterior=broken, draw=0.99)
    assert (found.winner.crid, found.propensity, found.fallback) == ("a4", 1.0, "model")
    assert found.fault.startswith("exploration: an expected offset")


moments = st.lists(st.tuples(st.integers(0, 3), st.integers(-(10**6), 10**7)), max_size=12)


@given(moments, st.integers(0, 12))
def test_impressions_counted_as_they_come_are_those_counted_at_once(drawn, split):
    shop, rule = market(4), QualityRule(repeat_cost=1.0, half_life_s=3600)
    sides, policy = columns(shop), PickerPolicy(quality=rule)
    log = EventLog(tuple(Event(NOW - timedelta(seconds=ago), "impression", f"a{n}", f"c{n}") for n, ago in drawn))
    offers = offered(sides, np.arange(4), np.full((4, 2), 10**6))
    growing = Ranking(shop, sides, policy)
    growing.ranked(offers, EventLog(log.events[:split]), NOTHING_SET, NOW)
    found = growing.ranked(offers, log, NOTHING_SET, NOW)
    for place in range(4):
        repeats = value.recent(rule, [ago for n, ago in drawn if n == place])
        assert abs(found.term[place] + 1000 * repeats) <= 1000


@given(st.lists(st.tuples(st.integers(-(10**16), 10**16), st.integers(0, 10**8)), min_size=1, max_size=9))
def test_weighing_is_exact(drawn):
    amounts, weights = (np.array(column, np.int64) for column in zip(*drawn, strict=True))
    assert weighed(amounts, weights).tolist() == [amount * weight // 10**6 for amount, weight in drawn]
