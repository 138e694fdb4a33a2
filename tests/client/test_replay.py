from dataclasses import replace
from datetime import timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_creative import BRAND, approved, creative
from small_creative import NOW as MADE
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, WAYS, Broken, Rule, event, market, request

from sottovoce.client.catalogue import Cap
from sottovoce.client.combination import showable
from sottovoce.client.combination_posterior import Posterior as PartsPosterior
from sottovoce.client.controls import Controls
from sottovoce.client.events import EventLog
from sottovoce.client.exploration import Exploration
from sottovoce.client.features import Encoder
from sottovoce.client.ladder import Ranker
from sottovoce.client.occasion import Occasion
from sottovoce.client.page_scorer import page_scorer
from sottovoce.client.picker import Picker
from sottovoce.client.policy import Pace, PickerPolicy
from sottovoce.client.posterior import Arm, Posterior
from sottovoce.client.replay import replay
from sottovoce.client.trace import decode_traces, encode_trace, reference, traced
from sottovoce.client.value import QualityRule
from sottovoce.privacy.errors import DeviceError

SECRET = b"a secret of this device"
LOG = EventLog((event("impression", 1, 90), event("click", 1, 80), event("impression", 3, 60)))


UNIFORM = PickerPolicy(exploration=Exploration(method="epsilon", epsilon=1.0))


def maker(scorer=None, model="m1", policy=UNIFORM, **more):
    return lambda shop: Picker(SCHEMA, scorer or Rule(history=0.5), shop, 1.0, policy, model, **more)


def occasion(shop, build=None, log=LOG, consent=ALLOWED, now=NOW, controls=None, draw=0.3, policy=UNIFORM, **changes):
    build = build or maker(policy=policy)
    given = (controls or Controls(), draw, policy)
    return Occasion(build, build(shop), shop, request(**changes), log, consent, now, *given)


def written(at, secret=SECRET):
    """The trace as it comes back from a file."""
    (trace,) = decode_traces(encode_trace(traced(at, at.pick(), secret)))
    return trace


def again(at, build=None, shop=None, log=None, secret=SECRET, policy=None):
    return replay(
        written(at),
        shop or at.catalogue,
        build or at.build,
        at.log if log is None else log,
        secret,
        policy or at.policy,
    )


LOGS = st.lists(
    st.tuples(
        st.sampled_from(["impression", "click", "conversion", "dismiss"]), st.integers(0, 4), st.integers(0, 9999)
    ),
    max_size=12,
).map(lambda drawn: EventLog(tuple(event(*one) for one in drawn)))


@settings(max_examples=60, deadline=None)
@given(
    LOGS,
    LOGS,
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["good", "absent", *WAYS]),
    st.integers(-720, 720),
    st.lists(st.sampled_from(["a0", "a1", "a4"]), max_size=2, unique=True),
)
def test_a_trace_replays_identically_whatever_the_decision_was_and_whatever_happened_since(
    log, later, allowed, draw, way, zone, muted
):
    build = maker(None if way == "good" else Broken(way))
    if way == "absent":
        build = lambda shop: Picker(SCHEMA, None, shop, policy=UNIFORM)  # noqa: E731 - as the line above
    at = occasion(
        market(5, caps=(Cap("category", "impression", 2, 3600),)),
        build,
        log,
        ALLOWED if allowed else ANONYMOUS,
        NOW.astimezone(timezone(timedelta(minutes=zone))),
        Controls(muted_crids=tuple(muted)),
        draw,
    )
    found = again(at, log=log.appended(*later.events))
    assert (found.identical, found.field, found.changed) == (True, "", ()), found.sentence


def test_a_trace_holds_no_event_and_no_secret_and_its_digest_needs_the_secret():
    line = encode_trace(traced(occasion(market(5)), occasion(market(5)).pick(), SECRET))
    fields = msgspec.json.decode(line)["log"]
    assert fields.keys() == {"events", "mac"}
    assert b'"ts"' not in line
    assert b'"impression"' not in line
    assert b'"click"' not in line
    assert SECRET not in line
    assert reference(LOG, SECRET).mac != reference(LOG, SECRET + b"2").mac
    assert reference(EventLog(), SECRET).mac != reference(EventLog(), SECRET + b"2").mac
    with pytest.raises(ValueError, match="guessed"):
        reference(LOG, b"short")


