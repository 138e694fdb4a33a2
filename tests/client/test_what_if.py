from dataclasses import replace
from datetime import timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, Broken, Rule, ad, campaign, catalogue, event, market, request

from sottovoce.client.auction import MICRO, exact
from sottovoce.client.catalogue import Cap, Competitors, DayPart
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls, Interest, InterestWeights
from sottovoce.client.counterfactual import (
    Bid,
    Floor,
    Forgetting,
    Moment,
    Muting,
    Permission,
    Resuming,
    Unmuting,
    changed,
)
from sottovoce.client.events import EventLog
from sottovoce.client.exploration import Exploration
from sottovoce.client.features import Encoder
from sottovoce.client.ladder import Ranker
from sottovoce.client.occasion import Occasion
from sottovoce.client.page_scorer import page_scorer
from sottovoce.client.picker import Picker
from sottovoce.client.policy import Pace, PickerPolicy, QuietHours
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Banner, Imp
from sottovoce.client.value import QualityRule
from sottovoce.client.what_if import to_lose, to_win
from sottovoce.client.why_not import why_not
from sottovoce.privacy.errors import DeviceError

LOG = EventLog((event("impression", 1, 90), event("click", 1, 80), event("impression", 3, 60)))
LESS = Controls(interests=(Interest(("1097", 8), "less"),))
MORE = Controls(interests=(Interest(("1097", 8), "more"),))
COUNTS = QualityRule(conversion_worth=0.01, dismissal_cost=0.5, repeat_cost=0.01)
ONCE = Cap("creative", "impression", 1, 3600)


def occasion(shop, scorer=None, log=LOG, consent=ALLOWED, now=NOW, controls=None, policy=None, **changes):
    policy = policy or PickerPolicy()

    def build(ads):
        return Picker(SCHEMA, scorer or Rule(history=0.5), ads, policy=policy)

    return Occasion(
        build, build(shop), shop, request(**changes), log, consent, now, controls or Controls(), policy=policy
    )


def kinds(found):
    return [type(one.change) for one in found]


def one(found, kind):
    (only,) = [change for change in found if isinstance(change.change, kind)]
    return only


def winner(at):
    found = at.pick().winner
    return found and found.crid


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 5.0), st.sampled_from(["cpm", "cpc", "cpa"])), min_size=2, max_size=5),
    st.sampled_from([0.0, 120.0]),
    st.integers(0, 4),
)
def test_a_bid_wins_and_a_micro_unit_less_does_not_whatever_the_pricing(offers, floor, wanted):
    shop = catalogue(
        tuple(campaign(f"c{n}", price=price, pricing=pricing) for n, (price, pricing) in enumerate(offers)),
        tuple(ad(f"a{n}", f"c{n}", features={"ad_id": n, "category": 1}) for n in range(len(offers))),
    )
    place = (Imp(id="1", banner=Banner(320, 50), bidfloor=floor),)
    at, crid = occasion(shop, imp=place), f"a{wanted % len(offers)}"
    if winner(at) == crid:
        assert to_win(at, crid) == ()
        return
    bid = one(to_win(at, crid), Bid).change
    assert winner(changed(at, bid)) == crid
    assert winner(changed(at, msgspec.structs.replace(bid, price=bid.price - 1))) != crid
    assert bid.price != bid.before


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3 * MICRO), min_size=2, max_size=4), st.sampled_from(["cpm", "cpc"]))
def test_the_winner_loses_with_a_bid_that_is_a_micro_unit_lower_than_what_still_wins(prices, pricing):
    shop = catalogue(
        tuple(campaign(f"c{n}", price=price / MICRO, pricing=pricing) for n, price in enumerate(prices)),
        tuple(ad(f"a{n}", f"c{n}", features={"ad_id": n, "category": 1}) for n in range(len(prices))),
    )
    at = occasion(shop)
    crid = winner(at)
    for found in to_lose(at):
        assert found.winner == winner(changed(at, found.change)) != crid
        if isinstance(found.change, Bid):
            back = msgspec.structs.replace(found.change, price=found.change.price + 1)
            assert back.price == back.before or winner(changed(at, back)) == crid


