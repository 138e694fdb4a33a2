from datetime import timedelta, timezone

import pytest
from small_market import NOW, ad, campaign, catalogue, request

from sottovoce.client.catalogue import Competitors, DayPart
from sottovoce.client.columns import columns
from sottovoce.client.controls import Controls, Interest
from sottovoce.client.eligibility import refusal, throttle
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Banner, Content, Imp, ImpExt, Neighbour, Other, Publisher, Size
from sottovoce.client.screening import screened
from sottovoce.client.situation import NOTHING_SET, Situation


def situation(now=NOW, personalised=True, taxonomy=8, controls=NOTHING_SET, mrating=3, **changes):
    return Situation(request(**changes), now, personalised, "USD", taxonomy, controls, mrating)


def reason(ad_changes=None, campaign_changes=None, at=None):
    """The reason against one ad, or None when it may be shown."""
    at = at or situation()
    market = catalogue((campaign(**campaign_changes or {}),), (ad(**ad_changes or {}),), at.cattax)
    found = refusal(market.ads[0], market.campaigns[0], at)
    (code,) = screened(market, columns(market), at)
    assert code == (found.reason if found else 0)
    return found and found.reason


def place(**changes):
    return (Imp(id="1", **changes),)


RIVALS = {"competitors": Competitors(("rival.example",), ("1097",))}


def near(**changes):
    """A place with one ad beside it."""
    return place(banner=Banner(), ext=ImpExt(beside=(Neighbour(**changes),)))


def rated(rating):
    """An app whose content has this rating."""
    return Publisher(bundle="news.example", content=Content(qagmediarating=rating))


def test_an_ordinary_ad_may_be_shown():
    assert reason() is None


MONDAY_NOON = 12 * 60


