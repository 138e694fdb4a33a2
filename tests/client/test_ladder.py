"""Every decision is answered, on the highest step that can, and whatever a model does."""

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, WAYS, Broken, Rule, ad, campaign, catalogue, event, market
from small_market import request as page

from sottovoce.client.catalogue import Cap
from sottovoce.client.controls import Controls, Interest, InterestWeights
from sottovoce.client.events import Event, EventLog
from sottovoce.client.exploration import Exploration
from sottovoce.client.features import Encoder
from sottovoce.client.ladder import FAILURES, REST_S, Ranker
from sottovoce.client.page_scorer import page_scorer
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.posterior import Arm, Posterior
from sottovoce.client.reasons import NoBid
from sottovoce.client.request import Banner, Imp, RequestExt
from sottovoce.client.value import QualityRule
from sottovoce.models.schema import Feature, FeatureSchema

MS = 1_000_000
LOG = EventLog((event("impression", 3, 120), event("click", 3, 110), event("impression", 1, 60)))


class Clock:
    """Milliseconds that pass when told."""

    def __init__(self):
        self.ms = 0.0

    def __call__(self):
        return int(self.ms * MS)


class Slow(Rule):
    """A rule that takes its time, and may then fail."""

    def __init__(self, clock, ms, way=None):
        super().__init__(history=0.5)
        self.clock, self.ms, self.way = clock, ms, way

    def scores(self, *given):
        self.clock.ms += self.ms
        return Broken(self.way).scores(*given) if self.way else super().scores(*given)


def table(size=5, rule=None):
    shop = market(size)
    return page_scorer(Encoder(SCHEMA, shop), rule or Rule(), shop)


def ladder(newest, previous=None, page=None, size=5, **more):
    before = Ranker(SCHEMA, previous, name="before")
    return Picker(SCHEMA, newest, market(size), model="new", previous=before, page=page, **more)


def pick(picker, now=NOW, log=LOG, **more):
    return picker.pick(page(), log, ALLOWED, now, **more)


def test_each_step_stands_in_for_the_ones_above_it_and_every_reason_is_kept():
    first = pick(ladder(Rule(), Rule(), table()))
    assert (first.fallback, first.fault, first.used.model) == ("model", "", "new")
    second = pick(ladder(Broken("nan"), Rule(), table()))
    assert (second.fallback, second.used.model) == ("previous", "before")
    assert second.fault.startswith("model: ")
    third = pick(ladder(Broken("nan"), Broken("raises"), table()))
    assert (third.fallback, third.used.model) == ("contextual", "new")
    assert [fault.split(":")[0] for fault in third.fault.split("; ")] == ["model", "previous"]
    last = pick(ladder(Broken("nan"), Broken("raises"), Broken("shape")))
    assert last.fallback == "rotation"
    assert [fault.split(":")[0] for fault in last.fault.split("; ")] == ["model", "previous", "contextual"]
    assert pick(ladder(None, Rule())).fault == "model: there is no model"
    assert {one.winner is None for one in (first, second, third, last)} == {False}


def test_the_last_good_model_may_have_other_features():
    other = FeatureSchema(
        features=(
            Feature(name="page_category", source="context", buckets=4),
            Feature(name="ad_id", source="ad", kind="integer", buckets=9, in_history=True),
        ),
        history_length=2,
    )

    class Small:
        def scores(self, context, events, outcomes, ad):
            assert (context.shape, events.shape, ad.shape[1]) == ((1, 1), (2, 1), 1)
            return np.full((len(ad), 1), 0.5, np.float32)

    picker = Picker(SCHEMA, Broken("nan"), market(5), previous=Ranker(other, Small()))
    assert pick(picker).fallback == "previous"


def test_a_late_answer_counts_while_the_deadline_holds_and_not_after():
    clock = Clock()
    in_time = pick(ladder(Slow(clock, 45), Rule(), table(), clock=clock))
    assert in_time.fallback == "model"
    late = pick(ladder(Slow(clock, 55), Rule(), table(), clock=clock))
    assert late.fallback == "contextual"
    assert "after the deadline of 50 ms" in late.fault
    assert "previous: no time is left" in late.fault


def test_a_second_model_is_asked_only_while_its_time_has_not_come():
    clock = Clock()
    assert pick(ladder(Slow(clock, 30, "nan"), Rule(), table(), clock=clock)).fallback == "previous"
    assert pick(ladder(Slow(clock, 41, "nan"), Rule(), table(), clock=clock)).fallback == "contextual"


def test_at_most_one_model_runs_over_the_deadline_in_one_decision():
    clock = Clock()
    newest, before = Slow(clock, 30, "raises"), Slow(clock, 400)
    before.calls = newest.calls = 0
    assert pick(ladder(newest, before, table(), clock=clock)).fallback == "contextual"
    assert clock.ms == 430