def test_an_interest_that_makes_an_ad_worth_half_makes_the_bid_twice_as_large():
    at = occasion(market(3), controls=LESS)
    bid = one(to_win(at, "a2"), Bid).change
    assert winner(changed(at, bid)) == "a2"
    assert winner(changed(at, msgspec.structs.replace(bid, price=bid.price - 1))) != "a2"
    assert bid.price > 2 * bid.before


def test_an_interest_that_favours_an_ad_makes_the_bid_smaller_than_the_auction_alone_says():
    at = occasion(market(5, "cpm"), controls=MORE)
    dear = msgspec.structs.replace(at.catalogue.campaigns[0], price=30.0)
    at = at.among(msgspec.structs.replace(at.catalogue, campaigns=(dear, *at.catalogue.campaigns[1:])))
    bid = one(to_win(at, "a2"), Bid).change
    assert bid.price == 15 * MICRO + 1, "twice as much is just above 30"
    assert winner(changed(at, bid)) == "a2"


def test_no_price_helps_an_ad_that_the_person_wants_nothing_of_by_weight():
    none = PickerPolicy(interests=InterestWeights(less=0.0))
    at = occasion(market(3), controls=LESS, policy=none)
    assert Bid not in kinds(to_win(at, "a2"))
    assert why_not(at.pick(), "a2").missing is None


@pytest.mark.parametrize("controls", [Controls(), LESS, MORE], ids=["plain", "less", "more"])
@pytest.mark.parametrize("quality", [QualityRule(), COUNTS], ids=["money", "more than money"])
@pytest.mark.parametrize("pricing", ["cpm", "cpc", "cpa"])
def test_a_bid_is_worked_out_and_not_searched_for(pricing, quality, controls):
    at = occasion(market(4, pricing), Rule(0.1), policy=PickerPolicy(quality=quality), controls=controls)
    builds = []
    counted = replace(at, build=lambda shop: builds.append(shop) or at.build(shop))
    for crid in {"a0", "a1", "a2", "a3"} - {winner(at)}:
        builds.clear()
        assert Bid in kinds(to_win(counted, crid))
        assert len(builds) <= 2, "the bid, and a micro-unit less"


def test_no_bid_helps_an_ad_that_is_refused_or_that_its_own_campaign_outbids():
    shop = catalogue((campaign("c1"),), (ad("a1"), ad("a2", features={"ad_id": 5})))
    assert Bid not in kinds(to_win(occasion(shop), "a1"))
    blocked = occasion(market(3), badv=("advertiser-c2.example",))
    assert to_win(blocked, "a2") == ()


def test_a_lower_floor_lets_the_best_one_in_and_a_higher_one_keeps_it_out():
    place = (Imp(id="1", banner=Banner(320, 50), bidfloor=900.0),)
    at = occasion(market(3), imp=place)
    best = winner(replace(at, request=request()))
    found = one(to_win(at, best), Floor)
    assert found.winner == best
    assert winner(changed(at, msgspec.structs.replace(found.change, floor=found.change.floor + 1))) is None
    assert exact(found.change.floor) in found.sentence
    raised = one(to_lose(replace(at, request=request())), Floor)
    assert raised.winner is None
    assert raised.change.floor == found.change.floor + 1


def test_a_capped_ad_is_told_the_second_from_which_on_it_may_be_shown():
    zone = timezone(timedelta(hours=2))
    at = occasion(market(5, caps=(ONCE,)), now=NOW.astimezone(zone))
    found = one(to_win(at, "a1"), Moment)
    assert found.change.at == NOW + timedelta(seconds=3600 - 90)
    assert found.winner == "a1"
    assert found.sentence == "At 14:58:30, with everything else as it is, a1 would be shown."
    assert winner(replace(at, now=found.change.at - timedelta(microseconds=1))) != "a1"


