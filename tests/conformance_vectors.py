"""Writes the conformance vectors of docs/conformance: `python tests/conformance_vectors.py docs/conformance`.

The same bytes come out on every machine: numbers are drawn by SHA-256, keys are derived from words, signatures are
deterministic (RFC 6979), models run in float64 and their scores are rounded to seven decimals. A decision that the last
digit of a float32 would change is not written. What is expected is what the package answers, so a vector records its
behaviour and does not judge it: `tests/test_conformance.py` has the ranker a second time.
"""

import base64
import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sottovoce.client.auction import Bid, charge, millionths, sell, value
from sottovoce.client.catalogue import Campaign, decode_catalogue
from sottovoce.client.consent import consent
from sottovoce.client.events import EventLog, decode_log
from sottovoce.client.features import Encoder, Inputs
from sottovoce.client.personal import offsets
from sottovoce.client.personal_scorer import PersonalScorer, fitted_offset
from sottovoce.client.picker import Picker
from sottovoce.client.request import decode_request
from sottovoce.models import ranker
from sottovoce.models.batch import Batch
from sottovoce.models.bundle import pack, unpack
from sottovoce.models.calibration import Calibration, HeadCalibration, PaidMeasurement, identity
from sottovoce.models.dsse import signed_message
from sottovoce.models.golden import Golden, check_scores, write_golden
from sottovoce.models.key_rotation import rotate_along
from sottovoce.models.key_set import KEY_SET_TYPE
from sottovoce.models.manifest import File, Manifest, Port, Runtimes
from sottovoce.models.passport import PrivacyPassport
from sottovoce.models.request import winner
from sottovoce.models.rollout import Rollout, takes_part
from sottovoce.models.schema import Feature, FeatureSchema, Topic
from sottovoce.models.signing import PAYLOAD_TYPE, key_id, public_pem, sign
from sottovoce.models.topics import Topics
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError

TOLERANCE = 1e-5
DECIMALS = 7
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


# Features ------------------------------------------------------------------------------------------------------------

WIDE = FeatureSchema(
    features=(
        Feature(name="price", source="ad", kind="bucket", buckets=3, boundaries=(1.0, 10.0), privacy="public"),
        Feature(name="hour", source="context", kind="integer", buckets=24),
        Feature(name="temperature", source="context", kind="bucket", buckets=5, boundaries=(-10.0, 0.0, 18.5, 30.0)),
        Feature(name="device_class", source="device", buckets=8),
        Feature(name="category", source="ad", buckets=16, in_history=True, privacy="public"),
        Feature(name="gr\u00f6\u00dfe", source="device", buckets=1000, seed=7),
        Feature(name="ad_id", source="ad", kind="integer", buckets=50, in_history=True, privacy="public"),
        Feature(name="keyword", source="context", buckets=65536, seed=-3, retention_days=7),
    ),
    history_length=4,
    heads=("click", "conversion"),
)

VALUES = {
    "keyword": [
        None, "", " ", "0", "shoes", "Shoes", "shoes ", "\u00e9", "e\u0301", "\u00df", "ss", "\u65e5\u672c\u8a9e",
        "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u200f\u05e9\u05dc\u05d5\u05dd", "a|b",
        "line\nbreak", "nul\0byte", "x" * 512, "\U0001f600" * 512,
        0, 1, -1, 7, 10**15, 2**53, -(2**53), 0.0, -0.0, 1.0, 7.0, 1e15, 1e16, 1e17, 1e22, 0.1, 0.5, -2.5, 1.5e-5,
        0.0001, 1e-7, 123456789.125, 1e-320, 0.30000000000000004,
    ],
    "gr\u00f6\u00dfe": [None, "", "12", 12, 12.0, "12.0", 12.5, "\u00fc"],
    "device_class": ["phone", "tablet", "kiosk", "never seen in training"],
    "category": ["1058", 1058, "1097", None],
    "hour": [
        None, "", 0, 23, 24, -1, -0.0, 23.0, 23.5, 1e300, 2**53, "0", "23", "24", "-1", "7.0", "7.5", "1e1", "x", "0x7",
        " 7", "7\n", "+7", "1_0", "\u0667", "inf", "nan", "7,0", "7 8", "007", "-0", "7.", "7.00",
        "7.000000000000000000001", ".7", "0x1", "1e0", "1E1", " 7 ", "\u00a07", "\ufeff7", "7\0", "\uff17", "\u00b2",
        "\u2212" + "1", "--1", "-", "7f", "infinity", "0" * 400 + "7", "1" * 400, "true",
    ],
    "ad_id": [0, 49, 50, "49", 1.0000000000000002],
    "temperature": [
        None, "", -1e308, -10.000000000000002, -10, -10.0, -9.999999999999998, -0.0, 0, 1e-320, 18.5,
        18.499999999999996, 30, 29.999999999999996, 1e308, "18.5", "-11", "cold", "inf", "-Infinity", "nan",
        "1e2", "1E+1", "185e-1", "-1e-400", "1e999", "-1e999", "00.5", "-0.0", "infinity", "18.", ".5", "-.5",
        "+1", "1e", "1e1.0", "1e+", "1_0", "1 0", " 18.5", "18.5 ", "\u0661\u0668", "18\u066b5", "18,5",
        "0x1p4", "1d2", "1f", "NaN", "1e\u0662", "18.499999999999998", "18.49999999999999999", "1" + "0" * 400,
    ],
    "price": [0.99, 1, 1.0, 9.99, 10, 11, -5, None],
}  # fmt: skip


def moment(ago_s: float) -> str:
    return (NOW - timedelta(seconds=ago_s)).isoformat().replace("+00:00", "Z")


def campaign(cid: str, **changes) -> dict:
    plain = {
        "cid": cid, "seat": f"seat-{cid}", "adomain": [f"{cid}.example"], "cat": ["1058"], "price": 1.0,
        "pricing": "cpc", "start": moment(86400), "end": moment(-86400),
    }  # fmt: skip
    return plain | changes


def ad(crid: str, cid: str, features: dict | None = None, **changes) -> dict:
    plain = {"crid": crid, "cid": cid, "mtype": 1, "w": 320, "h": 50, "audit": 3, "features": features or {}}
    return plain | changes


def catalogue(campaigns: list[dict], ads: list[dict]) -> dict:
    return {"version": 1, "cur": "USD", "cattax": 8, "campaigns": campaigns, "ads": ads}


def event(kind: str, crid: str, cid: str, ago_s: float, features: dict | None = None, **rest) -> dict:
    return {"ts": moment(ago_s), "event": kind, "crid": crid, "cid": cid, "features": features or {}} | rest


