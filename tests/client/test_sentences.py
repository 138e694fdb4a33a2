"""Every sentence that a person can be told, written out in sentences.txt; and that each is true of the model."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_creative import BRAND, DAY, approved, creative, record
from small_creative import NOW as MADE
from small_market import (
    ALLOWED,
    ANONYMOUS,
    NOW,
    SCHEMA,
    Broken,
    Rule,
    Told,
    ad,
    campaign,
    catalogue,
    event,
    market,
    request,
)

from sottovoce.client.approval import FRAME
from sottovoce.client.combination import showable
from sottovoce.client.combination_choice import learn
from sottovoce.client.combination_posterior import Posterior as PartsPosterior
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls, Interest
from sottovoce.client.counterfactual import (
    Bid,
    Floor,
    Forgetting,
    Moment,
    Muting,
    Permission,
    Resuming,
    Unmuting,
    tried,
)
from sottovoce.client.events import EventLog
from sottovoce.client.explanation import sentence, why
from sottovoce.client.exploration import Exploration
from sottovoce.client.features import Encoder
from sottovoce.client.ladder import Ranker
from sottovoce.client.occasion import Occasion
from sottovoce.client.page_scorer import page_scorer
from sottovoce.client.personal import sigmoid
from sottovoce.client.picker import Picker
from sottovoce.client.policy import Pace, PickerPolicy, QuietHours
from sottovoce.client.posterior import Arm, Posterior
from sottovoce.client.request import Banner, Imp, Publisher, RequestExt
from sottovoce.client.showing import moment_of
from sottovoce.client.value import QualityRule
from sottovoce.client.why_not import why_not

GOLDEN = Path(__file__).parent / "sentences.txt"
LOG = EventLog((event("impression", 1, 90), event("click", 1, 80), event("impression", 1, 60)))
HISTORY, PAGE, DEVICE = 1, 2, 4


def table(rule):
    return [rule(known) for known in range(8)]


def sums(history=0.0, page=0.0, device=0.0):
    return table(lambda c: -2 + history * (c & HISTORY) + page * (c & PAGE) / 2 + device * (c & DEVICE) / 4)


TRIES = PickerPolicy(exploration=Exploration(method="epsilon", epsilon=0.4))
FIRST, LAST = 0.0, 1 - 1e-9
"""Draws that fall to the best and to the last of the best."""

THOMPSON = PickerPolicy(exploration=Exploration(method="thompson", epsilon=0.4))
TASTE = Posterior(arms=(Arm("cat:1058", 1.0, 0.1, 1),))
WEIGHS = PickerPolicy(quality=QualityRule(conversion_worth=0.1))
WEIGHS_AND_TRIES = msgspec.structs.replace(WEIGHS, exploration=TRIES.exploration)
LESS = Controls(interests=(Interest(("1058", 8), "less"),))
READY = showable(one := creative(crid="a0"), approved(one), BRAND, MADE)
REFUSED = showable(one := creative(crid="a1"), approved(one, record(one, FRAME, 4, at=MADE - DAY / 2)), BRAND, MADE)
HOUSE = catalogue((campaign("c1", price=0.0),), (ad("a1", "c1"),))
FLOOR = (Imp(id="1", banner=Banner(320, 50), bidfloor=900.0),)
QUIET = PickerPolicy(page=Pace(quiet=QuietHours(0, 13 * 60)))


def picker_of(scorer, shop, level="model", **more):
    """The picker in which this scorer stands at that level of the ladder."""
    if level == "previous":
        return Picker(SCHEMA, Broken("nan"), shop, previous=Ranker(SCHEMA, scorer), **more)
    if level == "contextual":
        return Picker(SCHEMA, Broken("nan"), shop, page=page_scorer(Encoder(SCHEMA, shop), scorer, shop), **more)
    return Picker(SCHEMA, scorer, shop, **more)


def told(
    scorer, shop=None, consent=ALLOWED, log=LOG, controls=None, policy=None, draw=0.0, level="model", taste=None, **more
):
    settings = {name: more.pop(name) for name in ("creatives", "personal_variance") if name in more}
    picker = picker_of(scorer, shop or market(2), level, policy=policy, **settings)
    decision = picker.pick(request(**more), log, consent, NOW, controls, draw, taste)
    assert decision.fallback in (level, "rotation", "house", "none")
    return sentence(decision)


def all_sentences():
    plain = Told(sums(page=1.0))
    yield "model, history raised it", told(Told(sums(history=1.0, page=0.2)))
    yield "model, history lowered it", told(Told(sums(history=-1.0, page=0.2)))
    yield "model, personal layer", told(Told(sums(page=0.1)), personal_variance=4.0)
    yield "model, page", told(plain)
    yield "model, page without a known topic", told(plain, app=Publisher(bundle="news.example"))
    yield "model, device", told(Told(sums(device=1.0)))
    yield "model, two alike", told(Told(sums(device=1.0, page=1.0)))
    yield "model, only together", told(Told(table(lambda c: 1.0 if c == 7 else -1.0)))
    yield "model, one is enough", told(Told(table(lambda c: 1.0 if c else -1.0)))
    yield "model, neither first nor last", told(Told(table(lambda c: 1.0 if c in (3, 5, 6) else 0.0)))
    yield "model, nothing changed it", told(Told(sums()))
    yield "model, per conversion", told(plain, market(2, "cpa"))
    yield "model, per view", told(plain, market(2, "cpm"))
    yield "model, one ad fits", told(plain, market(1))
    yield "model, nothing to go by", told(plain, log=EventLog(), ext=RequestExt({}))
    yield "model, drawn to learn", told(plain, market(9), policy=TRIES, draw=LAST)
    yield "model, drawn and the best", told(plain, market(9), policy=TRIES, draw=FIRST)
    yield "model, drawn by taste", told(plain, market(3), policy=THOMPSON, draw=LAST, taste=TASTE)
    yield "model, taste that does not count", told(plain, market(3), policy=TRIES, draw=LAST, taste=TASTE)
    yield "model, more than money", told(plain, policy=WEIGHS)
    yield "model, edited interests", told(plain, controls=Controls(interests=(Interest(("1058", 8), "more"),)))
    yield "model, drawn, both", told(plain, market(9), policy=WEIGHS_AND_TRIES, draw=LAST, controls=LESS)
    yield "model, versions", told(plain, creatives={"a0": READY})
    yield "model, no consent", told(plain, consent=ANONYMOUS)
    yield "model, no consent, per view", told(plain, market(2, "cpm"), ANONYMOUS)
    yield "model, paused", told(plain, controls=Controls(paused=True))
    yield "model, sensitive page", told(plain, app=Publisher(bundle="clinic.example", cat=("301",), cattax=9))
    yield "previous model", told(plain, level="previous")
    yield "previous model, no consent", told(plain, consent=ANONYMOUS, level="previous")
    yield "page table", told(Told(sums(history=1.0, page=1.0, device=1.0)), level="contextual")
    yield "page table, no consent", told(plain, consent=ANONYMOUS, level="contextual")
    yield "page table, per view", told(plain, market(2, "cpm"), level="contextual")
    yield "rotation", told(Broken("nan"))
    yield "rotation, no consent", told(Broken("nan"), consent=ANONYMOUS)
    yield "rotation, versions", told(Broken("nan"), creatives={"a0": READY})
    yield "house", told(plain, HOUSE)
    yield "none, no ad", told(plain, catalogue((), ()))
    yield "none, floor", told(plain, imp=FLOOR)
    yield "none, quiet hours", told(plain, policy=QUIET)
    yield "none, not allowed", told(plain, consent=Consent(serve_contextual=False))
    yield from others()


def others():
    """Why not, and what would have changed it."""

    def build(shop, policy=None):
        return Picker(SCHEMA, Told(sums(page=1.0)), shop, policy=policy)

    shop = market(3)
    occasion = Occasion(build, build(shop), shop, request(), LOG, ALLOWED, NOW)
    muted = replace(occasion, controls=Controls(muted_crids=("a1",), muted_seats=("advertiser-c1",)))
    pricier = occasion.among(catalogue((*shop.campaigns[:2], campaign("c2", price=0.5)), shop.ads))
    yield "why not, shown", why_not(occasion.pick(), "a0").sentence
    yield "why not, a tie", why_not(occasion.pick(), "a1").sentence
    yield "why not, outbid", why_not(pricier.pick(), "a2").sentence
    worn = PickerPolicy(quality=QualityRule(repeat_cost=1e3))
    tired = Picker(SCHEMA, Told(sums(page=1.0)), shop, policy=worn).pick(request(), LOG, ALLOWED, NOW)
    yield "why not, worth less than it costs", why_not(tired, "a1").sentence
    choosy = PickerPolicy(quality=QualityRule(least_quality=0.5))
    yield "why not, low quality", why_not(replace(occasion, picker=build(shop, choosy)).pick(), "a1").sentence
    page = picker_of(Told(sums(page=1.0)), shop, "contextual").pick(request(), LOG, ALLOWED, NOW)
    yield "why not, page table", why_not(page, "a1").sentence
    gone = replace(occasion, picker=Picker(SCHEMA, Told(sums(page=1.0)), shop, creatives={"a1": REFUSED}))
    yield "why not, no parts", why_not(gone.pick(), "a1").sentence
    yield "why not, muted, and no parts", why_not(replace(muted, picker=gone.picker).pick(), "a1").sentence
    yield "why not, refused twice", why_not(muted.pick(), "a1").sentence
    yield (
        "why not, no ad at all",
        why_not(replace(occasion, consent=Consent(serve_contextual=False)).pick(), "a1").sentence,
    )
    for change in (
        Bid("c1", 1_000_001, 1_000_000),
        Floor(400_000_000, 0),
        Moment(NOW + timedelta(hours=6, minutes=40)),
        Moment(NOW + timedelta(days=1, seconds=5)),
        Permission("serve_personalised", False),
        Permission("serve_contextual", True),
        Forgetting(),
        Resuming(),
        Muting("crids", "a0"),
        Muting("seats", "advertiser-c0"),
        Unmuting("categories", "1008", 8),
    ):
        yield f"what if, {type(change).__name__.lower()}", tried(occasion, change).sentence


def test_the_sentences_are_the_ones_written_out_for_a_reader():
    written = "".join(f"{state}\n    {said}\n" for state, said in all_sentences())
    assert written == GOLDEN.read_text(encoding="utf-8")


STEP = re.compile(
    r"(?:Nothing counted more than|What counted most is) (?P<name>what this device|the page|the kind of device)[^:]*: "
    r"that (?P<alone>alone would have )?(?P<verb>raised|lowered) the ad's estimated chance of a click "
    r"from (?P<before>[\d.e+-]+) % to (?P<after>[\d.e+-]+) %(?P<rest>, but only together)?"
)
BIT = {"what this device": HISTORY, "the page": PAGE, "the kind of device": DEVICE}


def percent(chance):
    return f"{100 * np.float64(np.float32(chance)):.3g}"


LOGITS = st.lists(st.sampled_from([-3.0, -1.0, 0.0, 1.0]) | st.floats(-5, 5), min_size=8, max_size=8)


@settings(max_examples=150, deadline=None)
@example(table(lambda c: 1.0 if c == 7 else -1.0))
@example(table(lambda c: 1.0 if c else -1.0))
@example(table(lambda c: 1.0 if c in (3, 5, 6) else 0.0))
@given(LOGITS)
def test_what_the_sentence_says_about_a_group_is_what_the_model_does_without_it_or_with_it_alone(logits):
    said = told(Told(logits))
    chances = [percent(sigmoid(np.float64(value))) for value in logits]
    found = STEP.match(said)
    if found is None:
        unchanged = "Neither your activity" in said and len(set(chances)) == 1
        assert unchanged or f"is {chances[7]} % with all of it, and {chances[0]} % with none of it" in said
        return
    bit = BIT[found["name"]]
    before, after = (chances[0], chances[bit]) if found["alone"] else (chances[7 ^ bit], chances[7])
    assert (found["before"], found["after"]) == (before, after)
    assert (float(after) > float(before)) == (found["verb"] == "raised")
    step = float(chances[bit]) - float(chances[0])
    if found["rest"]:
        assert step == 0 or (step > 0) != (found["verb"] == "raised")


@pytest.mark.parametrize("policy", [PickerPolicy(), TRIES, THOMPSON])
@pytest.mark.parametrize("draw", [FIRST, 0.7, LAST])
def test_an_ad_is_said_to_be_worth_the_most_only_when_it_is(policy, draw):
    picker = Picker(SCHEMA, Told(sums(page=1.0)), market(9), policy=policy)
    decision = picker.pick(request(), LOG, ALLOWED, NOW, draw=draw, posterior=TASTE)
    best = all(loser.value <= decision.winner.value and decision.winner.crid <= loser.crid for loser in decision.losers)
    assert ("Its offer was worth the most" in sentence(decision)) == best


@pytest.mark.parametrize("level", ["model", "previous", "contextual"])
@pytest.mark.parametrize("consent", [ALLOWED, ANONYMOUS])
def test_profiling_is_declared_exactly_where_a_model_read_what_the_person_did(level, consent):
    shop = market(5)
    picker = picker_of(Rule(history=0.5, page=0.1), shop, level)
    decision = picker.pick(request(), LOG, consent, NOW)
    assert decision.fallback == level
    (told_,) = why(decision).dsa["transparency"]
    profiled = consent is ALLOWED and level != "contextual"
    assert told_["dsaparams"] == ([1, 2] if profiled else [2])
    bid = why(decision).openrtb["seatbid"][0]["bid"][0]
    assert (bid["price"], bid["crid"]) == (decision.winner.price, decision.winner.crid)
    other = picker.pick(request(), EventLog(), consent, NOW)
    assert profiled or decision.winner == other.winner
    assert ("Nothing about your earlier activity was used" in sentence(decision)) == (not profiled)


@pytest.mark.parametrize("level", ["previous", "contextual"])
def test_what_was_learnt_of_parts_is_not_read_where_the_page_alone_chooses(level):
    ready = {f"a{n}": showable(one := creative(crid=f"a{n}"), approved(one), BRAND, MADE) for n in range(2)}
    picker = picker_of(Told(sums(page=1.0)), market(2), level, creatives=ready)
    plain = picker.pick(request(), LOG, ALLOWED, NOW, draw=0.5)
    liked = ready[plain.winner.crid]
    last = msgspec.structs.replace(plain.combination, parts=liked.combinations[-1])
    parts = PartsPosterior()
    for _ in range(50):
        parts = learn(parts, liked, last, moment_of(request(), NOW), clicked=True)
    taught = picker.pick(request(), LOG, ALLOWED, NOW, draw=0.5, parts=parts)
    assert (taught.combination == plain.combination) == (level == "contextual")