def test_a_cap_of_two_is_free_again_when_the_second_newest_is_old_enough():
    log = EventLog((*(event("impression", 1, ago) for ago in (900, 600, 300)), event("click", 1, 290)))
    at = occasion(market(5, caps=(Cap("creative", "impression", 2, 3600),)), log=log)
    assert one(to_win(at, "a1"), Moment).change.at == NOW + timedelta(seconds=3600 - 600)


def test_a_moment_that_changes_nothing_for_the_ad_is_not_told():
    shop = catalogue(
        (
            campaign("c1", price=9.0, end=NOW + timedelta(minutes=30)),
            campaign("c2", dayparts=(DayPart((0,), 0, 13 * 60), DayPart((0,), 13 * 60, 14 * 60))),
        ),
        (ad("a1", "c1"), ad("a2", "c2")),
    )
    at = occasion(shop)
    assert winner(replace(at, now=NOW.replace(hour=13))) == "a2"
    assert Moment not in kinds(to_win(at, "a2")), "at half past twelve it was already so"


def test_a_moment_waits_for_every_limit_of_the_ad():
    caps = (ONCE, Cap("campaign", "click", 1, 7200))
    parts = (DayPart((0,), 15 * 60, 16 * 60), DayPart((1,), 60, 120))
    shop = market(5, caps=caps)
    later = tuple(msgspec.structs.replace(c, dayparts=parts) if c.cid == "c1" else c for c in shop.campaigns)
    assert one(to_win(occasion(msgspec.structs.replace(shop, campaigns=later)), "a1"), Moment).change.at == NOW.replace(
        hour=15
    )
    rival = campaign("c9", seat="rival", price=9.0, cat=("1335",), competitors=Competitors(cat=("1058",), within_s=600))
    apart = catalogue((campaign("c1"), rival), (ad("a1", "c1"), ad("a9", "c9", features={"ad_id": 6})))
    found = one(to_win(occasion(apart), "a9"), Moment)
    assert found.change.at == NOW + timedelta(seconds=600 - 90)


def test_quiet_hours_and_a_flight_that_has_not_begun_have_an_end():
    quiet = PickerPolicy(page=Pace(wait_s=120, quiet=QuietHours(11 * 60, 12 * 60 + 30)))
    assert one(to_win(occasion(market(1), policy=quiet, log=EventLog()), "a0"), Moment).change.at == NOW.replace(
        minute=30
    )
    soon = PickerPolicy(page=Pace(wait_s=120))
    waits = to_win(occasion(market(5), policy=soon), "a1")
    assert one(waits, Moment).change.at == NOW + timedelta(seconds=60)
    start = NOW + timedelta(hours=3)
    shop = catalogue((campaign("c1", start=start, end=start + timedelta(hours=1)),), (ad("a1"),))
    assert one(to_win(occasion(shop), "a1"), Moment).change.at == start


def test_the_winner_is_told_when_its_day_part_ends():
    shop = catalogue((campaign("c1", dayparts=(DayPart((0,), 0, 13 * 60),)),), (ad("a1"),))
    found = one(to_lose(occasion(shop)), Moment)
    assert (found.change.at, found.winner) == (NOW.replace(hour=13), None)


def test_what_the_person_may_do_is_told_where_it_would_change_the_ad():
    at = occasion(market(5))
    assert winner(at) == "a1"
    lost = to_lose(at)
    assert {Permission, Forgetting, Muting} <= set(kinds(lost))
    assert one(lost, Permission).change == Permission("serve_personalised", False)
    back = replace(at, consent=ANONYMOUS)
    assert one(to_win(back, "a1"), Permission).change == Permission("serve_personalised", True)
    assert Permission in kinds(to_win(replace(at, consent=Consent(serve_contextual=False)), "a4"))
    assert kinds(to_win(replace(at, controls=Controls(paused=True)), "a1"))[-1] is Resuming
    assert Forgetting in kinds(to_win(at, "a4"))