SHOES, RADIO = {"category": "1058", "ad_id": 1, "price": 4.5}, {"category": "1097", "ad_id": 2, "price": 20}
OLD_SHOES = {"category": "1058", "ad_id": 49, "price": 0.5}
SMALL_SHOP = catalogue(
    [campaign("c1"), campaign("c2", cat=["1097"]), campaign("c3", cat=["1391"]), campaign("c4", cat=["1263"])],
    [ad("a1", "c1", SHOES), ad("a2", "c2", RADIO), ad("a3", "c3", {"ad_id": 3}), ad("a4", "c4", {"ad_id": 77})],
)
WIDE_REQUEST = {
    "id": "r1",
    "imp": [{"id": "1", "banner": {"w": 320, "h": 50}}],
    "ext": {"features": {"hour": 12, "temperature": "18.5", "device_class": "phone", "gr\u00f6\u00dfe": 12.5}},
}
LOGS = {
    "nothing happened": [],
    "a click belongs to the latest impression of its ad before it": [
        event("impression", "a1", "c1", 50, SHOES),
        event("impression", "a1", "c1", 40, SHOES),
        event("click", "a1", "c1", 30),
        event("impression", "a1", "c1", 20, SHOES),
    ],
    "a click without an impression is ignored, and so is a dismissal": [
        event("click", "a1", "c1", 50, SHOES),
        event("impression", "a1", "c1", 40, SHOES),
        event("dismiss", "a1", "c1", 30),
        event("impression", "a2", "c2", 20, RADIO),
    ],
    "a conversion outranks a click, before or after it": [
        event("impression", "a1", "c1", 60, SHOES),
        event("click", "a1", "c1", 50),
        event("conversion", "a1", "c1", 40),
        event("impression", "a2", "c2", 30, RADIO),
        event("conversion", "a2", "c2", 20),
        event("click", "a2", "c2", 10),
    ],
    "sensitive campaigns and those that left the catalogue are not seen": [
        event("impression", "a3", "c3", 60, {"ad_id": 3}),
        event("click", "a3", "c3", 50),
        event("impression", "a9", "c9", 40, SHOES),
        event("impression", "a2", "c2", 30, RADIO),
    ],
    "an ad that changed since, or left its campaign, counts as it was": [
        event("impression", "a1", "c1", 60, OLD_SHOES),
        event("impression", "gone", "c1", 50, {"ad_id": "5"}),
        event("click", "gone", "c1", 40),
    ],
    "of more impressions than the history holds, the newest count": [
        event("impression", f"a{1 + n % 2}", f"c{1 + n % 2}", 60 - n, SHOES if n % 2 == 0 else RADIO,
              context={"hour": n, "temperature": -20 + 10 * n})
        for n in range(6)
    ] + [event("click", "a1", "c1", 10), event("impression", "a4", "c4", 5, {"ad_id": 77})],
    "the order of the lines counts, not the times": [
        event("impression", "a2", "c2", -500, RADIO),
        event("impression", "a1", "c1", 900, SHOES),
        event("click", "a2", "c2", 1000),
    ],
}  # fmt: skip


def read_log(events: list[dict]) -> EventLog:
    return decode_log("\n".join(json.dumps(one) for one in events).encode())


def arrays(given: Inputs) -> dict:
    """Model inputs as nested lists; `context` without its axis of length 1."""
    return {
        "context": given.context[0].tolist(),
        "events": given.events.tolist(),
        "outcomes": given.outcomes.tolist(),
        "ad": given.ad.tolist(),
    }


def input_vector(name: str, log: list[dict], personalised: bool, heads: list[str]) -> dict:
    schema = msgspec.structs.replace(WIDE, heads=tuple(heads))
    shop, request = decode_catalogue(json.dumps(SMALL_SHOP).encode()), decode_request(json.dumps(WIDE_REQUEST).encode())
    encoder, known = Encoder(schema, shop), read_log(log)
    events, outcomes, _ = encoder.history(known if personalised else EventLog())
    past, clicked = encoder.past(request, known, 64) if personalised else ([], [])
    return {
        "name": name,
        "personalised": personalised,
        "heads": heads,
        "log": log,
        "expected": arrays(
            Inputs(encoder.context(request, personalised), events, outcomes, encoder.ads([0, 1, 2, 3]), encoder.topics)
        )
        | {"past": [arrays(one) | {"clicked": hit} for one, hit in zip(past, clicked, strict=True)]},
    }


READING = FeatureSchema(
    features=(
        Feature(name="page", source="context", buckets=50),
        Feature(name="product", source="ad", kind="integer", buckets=5, in_history=True),
        Feature(name="about", source="page_match", kind="integer", buckets=2),
        Feature(name="often", source="read_match", kind="bucket", buckets=4, boundaries=(-0.5, 0.0, 0.7)),
    ),
    topic=Topic("page", "product", (("pets", 0), ("cats", 0), ("cars", 3), ("food", 1))),
)
READERS = {
    "nothing read": ([], "cats"),
    "a page that is in no pair": (["cats"], "opera"),
    "two pages of one topic": (["pets", "cars", "cats", "cats"], "cars"),
    "pages that are in no pair do not count": (["opera", "cars", "opera", None], "pets"),
    "only the newest 256 count": (["food"] * 200 + ["cats"] * 256, "food"),
}


def topic_vector(name: str, read: list, page: str) -> dict:
    topics, context, ad = Topics(READING), READING.context[0], READING.ad[0]
    products = [0, 1, 3, 4, None]
    rows = np.stack([READING.encode_ad({ad.name: product}) for product in products])
    # The request itself is the last page: what was read before it counts.
    pages = topics.of_rows(READING.encode(context, [*read, page]))
    before = topics.read_before(pages, np.array([0, len(pages)]))[-1:]
    rows[:, -topics.columns :] = topics.match(pages[-1:], before, topics.of_ads(rows))
    return {"name": name, "read": read, "page": page, "products": products, "expected": rows.tolist()}


def features() -> dict:
    by_name = {feature.name: feature for feature in WIDE.features}
    both, conversion = ["click", "conversion"], "a conversion outranks a click, before or after it"
    inputs = [input_vector(name, log, True, both) for name, log in LOGS.items()]
    inputs.append(input_vector("not personalised: no history and no device", LOGS[conversion], False, both))
    inputs.append(input_vector("a model of one head sees a conversion as a click", LOGS[conversion], True, ["click"]))
    return {
        "schema": json.loads(WIDE.canonical()),
        "schema_text": WIDE.canonical().decode(),
        "schema_sha256": WIDE.digest(),
        "layout": {
            "rows": WIDE.rows,
            "first_rows": dict(WIDE.offsets),
            "outcome_rows": {name: WIDE.outcome_row(name) for name in ("seen", "click", "conversion")},
            "context": [feature.name for feature in WIDE.context],
            "ad": [feature.name for feature in WIDE.ad],
            "history": [feature.name for feature in WIDE.history],
        },
        "ids": [
            {"feature": name, "value": one, "id": WIDE.row(by_name[name], one)}
            for name, values in VALUES.items()
            for one in values
        ],
        "catalogue": SMALL_SHOP,
        "request": WIDE_REQUEST,
        "inputs": inputs,
        "topic_schema": json.loads(READING.canonical()),
        "topics": [topic_vector(name, *reader) for name, reader in READERS.items()],
    }


# Scores --------------------------------------------------------------------------------------------------------------

SMALL = FeatureSchema(
    features=(
        Feature(name="device_class", source="device", kind="integer", buckets=3),
        Feature(name="page", source="context", kind="integer", buckets=4),
        Feature(name="category", source="ad", kind="integer", buckets=6, in_history=True, privacy="public"),
        Feature(name="ad_id", source="ad", kind="integer", buckets=12, in_history=True, privacy="public"),
        Feature(name="brand", source="ad", kind="integer", buckets=5, privacy="public"),
    ),
    history_length=4,
    heads=("click", "conversion"),
)
CONFIGS = {
    "linear": ranker.RankerConfig(embedding_width=0),
    "linear without interest counts": ranker.RankerConfig(embedding_width=0, interest_counts=False),
    "embedding": ranker.RankerConfig(embedding_width=3, tower_width=3, hidden_width=4, cross_layers=1),
}


DRAW = 16
"""Which weights are drawn: the first for which no decision hangs on the last digit of a float32."""

NUDGE = 3e-8
"""Half a unit in the last place of a float32 below 1."""


