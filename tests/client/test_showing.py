"""Creatives with combinations in the picker: who may take part, which parts are shown, and how probably."""

from collections import Counter

import pytest
from small_creative import BRAND, DAY, approved, creative, record
from small_creative import NOW as APPROVED
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, Rule, market
from small_market import request as page

from sottovoce.client.approval import FRAME
from sottovoce.client.catalogue import Ad
from sottovoce.client.combination import showable
from sottovoce.client.combination_choice import learn
from sottovoce.client.combination_posterior import Posterior
from sottovoce.client.events import EventLog
from sottovoce.client.exploration import Exploration
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.reasons import Loss
from sottovoce.client.showing import moment_of
from sottovoce.client.value import QualityRule

NOTHING = EventLog()


def ready(crid, *more, **changes):
    one = creative(crid=crid, **changes)
    return showable(one, approved(one, *more), BRAND, APPROVED)


def picker(creatives, policy=None, scorer=None, **more):
    return Picker(SCHEMA, scorer or Rule(), market(4), policy=policy, creatives=creatives, **more)


def test_an_ad_with_nothing_to_show_stays_out_and_raises_nobodys_price():
    plain = picker({}).pick(page(), NOTHING, ALLOWED, NOW)
    one = creative(crid="a3")
    gone = ready("a3", record(one, FRAME, 4, at=APPROVED - DAY / 2))
    found = picker({"a3": gone}).pick(page(), NOTHING, ALLOWED, NOW)
    assert (plain.winner.crid, found.winner.crid) == ("a3", "a2")
    assert {loser.crid: (loser.reason, loser.rule) for loser in found.losers}["a3"] == (Loss.AUDIT_REFUSED, "creative")
    assert found.winner.price < plain.winner.price
    assert found.combination is None


@pytest.mark.parametrize(
    ("now", "wlang"),
    [(NOW + 60 * DAY, ()), (NOW, ("fr",))],
    ids=["approvals have ended", "no language of the page"],
)
def test_an_ad_whose_combinations_do_not_hold_here_and_now_stays_out(now, wlang):
    shop = Picker(SCHEMA, Rule(), market(4), creatives={f"a{n}": ready(f"a{n}") for n in range(4)})
    found = shop.pick(page(wlang=wlang), NOTHING, ALLOWED, now)
    assert found.winner is None
    reasons = {loser.reason for loser in found.losers}
    assert reasons <= {Loss.NO_COMBINATION, Loss.OUTSIDE_FLIGHT, Loss.LANGUAGE}


def test_a_page_in_another_language_is_refused_by_the_parts_where_the_ad_itself_has_none():
    shop = market(1)
    bare = type(shop)(
        1, "USD", 8, shop.campaigns, (Ad("a0", "c0", 1, 320, 50, audit=3, features=shop.ads[0].features),)
    )
    found = Picker(SCHEMA, Rule(), bare, creatives={"a0": ready("a0")}).pick(page(wlang=("fr",)), NOTHING, ALLOWED, NOW)
    assert [loser.reason for loser in found.losers] == [Loss.NO_COMBINATION]


@pytest.mark.parametrize("method", ["none", "epsilon", "thompson"])
def test_ad_and_parts_are_drawn_as_often_as_their_probabilities_say(method):
    creatives = {f"a{n}": ready(f"a{n}") for n in (0, 2, 3)}
    policy = PickerPolicy(
        exploration=Exploration(method=method, epsilon=0.3, candidates=3), quality=QualityRule(conversion_worth=0.01)
    )
    shop, counts, told, draws = picker(creatives, policy), Counter(), {}, 500
    considered = set()
    for step in range(draws):
        found = shop.pick(page(), NOTHING, ALLOWED, NOW, draw=(step + 0.5) / draws)
        parts = found.combination.parts if found.combination else ()
        shown = found.winner.crid, parts
        counts[shown] += 1
        told[shown] = found.propensity * (found.combination.propensity if found.combination else 1.0)
        considered.add(found.considered)
        assert found.winner.price <= found.winner.value
    assert sum(told.values()) == pytest.approx(1.0)
    for shown, probability in told.items():
        assert abs(counts[shown] / draws - probability) < 2.1 / draws
    (one,) = considered
    assert sum(chance for _, chance in one) == (0 if method == "none" else 1)
    assert len({crid for crid, _ in told}) == (1 if method == "none" else 3)
    assert all(len({parts for crid, parts in told if crid == name}) > 1 for name in {crid for crid, _ in told} - {"a1"})


def test_the_parts_that_a_person_likes_are_not_looked_at_without_consent():
    one = ready("a3")
    shop, beliefs = picker({"a3": one}), Posterior()
    first = shop.pick(page(), NOTHING, ALLOWED, NOW).combination
    for _ in range(300):
        beliefs = learn(beliefs, one, first, moment_of(page(), NOW), clicked=True)
    asked = [(consent, parts) for consent in (ALLOWED, ANONYMOUS) for parts in (None, beliefs)]
    chosen = [
        [shop.pick(page(), NOTHING, consent, NOW, draw=step / 20, parts=parts).combination for step in range(20)]
        for consent, parts in asked
    ]
    assert chosen[0] != chosen[1]
    assert chosen[2] == chosen[3] == chosen[0]


def test_a_turn_of_the_rotation_has_parts_too():
    found = Picker(SCHEMA, None, market(1), creatives={"a0": ready("a0")}).pick(page(), NOTHING, ALLOWED, NOW, draw=0.4)
    assert (found.fallback, found.combination.level, found.combination.draw) == ("rotation", "bandit", 0.4)