@pytest.mark.parametrize(
    ("controls", "change"),
    [
        (Controls(muted_crids=("a1",)), Unmuting("crids", "a1")),
        (Controls(muted_seats=("advertiser-c1",)), Unmuting("seats", "advertiser-c1")),
        (Controls(muted_categories=(("1058", 8),)), Unmuting("categories", "1058", 8)),
        (Controls(interests=(Interest(("1058", 8), "never"),)), Unmuting("categories", "1058", 8)),
    ],
)
def test_a_muted_ad_is_told_which_mute_it_is_and_two_mutes_are_no_single_change(controls, change):
    shop = market(5)
    assert shop.campaign["c1"].cat == ("1058",)
    assert one(to_win(occasion(shop, controls=controls), "a1"), Unmuting).change == change
    both = msgspec.structs.replace(controls, muted_crids=("a1",), muted_seats=("advertiser-c1",))
    assert Unmuting not in kinds(to_win(occasion(shop, controls=both), "a1"))


@pytest.mark.parametrize("scorer", [Broken("nan"), Rule(0.0)])
def test_where_the_model_says_nothing_only_what_was_tried_is_told(scorer):
    at = occasion(market(3), scorer)
    for crid in ("a1", "a2"):
        assert all(found.winner == crid for found in to_win(at, crid))
    assert all(found.winner != winner(at) for found in to_lose(at))


def test_an_ad_that_would_cost_more_than_it_earns_is_told_the_least_bid_at_which_it_does_not():
    dear = PickerPolicy(quality=QualityRule(repeat_cost=1.0))
    at = occasion(market(2, "cpm"), policy=dear, log=EventLog((event("impression", 1, 0), event("impression", 1, 0))))
    assert Loss.NOT_WORTH_SHOWING in {one.reason for one in why_not(at.pick(), "a1").against}
    bid = one(to_win(at, "a1"), Bid).change
    assert winner(changed(at, bid)) == "a1"
    assert winner(changed(at, msgspec.structs.replace(bid, price=bid.price - 1))) == "a0"


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["epsilon", "thompson"]))
def test_what_is_told_of_a_drawn_ad_was_tried_with_the_same_draw(draw, method):
    policy = PickerPolicy(exploration=Exploration(method=method, epsilon=0.5), quality=COUNTS)
    at = replace(occasion(market(4), policy=policy), draw=draw)
    crid = winner(at)
    for found in to_lose(at):
        assert found.winner == winner(changed(at, found.change)) != crid
        if isinstance(found.change, Bid):
            assert found.change.price < found.change.before
    for other in {"a0", "a1", "a2", "a3"} - {crid}:
        assert all(found.winner == other == winner(changed(at, found.change)) for found in to_win(at, other))


@pytest.mark.parametrize("newest", ["absent", "fails", "late"])
def test_what_would_have_changed_it_is_asked_of_the_step_that_answered_and_not_of_the_clock(newest):
    ms = [0]

    class Late(Rule):
        def scores(self, *given):
            ms[0] += 60
            return super().scores(*given)

    models = {"absent": None, "fails": Broken("nan"), "late": Late(0.2)}

    def build(ads, clock=None):
        before, page = Ranker(SCHEMA, Rule(history=0.5)), page_scorer(Encoder(SCHEMA, ads), Rule(0.3), ads)
        return Picker(SCHEMA, models[newest], ads, previous=before, page=page, clock=clock)

    shop = market(3)
    at = replace(occasion(shop), build=build, picker=build(shop, lambda: ms[0] * 10**6))
    decision = at.pick()
    assert decision.fallback == ("contextual" if newest == "late" else "previous")
    at, asked = at.decided(decision), ms[0]
    for other in {"a0", "a1", "a2"} - {winner(at)}:
        told = to_win(at, other)
        assert Bid in kinds(told)
        assert all(winner(changed(at, found.change)) == other for found in told)
    assert (at.pick().fallback, at.pick().fault, ms[0]) == (decision.fallback, decision.fault, asked)


def test_without_an_ad_nobody_loses_and_an_unknown_ad_is_refused():
    assert to_lose(occasion(catalogue((), ()))) == ()
    with pytest.raises(DeviceError, match="no ad 'a9'"):
        to_win(occasion(market(2)), "a9")
