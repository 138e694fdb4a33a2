import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, Broken, Rule, ad, campaign, catalogue, event, market, request

from sottovoce.client.auction import millionths
from sottovoce.client.catalogue import Cap, DayPart
from sottovoce.client.controls import Controls
from sottovoce.client.decision import Decision
from sottovoce.client.events import EventLog
from sottovoce.client.picker import Picker
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Banner, Imp
from sottovoce.client.why_not import why_not
from sottovoce.privacy.errors import DeviceError

TWICE = Cap("creative", "impression", 1, 3600)
LOG = EventLog((event("impression", 1, 60), event("click", 1, 50), event("impression", 3, 40)))


def pick(shop, scorer=None, log=LOG, consent=ALLOWED, controls=None, **changes):
    return Picker(SCHEMA, scorer or Rule(history=0.5), shop).pick(request(**changes), log, consent, NOW, controls)


def test_everything_that_stood_against_an_ad_is_named_the_first_rule_first():
    never = (DayPart((6,), 0, 60),)
    shop = catalogue(
        (campaign("c0"), campaign("c1", dayparts=never, caps=(TWICE, Cap("campaign", "click", 1, 60)), cat=("1000",))),
        (ad("a0", "c0"), ad("a1", "c1", w=1, h=1)),
    )
    told = why_not(pick(shop, controls=Controls(muted_crids=("a1",), muted_seats=("advertiser-c1",))), "a1")
    assert [one.reason for one in told.against] == [
        Loss.SIZE,
        Loss.OUTSIDE_DAYPART,
        Loss.SENSITIVE,
        Loss.MUTED_ADVERTISER,
        Loss.MUTED_AD,
        Loss.CAPPED_CREATIVE,
        Loss.CAPPED_CAMPAIGN,
    ]
    assert all(one.words and one.rule and one.detail for one in told.against)
    assert (told.scores, told.value, told.missing) == ((), None, None), "a sensitive ad is not scored with a history"


def test_an_ad_that_a_rule_kept_out_is_told_what_it_would_have_been_worth():
    shop = market(5)
    blocked = pick(shop, badv=("advertiser-c1.example",))
    told, really = why_not(blocked, "a1"), pick(shop)
    assert really.winner.crid == "a1"
    assert (told.scores, told.value, told.missing) == (really.winner.scores, really.winner.value, 0)
    assert "enough to be first" in told.sentence


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.sampled_from([0.0, 150.0, 900.0]), st.booleans(), st.integers(0, 7))
def test_the_first_reason_is_the_decisions_and_what_is_missing_is_what_the_auction_says(size, floor, allowed, blocked):
    place = (Imp(id="1", banner=Banner(320, 50), bidfloor=floor),)
    consent = ALLOWED if allowed else ANONYMOUS
    decision = pick(market(size), consent=consent, imp=place, badv=(f"advertiser-c{blocked}.example",))
    for loser in decision.losers:
        told = why_not(decision, loser.crid)
        assert not told.shown
        assert told.against[0].reason is loser.reason
        if loser.value is not None:
            assert (told.value, told.scores) == (loser.value, loser.scores)
            assert told.missing > 0
            rivals = [(millionths(one.value), one.crid) for one in decision.losers if one.value is not None]
            rivals += [(millionths(decision.winner.value), decision.winner.crid)] if decision.winner else []
            need = max(millionths(floor), *(v + (crid < loser.crid) for v, crid in rivals if crid != loser.crid), 0)
            assert told.missing == need - millionths(loser.value)
    if decision.winner:
        told = why_not(decision, decision.winner.crid)
        assert (told.shown, told.against, told.missing) == (True, (), 0)


def test_a_house_ad_and_a_turn_that_was_not_its_own_have_their_reasons():
    shop = catalogue((campaign("c0"), campaign("c1", price=0.0)), (ad("a0", "c0"), ad("a1", "c1")))
    assert [one.reason for one in why_not(pick(shop), "a1").against] == [Loss.UNPAID]
    told = why_not(pick(market(3), Broken("nan"), EventLog()), "a2")
    assert [one.reason for one in told.against] == [Loss.NOT_ITS_TURN]
    assert (told.scores, told.missing) == ((), None)


def test_where_no_ad_is_allowed_nothing_need_stand_against_one():
    told = why_not(pick(market(2), consent=replace_consent(serve_contextual=False)), "a1")
    assert (told.shown, told.against) == (False, ())
    assert "TCF purpose 2" in told.sentence


def replace_consent(**gates):
    return msgspec.structs.replace(ALLOWED, **gates)


def test_an_unknown_ad_and_a_decision_from_a_file_are_refused():
    decision = pick(market(2))
    with pytest.raises(DeviceError, match="no ad 'a9'"):
        why_not(decision, "a9")
    with pytest.raises(DeviceError, match="read back"):
        why_not(msgspec.json.decode(msgspec.json.encode(decision), type=Decision), "a1")
