"""Limits kept event by event say what a count of the whole log says, whatever the clock and whatever was restarted."""

from datetime import timedelta
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_market import CATEGORIES, NOW, ad, campaign, catalogue

from sottovoce.client.caps import Counts
from sottovoce.client.catalogue import Cap, Competitors
from sottovoce.client.columns import columns
from sottovoce.client.events import Event, EventLog, micros
from sottovoce.client.limits import Limits
from sottovoce.client.policy import CoolDown
from sottovoce.client.reasons import Loss

KINDS = ("impression", "click", "conversion", "dismiss")
WINDOWS = (1, 60, 3600, 86400)


def cap(random):
    level = random.choice(("creative", "campaign", "advertiser", "category"))
    return Cap(level, random.choice(KINDS), random.choice((0, 1, 1, 2, 3)), random.choice(WINDOWS))


def shop(random):
    def some(names):
        return tuple(random.sample(names, random.randint(0, 2)))

    campaigns = tuple(
        campaign(
            f"c{n}",
            seat=random.choice(("s1", "s2", "s3")),
            adomain=some(("a.example", "shop.a.example", "b.example")),
            cat=some(CATEGORIES[:3]),
            caps=tuple(cap(random) for _ in range(random.randint(0, 2))),
            competitors=Competitors(
                some(("a.example", "b.example")), some(CATEGORIES[:2]), random.choice((0, 60, 3600))
            ),
        )
        for n in range(4)
    )
    return catalogue(campaigns, tuple(ad(f"a{n}", f"c{n % 4}") for n in range(7)))


def event(random, now):
    n = random.randint(0, 7)  # a7 has left the catalogue, and so has c9
    cid = random.choice((f"c{n % 4}", f"c{n % 4}", f"c{n % 4}", "c9"))
    return Event(now - timedelta(seconds=random.choice((0, 0, 1, 59, 90000))), random.choice(KINDS), f"a{n}", cid)


def test_limits_agree_with_a_count_of_the_log_and_every_reason_has_its_turn():
    met = set()

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.integers(0, 2**32))
    def agree(seed):
        random = Random(seed)  # noqa: S311
        market = shop(random)
        levels = ("creative", "campaign", "advertiser")
        rests = tuple(
            CoolDown(random.choice(("dismiss", "conversion")), random.choice(levels), random.choice(WINDOWS))
            for _ in range(random.randint(0, 2))
        )
        limits, log, now = Limits(market, columns(market), rests), EventLog(), NOW
        for _ in range(12):
            now += timedelta(seconds=random.choice((0, 1, 60, 3599, 86400, -50, -86400)))
            grown = log.appended(*(event(random, now) for _ in range(random.randint(0, 3))))
            # A restart reads the same events anew; a shorter log has lost its oldest or newest ones.
            log = random.choice(
                (grown, grown, EventLog(grown.events), EventLog(grown.events[1:]), EventLog(grown.events[:-1]))
            )
            limits.follow(log)
            counts = Counts(log, market, now, rests)
            told = [counts.refusal(one, market.campaign[one.cid]) for one in market.ads]
            found = limits.codes(np.arange(len(market.ads)), micros(now))
            assert found.tolist() == [no.reason if no else 0 for no in told]
            impressions = [
                moment for one, moment in zip(log.events, log.micros, strict=True) if one.event == "impression"
            ]
            assert limits.shown == sorted(impressions)
            met.update(no.reason for no in told if no)

    agree()
    assert met == {
        *(Loss.CAPPED_CREATIVE, Loss.CAPPED_CAMPAIGN, Loss.CAPPED_ADVERTISER, Loss.CAPPED_CATEGORY),
        *(Loss.COOLING_DOWN, Loss.COMPETITOR_BEFORE),
    }


def told(market, log, *rests, now=NOW):
    limits = Limits(market, columns(market), rests)
    limits.follow(log)
    return limits.codes(np.arange(len(market.ads)), micros(now)).tolist()


@pytest.mark.parametrize(
    ("level", "expected"), [("creative", [514, 0, 0]), ("campaign", [514, 514, 0]), ("advertiser", [514, 514, 514])]
)
def test_a_dismissal_rests_what_it_was_set_to_rest_and_no_longer(level, expected):
    campaigns = (campaign("c1", seat="s"), campaign("c2", seat="s"))
    market = catalogue(campaigns, (ad("a1", "c1"), ad("a2", "c1"), ad("a3", "c2")))
    log = EventLog((Event(NOW, "dismiss", "a1", "c1"), Event(NOW, "impression", "a3", "c2")))
    rest = CoolDown("dismiss", level)
    hours = timedelta(hours=48)
    assert told(market, log, rest, now=NOW + hours - timedelta(microseconds=1)) == expected
    assert told(market, log, rest, now=NOW + hours) == [0, 0, 0]


def test_two_dismissals_can_be_asked_for():
    market = catalogue((campaign("c1"),), (ad("a1", "c1"),))
    once = EventLog((Event(NOW, "dismiss", "a1", "c1"),))
    rest = CoolDown("dismiss", "creative", times=2)
    assert told(market, once, rest) == [0]
    assert told(market, once.appended(*once.events), rest) == [Loss.COOLING_DOWN]


def test_a_competitor_is_not_followed_for_as_long_as_the_campaign_says_and_its_own_seat_is_none():
    avoid = Competitors(("rival.example",), ("1097",), 300)
    campaigns = (
        campaign("c1", competitors=avoid),
        campaign("c2", adomain=("www.Rival.example",)),
        campaign("c3", cat=("1097",)),
        campaign("c4", seat="advertiser-c1", cat=("1097",)),
    )
    market = catalogue(campaigns, tuple(ad(f"a{n}", f"c{n}") for n in range(1, 5)))
    for n, expected in ((1, 0), (2, 508), (3, 508), (4, 0)):
        log = EventLog((Event(NOW, "impression", f"a{n}", f"c{n}"), Event(NOW, "click", f"a{n}", f"c{n}")))
        assert told(market, log, now=NOW + timedelta(seconds=299)) == [expected, 0, 0, 0]
        assert told(market, log, now=NOW + timedelta(seconds=300)) == [0, 0, 0, 0]
