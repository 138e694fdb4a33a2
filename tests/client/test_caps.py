from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_market import CATEGORIES, NOW, ad, campaign, catalogue, event

from sottovoce.client.caps import Counts
from sottovoce.client.catalogue import Cap
from sottovoce.client.events import Event, EventLog
from sottovoce.client.reasons import Loss

LEVELS = ("creative", "campaign", "advertiser", "category")
REASONS = (Loss.CAPPED_CREATIVE, Loss.CAPPED_CAMPAIGN, Loss.CAPPED_ADVERTISER, Loss.CAPPED_CATEGORY)


def refusal(cap, log, crid="a1"):
    market = catalogue((campaign(caps=(cap,)),), (ad("a1"), ad("a2")))
    return Counts(log, market, NOW).refusal(market.ads[market.place[crid]], market.campaign["c1"])


@pytest.mark.parametrize(("level", "expected"), list(zip(LEVELS, REASONS, strict=True)))
def test_a_cap_holds_at_every_level_from_its_maximum_on(level, expected):
    cap = Cap(level, "impression", 2, 3600)
    assert refusal(cap, EventLog((event("impression", 1),))) is None
    full = refusal(cap, EventLog((event("impression", 1), event("impression", 1))))
    assert full.reason is expected
    assert "2 of at most 2 impressions in 3600 s" in full.detail


def test_a_cap_of_zero_refuses_at_once():
    assert refusal(Cap("creative", "impression", 0, 1), EventLog()) is not None


def test_another_creative_counts_for_the_campaign_but_not_for_this_creative():
    log = EventLog((event("impression", 1),))
    assert refusal(Cap("creative", "impression", 1, 3600), log, "a2") is None
    assert refusal(Cap("campaign", "impression", 1, 3600), log, "a2") is not None


@pytest.mark.parametrize("other", ["click", "conversion", "dismiss"])
def test_only_the_named_event_counts(other):
    log = EventLog((event(other, 1),) * 5)
    assert refusal(Cap("creative", "impression", 1, 3600), log) is None
    assert refusal(Cap("creative", other, 5, 3600), log) is not None


@pytest.mark.parametrize(("ago_us", "counts"), [(3_599_999_999, True), (3_600_000_000, False), (0, True), (-60, True)])
def test_an_event_exactly_one_window_ago_no_longer_counts_and_a_future_one_does(ago_us, counts):
    one = Event(NOW - timedelta(microseconds=ago_us), "impression", "a1", "c1")
    assert (refusal(Cap("creative", "impression", 1, 3600), EventLog((one,))) is not None) is counts


def test_an_event_of_a_campaign_that_left_still_counts_for_its_creative():
    gone = Event(NOW, "impression", "a1", "gone")
    assert refusal(Cap("creative", "impression", 1, 60), EventLog((gone,))) is not None
    assert refusal(Cap("advertiser", "impression", 1, 60), EventLog((gone,))) is None


caps = st.builds(
    Cap,
    st.sampled_from(LEVELS),
    st.sampled_from(["impression", "click", "conversion", "dismiss"]),
    st.integers(0, 4),
    st.sampled_from([1, 60, 3600, 86400]),
)
seats = st.sampled_from(["advertiser-1", "advertiser-2"])
groups = st.lists(st.sampled_from(CATEGORIES[:3]), max_size=2).map(tuple)


@st.composite
def markets(draw):
    campaigns = tuple(
        campaign(f"c{n}", seat=draw(seats), cat=draw(groups), caps=tuple(draw(st.lists(caps, max_size=3))))
        for n in range(3)
    )
    return catalogue(campaigns, tuple(ad(f"a{n}", f"c{n % 3}") for n in range(5)))


events = st.builds(
    lambda kind, crid, ago: Event(NOW - timedelta(seconds=ago), kind, f"a{crid}", f"c{crid % 3}"),
    st.sampled_from(["impression", "click", "conversion", "dismiss"]),
    st.integers(0, 4),
    st.one_of(st.sampled_from([0, 1, 60, 3600, 86400, -5]), st.floats(0, 90000)),
)


def brute(cap, one, market, log):
    """Whether the cap refuses `one`, counted event by event."""
    own = market.campaign[one.cid]
    keys = {"creative": [one.crid], "campaign": [own.cid], "advertiser": [own.seat], "category": own.cat}[cap.level]
    for key in keys:
        count = 0
        for past in log.events:
            theirs = market.campaign[past.cid]
            same = {
                "creative": past.crid == key,
                "campaign": past.cid == key,
                "advertiser": theirs.seat == key,
                "category": key in theirs.cat,
            }[cap.level]
            count += same and past.event == cap.event and NOW - past.ts < timedelta(seconds=cap.window_s)
        if count >= cap.max:
            return True
    return False


@settings(max_examples=200)
@given(markets(), st.lists(events, max_size=25))
def test_the_counts_equal_a_count_by_hand(market, drawn):
    log = EventLog(tuple(drawn))
    counts = Counts(log, market, NOW)
    for one in market.ads:
        own = market.campaign[one.cid]
        assert (counts.refusal(one, own) is not None) == any(brute(cap, one, market, log) for cap in own.caps)
