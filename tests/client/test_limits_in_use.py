"""No cap is ever exceeded by what the picker shows: random campaigns, every format, clocks that jump, restarts."""

from datetime import timedelta
from random import Random

import pytest
from small_market import ALLOWED, ANONYMOUS, CATEGORIES, NOW, SCHEMA, Broken, Rule, ad, campaign, catalogue, request

from sottovoce.client.catalogue import Cap, Competitors
from sottovoce.client.eligibility import below
from sottovoce.client.events import Event, EventLog, decode_log, encode_log
from sottovoce.client.picker import Picker
from sottovoce.client.policy import CoolDown, Pace, PickerPolicy
from sottovoce.client.request import Banner, Imp, ImpExt, Other

WINDOWS = (1, 60, 600, 3600)
PLACES = (
    Imp("1", banner=Banner(320, 50)),
    Imp("1", native=Other()),
    Imp("1", video=Other()),
    Imp("1", banner=Banner(), native=Other(), ext=ImpExt("notification")),
)
KEPT = timedelta(seconds=3 * max(WINDOWS))
"""Retention of the log; clocks go back by less than the rest."""


def drawn_market(random):
    def cap():
        level = random.choice(("creative", "campaign", "advertiser", "category"))
        event = random.choice(("impression", "impression", "impression", "click", "dismiss"))
        return Cap(level, event, random.choice((0, 1, 2, 3, 5, 8)), random.choice(WINDOWS))

    campaigns = tuple(
        campaign(
            f"c{n}",
            seat=f"s{random.randint(0, 3)}",
            cat=tuple(random.sample(CATEGORIES[:4], random.randint(0, 2))),
            price=random.choice((0.0, 0.5, 1.0, 2.0)),
            pricing=random.choice(("cpm", "cpc", "cpa")),
            start=NOW - timedelta(days=4000),
            end=NOW + timedelta(days=4000),
            caps=tuple(cap() for _ in range(random.randint(0, 3))),
            competitors=Competitors((f"advertiser-c{random.randint(0, 5)}.example",), (), random.choice((0, 60, 600))),
        )
        for n in range(6)
    )
    ads = tuple(
        ad(f"a{n}", f"c{n % 6}", mtype=random.choice((1, 1, 4, 2)), features={"ad_id": n, "category": n % 3})
        for n in range(12)
    )
    return catalogue(campaigns, ads)


def broken_limits(market, policy, place, log, winner, now):
    """Everything that showing this ad now breaks, counted event by event."""

    def recent(seconds, *kinds):
        return [one for one in log.events if one.event in kinds and now - one.ts < timedelta(seconds=seconds)]

    own = market.campaign[winner.cid]

    def alike(level, one):
        """Per name that the limit counts, whether the event counts; no names for a campaign without categories."""
        theirs = market.campaign[one.cid]
        return {
            "creative": [one.crid == winner.crid],
            "campaign": [one.cid == winner.cid],
            "advertiser": [theirs.seat == own.seat],
            "category": [category in theirs.cat for category in own.cat],
        }[level]

    for cap in own.caps:
        rows = [alike(cap.level, one) for one in recent(cap.window_s, cap.event)]
        names = len(own.cat) if cap.level == "category" else 1
        if any(sum(row[name] for row in rows) >= cap.max for name in range(names)):
            yield cap
    for rest in policy.cool_downs:
        if sum(alike(rest.level, one)[0] for one in recent(rest.window_s, rest.after)) >= rest.times:
            yield rest
    for one in recent(own.competitors.within_s, "impression") if own.competitors.within_s else ():
        theirs = market.campaign[one.cid]
        if theirs.seat != own.seat and any(below(theirs.adomain[0], rival) for rival in own.competitors.adomain):
            yield one
    pace = policy.pace(place.ext.kind)
    if pace.per_hour is not None and len(recent(3600, "impression")) >= pace.per_hour:
        yield pace
    if pace.wait_s and recent(pace.wait_s, "impression"):
        yield pace


def use(seed, decisions):
    """How many ads a long use showed; fails at the first broken limit."""
    random = Random(seed)  # noqa: S311
    market = drawn_market(random)
    scorers = (Rule(history=0.3), Rule(history=0.3), None, Broken("nan"))
    policy = PickerPolicy(
        page=Pace(per_hour=random.choice((None, 40)), wait_s=random.choice((0, 5))),
        notification=Pace(per_hour=4, wait_s=60),
        cool_downs=tuple(
            CoolDown(after, random.choice(("creative", "campaign", "advertiser")), random.choice(WINDOWS))
            for after in ("dismiss", "conversion")
        ),
    )
    picker, log, now, shown = Picker(SCHEMA, random.choice(scorers), market, policy=policy), EventLog(), NOW, 0
    for step in range(decisions):
        now += timedelta(seconds=random.choice((0, 1, 7, 30, 60, 61, 600, -1, -90)), microseconds=random.choice((0, 1)))
        if random.random() < 0.03:  # a restart, sometimes with another model, or years away
            now += timedelta(days=random.choice((0, 0, 0, 0, 700, -700)))
            now = now if abs(now - NOW) < timedelta(days=3000) else NOW
            newest = max((one.ts for one in log.events), default=now)
            if newest <= now:
                log = EventLog(tuple(event for event in log.events if event.ts >= now - KEPT))
            elif random.random() < 0.5:  # a log from the future holds back nearly everything, until it is cleared
                log = EventLog()
            log = decode_log(encode_log(log.events))
            picker = Picker(SCHEMA, random.choice(scorers), market, policy=policy)
        place = random.choice(PLACES)
        asked = request(id=f"r{step}", imp=(place,))
        decision = picker.pick(asked, log, random.choice((ALLOWED, ANONYMOUS)), now)
        winner = decision.winner
        if winner is None:
            continue
        shown += 1
        assert not [*broken_limits(market, policy, place, log, winner, now)], (seed, step, winner)
        then = random.choice(((), (), (), ("click",), ("dismiss",), ("click", "conversion")))
        log = log.appended(*(Event(now, kind, winner.crid, winner.cid) for kind in ("impression", *then)))
    return shown


@pytest.mark.parametrize("seed", range(6))
def test_no_limit_is_ever_broken_in_use(seed):
    assert use(seed, 500) > 20


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 140))
def test_no_limit_is_ever_broken_in_a_million_decisions(seed):
    assert use(seed, 25_000) > 100
