"""The conformance vectors are what the generator writes, hold for a reader of their own, and fail when one is wrong."""

import base64
import copy
import hashlib
import json
import math
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import conformance_vectors
import msgspec
import numpy as np
import pytest

from sottovoce.client import auction
from sottovoce.client.auction import Bid, charge, millionths, sell, value
from sottovoce.client.catalogue import Campaign, decode_catalogue
from sottovoce.client.consent import consent
from sottovoce.client.events import EventLog, decode_log
from sottovoce.client.features import Encoder
from sottovoce.client.personal import offsets
from sottovoce.client.personal_scorer import PersonalScorer, fitted_offset
from sottovoce.client.picker import Picker
from sottovoce.client.request import decode_request
from sottovoce.models.golden import Golden, check_scores
from sottovoce.models.key_rotation import rotate_along
from sottovoce.models.request import Request, winner
from sottovoce.models.rollout import Rollout, takes_part
from sottovoce.models.schema import load_schema
from sottovoce.models.signing import public_pem, read_public_key
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError

FOLDER = Path(__file__).parents[1] / "docs" / "conformance"
NAMES = ("features.json", "scores.json", "decisions.json", "trust.json")
FILES = {name.removesuffix(".json"): json.loads((FOLDER / name).read_bytes()) for name in NAMES}
FEATURES, SCORES, DECISIONS, TRUST = FILES.values()
TOLERANCE = SCORES["tolerance"]


def raw(part):
    return json.dumps(part).encode()


def log_of(events):
    return decode_log(b"\n".join(map(raw, events)))


WIDE, SMALL = load_schema(raw(FEATURES["schema"])), load_schema(raw(SCORES["schema"]))
BY_NAME = {feature.name: feature for feature in WIDE.features}


def an_id(vector):
    return WIDE.row(BY_NAME[vector["feature"]], vector["value"]) == vector["id"]


def model_inputs(vector):
    schema = msgspec.structs.replace(WIDE, heads=tuple(vector["heads"]))
    request, log = decode_request(raw(FEATURES["request"])), log_of(vector["log"])
    encoder = Encoder(schema, decode_catalogue(raw(FEATURES["catalogue"])))
    events, outcomes, _ = encoder.history(log if vector["personalised"] else EventLog())
    found = {
        "context": encoder.context(request, vector["personalised"])[0].tolist(),
        "events": events.tolist(),
        "outcomes": outcomes.tolist(),
        "ad": encoder.ads(list(range(4))).tolist(),
        "past": [],
    }
    if vector["personalised"]:
        for one, clicked in zip(*encoder.past(request, log, 64), strict=True):
            row = {"context": one.context[0], "events": one.events, "outcomes": one.outcomes, "ad": one.ad}
            found["past"].append({name: ids.tolist() for name, ids in row.items()} | {"clicked": clicked})
    return found == vector["expected"]


class Plain:
    """The ranker written anew from docs/conformance/README.md, in float64, one candidate at a time."""

    def __init__(self, name):
        (made,) = (one for one in SCORES["models"] if one["name"] == name)
        self.width = made["embedding_width"]
        self.weights = {part: np.array(numbers) for part, numbers in made["weights"].items()}

    def scores(self, context, events, outcomes, ad):
        return np.stack([self.score(context[0], events, outcomes, one) for one in ad])

    def dense(self, x, layer):
        weight = self.weights[f"{layer}.weight"]
        return x @ weight / np.sqrt(len(weight)) + self.weights[f"{layer}.bias"][0]

    def score(self, context, events, outcomes, ad):
        table, fields = self.weights["table"], events.shape[1]
        places = [place for place in range(len(outcomes)) if outcomes[place]]
        clicked = {place for place in places if outcomes[place] >= len(table) - 2}
        counts = []
        for field in range(fields):
            alike = {place for place in places if ad[field] and events[place, field] == ad[field]}
            counts += [np.log(1 + len(alike & clicked)), np.log(1 + len(alike - clicked))]
        counts += [len(clicked) / (len(places) + 1), (len(places) - len(clicked)) / (len(places) + 1)]
        counts = np.array(counts)
        if self.width:
            logits = self.deep(context, events, outcomes, ad, places, counts)
        else:
            logits = self.weights["head.bias"][0].copy()
        if "interest.weight" in self.weights:
            logits += counts @ self.weights["interest.weight"]
        for head in range(1 if self.width else len(logits)):
            logits[head] += table[context, head].sum() + table[ad, head].sum()
        return 1 / (1 + np.exp(-logits))

    def deep(self, context, events, outcomes, ad, places, counts):
        table, fields = self.weights["table"], events.shape[1]
        user = np.maximum(self.dense(table[context, 1:].ravel(), "tower"), 0)
        attended = np.zeros(self.width)
        if places:
            keys = np.array([table[events[place], 1:].sum(0) for place in places])
            rows = table[outcomes[places]]
            weight = np.exp(keys @ table[ad[:fields], 1:].sum(0) / np.sqrt(self.width))
            attended = weight / weight.sum() @ (keys * (1 + rows[:, :1]) + rows[:, 1:])
        first = x = np.concatenate([user, table[ad, 1:].ravel(), attended, counts])
        layer = 0
        while f"cross.{layer}.weight" in self.weights:
            x, layer = first * self.dense(x, f"cross.{layer}") + x, layer + 1
        return self.dense(np.concatenate([x, np.maximum(self.dense(x, "hidden"), 0)]), "head")


