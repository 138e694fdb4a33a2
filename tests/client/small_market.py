"""A market small enough to reason about by hand, and scorers that follow a rule."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from sottovoce.client.catalogue import Ad, Campaign, Cap, Catalogue
from sottovoce.client.consent import Consent
from sottovoce.client.events import Event
from sottovoce.client.personal import sigmoid
from sottovoce.client.request import Banner, Imp, Publisher, Request, RequestExt
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy.errors import DeviceError

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ALLOWED = Consent(True, True, True, True, ("test",))
ANONYMOUS = Consent(False, False, False, True, ("test",))

SCHEMA = FeatureSchema(
    features=(
        Feature(name="device_class", source="device", buckets=8),
        Feature(name="page_category", source="context", buckets=32),
        Feature(name="category", source="ad", kind="integer", buckets=16, in_history=True),
        Feature(name="ad_id", source="ad", kind="integer", buckets=2000, in_history=True),
        Feature(name="advertiser", source="ad", kind="integer", buckets=64),
    ),
    history_length=6,
    heads=("click", "conversion"),
)

CATEGORIES = ("1008", "1058", "1097", "1263", "1529")
"""Ad Product 2.0, none of them sensitive."""


def campaign(cid: str = "c1", **changes: object) -> Campaign:
    plain: dict[str, object] = {
        "cid": cid,
        "seat": f"advertiser-{cid}",
        "adomain": (f"advertiser-{cid}.example",),
        "cat": ("1058",),
        "price": 1.0,
        "pricing": "cpc",
        "start": NOW - timedelta(days=1),
        "end": NOW + timedelta(days=1),
    }
    return Campaign(**(plain | changes))  # type: ignore[arg-type]


def ad(crid: str = "a1", cid: str = "c1", **changes: object) -> Ad:
    plain: dict[str, object] = {
        "crid": crid,
        "cid": cid,
        "mtype": 1,
        "w": 320,
        "h": 50,
        "language": "en",
        "audit": 3,
        "sponsored": f"the brand of {cid}",
        "features": {"ad_id": 1, "category": 1, "advertiser": 1},
    }
    return Ad(**(plain | changes))  # type: ignore[arg-type]


def catalogue(campaigns: tuple[Campaign, ...], ads: tuple[Ad, ...], cattax: int = 8) -> Catalogue:
    return Catalogue(version=1, cur="USD", cattax=cattax, campaigns=campaigns, ads=ads)


def market(size: int = 5, pricing: str = "cpc", caps: tuple[Cap, ...] = ()) -> Catalogue:
    """Campaign ci with one ad ai, each in its own category where there are enough."""
    campaigns = tuple(
        campaign(f"c{n}", cat=(CATEGORIES[n % len(CATEGORIES)],), pricing=pricing, caps=caps) for n in range(size)
    )
    ads = tuple(
        ad(f"a{n}", f"c{n}", features={"ad_id": n, "category": n % len(CATEGORIES), "advertiser": n % 64})
        for n in range(size)
    )
    return catalogue(campaigns, ads)


def request(**changes: object) -> Request:
    plain: dict[str, object] = {
        "id": "r1",
        "imp": (Imp(id="1", banner=Banner(w=320, h=50)),),
        "cur": ("USD",),
        "app": Publisher(bundle="news.example", cat=("483",), cattax=9),
        "ext": RequestExt({"page_category": "483", "device_class": "phone"}),
    }
    return Request(**(plain | changes))  # type: ignore[arg-type]


def event(kind: str, n: int, ago_s: float = 60.0) -> Event:
    """An event of ad an of `market`."""
    features = {"ad_id": n, "category": n % len(CATEGORIES), "advertiser": n % 64}
    return Event(NOW - timedelta(seconds=ago_s), kind, f"a{n}", f"c{n}", features)  # type: ignore[arg-type]


def refusal(read, data):  # type: ignore[no-untyped-def]
    """What `read` says against `data`: the text of its DeviceError, or None when it took it. Others pass through."""
    try:
        read(data)
    except DeviceError as error:
        return error.what
    return None


class Rule:
    """P(click) = base + history * (share of remembered places whose category is the candidate's and was clicked)
    + page * (page known) + device * (device known) + a little per ad so that no two candidates tie.
    """

    def __init__(self, base: float = 0.1, history: float = 0.0, page: float = 0.0, device: float = 0.0) -> None:
        self.base, self.history, self.page, self.device = base, history, page, device
        self.calls = 0

    def scores(self, context, events, outcomes, ad):  # type: ignore[no-untyped-def]
        self.calls += 1
        clicked = outcomes >= SCHEMA.outcome_row("click")
        alike = (ad[:, :1] == events[:, 0][None]) & clicked[None]
        click = self.base + self.history * alike.mean(1)
        click = click + self.page * bool(context[0, 1]) + self.device * bool(context[0, 0])
        click = click + 1e-4 * (ad[:, 1] % 7)
        return np.stack([click, np.full(len(ad), 0.5)], 1).astype(np.float32)


class Told:
    """A model whose click logit is looked up: one for each combination of history, page and device."""

    def __init__(self, table: Sequence[float]) -> None:
        self.table, self.calls = table, 0

    def scores(self, context, events, outcomes, ad):  # type: ignore[no-untyped-def]
        self.calls += 1
        known = bool(outcomes.any()) + 2 * bool(context[0, 1]) + 4 * bool(context[0, 0])
        click = sigmoid(np.float64(self.table[known]))
        return np.tile(np.float32([click, 0.25]), (len(ad), 1))


class Broken:
    """A scorer that fails in the given way."""

    def __init__(self, way: str) -> None:
        self.way = way

    def scores(self, context, events, outcomes, ad):  # type: ignore[no-untyped-def]
        if self.way == "raises":
            raise RuntimeError("native library gone")
        if self.way == "shape":
            return np.zeros((len(ad) + 1, 2), np.float32)
        if self.way == "text":
            return "no numbers"
        if self.way == "none":
            return None
        bad = {"nan": np.nan, "infinite": np.inf, "negative": -0.1, "above one": 1.5}[self.way]
        scores = np.full((len(ad), 2), 0.5, np.float32)
        scores[-1, 0] = bad
        return scores


WAYS = ("raises", "shape", "text", "none", "nan", "infinite", "negative", "above one")