@pytest.mark.parametrize(("ms", "way"), [(1, "nan"), (30, None), (70, None)], ids=["fails", "late", "too late"])
def test_after_three_failures_in_a_row_a_model_rests_and_is_tried_again_once(ms, way):
    clock = Clock()
    newest = Slow(clock, ms, way)
    picker = ladder(newest, Rule(), table(), clock=clock)
    for _ in range(FAILURES):
        pick(picker)
    before = clock.ms
    resting = pick(picker)
    assert (resting.fallback, clock.ms) == ("previous", before)
    assert "it rests" in resting.fault
    clock.ms += REST_S * 1000 + 1
    pick(picker)
    assert clock.ms == before + REST_S * 1000 + 1 + ms
    before = clock.ms
    assert pick(picker).fallback == "previous"
    assert clock.ms == before
    clock.ms += REST_S * 1000 + 1
    newest.ms, newest.way = 0, None
    assert [pick(picker).fallback for _ in range(9)] == ["model"] * 9


def test_failures_that_are_not_in_a_row_do_not_count_together():
    clock = Clock()
    newest = Slow(clock, 1)
    picker = ladder(newest, clock=clock)
    for way in ["nan", "nan", None] * 5:
        newest.way = way
        assert "rests" not in pick(picker).fault


def test_a_clock_that_fails_or_runs_backwards_times_nothing():
    def broken():
        raise OSError("no clock")

    ticks = iter(range(10**6, 0, -1))
    for clock in (broken, lambda: next(ticks) * MS):
        picker = ladder(Rule(), clock=clock)
        assert [pick(picker).fallback for _ in range(5)] == ["model"] * 5


def test_the_page_table_reads_nothing_of_the_person():
    people = [(LOG, "phone"), (EventLog(), None), (LOG.appended(event("click", 1, 30)), "tablet")]
    picker = ladder(None, None, table(rule=Rule(device=0.3, history=0.5, page=0.1)))
    found = []
    for log, kind in people:
        asked = page(ext=RequestExt({"page_category": "483", "device_class": kind}))
        found.append(picker.pick(asked, log, ALLOWED, NOW, posterior=Posterior(arms=(Arm("cat:1008", 9.0, 1.0, 1),))))
    assert {one.fallback for one in found} == {"contextual"}
    assert len({one.winner for one in found}) == 1
    assert {effect.group for effect in found[0].evidence.signals.effects} == {"page"}


class Nameless(Exception):  # noqa: N818
    """An exception that cannot even say what it is."""

    def __str__(self):
        raise RuntimeError("no words")


class Hostile:
    """A scorer that does what it likes."""

    def __init__(self, clock, rng, deeds):
        self.clock, self.rng, self.deeds = clock, rng, deeds

    def scores(self, context, events, outcomes, ad):
        deed = self.deeds[int(self.rng.integers(len(self.deeds)))]
        self.clock.ms += float(self.rng.choice([0.0, 1.0, 20.0, 60.0, 1e7]))
        if deed == "spoils":
            for array in (context, events, outcomes, ad):
                array[...] = 77
            return np.full((len(ad), 2), 0.5, np.float32)
        if deed == "good":
            return np.full((len(ad), 2), 0.25, np.float32)
        if deed == "one head":
            return np.full((len(ad), 1), 0.25, np.float64)
        if deed in ("memory", "nameless", "recursion", "stop"):
            kinds = {"memory": MemoryError, "nameless": Nameless, "recursion": RecursionError, "stop": StopIteration}
            raise kinds[deed]()
        return Broken(deed).scores(context, events, outcomes, ad)


DEEDS = [*WAYS, "spoils", "good", "one head", "memory", "nameless", "recursion", "stop"]