class NotANumber:
    def scores(self, context, events, outcomes, ad):
        return np.full((len(ad), 2), np.nan)


def request_of(ids):
    return Request(
        np.array([ids["context"]]), *(np.array(ids[name], np.int32) for name in ("events", "outcomes", "ad"))
    )


def asked(scorer, ids):
    one = request_of(ids)
    return scorer.scores(one.context, one.events, one.outcomes, one.ad)


def near(found, expected):
    """Whether all numbers are within the tolerance; an answer of another form is not."""
    try:
        told = np.array(expected, float)
    except (TypeError, ValueError):
        return False
    return np.shape(found) == told.shape and bool((np.abs(found - told) <= TOLERANCE).all())


def a_score(vector):
    return near(asked(Plain(vector["model"]), vector), vector["scores"])


def an_offset(vector):
    rows = len(vector["chances"])
    chances, clicks = np.array(vector["chances"], float), np.array(vector["clicks"], np.int64)
    return near(offsets(chances, clicks, np.zeros(rows, np.int64), 1, vector["variance"])[0], vector["offset"])


def a_personal_score(vector):
    scorer = Plain(vector["model"])
    past, clicked = [request_of(one) for one in vector["past"]], [one["clicked"] for one in vector["past"]]
    offset = fitted_offset(scorer, past, clicked, vector["variance"])
    scores = asked(PersonalScorer(scorer, offset), vector["request"])
    return near(offset, vector["offset"]) and near(scores, vector["scores"])


def an_amount(vector):
    return millionths(vector["amount"]) == vector["expected"]


def a_choice(vector):
    return winner(np.array(vector["scores"], np.float32)) == vector["winner"]


def an_auction(vector):
    day = datetime(2026, 1, 1, tzinfo=UTC)
    bids, expected = vector["bids"], vector["expected"]
    campaigns = [Campaign("c", b["seat"], (), (), b["price"], b["pricing"], day, day + timedelta(1)) for b in bids]
    values = [value(one, bid["scores"]) for one, bid in zip(campaigns, bids, strict=True)]
    offers = [Bid(b["crid"], b["seat"], v) for b, v in zip(bids, values, strict=True) if v is not None]
    sale = sell(offers, millionths(vector["bidfloor"]), vector["at"])
    found = {"values": values, "winner": None, "price": None, "charge": None}
    if sale.winner:
        place = next(n for n, one in enumerate(bids) if one["crid"] == sale.winner.crid)
        cost = charge(campaigns[place], sale.price, bids[place]["scores"])
        found |= {"winner": sale.winner.crid, "price": sale.price, "charge": cost}
    return found == expected


def a_consent(vector):
    gates = consent(vector["keys"])
    return all(getattr(gates, gate) == vector[gate] for gate in vector.keys() - {"name", "keys"})


