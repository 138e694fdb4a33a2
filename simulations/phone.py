"""What the phone of a market device holds: the catalogue, its own event log, its consent, and what a page asks of it.

The files have the formats that the on-device runtime reads, so that a pick can be tried on any simulated person, and
scored against the truth.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np

from sottovoce.simulations.market import (
    BLOCK,
    CATEGORIES,
    CONNECTIONS,
    DAY_S,
    DAY_SHAPE,
    DAYS,
    DELAYS,
    DEVICE_CLASSES,
    HOUR_PARTS,
    PRICINGS,
    SIZES,
    TRAIN_DAYS,
    VISITS,
    Ints,
    Market,
    size_name,
)

OPENED = datetime(2026, 10, 26, tzinfo=UTC)
"""When the market opened, a Monday: second 0 of every log."""


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """One person on one page.

    Attributes:
        time: when, within the first day after the training days.
        context: (1, 3) indices of page category, hour part and connection.
    """

    time: datetime
    context: Ints


def visit(market: Market, device: int, number: int = 0) -> Visit:
    """The `number`-th visit of a device after its training days; same market, device and number, same visit."""
    rng = market.stream(VISITS, device * 1000 + number)
    hour = int(rng.choice(HOUR_PARTS, p=DAY_SHAPE))
    second = hour * (DAY_S // HOUR_PARTS) + int(rng.integers(0, DAY_S // HOUR_PARTS))
    people = market.people(np.array([device]))
    context = market.contexts(rng, people, np.zeros(1, np.int64), np.array([hour]))
    return Visit(OPENED + timedelta(days=TRAIN_DAYS, seconds=second), context)


def catalogue_json(market: Market) -> bytes:
    """`catalogue.json`: every campaign and creative, the same for every device.

    A click campaign pays per click, and so on; a creative is shown at most three times a day to a person, a campaign at
    most eight times.
    """
    campaigns = []
    for campaign in range(len(market.price)):
        advertiser = campaign // 2
        campaigns.append(
            {
                "cid": f"c{campaign}",
                "seat": f"advertiser-{advertiser}",
                "adomain": [f"advertiser-{advertiser}.example"],
                "cat": [CATEGORIES[advertiser % len(CATEGORIES)][0]],
                "price": float(market.price[campaign]),
                "pricing": PRICINGS[market.pricing[campaign]],
                "start": stamp(OPENED),
                "end": stamp(OPENED + timedelta(days=2 * DAYS)),
                "dayparts": [],
                "caps": [
                    {"level": "creative", "event": "impression", "max": 3, "window_s": DAY_S},
                    {"level": "campaign", "event": "impression", "max": 8, "window_s": DAY_S},
                ],
                "throttle": 1.0,
            }
        )
    ads = []
    for ad in range(len(market.share)):
        width, height = SIZES[market.size[ad]]
        name = CATEGORIES[market.category[ad]][2]
        ads.append(
            {
                "crid": f"a{ad}",
                "cid": f"c{market.campaign[ad]}",
                "mtype": 1,
                "w": width,
                "h": height,
                "language": "en",
                "attr": [],
                "audit": 3,
                "title": f"{name.capitalize()} by advertiser-{market.advertiser[ad]}",
                "sponsored": f"advertiser-{market.advertiser[ad]}",
                "features": ad_features(market, ad),
            }
        )
    return msgspec.json.encode({"version": 1, "cur": "USD", "cattax": 8, "campaigns": campaigns, "ads": ads})


def events_jsonl(market: Market, device: int) -> bytes:
    """`events.jsonl` of a device at the end of the training days, oldest first; empty without consent to serving."""
    block, row = divmod(device, BLOCK)
    people = market.block_people(block)
    if not people.serve[row]:
        return b""
    log = market.block_log(block, people)
    rng = market.stream(DELAYS, device)
    events: list[tuple[int, str, int, dict[str, int | str]]] = []
    for at in np.flatnonzero((log.device == row) & (log.time < TRAIN_DAYS * DAY_S)):
        second, ad = int(log.time[at]), int(log.ad[at])
        to_click, to_buy = int(rng.integers(1, 20)), int(rng.integers(30, 3600))
        events.append((second, "impression", ad, page_features(log.context[at])))
        if log.click[at]:
            events.append((second + to_click, "click", ad, {}))
        if log.conversion[at]:
            events.append((second + to_click + to_buy, "conversion", ad, {}))
    events.sort(key=lambda event: event[0])
    return b"".join(
        msgspec.json.encode(
            {
                "ts": stamp(OPENED + timedelta(seconds=second)),
                "event": event,
                "crid": f"a{ad}",
                "cid": f"c{market.campaign[ad]}",
                "features": ad_features(market, ad),
                "context": moment if event == "impression" else {},
            }
        )
        + b"\n"
        for second, event, ad, moment in events
        if second < TRAIN_DAYS * DAY_S
    )


def request_json(market: Market, device: int, number: int = 0) -> bytes:
    """`request.json`: what the page of the `number`-th visit asks; banner sizes take turns."""
    context = visit(market, device, number).context[0]
    width, height = SIZES[number % len(SIZES)]
    _, category, name = CATEGORIES[int(context[0])]
    kind = market.people(np.array([device])).device_class[0]
    return msgspec.json.encode(
        {
            "id": f"r{device}-{number}",
            "at": 2,
            "cur": ["USD"],
            "tmax": 50,
            "imp": [{"id": "1", "banner": {"w": width, "h": height}, "bidfloor": 0.05, "bidfloorcur": "USD"}],
            "app": {"bundle": f"{name}.example", "cat": [category], "cattax": 9},
            "bcat": [],
            "cattax": 8,
            "badv": [],
            "wlang": ["en"],
            "device": {"language": "en"},
            "ext": {"features": {"device_class": DEVICE_CLASSES[kind], **page_features(context)}},
        }
    )


def consent_json(market: Market, device: int) -> bytes:
    """`consent.json` in the keys of TCF 2.3: purposes 1, 3, 4 for serving, 10 more for learning, 7 for measurement.

    Purpose 2, limited data to select ads, is always given: pages may choose an ad by themselves.
    """
    people = market.people(np.array([device]))
    given = {2}
    for allowed, purposes in ((people.serve, {1, 3, 4}), (people.learn, {10}), (people.report, {7})):
        given |= purposes if allowed[0] else set()
    return msgspec.json.encode(
        {
            "IABTCF_gdprApplies": 1,
            "IABTCF_PurposeConsents": "".join("1" if purpose in given else "0" for purpose in range(1, 12)),
            "IABTCF_PolicyVersion": 5,
            "gpc": False,
        }
    )


def page_features(context: Ints) -> dict[str, int | str]:
    """Model features of a page and moment by name, from indices of page category, hour part and connection."""
    page, hour, connection = (int(value) for value in context)
    return {"page_category": CATEGORIES[page][1], "hour_part": hour, "connection": CONNECTIONS[connection]}


def ad_features(market: Market, ad: int) -> dict[str, int | str]:
    """Model features of one ad by name."""
    return {
        "ad_id": ad,
        "advertiser": int(market.advertiser[ad]),
        "category": int(market.category[ad]),
        "format": size_name(market.size[ad]),
    }


def stamp(moment: datetime) -> str:
    """ISO 8601 in UTC, to the second, ending in Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