def drawn(name: str, count: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on the name alone."""
    words = (hashlib.sha256(f"{name}|{n}".encode()).digest()[:4] for n in range(count))
    return np.array([int.from_bytes(word, "big") / 2**32 for word in words])


def weights(name: str) -> dict[str, np.ndarray]:
    made = {}
    for part, shape in ranker.shapes(SMALL, CONFIGS[name]).items():
        flat = np.round((drawn(f"{DRAW}/{name}/{part}", int(np.prod(shape))) - 0.5) * 2.4, 3)
        made[part] = flat.reshape(shape)
    made["table"][0] = 0.0
    return made


class Reference:
    """One of the small models, run by the ranker itself in float64."""

    def __init__(self, name: str) -> None:
        self.parameters = {part: torch.from_numpy(array) for part, array in weights(name).items()}
        self.config = CONFIGS[name]

    def scores(self, context, events, outcomes, ad) -> np.ndarray:
        ids = [torch.from_numpy(np.ascontiguousarray(part)).long() for part in (context, ad, events, outcomes)]
        visible = (ids[3] != 0).double()[None]
        return self.config.chances(self.parameters, Batch(*ids, visible), SMALL).numpy()


class NotANumber:
    """A model whose first answer is no number."""

    def scores(self, context, events, outcomes, ad) -> np.ndarray:
        scores = np.full((len(ad), 2), 0.5, np.float32)
        scores[0, 0] = np.nan
        return scores


def draw_inputs(name: str, candidates: int, known: int) -> Inputs:
    """A request of random ids with so many remembered events; half of them are of a candidate."""
    fields, length = len(SMALL.history), SMALL.history_length

    def columns(what: str, chosen: tuple[Feature, ...], rows: int) -> np.ndarray:
        made = np.zeros((rows, len(chosen)), np.int32)
        for column, feature in enumerate(chosen):
            bucket = np.floor(drawn(f"{name}/{what}/{column}", rows) * (feature.buckets + 1)) - 1
            made[:, column] = np.where(bucket < 0, 0, SMALL.offsets[feature.name] + bucket)
        return made

    ad, events = columns("ad", SMALL.ad, candidates), columns("events", SMALL.history, length)
    for place in range(1, length, 2):
        events[place] = ad[place % candidates, :fields]
    outcomes = (SMALL.outcome_row("seen") + np.floor(drawn(f"{name}/outcomes", length) * 3)).astype(np.int32)
    events[: length - known], outcomes[: length - known] = 0, 0
    return Inputs(columns("context", SMALL.context, 1), events, outcomes, ad, Topics(SMALL))


def rounded(scores: np.ndarray) -> list:
    return np.round(np.asarray(scores, np.float64), DECIMALS).tolist()


def score_vectors() -> list[dict]:
    made = []
    for name in CONFIGS:
        scorer = Reference(name)
        for candidates, known in ((1, 0), (1, 4), (3, 1), (5, 4), (5, 2)):
            given = draw_inputs(f"{candidates}/{known}", candidates, known)
            scores = scorer.scores(given.context, given.events, given.outcomes, given.ad)
            made.append({"model": name} | arrays(given) | {"scores": rounded(scores)})
        missing = Inputs(*(np.zeros(size, np.int32) for size in ((1, 2), (4, 2), 4, (1, 3))), Topics(SMALL))
        scores = scorer.scores(missing.context, missing.events, missing.outcomes, missing.ad)
        made.append({"model": name} | arrays(missing) | {"scores": rounded(scores)})
    return made


def personal_vectors() -> list[dict]:
    made = []
    for model, variance, count, clicks in (
        ("linear", 1.0, 6, "010010"), ("linear", 0.1, 6, "111111"), ("embedding", 1.0, 5, "00000"),
        ("embedding", 100.0, 3, "111"), ("linear", 1.0, 0, ""),
    ):  # fmt: skip
        scorer = Reference(model)
        past = [draw_inputs(f"past/{n}", 1, min(n, 4)) for n in range(count)]
        clicked = [one == "1" for one in clicks]
        offset = fitted_offset(scorer, past, clicked, variance)
        for known in (4, 0):
            given = draw_inputs(f"personal/{known}", 3, known)
            scores = PersonalScorer(scorer, offset).scores(given.context, given.events, given.outcomes, given.ad)
            made.append(
                {
                    "model": model,
                    "variance": variance,
                    "past": [arrays(one) | {"clicked": hit} for one, hit in zip(past, clicked, strict=True)],
                    "offset": rounded(offset),
                    "request": arrays(given),
                    "scores": rounded(scores),
                }
            )
    return made


def offset_vectors() -> list[dict]:
    cases = {
        "no impressions": ([], [], 1.0),
        "as often as predicted": ([0.5, 0.5], [1, 0], 1.0),
        "always": ([0.3] * 20, [1] * 20, 1.0),
        "never": ([0.3] * 20, [0] * 20, 1.0),
        "a narrow prior": ([0.3] * 20, [1] * 20, 0.1),
        "a wide prior and a model that is sure and wrong": ([1e-6] * 8, [1] * 8, 100.0),
        "probabilities of 0 and 1 count as the nearest of float32": ([0.0, 1.0, 1.0], [1, 0, 1], 1.0),
    }
    made = []
    for name, (chances, clicks, variance) in cases.items():
        owner = np.zeros(len(chances), np.int64)
        found = offsets(np.asarray(chances, np.float64), np.asarray(clicks, np.int64), owner, 1, variance)
        given = {"name": name, "chances": chances, "clicks": clicks, "variance": variance}
        made.append(given | {"offset": rounded(found[0])})
    return made


def scores() -> dict:
    return {
        "tolerance": TOLERANCE,
        "schema": json.loads(SMALL.canonical()),
        "models": [
            {"name": name, "embedding_width": config.embedding_width}
            | {"weights": {part: array.tolist() for part, array in weights(name).items()}}
            for name, config in CONFIGS.items()
        ],
        "scores": score_vectors(),
        "offsets": offset_vectors(),
        "personal": personal_vectors(),
    }


# Decisions -----------------------------------------------------------------------------------------------------------

CHOICES = {
    "the highest product wins": [[0.5, 0.5], [0.9, 0.1], [0.6, 0.6]],
    "one head": [[0.25], [0.75], [0.5]],
    "one candidate": [[0.0, 0.0]],
    "a tie falls to the first": [[0.25, 0.5], [0.5, 0.25], [0.125, 1.0]],
    "a difference below the grid is a tie": [[0.5000001], [0.5000004], [0.4999998]],
    "a difference beyond the grid is none": [[0.500001], [0.5000034], [0.500002]],
    "products tie on the grid where heads do not": [[0.30000012, 1.0], [0.60000036, 0.5]],
    "all zero": [[0.0], [0.0]],
    "products vanish on the grid": [[0.0004, 0.0005], [0.0006, 0.0007]],
    "all one": [[1.0, 1.0], [1.0, 1.0]],
}

AMOUNTS = [0, 1, 0.5, 0.01, 1e-6, 4e-7, 6e-7, 0.0000025, 0.0000035, 1.0000005, 0.1234564, 123456.789, 1e6]


def bid(crid: str, seat: str, pricing: str, price: float, *scores: float) -> dict:
    return {"crid": crid, "seat": seat, "pricing": pricing, "price": price, "scores": list(scores)}


AUCTIONS = {
    "second price plus": (0.0, 2, [bid("a", "s1", "cpc", 1.0, 0.02, 0.1), bid("b", "s2", "cpc", 0.5, 0.03, 0.1)]),
    "first price": (0.0, 1, [bid("a", "s1", "cpc", 1.0, 0.02, 0.1), bid("b", "s2", "cpc", 0.5, 0.03, 0.1)]),
    "one bid pays nothing without a floor": (0.0, 2, [bid("a", "s1", "cpm", 3.0, 0.5)]),
    "one bid pays the floor": (1.25, 2, [bid("a", "s1", "cpm", 3.0, 0.5)]),
    "a value at the floor may win": (3.0, 2, [bid("a", "s1", "cpm", 3.0, 0.5)]),
    "a value below the floor may not": (3.000001, 2, [bid("a", "s1", "cpm", 3.0, 0.5)]),
    "its own advertiser's other ads do not raise the price": (
        0.1, 2, [bid("a", "s1", "cpm", 3.0, 0.5), bid("b", "s1", "cpm", 2.9, 0.5), bid("c", "s2", "cpm", 1.0, 0.5)]
    ),
    "the price is never above the winner's value": (
        0.0, 2, [bid("a", "s1", "cpm", 3.0, 0.5), bid("b", "s2", "cpm", 2.995, 0.5)]
    ),
    "a tie falls to the smaller crid": (0.0, 2, [bid("b", "s1", "cpm", 2.0, 0.5), bid("a", "s2", "cpm", 2.0, 0.5)]),
    "crids are compared as text": (0.0, 2, [bid("a9", "s1", "cpm", 2.0, 0.5), bid("a10", "s2", "cpm", 2.0, 0.5)]),
    "crids are compared by code point, not by UTF-16 unit": (
        0.0, 2, [bid("\U0001f600", "s1", "cpm", 2.0, 0.5), bid("\uff5e", "s2", "cpm", 2.0, 0.5)]
    ),
    "crids that only look alike are different": (
        0.0, 2, [bid("\u00e9", "s1", "cpm", 2.0, 0.5), bid("e\u0301", "s2", "cpm", 2.0, 0.5)]
    ),
    "per conversion": (0.0, 2, [bid("a", "s1", "cpa", 40.0, 0.02, 0.1), bid("b", "s2", "cpc", 1.0, 0.03, 0.1)]),
    "per conversion without the head is worth nothing known": (0.0, 2, [bid("a", "s1", "cpa", 40.0, 0.02)]),
    "values are rounded down": (0.0, 1, [bid("a", "s1", "cpc", 0.000333, 0.123457), bid("b", "s2", "cpm", 4e-5, 0.1)]),
    "no chance of a click: the charge is the offer": (0.0, 2, [bid("a", "s1", "cpc", 1.5, 0.0)]),
    "no bids": (0.0, 2, []),
}  # fmt: skip


def auction_vector(name: str, bidfloor: float, at: int, bids: list[dict]) -> dict:
    campaigns = {
        one["crid"]: Campaign(one["crid"], one["seat"], (), (), one["price"], one["pricing"], NOW, NOW + timedelta(1))
        for one in bids
    }
    worth = {one["crid"]: value(campaigns[one["crid"]], one["scores"]) for one in bids}
    sale = sell([Bid(one["crid"], one["seat"], worth[one["crid"]]) for one in bids if worth[one["crid"]] is not None],
                millionths(bidfloor), at)  # fmt: skip
    expected = {"values": [worth[one["crid"]] for one in bids], "winner": None, "price": None, "charge": None}
    if sale.winner:
        crid = sale.winner.crid
        chances = next(one["scores"] for one in bids if one["crid"] == crid)
        cost = charge(campaigns[crid], sale.price, chances)
        expected |= {"winner": crid, "price": sale.price, "charge": cost}
    return {"name": name, "bidfloor": bidfloor, "at": at, "bids": bids, "expected": expected}


PEOPLE = {
    "everything allowed": {"IABTCF_gdprApplies": 1, "IABTCF_PolicyVersion": 5, "IABTCF_PurposeConsents": "1111111111"},
    "the page alone": {"IABTCF_gdprApplies": 1, "IABTCF_PolicyVersion": 5, "IABTCF_PurposeConsents": "11"},
    "no selection of ads": {"IABTCF_gdprApplies": 1, "IABTCF_PolicyVersion": 5, "IABTCF_PurposeConsents": "1011"},
    "an old policy": {"IABTCF_gdprApplies": 1, "IABTCF_PolicyVersion": 3, "IABTCF_PurposeConsents": "1111111111"},
    "global privacy control": {
        "IABTCF_gdprApplies": 1, "IABTCF_PolicyVersion": 5, "IABTCF_PurposeConsents": "1111111111", "gpc": True
    },
    "United States, no opt-out": {"IABTCF_gdprApplies": 0, "IABGPP_HDR_GppString": "DBABLA~BVVqAAAAAA"},
    "United States, opted out of sale": {"IABTCF_gdprApplies": 0, "IABGPP_HDR_GppString": "DBABLA~BVVaAAAAAA"},
    "United States, a known child": {"IABTCF_gdprApplies": 0, "IABGPP_HDR_GppString": "DBABLA~BVVqAAAAQA"},
    "a section that is not read": {"IABTCF_gdprApplies": 0, "IABGPP_HDR_GppString": "DBABBg~BVoYYZoI"},
    "no signal": {},
}  # fmt: skip


def market(**changes) -> dict:
    """Six campaigns of one ad each; a change is one value for all of them."""
    categories = ["1008", "1058", "1097", "1263", "1529", "1058"]
    return catalogue(
        [campaign(f"c{n}", cat=[categories[n]], price=0.5 + 0.1 * n) | changes for n in range(6)],
        [ad(f"a{n}", f"c{n}", {"ad_id": n, "category": n % 5, "brand": n % 4}) for n in range(6)],
    )


def one_for_each_rule() -> dict:
    """An ad for every reason code that a rule can give."""
    made, ads = [campaign("good", pricing="cpm", price=2.0)], [ad("good", "good", {"ad_id": 1}, language="en-GB")]
    by_ad = {
        "audit 1": {"audit": 1}, "audit 4": {"audit": 4}, "audit 5": {"audit": 5}, "audit 6": {"audit": 6},
        "size": {"w": 300, "h": 250}, "format": {"mtype": 2}, "language": {"language": "de"},
        "attribute": {"attr": [8]}, "audit before size": {"audit": 1, "w": 300},
    }  # fmt: skip
    ads += [ad(crid, "good", **changes) for crid, changes in by_ad.items()]
    by_campaign = {
        "flight over": {"start": moment(900), "end": moment(0)},
        "flight to come": {"start": moment(-1)},
        "flight begins now": {"start": moment(0)},
        "another day": {"dayparts": [{"dow": [1, 2], "start_minute": 0, "end_minute": 1440}]},
        "another hour": {"dayparts": [{"dow": [0], "start_minute": 721, "end_minute": 1440}]},
        "this minute": {"dayparts": [{"dow": [0], "start_minute": 720, "end_minute": 721}]},
        "blocked category": {"cat": ["1097", "1263"]},
        "blocked domain": {"adomain": ["Shop.Blocked.example"]},
        "domain that only ends alike": {"adomain": ["unblocked.example"]},
        "below the floor": {"pricing": "cpm", "price": 0.4},
        "below the floor after the auction": {"pricing": "cpc", "price": 0.0006},
        "sensitive": {"cat": ["1391"]},
        "throttled to none": {"throttle": 0.0},
        "throttled to half, one way": {"throttle": 0.5},
        "throttled to half, another": {"throttle": 0.5},
    }
    for name, changes in by_campaign.items():
        made.append(campaign(name) | changes)
        ads.append(ad(name, name, {"ad_id": 2, "category": 1}))
    return catalogue(made, ads)


def capped() -> dict:
    caps = {
        "creative": [{"level": "creative", "event": "impression", "max": 2, "window_s": 100}],
        "campaign": [{"level": "campaign", "event": "impression", "max": 1, "window_s": 100}],
        "advertiser": [{"level": "advertiser", "event": "click", "max": 1, "window_s": 100}],
        "category": [{"level": "category", "event": "dismiss", "max": 1, "window_s": 100}],
        "window over": [{"level": "creative", "event": "impression", "max": 1, "window_s": 100}],
        "clock set back": [{"level": "creative", "event": "impression", "max": 1, "window_s": 1}],
        "below its cap": [{"level": "creative", "event": "impression", "max": 2, "window_s": 100}],
        "free": [],
    }
    campaigns = [campaign(name, caps=rules, cat=["1097" if name == "category" else "1058"], price=0.3)
                 for name, rules in caps.items()]  # fmt: skip
    return catalogue(campaigns, [ad(name, name, {"ad_id": n}) for n, name in enumerate(caps)])


CAP_LOG = [
    event("impression", "creative", "creative", 99), event("impression", "creative", "creative", 1),
    event("impression", "another ad", "campaign", 50), event("impression", "advertiser", "advertiser", 60),
    event("click", "advertiser", "advertiser", 50), event("dismiss", "category", "category", 99.999999),
    event("impression", "window over", "window over", 100), event("impression", "clock set back", "clock set back", -9),
    event("impression", "below its cap", "below its cap", 5),
]  # fmt: skip

ALIKE = {"ad_id": 1, "category": 1, "brand": 1}
CATALOGUES = {
    "market": market(),
    "market, per thousand": market(pricing="cpm"),
    "market, per conversion": market(pricing="cpa"),
    "market, none may be shown": market(caps=[{"level": "creative", "event": "impression", "max": 0, "window_s": 60}]),
    "market in euros": market() | {"cur": "EUR"},
    "one for each rule": one_for_each_rule(),
    "capped": capped(),
    "alike": catalogue([campaign("c1")], [ad(crid, "c1", ALIKE) for crid in ("a9", "\U0001f600", "a10", "\uff5e")]),
    "empty": catalogue([], []),
}


def seen(n: int, ago_s: float, kind: str = "impression") -> dict:
    return event(
        kind, f"a{n}", f"c{n}", ago_s, {"ad_id": n, "category": n % 5, "brand": n % 4}, context={"page": n % 4}
    )


HISTORY = [
    seen(3, 900), seen(3, 890, "click"), seen(1, 700), seen(2, 600), seen(3, 500), seen(3, 490, "click"), seen(5, 400)
]  # fmt: skip


def asked(**changes) -> dict:
    plain = {
        "id": "r1", "at": 2, "cur": ["USD"], "imp": [{"id": "1", "banner": {"w": 320, "h": 50}}],
        "app": {"bundle": "news.example", "cat": ["483"], "cattax": 9},
        "ext": {"features": {"device_class": 1, "page": 2}},
    }  # fmt: skip
    return plain | changes


def place(**changes) -> list[dict]:
    return [{"id": "1", "banner": {"w": 320, "h": 50}} | changes]


RULED = asked(
    imp=place(banner={"w": 320, "h": 50, "battr": [8]}, bidfloor=0.5),
    bcat=["1263"], cattax=8, badv=["blocked.example"], wlang=["EN"],
)  # fmt: skip

DECISIONS = {
    "personalised": {},
    "personalised, first price": {"request": asked(at=1)},
    "personalised, with the personal layer": {"personal_variance": 1.0},
    "the personal layer without anything remembered": {"personal_variance": 1.0, "log": []},
    "the embedding model": {"model": "embedding"},
    "per thousand": {"catalogue": "market, per thousand"},
    "per conversion": {"catalogue": "market, per conversion"},
    "a floor that some reach": {"request": asked(imp=place(bidfloor=420.0))},
    "a floor above the second value": {"request": asked(imp=place(bidfloor=630.0))},
    "a floor that none reaches": {"request": asked(imp=place(bidfloor=700.0))},
    "a floor that none could reach": {"request": asked(imp=place(bidfloor=9000.0))},
    "a floor in another currency": {"request": asked(imp=place(bidfloor=0.1, bidfloorcur="EUR"))},
    "another currency": {"catalogue": "market in euros"},
    "a block list in another taxonomy": {"request": asked(bcat=["483"], cattax=9)},
    "one ad for each rule": {"catalogue": "one for each rule", "request": RULED},
    "one ad for each rule, from the page alone": {
        "catalogue": "one for each rule", "request": RULED, "consent": "the page alone"
    },
    "one ad for each rule, without a model": {"catalogue": "one for each rule", "request": RULED, "model": None},
    "frequency caps": {"catalogue": "capped", "log": CAP_LOG},
    "frequency caps hold without consent": {"catalogue": "capped", "log": CAP_LOG, "consent": "no signal"},
    "all capped": {"catalogue": "market, none may be shown"},
    "an empty catalogue": {"catalogue": "empty"},
    "a tie": {"catalogue": "alike"},
    "no model: turns": {"model": None},
    "no model and nothing shown yet": {"model": None, "log": []},
    "no model, ties by code point": {"model": None, "log": [], "catalogue": "alike"},
    "no model and a floor": {"model": None, "request": asked(imp=place(bidfloor=0.1))},
    "no model, a floor, prices per thousand": {
        "model": None, "catalogue": "market, per thousand", "request": asked(imp=place(bidfloor=0.7))
    },
    "a model that answers no number": {"model": "not a number"},
    "local time decides the day-part": {
        "catalogue": "one for each rule", "request": RULED, "now": "2026-11-23T13:00:00+01:00"
    },
    "a page for children": {"request": asked(regs={"coppa": 1})},
    "privacy control in the request": {"request": asked(regs={"ext": {"gpc": "1"}})},
    "limited tracking": {"request": asked(device={"lmt": 1})},
    "a sensitive page": {"request": asked(app={"bundle": "clinic.example", "cat": ["301"], "cattax": 9})},
    "a page in an unknown taxonomy": {"request": asked(app={"bundle": "old.example", "cat": ["IAB7"]})},
} | {f"consent: {name}": {"consent": name} for name in PEOPLE}  # fmt: skip


class Nudged:
    """A scorer that is off by the rounding of a float32: what is decided must not depend on it."""

    def __init__(self, scorer, by: float) -> None:
        self.scorer, self.by = scorer, by

    def scores(self, context, events, outcomes, ad) -> np.ndarray:
        return np.asarray(self.scorer.scores(context, events, outcomes, ad), np.float64) + self.by


def scorer_named(name: str | None):
    return None if name is None else NotANumber() if name == "not a number" else Reference(name)


def decided(given: dict, nudge: float) -> dict:
    scorer = scorer_named(given["model"])
    picker = Picker(
        SMALL,
        Nudged(scorer, nudge) if scorer else None,
        decode_catalogue(json.dumps(CATALOGUES[given["catalogue"]]).encode()),
        given["personal_variance"],
    )
    request = decode_request(json.dumps(given["request"]).encode())
    gates = consent(PEOPLE[given["consent"]])
    found = picker.pick(request, read_log(given["log"]), gates, datetime.fromisoformat(given["now"]))
    best = found.winner
    return {
        "mode": found.mode,
        "fallback": found.fallback,
        "nbr": found.nbr,
        "winner": best and {"crid": best.crid, "price": best.price, "charge": best.charge, "value": best.value},
        "losers": [{"crid": one.crid, "reason": int(one.reason), "value": one.value} for one in found.losers],
    }


USUAL = {
    "catalogue": "market",
    "request": asked(),
    "log": HISTORY,
    "consent": "everything allowed",
    "now": "2026-11-23T12:00:00+00:00",
    "model": "linear",
    "personal_variance": 0.0,
}


def decision_vector(name: str, changes: dict) -> dict:
    given = USUAL | changes
    expected = decided(given, 0.0)
    if not expected == decided(given, NUDGE) == decided(given, -NUDGE):
        raise ValueError(f"{name!r} hangs on the last digit of a float32: draw other weights")
    return {"name": name} | changes | {"expected": expected}


def decisions() -> dict:
    return {
        "millionths": [{"amount": amount, "expected": millionths(amount)} for amount in AMOUNTS],
        "choices": [
            {"name": name, "scores": rows, "winner": winner(np.asarray(rows, np.float32))}
            for name, rows in CHOICES.items()
        ],
        "auctions": [auction_vector(name, *given) for name, given in AUCTIONS.items()],
        "consents": [
            {"name": name, "keys": keys} | {
                gate: getattr(consent(keys), gate)
                for gate in ("serve_personalised", "serve_contextual", "learn", "report")
            }
            for name, keys in PEOPLE.items()
        ],
        "catalogues": CATALOGUES,
        "usual": USUAL,
        "decisions": [decision_vector(name, changes) for name, changes in DECISIONS.items()],
    }  # fmt: skip


# Trust ---------------------------------------------------------------------------------------------------------------

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class FixedKey:
    """A private key made from a word, whose signatures are the same each time."""

    def __init__(self, word: str) -> None:
        digest = hashlib.sha256(f"sottovoce conformance key {word}".encode()).digest()
        self.key = ec.derive_private_key(int.from_bytes(digest, "big") % (P256_ORDER - 1) + 1, ec.SECP256R1())

    def sign(self, message: bytes, _algorithm: object = None) -> bytes:
        return self.key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self.key.public_key()


KEYS = {word: FixedKey(word) for word in "abcdx"}
PEMS = {word: public_pem(key.public_key()).decode() for word, key in KEYS.items()}
TINY = FeatureSchema(
    features=(
        Feature(name="hour", source="context", kind="integer", buckets=4),
        Feature(name="ad", source="ad", kind="integer", buckets=9, in_history=True, privacy="public"),
    ),
    history_length=2,
)
PASSPORT = PrivacyPassport(
    sampling="poisson", sampling_rate=0.1, population=20_000, mechanism="gaussian", noise_multiplier=1.1, clip_norm=0.5,
    rounds=200, releases={"training": 200}, accountant="pld", epsilon=4.0, epsilon_known_cohort=40.0, delta=1e-5,
    ledger_head="ab" * 32, ledger_length=401, noise_source="secure",
)  # fmt: skip
GOLDEN = Golden(
    context=(1,),
    events=((0,), (5,)),
    outcomes=(0, 15),
    ad=((5,), (6,), (0,)),
    scores=((0.25,), (0.5,), (0.125,)),
    winner=1,
)
TRUST = {
    "keys": ["a", "b", "c"], "threshold": 2, "version": 3, "model_id": "line", "key_version": 1, "keys_expire": None
}  # fmt: skip
RUNTIMES = {"litert": "2.3.0", "onnxruntime": "1.20.0"}


def published(
    signers: str = "ab", files: dict | None = None, text=lambda manifest: manifest, listed=lambda files: files, **claims
) -> dict[str, bytes]:
    """The files of a bundle, rightly signed; what is passed is what the signer did otherwise.

    Args:
        signers: names of keys.
        files: other contents.
        text: changes the manifest's bytes before they are signed.
        listed: changes the manifest's list of files.
        claims: other fields of the manifest.
    """
    made = {
        "model.onnx": b"these are no models", "model.tflite": b"nor are these", "schema.json": TINY.canonical(),
        "passport.json": PASSPORT.canonical(), "golden.json": write_golden([GOLDEN]), "LICENSE.txt": b"Apache-2.0",
        "calibration.json": identity(TINY.heads).canonical(),
    } | (files or {})  # fmt: skip
    digests = {name: File(sha256=hashlib.sha256(data).hexdigest(), length=len(data)) for name, data in made.items()}
    plain = {
        "model_id": "line", "version": 7, "created": NOW, "expires": NOW + timedelta(days=30),
        "min_runtime": Runtimes(litert="1.2.0", onnxruntime="1.15.0"), "schema_digest": TINY.digest(),
        "passport_digest": digests["passport.json"].sha256, "checkpoint_digest": "cd" * 32, "heads": TINY.heads,
        "files": listed(digests),
        "quantization": "int8", "inputs": (Port(name="ad", shape=(-1, 1), dtype="int32"),),
        "outputs": (Port(name="scores", shape=(-1, 1), dtype="float32"),), "key_threshold": 1,
        "rollout": Rollout(percent=100.0, salt="line 7"),
    }  # fmt: skip
    made["manifest.json"] = text(Manifest(**(plain | claims)).canonical())
    return made | {"model.sig": sign(made, [KEYS[word] for word in signers], "line")}


SEED, REACH = 12, 3000
"""Bytes that have to agree to count as found, and how far ahead they are looked for."""


def edits(good: bytes, bad: bytes) -> list[dict]:
    """What to replace in `good` to get `bad`: offsets of `good`, rising and apart.

    Reads on in both: what of `bad` is not found ahead in `good`, a few bytes at a time, is what was put in.
    """
    found, here, new, there = [], 0, b"", 0
    while there < len(bad):
        seed = bad[there : there + SEED]
        match = good.find(seed, here, here + REACH) if len(seed) == SEED else -1
        if match < 0:
            new, there = new + bad[there : there + 1], there + 1
            continue
        if new or match > here:
            found.append({"offset": here, "length": match - here, "base64": text64(new)})
        here, new = match, b""
        while here < len(good) and there < len(bad) and good[here] == bad[there]:
            here, there = here + 1, there + 1
    if new or here < len(good):
        found.append({"offset": here, "length": len(good) - here, "base64": text64(new)})
    if applied(good, found) != bad:
        raise ValueError("the edits do not make the bundle that they should")
    return found


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def applied(good: bytes, changes: list[dict]) -> bytes:
    """`good` with its edits, from the last to the first."""
    data = good
    for one in reversed(changes):
        data = data[: one["offset"]] + base64.b64decode(one["base64"]) + data[one["offset"] + one["length"] :]
    return data


def spelled(old: bytes, new: bytes) -> dict:
    def change(manifest: bytes) -> bytes:
        if old not in manifest:
            raise ValueError(f"{old!r} is not in the manifest")
        return manifest.replace(old, new, 1)

    return published(text=change)


def enveloped(change, signers: str = "ab") -> dict:
    """The signature file with one thing changed."""
    files = published(signers)
    outer = json.loads(files["model.sig"])
    change(outer)
    return files | {"model.sig": json.dumps(outer, separators=(",", ":")).encode()}


def signatures(change, signers: str = "ab") -> dict:
    return enveloped(
        lambda outer: outer["dsseEnvelope"].update(signatures=change(outer["dsseEnvelope"]["signatures"])), signers
    )


def with_first(change):
    return signatures(lambda both: [both[0] | {"sig": change(both[0]["sig"])}, both[1]])


def loosened(text: str) -> str:
    """Base64 with a spare bit set: the same bytes to a careless reader."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bare = text.rstrip("=")
    if bare == text:
        return text + "===="  # no spare bits in this one
    return bare[:-1] + letters[letters.index(bare[-1]) ^ 1] + "=" * (len(text) - len(bare))


def flipped(name: str) -> dict:
    files = published()
    data = bytearray(files[name])
    data[len(data) // 2] ^= 1
    return files | {name: bytes(data)}


def container_attacks(good: bytes) -> dict[str, bytes]:
    """Bytes changed in the finished container."""
    local = good.index(b"PK\x03\x04")
    directory = good.index(b"PK\x01\x02")
    onnx = good.index(b"model.onnx") - 30
    onnx_listed = good.index(b"model.onnx", directory) - 46

    def put(place: int, data: bytes) -> bytes:
        return good[:place] + data + good[place + len(data) :]

    return {
        "the last byte is missing": good[:-1],
        "a byte follows": good + b"\0",
        "a script precedes": b"#!/bin/sh\n" + good,
        "the file is empty": b"",
        "bytes hide before the directory": good[:directory] + b"hidden" + good[directory:],
        "there is a comment": good[:-2] + b"\x04\x00text",
        "the date is another": put(local + 12, b"\x22"),
        "an entry is marked as encrypted": put(onnx + 6, b"\x01"),
        "an entry is marked as compressed": put(onnx + 8, b"\x08"),
        "a length claims two gigabytes": put(onnx + 18, b"\xff\xff\xff\x7f" * 2),
        "a length claims nothing": put(onnx + 18, bytes(8)),
        "a name climbs out of its folder": put(onnx + 30, b"../../onnx"),
        "a file is a symbolic link": put(onnx_listed + 38, (0o120777 << 16).to_bytes(4, "little")),
        "the directory points elsewhere": put(onnx_listed + 42, b"\x01"),
        "a bit flips and the checksum stays": good.replace(b"these are no models", b"these are no modelS"),
    }


PAID = PaidMeasurement(
    run_id="run", number=1, model_round=200, ledger_row=401, ledger_hash="ab" * 32, artifact_sha256="cd" * 32,
    noise_std=20.0,
)  # fmt: skip


def stated(heads: tuple[str, ...] = TINY.heads) -> bytes:
    """A calibration that changes something; the graph that would apply it is not looked at here."""
    made = (HeadCalibration(head=head, slope=0.875, intercept=0.125, source=PAID) for head in heads)
    return Calibration(heads=tuple(made)).canonical()


def bad_calibrations() -> dict[str, bytes]:
    whole = stated()
    return {
        "is none": b"{}",
        "has no head": b'{"heads":[]}',
        "has a head too many": stated(("click", "conversion")),
        "is of another head": stated(("conversion",)),
        "has a slope of zero": whole.replace(b"0.875", b"0.0"),
        "turns the order of ads around": whole.replace(b"0.875", b"-0.875"),
        "has no number as its slope": whole.replace(b"0.875", b"NaN"),
        "has a slope too large to be one": whole.replace(b"0.875", b"10.5"),
        "has an intercept too large to be one": whole.replace(b"0.125", b"-20.5"),
        "is infinite": whole.replace(b"0.125", b"1e999"),
        "was paid for by nobody": whole[: whole.index(b'"source":')] + b'"source":null}]}',
        "names no row of a ledger": whole.replace(b'"ledger_row":401', b'"ledger_row":0'),
        "had no noise": whole.replace(b"20.0", b"0.0"),
        "has an unknown field": whole.replace(b'"head":', b'"for":"all","head":'),
        "has spaces": whole.replace(b'"slope":', b'"slope": '),
    }


def signed_attacks() -> dict[str, dict]:
    """Files in a container that is made anew around them."""
    old = published(version=6, files={"model.onnx": b"these are old models"})
    good = published()
    key_set = json.loads(key_set_file("ab", "ab"))
    day = timedelta(days=1)
    no_zone = published(text=lambda m: m.replace(b"12:00:00Z", b"12:00:00"))
    return {
        "a stranger signs": published("x"),
        "one key too few signs": published("a"),
        "one key signs twice": published("aa"),
        "a stranger signs as the second": published("ax"),
        "one signature is listed twice": signatures(lambda both: [both[0], both[0]]),
        "all signatures are cut off": signatures(lambda _: []),
        "nine signatures are listed": signatures(lambda both: both[:1] * 9),
        "one of three signatures that had to be there is cut off": good
        | {"manifest.json": published("abc", key_threshold=3)["manifest.json"],
           "model.sig": cut_off(published("abc", key_threshold=3)["model.sig"])},
        "the hint names another trusted key": signatures(lambda both: both[::-1]),
        "a signature carries a key id": signatures(lambda both: [both[0] | {"keyid": "first"}, both[1]]),
        "the envelope has an unknown field": enveloped(lambda outer: outer.update(extra=1)),
        "the statement is declared to be of another type": enveloped(
            lambda outer: outer["dsseEnvelope"].update(payloadType="text/plain")
        ),
        "the statement is exchanged under the signatures": enveloped(
            lambda outer: outer["dsseEnvelope"].update(payload=text64(b"{}"))
        ),
        "the signed statement is a key set": enveloped(
            lambda outer: outer["dsseEnvelope"].update(
                payload=key_set["payload"],
                signatures=[{"sig": one["sig"], "keyid": ""} for one in key_set["signatures"]],
            )
        ),
        "the base64 has spare bits set": with_first(loosened),
        "the base64 has a line break": with_first(lambda text: text + "\n"),
        "the base64 has padding too much": with_first(lambda text: text + "="),
        "the signature is of an earlier release": good | {"model.sig": old["model.sig"]},
        "one model is of an earlier release": good | {"model.onnx": old["model.onnx"]},
        "the manifest is of an earlier release": good | {"manifest.json": old["manifest.json"]},
        "the two models change places": good
        | {"model.onnx": good["model.tflite"], "model.tflite": good["model.onnx"]},
        **{f"one bit of {name} is changed": flipped(name) for name in sorted(good)},
        "the version is zero": spelled(b'"version":7', b'"version":0'),
        "the version is a fraction": spelled(b'"version":7', b'"version":7.0'),
        "the version is text": spelled(b'"version":7', b'"version":"7"'),
        "the version is there twice": spelled(b'"version":7', b'"version":2,"version":7'),
        "the version is beyond what JSON readers keep": spelled(b'"version":7', b'"version":9007199254740993'),
        "the parent comes after the child": spelled(b'"parent_version":null', b'"parent_version":7'),
        "its times are local": spelled(b"12:00:00Z", b"13:00:00+01:00"),
        "its times have no zone": no_zone,
        "it expires before it was made": spelled(b'"expires":"2026', b'"expires":"2016'),
        "it expired": published(created=NOW - 40 * day, expires=NOW - 10 * day),
        "it is of a line that looks alike": published(model_id="l\u0456ne"),
        "its schema is not the one it names": published(schema_digest="0" * 64),
        "its schema has another spelling": published(files={"schema.json": msgspec.json.format(TINY.canonical())}),
        "its heads are not those of the schema": published(heads=("click", "conversion")),
        "it lists a file that is not there": published(listed=lambda f: f | {"../evil": f["LICENSE.txt"]}),
        "it leaves out a file that is there": published(
            listed=lambda f: {name: one for name, one in f.items() if name != "model.onnx"}
        ),
        "it gives each model the digest of the other": published(
            listed=lambda f: f | {"model.onnx": f["model.tflite"], "model.tflite": f["model.onnx"]}
        ),
        "it names another passport": published(passport_digest="0" * 64),
        "it names no checkpoint": spelled(b'"checkpoint_digest":"' + b"cd" * 32 + b'",', b""),
        "a line break follows the digest of its checkpoint": spelled(b"cd" * 32, b"cd" * 32 + b"\\n"),
        "it asks for no key": spelled(b'"key_threshold":1', b'"key_threshold":0'),
        "it is rolled out to more than all": spelled(b'"percent":100.0', b'"percent":100.5'),
        "it has an unknown field": spelled(b'"version":7', b'"version":7,"zone":1'),
        "it has spaces": spelled(b'"version":7', b'"version": 7'),
        "it escapes a letter": spelled(b'"line"', b'"l\\u0069ne"'),
        "its golden requests are none": published(files={"golden.json": b"[]"}),
        "its licence is not text": published(files={"LICENSE.txt": b"\xff\xfe"}),
        **{
            f"its calibration {what}": published(files={"calibration.json": data})
            for what, data in bad_calibrations().items()
        },
        "its passport promises more than its noise": published(
            files={"passport.json": PASSPORT.canonical().replace(b'"secure"', b'"seeded"')}
        ),
    }  # fmt: skip


def cut_off(signature: bytes) -> bytes:
    outer = json.loads(signature)
    outer["dsseEnvelope"]["signatures"].pop()
    return json.dumps(outer, separators=(",", ":")).encode()


STATES = {
    "a good bundle": {},
    "a device that follows no line yet": {"trust": {"model_id": None, "version": 0}},
    "keys that count a little longer": {"trust": {"keys_expire": "2026-11-23T12:00:00.000001+00:00"}},
    "one microsecond before it expires": {"now": "2026-12-23T11:59:59.999999+00:00"},
    "a clock that is a day slow": {"now": "2026-11-22T12:00:00+00:00"},
    "only one runtime, just new enough": {"runtimes": {"onnxruntime": "1.15"}},
    "a runtime whose version ends in words": {"runtimes": {"litert": "1.2.0.dev1"}},
    "the release in use is replayed": {"trust": {"version": 7}},
    "an older release is replayed": {"trust": {"version": 8}},
    "it is of another line": {"trust": {"model_id": "other"}},
    "three keys are asked for and two signed": {"trust": {"threshold": 3}},
    "a trusted key is listed twice": {"trust": {"keys": ["a", "a", "c"]}},
    "it expires at this moment": {"now": "2026-12-23T12:00:00+00:00"},
    "it was made in the future": {"now": "2026-11-22T11:59:59.999999+00:00"},
    "the trusted keys expired": {"trust": {"keys_expire": "2026-11-23T12:00:00+00:00"}},
    "LiteRT is too old": {"runtimes": {"litert": "1.1.9", "onnxruntime": "1.20.0"}},
    "versions are numbers, not text": {"runtimes": {"onnxruntime": "1.9.0"}},
    "its schema is one that the app cannot fill": {"schemas": ["0" * 64]},
    "its schema is one that the app can fill": {"schemas": ["0" * 64, TINY.digest()]},
}


def trust_of(state: dict) -> Trust:
    expire = state["keys_expire"]
    keys = tuple(KEYS[word].public_key() for word in state["keys"])
    return Trust(
        keys, state["threshold"], state["version"], state["model_id"], state["key_version"],
        datetime.fromisoformat(expire) if expire else None,
    )  # fmt: skip


USUAL_STATE = {"trust": TRUST, "now": "2026-11-23T12:00:00+00:00", "runtimes": RUNTIMES, "schemas": None}


def bundle_vector(name: str, changes: list[dict], good: bytes, **state) -> dict:
    if "trust" in state:
        state["trust"] = TRUST | state["trust"]
    given, vector = USUAL_STATE | state, {"name": name} | state | {"edits": changes}
    try:
        after, _ = trust_of(given["trust"]).accept(
            applied(good, changes),
            now=datetime.fromisoformat(given["now"]),
            runtimes=given["runtimes"],
            schemas=given["schemas"],
        )
    except BundleError as error:
        return vector | {"expected": {"error": type(error).__name__}}
    return vector | {"expected": {"version": after.version, "model_id": after.model_id}}


def key_set_file(chosen: str, signers: str, *, payload=lambda text: text, signed_type: str = KEY_SET_TYPE, **fields):
    """The signed file of a key set, written without the code it checks."""
    plain = {
        "model_id": "line", "version": 2, "threshold": min(2, len(chosen)), "keys": [PEMS[word] for word in chosen],
        "expires": "2027-11-23T12:00:00Z", "last_version": None,
    } | fields  # fmt: skip
    body = payload(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())
    message = signed_message(body, signed_type)
    outer = {
        "payload": text64(body),
        "payloadType": KEY_SET_TYPE,
        "signatures": [{"sig": text64(KEYS[word].sign(message))} for word in signers],
    }
    return json.dumps(outer, sort_keys=True, separators=(",", ":")).encode()


CHAIN = {
    "b and c": key_set_file("bc", "abc"),
    "c and d, expired": key_set_file("cd", "bcd", version=3, expires="2026-01-01T00:00:00Z"),
    "d alone": key_set_file("d", "cd", version=4),
}
KEY_SETS = CHAIN | {
    "a stranger signs too": key_set_file("bc", "xabc"),
    "all keys are exchanged": key_set_file("cd", "abcd"),
    "bundle versions go back to 5": key_set_file("bc", "abc", last_version=5),
    "bundle versions may go back to 50, which is no step back": key_set_file("bc", "abc", last_version=50),
    "only the old keys sign": key_set_file("cd", "ab"),
    "only the new keys sign": key_set_file("cd", "cd"),
    "one old key signs twice": key_set_file("cd", "aacd"),
    "one new key too few signs": key_set_file("bc", "ab"),
    "the version stays the same": key_set_file("bc", "abc", version=1),
    "a version is left out": key_set_file("bc", "abc", version=3),
    "it expires at this moment": key_set_file("bc", "abc", expires="2026-11-23T12:00:00Z"),
    "it is of another line": key_set_file("bc", "abc", model_id="other"),
    "a key is listed twice": key_set_file("bcc", "abc"),
    "the threshold is above the number of keys": key_set_file("bc", "abc", threshold=3),
    "a key has another spelling": key_set_file("bc", "abc", keys=[PEMS["b"], PEMS["c"].replace("\n", "\r\n")]),
    "its expiry is in local time": key_set_file("bc", "abc", expires="2027-11-23T12:00:00+01:00"),
    "an unknown field is added": key_set_file("bc", "abc", payload=lambda text: text[:-1] + b',"zone":1}'),
    "the signed set has spaces": key_set_file("bc", "abc", payload=lambda text: text.replace(b":2", b": 2")),
    "it is signed as a bundle": key_set_file("bc", "abc", signed_type=PAYLOAD_TYPE),
    "a byte is added": CHAIN["b and c"] + b"\n",
    "the envelope has spaces": CHAIN["b and c"].replace(b'","', b'", "'),
}
PAIR = {"keys": ["a", "b"], "threshold": 2, "version": 7, "model_id": "line", "key_version": 1, "keys_expire": None}
CHAINS = {
    "a device that was off walks past a set that expired meanwhile": ({}, list(CHAIN)),
    "the last set of a chain must not have expired": ({}, list(CHAIN)[:2]),
    "a link is missing": ({}, ["b and c", "d alone"]),
    "the first link is missing": ({}, list(CHAIN)[1:]),
    "a link is there twice": ({}, ["b and c", *CHAIN]),
    "a device without a line takes that of the key set": ({"model_id": None}, ["b and c"]),
    "keys that expired still hand over": ({"keys_expire": "2026-01-01T00:00:00+00:00"}, ["b and c"]),
} | {name: ({}, [name]) for name in KEY_SETS if name not in CHAIN}


def chain_vector(name: str, state: dict, links: list[str]) -> dict:
    given = {"name": name, "trust": PAIR | state, "chain": links, "now": "2026-11-23T12:00:00+00:00"}
    try:
        after = rotate_along(
            trust_of(given["trust"]), [KEY_SETS[link] for link in links], datetime.fromisoformat(given["now"])
        )
    except BundleError as error:
        return given | {"expected": {"error": type(error).__name__}}
    names = {key_id(key.public_key()): word for word, key in KEYS.items()}
    return given | {
        "expected": {
            "keys": [names[key_id(key)] for key in after.keys],
            "threshold": after.threshold,
            "version": after.version,
            "model_id": after.model_id,
            "key_version": after.key_version,
            "keys_expire": after.keys_expire.isoformat(),
        }
    }


def golden_vectors() -> list[dict]:
    answers = {
        "the same": [[0.25], [0.5], [0.125]],
        "within the tolerance": [[0.250009], [0.499991], [0.125009]],
        "beyond the tolerance": [[0.250012], [0.5], [0.125]],
        "another wins": [[0.5], [0.25], [0.125]],
        "a candidate is missing": [[0.25], [0.5]],
        "a head too many": [[0.25, 0.5], [0.5, 0.5], [0.125, 0.5]],
    }
    made = []
    for name, rows in answers.items():
        try:
            check_scores((GOLDEN,), lambda _, rows=rows: np.asarray(rows, np.float32))
            error = None
        except BundleError as caught:
            error = type(caught).__name__
        made.append({"name": name, "answer": rows, "error": error})
    return made


def rollout_vectors() -> list[dict]:
    secrets = [bytes(16), bytes(range(16)), b"\xff" * 32, hashlib.sha256(b"device").digest()]
    made = []
    for salt in ("line 7", "line 8", "s", "\u00e9", "e\u0301", "\U0001f600" * 64):
        for secret in secrets:
            raw = salt.encode()
            first = hashlib.sha256(b"sottovoce rollout" + len(raw).to_bytes(4, "big") + raw + secret).digest()[:8]
            edge = int.from_bytes(first, "big") / 2**64 * 100
            percents = (1.0, 50.0) if salt != "line 7" else (0.0, edge - 1e-9, edge + 1e-9, 100.0)
            for percent in percents:
                inside = takes_part(Rollout(percent=percent, salt=salt), secret)
                made.append({"percent": percent, "salt": salt, "secret": secret.hex(), "takes_part": inside})
    return made


def trust() -> dict:
    files = published()
    good = pack(files)
    if dict(unpack(good)) != files:
        raise ValueError("the good bundle does not unpack to its files")
    bundles = [bundle_vector(name, [], good, **state) for name, state in STATES.items()]
    calibrated = pack(published(files={"calibration.json": stated()}))
    bundles.append(bundle_vector("a good bundle whose model is calibrated", edits(good, calibrated), good))
    bundles += [bundle_vector(name, edits(good, bad), good) for name, bad in container_attacks(good).items()]
    bundles += [bundle_vector(name, edits(good, pack(bad)), good) for name, bad in signed_attacks().items()]
    return {
        "keys": PEMS,
        "good": text64(good),
        "good_sha256": hashlib.sha256(good).hexdigest(),
        "usual": USUAL_STATE,
        "bundles": bundles,
        "key_sets": {name: text64(data) for name, data in KEY_SETS.items()},
        "chains": [chain_vector(name, *given) for name, given in CHAINS.items()],
        "golden": msgspec.to_builtins(GOLDEN),
        "golden_answers": golden_vectors(),
        "rollouts": rollout_vectors(),
    }


# Files ---------------------------------------------------------------------------------------------------------------

FILES = {"features.json": features, "scores.json": scores, "decisions.json": decisions, "trust.json": trust}


def written(content: dict) -> str:
    """ASCII JSON with one vector a line, so that a change of one is a change of one line."""

    def line(part: object) -> str:
        return json.dumps(part, allow_nan=False, separators=(",", ":"))

    def block(part: object) -> str:
        if isinstance(part, list) and part and isinstance(part[0], dict):
            return "[\n" + ",\n".join(map(line, part)) + "\n]"
        return line(part)

    return "{\n" + ",\n".join(f"{line(key)}: {block(part)}" for key, part in content.items()) + "\n}\n"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in FILES.items():
        (folder / name).write_text(written(make()), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