def a_decision(vector):
    given = DECISIONS["usual"] | vector
    scorers = {None: lambda _: None, "not a number": lambda _: NotANumber()}
    scorer = scorers.get(given["model"], Plain)(given["model"])
    catalogue = decode_catalogue(raw(DECISIONS["catalogues"][given["catalogue"]]))
    (keys,) = (one["keys"] for one in DECISIONS["consents"] if one["name"] == given["consent"])
    found = Picker(SMALL, scorer, catalogue, given["personal_variance"]).pick(
        decode_request(raw(given["request"])),
        log_of(given["log"]),
        consent(keys),
        datetime.fromisoformat(given["now"]),
    )
    told = json.loads(msgspec.json.encode(found.in_full()))
    best = told["winner"] and {name: told["winner"][name] for name in ("crid", "price", "charge", "value")}
    losers = [{name: loser[name] for name in ("crid", "reason", "value")} for loser in told["losers"]]
    told = {name: told[name] for name in ("mode", "fallback", "nbr")} | {"winner": best, "losers": losers}
    return told == vector["expected"]


def trust_of(state):
    keys = tuple(read_public_key(TRUST["keys"][name].encode()) for name in state["keys"])
    expire = state["keys_expire"] and datetime.fromisoformat(state["keys_expire"])
    return Trust(keys, state["threshold"], state["version"], state["model_id"], state["key_version"], expire)


def edited(edits):
    data = bytearray(base64.b64decode(TRUST["good"]))
    for one in reversed(edits):
        data[one["offset"] : one["offset"] + one["length"]] = base64.b64decode(one["base64"])
    return bytes(data)


def a_bundle(vector):
    given = TRUST["usual"] | vector
    try:
        after, _ = trust_of(given["trust"]).accept(
            edited(given["edits"]),
            now=datetime.fromisoformat(given["now"]),
            runtimes=given["runtimes"],
            schemas=given["schemas"],
        )
    except BundleError as error:
        return {"error": type(error).__name__} == vector["expected"]
    return {"version": after.version, "model_id": after.model_id} == vector["expected"]


def a_chain(vector):
    chain = [base64.b64decode(TRUST["key_sets"][link]) for link in vector["chain"]]
    try:
        after = rotate_along(trust_of(vector["trust"]), chain, datetime.fromisoformat(vector["now"]))
    except BundleError as error:
        return {"error": type(error).__name__} == vector["expected"]
    if "error" in vector["expected"]:
        return False
    # Keys are compared by what they are; two objects of one key differ in some versions of the library.
    told = trust_of(vector["expected"])
    keys = [[public_pem(key) for key in state.keys] for state in (after, told)]
    return keys[0] == keys[1] and replace(after, keys=told.keys) == told


def a_golden_answer(vector):
    golden = msgspec.convert(TRUST["golden"], Golden)
    try:
        check_scores([golden], lambda _: np.array(vector["answer"], np.float32))
    except BundleError as error:
        return vector["error"] == type(error).__name__
    return vector["error"] is None


def a_rollout(vector):
    share = Rollout(percent=vector["percent"], salt=vector["salt"])
    return takes_part(share, bytes.fromhex(vector["secret"])) == vector["takes_part"]


def a_topic(vector):
    """By the package, and a second time from the words of docs/formats.md."""
    schema = FEATURES["topic_schema"]
    product_of = dict(map(tuple, schema["topic"]["pairs"]))
    boundaries = schema["features"][3]["boundaries"]
    starts = np.cumsum([1, *(feature["buckets"] for feature in schema["features"])]).tolist()
    topics = sorted(set(product_of.values()))
    read = [product_of[one] for one in vector["read"][-256:] if one in product_of]
    found = []
    for candidate in vector["products"]:
        row = [0 if candidate is None else starts[1] + candidate, 0, 0]
        if candidate in topics:
            lift = math.log((read.count(candidate) + 1) * len(topics) / (len(read) + len(topics)))
            row[2] = starts[3] + sum(lift >= bound for bound in boundaries)
            if vector["page"] in product_of:
                row[1] = starts[2] + (product_of[vector["page"]] == candidate)
        found.append(row)
    told = conformance_vectors.topic_vector(vector["name"], vector["read"], vector["page"])
    return found == vector["expected"] == told["expected"]