posteriors = st.none() | st.builds(
    lambda mean, variance: Posterior(arms=(Arm("cat:1008", mean, variance, 1), Arm("cat:1058", mean, variance, 1))),
    st.floats(),
    st.floats(),
)
policies = st.builds(
    PickerPolicy,
    exploration=st.sampled_from([Exploration(), Exploration(method="thompson"), Exploration(method="epsilon")]),
    quality=st.sampled_from([QualityRule(), QualityRule(conversion_worth=1.0, dismissal_cost=1.0, repeat_cost=1e3)]),
    interests=st.just(InterestWeights(2.0, 0.0)),
    deadline_ms=st.sampled_from([1, 50, 500]),
)
moments = st.sampled_from([NOW, NOW.replace(year=1), NOW.replace(year=9999), datetime.max.replace(tzinfo=NOW.tzinfo)])
asked = st.builds(
    lambda floor, value, at, words: page(
        imp=(Imp(id="1", banner=Banner(320, 50), bidfloor=floor),),
        at=at,
        wlang=words,
        ext=RequestExt({"page_category": value, "device_class": value}),
    ),
    st.sampled_from([0.0, 0.0, 0.5, float("nan"), float("inf")]),
    st.sampled_from(["483", None, 10**400, float("nan"), float("inf"), "\ud800", -1, "9" * 999]),
    st.sampled_from([1, 2]),
    st.sampled_from([(), ("en",), ("\ud800", "")]),
)
logs = st.lists(
    st.tuples(
        st.sampled_from(["impression", "click", "conversion", "dismiss"]),
        st.integers(0, 9),
        st.integers(-(10**9), 10**9),
    ),
    max_size=12,
).map(lambda drawn: EventLog(tuple(event(kind, n, ago) for kind, n, ago in drawn)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(), policy=policies, size=st.integers(0, 7), allowed=st.booleans(), personal=st.sampled_from([0.0, 1.0])
)
def test_every_request_is_answered_and_an_ad_that_may_be_shown_is_shown(data, policy, size, allowed, personal):
    clock, rng = Clock(), np.random.default_rng(data.draw(st.integers(0, 2**32)))
    deeds = data.draw(st.lists(st.sampled_from(DEEDS), min_size=1, max_size=4))
    hostile = Hostile(clock, rng, deeds)
    shop = market(size, pricing=data.draw(st.sampled_from(["cpm", "cpc"])))
    shop = catalogue(
        tuple(
            campaign(one.cid, cat=one.cat, pricing=one.pricing, start=NOW.replace(year=1), end=NOW.replace(year=9999))
            for one in shop.campaigns
        ),
        shop.ads,
    )
    newest = data.draw(st.sampled_from([None, hostile]))
    picker = Picker(
        SCHEMA, newest, shop, personal, policy, previous=Ranker(SCHEMA, hostile, personal), page=hostile, clock=clock
    )
    wishes = Controls(interests=(Interest(("1008", 8), "more"), Interest(("1058", 8), "less")))
    for _ in range(4):
        asking, log, now = data.draw(asked), data.draw(logs), data.draw(moments)
        found = picker.pick(
            asking,
            log,
            ALLOWED if allowed else ANONYMOUS,
            now,
            wishes,
            data.draw(st.floats(0, 1, exclude_max=True)),
            data.draw(posteriors),
        )
        assert (found.winner is None) == (found.nbr is not None)
        assert len(found.losers) + (found.winner is not None) == size
        assert found.evidence
        free = Picker(SCHEMA, None, shop).pick(asking, log, ANONYMOUS, now)
        if asking.place.bidfloor == 0 and free.winner is not None:
            assert found.winner is not None or found.nbr is NoBid.NO_CANDIDATE
        if found.winner is not None and found.winner.price is not None:
            assert found.winner.price <= found.winner.value


def test_a_model_that_spoils_what_it_reads_spoils_it_for_nobody_else():
    picker = ladder(Hostile(Clock(), np.random.default_rng(0), ["spoils"]), Rule(history=0.5), personal_variance=1.0)
    spoiled = pick(picker)
    assert spoiled.fallback == "model"
    picker._ladder._steps[0].scorer._scorer.deeds = ["raises"]
    found = pick(picker)
    clean = pick(ladder(Broken("raises"), Rule(history=0.5)))
    assert (found.winner, found.losers) == (clean.winner, clean.losers)


def test_what_is_no_exception_ends_the_decision():
    class Stops:
        def scores(self, *given):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pick(ladder(Stops()))


def test_rules_that_cannot_be_checked_show_nothing_and_work_again_afterwards(monkeypatch):
    shop = market(3, caps=(Cap("creative", "impression", 1, 600),))
    picker, log = Picker(SCHEMA, Rule(), shop), EventLog((event("impression", 2, 60),))

    with monkeypatch.context() as broken:
        broken.setattr(picker._limits, "_count", lambda event: 1 / 0)
        found = picker.pick(page(), log, ALLOWED, NOW)
    assert (found.winner, found.nbr) == (None, NoBid.NOT_CHECKED)
    assert found.fault.startswith("rules: ZeroDivisionError")
    assert picker.pick(page(), log, ALLOWED, NOW).winner.crid == "a1"


def test_twenty_thousand_ads_and_ten_thousand_events_of_the_future_are_answered_too():
    size = 20_000
    shop = catalogue(
        tuple(campaign(f"c{n}", caps=(Cap("campaign", "impression", 3, 3600),)) for n in range(200)),
        tuple(
            ad(f"a{n}", f"c{n % 200}", features={"ad_id": n % 2000, "category": n % 5, "advertiser": n % 64})
            for n in range(size)
        ),
    )
    future = EventLog(
        tuple(Event(NOW + timedelta(days=n % 3000), "impression", f"a{n}", f"c{n % 199}") for n in range(10_000))
    )
    picker = Picker(SCHEMA, Broken("nan"), shop, previous=Ranker(SCHEMA, Broken("raises")))
    found = picker.pick(page(), future, ALLOWED, NOW)
    assert (found.fallback, found.winner.cid) == ("rotation", "c199")
    before = picker.pick(page(), future, ALLOWED, NOW - timedelta(hours=23))
    assert before.winner.cid == "c199"