@pytest.mark.parametrize(
    ("ad_changes", "campaign_changes", "at", "expected"),
    [
        ({"audit": 1}, {}, {}, Loss.AUDIT_PENDING),
        ({"audit": 2}, {}, {}, None),
        ({"audit": 4}, {}, {}, Loss.AUDIT_REFUSED),
        ({"audit": 5}, {}, {}, Loss.AUDIT_PENDING),
        ({"audit": 6}, {}, {}, Loss.AUDIT_REFUSED),
        ({"mtype": 2}, {}, {}, Loss.FORMAT),
        ({"mtype": 4, "w": 1}, {}, {"imp": place(native=Other())}, None),
        ({}, {}, {"imp": place(video=Other())}, Loss.FORMAT),
        ({"w": 321}, {}, {}, Loss.SIZE),
        ({"w": 300, "h": 250}, {}, {"imp": place(banner=Banner(320, 50, (Size(300, 250),)))}, None),
        ({"w": 9}, {}, {"imp": place(banner=Banner())}, None),
        ({"language": "fr"}, {}, {"wlang": ("en",)}, Loss.LANGUAGE),
        ({"language": "en-GB"}, {}, {"wlang": ("EN",)}, None),
        ({"language": ""}, {}, {"wlang": ("de",)}, None),
        ({"language": "fr"}, {}, {"wlang": ()}, None),
        ({"attr": (3,)}, {}, {"imp": place(banner=Banner(battr=(2, 3)))}, Loss.ATTRIBUTE_BLOCKED),
        ({"attr": (1,)}, {}, {"imp": place(banner=Banner(battr=(2, 3)))}, None),
        ({}, {"start": NOW}, {}, None),
        ({}, {"start": NOW + timedelta(microseconds=1)}, {}, Loss.OUTSIDE_FLIGHT),
        ({}, {"end": NOW}, {}, Loss.OUTSIDE_FLIGHT),
        ({}, {"dayparts": (DayPart((0,), MONDAY_NOON, MONDAY_NOON + 1),)}, {}, None),
        ({}, {"dayparts": (DayPart((0,), 0, MONDAY_NOON),)}, {}, Loss.OUTSIDE_DAYPART),
        ({}, {"dayparts": (DayPart((1, 2), 0, 1440), DayPart((0,), 0, 1440))}, {}, None),
        ({}, {"dayparts": (DayPart((6,), 0, 1440),)}, {}, Loss.OUTSIDE_DAYPART),
        ({}, {}, {"cur": ("EUR",)}, Loss.CURRENCY),
        ({}, {}, {"cur": ()}, None),
        ({}, {}, {"imp": place(banner=Banner(), bidfloor=0.1, bidfloorcur="EUR")}, Loss.CURRENCY),
        ({}, {}, {"imp": place(banner=Banner(), bidfloor=0.0, bidfloorcur="EUR")}, None),
        ({}, {"cat": ("1058", "1059")}, {"bcat": ("1059",), "cattax": 8}, Loss.CATEGORY_BLOCKED),
        ({}, {}, {"bcat": ("1059",), "cattax": 8}, None),
        ({}, {}, {"bcat": ("IAB7",)}, Loss.TAXONOMY),
        ({}, {}, {"badv": ("Advertiser-C1.example",)}, Loss.ADVERTISER_BLOCKED),
        ({}, {"adomain": ("shop.x.example",)}, {"badv": ("x.example",)}, Loss.ADVERTISER_BLOCKED),
        ({}, {"adomain": ("notx.example",)}, {"badv": ("x.example",)}, None),
        ({}, {"adomain": ("x.example",)}, {"badv": ("shop.x.example",)}, None),
        ({}, {"pricing": "cpm", "price": 0.99}, {"imp": place(banner=Banner(), bidfloor=1.0)}, Loss.BELOW_FLOOR),
        ({}, {"pricing": "cpm", "price": 1.0}, {"imp": place(banner=Banner(), bidfloor=1.0)}, None),
        ({}, {"pricing": "cpc", "price": 0.001}, {"imp": place(banner=Banner(), bidfloor=1.0)}, None),
        ({}, {"pricing": "cpc", "price": 0.0009}, {"imp": place(banner=Banner(), bidfloor=1.0)}, Loss.BELOW_FLOOR),
        ({}, {"cat": ("1058", "1391")}, {}, Loss.SENSITIVE),
        ({}, {"cat": ("1391",)}, {"personalised": False}, None),
        ({}, {}, {"taxonomy": 3}, Loss.SENSITIVE),
        ({}, {"throttle": 0.0}, {}, Loss.THROTTLED),
        ({}, {}, {"imp": place(banner=Banner(), secure=1)}, Loss.NOT_SECURE),
        ({"secure": 1}, {}, {"imp": place(banner=Banner(), secure=1)}, None),
        ({"mrating": 3}, {}, {"app": rated(2)}, Loss.RATING),
        ({"mrating": 2}, {}, {"app": rated(2)}, None),
        ({"mrating": 0}, {}, {"app": rated(2)}, Loss.RATING),
        ({"mrating": 0}, {}, {"app": rated(3)}, None),
        ({"mrating": 3}, {}, {"app": rated(0)}, None),
        ({"mrating": 2}, {}, {"app": rated(3), "mrating": 1}, Loss.RATING),
        ({"mrating": 1}, {}, {"app": rated(3), "mrating": 1}, None),
        ({}, {"pricing": "cpm", "price": 0.0}, {"imp": place(banner=Banner(), bidfloor=1.0)}, None),
        ({"crid": "a7"}, {}, {"controls": Controls(muted_crids=("a7",))}, Loss.MUTED_AD),
        ({"crid": "a7"}, {}, {"controls": Controls(muted_crids=("a8",))}, None),
        ({}, {"seat": "s"}, {"controls": Controls(muted_seats=("s",))}, Loss.MUTED_ADVERTISER),
        ({}, {}, {"controls": Controls(muted_categories=(("1058", 8),))}, Loss.MUTED_CATEGORY),
        ({}, {}, {"controls": Controls(muted_categories=(("1058", 9),))}, None),
        ({}, {}, {"controls": Controls(interests=(Interest(("1058", 8), "never"),))}, Loss.MUTED_CATEGORY),
        ({}, {}, {"controls": Controls(interests=(Interest(("1058", 8), "less"),))}, None),
        ({}, RIVALS, {"imp": near(adomain=("Shop.rival.example",))}, Loss.COMPETITOR_BESIDE),
        ({}, RIVALS, {"imp": near(adomain=("notrival.example",))}, None),
        ({}, RIVALS, {"imp": near(cat=("1097",)), "cattax": 8}, Loss.COMPETITOR_BESIDE),
        ({}, RIVALS, {"imp": near(cat=("1098",)), "cattax": 8}, None),
        ({}, RIVALS, {"imp": near(cat=("1098",)), "cattax": 9}, Loss.COMPETITOR_BESIDE),
        ({}, RIVALS, {"imp": near(adomain=("www.advertiser-c1.example",), cat=("1097",)), "cattax": 8}, None),
        ({}, {}, {"imp": near(adomain=("rival.example",), cat=("1097",))}, None),
    ],
)
def test_each_rule_refuses_what_it_must_and_nothing_more(ad_changes, campaign_changes, at, expected):
    assert reason(ad_changes, campaign_changes, situation(**at)) is expected


def test_dayparts_follow_the_local_time_of_now():
    local = NOW.astimezone(timezone(timedelta(hours=10)))  # Monday 22:00 there
    evening = {"dayparts": (DayPart((0,), 21 * 60, 23 * 60),)}
    assert reason({}, evening, situation(now=local)) is None
    assert reason({}, evening, situation(now=NOW)) is Loss.OUTSIDE_DAYPART


def test_the_first_rule_in_order_gives_the_reason():
    market = catalogue((campaign(throttle=0.0, end=NOW),), (ad(audit=1, w=1),))
    found = refusal(market.ads[0], market.campaigns[0], situation(cur=("EUR",)))
    assert found.reason is Loss.AUDIT_PENDING
    assert (found.rule, found.detail) == ("audit", "audit status 1")


def test_the_throttle_lets_its_share_through_and_always_answers_alike():
    slow = campaign(throttle=0.3)
    answers = [throttle(slow, situation(id=f"r{n}")) is None for n in range(4000)]
    assert answers == [throttle(slow, situation(id=f"r{n}")) is None for n in range(4000)]
    # Standard error of a share of 0.3 over 4000 requests is 0.0072; 5 of them.
    assert abs(sum(answers) / 4000 - 0.3) < 0.036
    others = [throttle(campaign("c2", throttle=0.3), situation(id=f"r{n}")) is None for n in range(4000)]
    assert answers != others