CHECKS = {
    ("features", "ids"): an_id,
    ("features", "inputs"): model_inputs,
    ("features", "topics"): a_topic,
    ("scores", "scores"): a_score,
    ("scores", "offsets"): an_offset,
    ("scores", "personal"): a_personal_score,
    ("decisions", "millionths"): an_amount,
    ("decisions", "choices"): a_choice,
    ("decisions", "auctions"): an_auction,
    ("decisions", "consents"): a_consent,
    ("decisions", "decisions"): a_decision,
    ("trust", "bundles"): a_bundle,
    ("trust", "chains"): a_chain,
    ("trust", "golden_answers"): a_golden_answer,
    ("trust", "rollouts"): a_rollout,
}
ANSWERS = {
    "id", "expected", "scores", "offset", "winner", "error", "takes_part",
    "serve_personalised", "serve_contextual", "learn", "report",
}  # fmt: skip
"""Keys of a vector that hold what a port has to find."""

GIVEN = {("choices", "scores")}
"""Where such a key holds what is given."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conformance")
    conformance_vectors.main(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_file_is_what_the_generator_writes(name, made):
    assert (made / name).read_bytes() == (FOLDER / name).read_bytes()


def test_the_folder_holds_nothing_else_and_is_small():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(("README.md", *NAMES))
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 400_000


@pytest.mark.parametrize("place", CHECKS, ids=" ".join)
def test_every_vector_holds(place):
    file, part = place
    vectors, check = FILES[file][part], CHECKS[place]
    assert len(vectors) >= 5
    assert [vector for vector in vectors if not check(vector)] == []


def wrong(answer):
    """Answers that differ from this one in one place, as a slip would make them."""
    if isinstance(answer, bool):
        yield not answer
    elif isinstance(answer, int):
        yield answer + 1
    elif isinstance(answer, float):
        yield answer + 3e-5
    elif isinstance(answer, str):
        yield "BundleError" if answer != "BundleError" else "SignatureError"
    elif answer is None:
        yield "GoldenError"
    elif isinstance(answer, list):
        for place, inner in enumerate(answer[:2]):
            for other in wrong(inner):
                yield [*answer[:place], other, *answer[place + 1 :]]
        yield [*answer, None]
    else:
        for name, inner in answer.items():
            for other in wrong(inner):
                yield answer | {name: other}


NO_SLIP = ("keys_expire", "keys")
"""Parts of a chain's answer in which a slip is no answer at all: no time, no name of a key."""


@pytest.mark.parametrize("place", CHECKS, ids=" ".join)
def test_every_kind_of_wrong_answer_is_noticed(place):
    file, part = place
    tried = 0
    for vector in FILES[file][part][:: 1 if file == "features" else 3]:
        for name in vector.keys() & ANSWERS:
            if (part, name) in GIVEN:
                continue
            answer = vector[name]
            if part == "chains":
                answer = {key: inner for key, inner in answer.items() if key not in NO_SLIP}
            for other in wrong(answer):
                bent = copy.deepcopy(vector) | {name: vector[name] | other if part == "chains" else other}
                assert not CHECKS[place](bent), bent
                tried += 1
    assert tried >= 2


def by_text(have, least):
    return have >= least


def first_largest(scores):
    return int(scores.astype(float).prod(-1).argmax())


def by_utf16(bids, floor, at):
    """An auction whose ties fall as in languages that compare UTF-16 units."""
    spelled = {one.crid.encode("utf-16-be").hex(): one.crid for one in bids}
    sale = auction.sell([replace(one, crid=one.crid.encode("utf-16-be").hex()) for one in bids], floor, at)
    return sale if sale.winner is None else sale._replace(winner=replace(sale.winner, crid=spelled[sale.winner.crid]))