def test_a_changed_price_is_named_with_the_catalogue():
    at = occasion(market(5), draw=0.0)
    dearer = tuple(
        msgspec.structs.replace(one, price=2.0) if one.cid == "c1" else one for one in at.catalogue.campaigns
    )
    found = again(at, shop=msgspec.structs.replace(at.catalogue, campaigns=dearer))
    assert (found.identical, found.changed) == (False, ("catalogue",))
    assert found.field.startswith("winner.")
    assert "catalogue" in found.sentence
    assert found.field in found.sentence


def test_a_changed_log_is_named_though_the_answer_may_be_the_same():
    at = occasion(market(5))
    assert again(at, log=EventLog(LOG.events[:2])).changed == ("log",)
    assert again(at, log=EventLog(LOG.events[1:])).changed == ("log",)
    moved = msgspec.structs.replace(LOG.events[0], ts=LOG.events[0].ts + timedelta(microseconds=1))
    found = again(at, log=EventLog((moved, *LOG.events[1:])))
    assert (found.identical, found.changed) == (True, ("log",))
    assert "not the one of then: log" in found.sentence
    assert again(at, secret=SECRET + b"2").changed == ("log",)


def test_another_model_and_another_policy_are_named():
    at = occasion(market(5))
    found = again(at, build=maker(Rule(0.3, history=-0.2), model="m2"))
    assert (found.identical, found.changed) == (False, ("model",))
    assert again(at, build=maker(model="m2")).changed == ("model",)
    slow = msgspec.structs.replace(UNIFORM, page=Pace(wait_s=600))
    found = again(at, build=maker(policy=slow), policy=slow)
    assert (found.identical, found.changed, found.field) == (False, ("policy",), "winner")


def test_an_answer_that_differs_though_nothing_changed_is_not_hidden():
    at = occasion(market(5), draw=0.1)
    found = again(at, build=maker(policy=PickerPolicy()))
    assert (found.identical, found.changed) == (False, ())
    assert "every input is the one of then" in found.sentence


def test_what_was_drawn_and_by_what_chance_is_part_of_the_outcome():
    at = occasion(market(5), draw=0.7)
    trace = written(at)
    assert trace.outcome.propensity == pytest.approx(0.2)
    assert trace.outcome.winner.crid != occasion(market(5), draw=0.0).pick().winner.crid
    bent = msgspec.structs.replace(trace, draw=0.0)
    found = replay(bent, at.catalogue, at.build, at.log, SECRET, UNIFORM)
    assert found.field == "winner.crid"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version":1', b'"version":2'),
        (b'"draw":0.3', b'"draw":1.0'),
        (b'"mac":"', b'"mac":"x'),
        (b"{", b'{"ts":1,'),
        (b'"now":"2026-11-23T12:00:00Z"', b'"now":"2026-11-23T12:00:00"'),
    ],
)
def test_a_line_that_is_no_trace_is_named(old, new):
    good = encode_trace(traced(occasion(market(2)), occasion(market(2)).pick(), SECRET))
    assert old in good
    with pytest.raises(DeviceError, match=r"t\.jsonl, line 3"):
        decode_traces(good + b"\n" + good.replace(old, new, 1), "t.jsonl")


def test_the_occasion_is_written_as_it_was():
    at = occasion(market(3), controls=Controls(muted_seats=("x",)), now=NOW.astimezone(timezone(timedelta(hours=-7))))
    trace = written(at)
    assert (trace.request, trace.now, trace.consent, trace.controls) == (at.request, at.now, at.consent, at.controls)
    assert trace.now.utcoffset() == at.now.utcoffset()
    assert written(replace(at, draw=0.123456789012345)).draw == 0.123456789012345


class Clock:
    """Milliseconds that pass when told."""

    ms = 0

    def __call__(self):
        return self.ms * 10**6


class Slow(Rule):
    """Takes its time."""

    def __init__(self, clock, ms):
        super().__init__(0.2)
        self.clock, self.taken = clock, ms

    def scores(self, *given):
        self.clock.ms += self.taken
        return super().scores(*given)


def climbing(newest, previous=None, clock=None, page=None):
    def build(shop):
        table = page and page_scorer(Encoder(SCHEMA, shop), page, shop)
        before = Ranker(SCHEMA, previous, 1.0, "m0")
        return Picker(SCHEMA, newest, shop, 1.0, UNIFORM, "m1", previous=before, page=table, clock=clock)

    return build


@pytest.mark.parametrize("newest", ["absent", "fails", "late", "too late", "good"])
@pytest.mark.parametrize("previous", ["absent", "fails", "late", "good"])
@pytest.mark.parametrize("page", [None, Rule(0.3, page=0.1)], ids=["no table", "table"])
def test_a_decision_made_further_down_the_ladder_replays_with_the_model_of_then_and_what_was_slow_is_not_measured(
    newest, previous, page
):
    clock = Clock()
    models = {"absent": None, "fails": Broken("nan"), "late": Slow(clock, 41), "too late": Slow(clock, 60)}
    live = climbing(*(models.get(which, Rule(0.1, 0.3)) for which in (newest, previous)), clock, page)
    at = occasion(market(5), live)
    sound = {"absent": None, "fails": Broken("nan")}
    build = climbing(
        *(
            sound.get(which, Rule(0.2 if "late" in which else 0.1, 0.0 if "late" in which else 0.3))
            for which in (newest, previous)
        ),
        None,
        page,
    )
    levels = set()
    for number in range(5):
        now = replace(at, draw=number / 5)
        decision = now.pick()
        levels.add(decision.fallback)
        (trace,) = decode_traces(encode_trace(traced(now, decision, SECRET)))
        for again_with in (build, live):
            before = clock.ms
            found = replay(trace, at.catalogue, again_with, at.log, SECRET, UNIFORM)
            assert (found.identical, found.changed) == (True, ()), found.sentence
            if again_with is build:
                assert clock.ms == before
        assert bool(decision.fault) == ("was asked as then" in found.sentence)
        if trace.climb.asked:
            assert decision.fallback == trace.climb.asked
            assert not decision.fault or f"the step {trace.climb.asked} was asked" in found.sentence
    assert levels <= {"model", "previous", "contextual", "rotation"}


def test_a_model_that_is_gone_or_fails_now_is_named_and_no_other_stands_in_for_it():
    at = occasion(market(5), climbing(Broken("nan"), Rule(0.1, 0.3)))
    assert at.pick().fallback == "previous"
    for other in (climbing(Rule(0.1, 0.3)), climbing(Rule(0.1, 0.3), Broken("raises"))):
        found = again(at, build=other)
        assert (found.identical, found.changed) == (False, ("model",))
        assert found.climb.asked == "previous"
    assert again(at, build=climbing(Rule(0.2), Rule(0.1, 0.3))).identical, "what the newest would say now is not asked"


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.booleans(), st.sampled_from(["epsilon", "thompson"]))
def test_what_was_learnt_is_in_the_trace_as_a_keyed_digest_and_counts_again(draw, allowed, method):
    policy = PickerPolicy(
        exploration=Exploration(method=method), quality=QualityRule(conversion_worth=0.1, repeat_cost=0.5)
    )
    ready = {f"a{n}": showable(one := creative(crid=f"a{n}"), approved(one), BRAND, MADE) for n in range(5)}
    taste, parts = Posterior(arms=(Arm("cat:1058", 1.5, 0.1, 1),)), PartsPosterior(weights={"base": (1.0, 0.1)})
    at = replace(
        occasion(market(5), maker(policy=policy, creatives=ready), policy=policy, draw=draw),
        consent=ALLOWED if allowed else ANONYMOUS,
        posterior=taste,
        parts=parts,
    )
    trace = written(at)
    assert trace.outcome.combination.parts
    assert b"cat:1058" not in encode_trace(trace)

    def found(posterior=taste, learnt=parts, build=at.build):
        return replay(trace, at.catalogue, build, at.log, SECRET, policy, posterior=posterior, parts=learnt)

    assert (found().identical, found().changed) == (True, ())
    other = replay(trace, at.catalogue, at.build, at.log, SECRET + b"2", policy, posterior=taste, parts=parts)
    assert other.changed == ("log", "posterior", "parts")
    assert found(posterior=None).changed == ("posterior",)
    assert found(learnt=PartsPosterior()).changed == ("parts",)
    assert found(build=maker(policy=policy)).changed == ("creatives",)
    assert found(build=maker(policy=policy)).field.startswith("combination")