MISTAKES = {
    "a choice off the grid": (__name__, "winner", first_largest, "decisions", "choices"),
    "ties by UTF-16 units": (__name__, "sell", by_utf16, "decisions", "auctions"),
    "no cent above the second value": ("client.auction", "INCREMENT", 0, "decisions", "auctions"),
    "no sensitive ads": ("client.columns", "sensitive", lambda *_: "", "decisions", "decisions"),
    "sensitive pages are personalised": ("client.serving", "sensitive", lambda *_: "", "decisions", "decisions"),
    "ads in the order of the catalogue": (
        "client.rotation", "sorted", lambda places, key: list(places), "decisions", "decisions",
    ),
    "a conversion ranks as a click": (
        "client.remembered", "RANK", {"seen": 0, "click": 1, "conversion": 1}, "features", "inputs",
    ),
    "every page counts": ("models.topics", "WINDOW", 10**6, "features", "topics"),
    "sensitive ads in the history": ("client.remembered", "sensitive", lambda *_: "", "features", "inputs"),
    "steps without a limit": ("client.personal", "LARGEST_STEP", 1e9, "scores", "offsets"),
    "too few steps": ("client.personal", "NEWTON_STEPS", 2, "scores", "personal"),
    "versions as text": ("models.trust", "newer_or_same", by_text, "trust", "bundles"),
    "no patience with slow clocks": ("models.trust", "CLOCK_SKEW", timedelta(0), "trust", "bundles"),
    "signatures are not counted": ("models.trust", "verify", lambda *_: 8, "trust", "bundles"),
    "times are not looked at": ("models.trust", "_check_times", lambda *_: None, "trust", "bundles"),
    "digests are not compared": ("models.trust", "_check_digests", lambda *_: None, "trust", "bundles"),
    "key sets need no signatures": ("models.key_rotation", "_require", lambda *_: None, "trust", "chains"),
    "a wide tolerance": ("models.golden", "TOLERANCE", 1e-3, "trust", "golden_answers"),
    "a signed number": ("models.rollout", "_DRAWS", 2**63, "trust", "rollouts"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "name", "mistake", "file", "part"), MISTAKES.values(), ids=MISTAKES)
def test_a_port_is_told_of_its_mistake(module, name, mistake, file, part, monkeypatch):
    there = sys.modules[module if module == __name__ else f"sottovoce.{module}"]
    monkeypatch.setattr(there, name, mistake, raising=name != "sorted")
    assert not all(map(CHECKS[file, part], FILES[file][part]))


def test_the_text_of_the_schema_is_the_one_that_is_digested():
    text = FEATURES["schema_text"].encode()
    assert WIDE.canonical() == text
    assert hashlib.sha256(text).hexdigest() == FEATURES["schema_sha256"]


def test_the_layout_of_the_table_and_of_the_inputs_is_that_of_the_schema():
    layout = FEATURES["layout"]
    assert (layout["rows"], layout["first_rows"]) == (WIDE.rows, dict(WIDE.offsets))
    assert layout["outcome_rows"] == {name: WIDE.outcome_row(name) for name in layout["outcome_rows"]}
    for columns in ("context", "ad", "history"):
        assert layout[columns] == [feature.name for feature in getattr(WIDE, columns)]


def test_the_good_bundle_is_the_one_that_is_named():
    assert hashlib.sha256(edited([])).hexdigest() == TRUST["good_sha256"]


def test_edits_rise_and_stay_apart_so_that_they_may_be_applied_from_either_end():
    for vector in TRUST["bundles"]:
        ends = [0]
        for one in vector["edits"]:
            assert one["offset"] >= ends[-1]
            ends.append(one["offset"] + one["length"])
        assert ends[-1] <= len(edited([]))


def test_every_reason_error_and_step_of_the_ladder_is_met():
    """So that a port that passes has met each of them."""
    told = [vector["expected"] for vector in DECISIONS["decisions"]]
    reasons = {loser["reason"] for one in told for loser in one["losers"]}
    assert reasons == {100, 102, 201, 202, 203, 204, 205, 208, 209, 210, 500, 501, 502, 503, 504, 505, 510, 511, 512,
                       513, 520, 521}  # fmt: skip
    assert {one["nbr"] for one in told} == {None, 500, 501, 502, 503, 504}
    assert {one["fallback"] for one in told} == {"model", "rotation", "none"}
    assert {one["mode"] for one in told} == {"personalised", "contextual", "none"}
    errors = {one["expected"].get("error") for part in ("bundles", "chains") for one in TRUST[part]}
    assert errors == {
        None, "BundleError", "SignatureError", "RollbackError", "ExpiredError", "DigestError", "SchemaError"
    }  # fmt: skip


def test_names_of_vectors_are_unique():
    for file, part in CHECKS:
        names = [vector["name"] for vector in FILES[file][part] if "name" in vector]
        assert len(set(names)) == len(names)
