import subprocess
import sys
from datetime import datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, WAYS, Broken, Rule, ad, campaign, catalogue, event, market
from small_market import request as page

from sottovoce.client.catalogue import Cap
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.decision import Decision, Used
from sottovoce.client.events import Event, EventLog
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.reasons import Loss, NoBid
from sottovoce.client.request import Banner, DeviceFlags, Imp, ImpExt, Publisher, Regs
from sottovoce.privacy.errors import DeviceError

CLICKS = EventLog((event("impression", 3, 120), event("click", 3, 110), event("impression", 1, 60)))


def pick(market, scorer, log=CLICKS, consent=ALLOWED, now=NOW, policy=None, **changes):
    return Picker(SCHEMA, scorer, market, policy=policy).pick(page(**changes), log, consent, now)


def test_the_ad_with_the_best_value_wins_and_everyone_else_has_a_reason():
    decision = pick(market(5), Rule(history=0.5))
    assert decision.winner.crid == "a3"
    assert (decision.fallback, decision.mode, decision.nbr) == ("model", "personalised", None)
    assert {loser.crid for loser in decision.losers} == {"a0", "a1", "a2", "a4"}
    assert {loser.reason for loser in decision.losers} == {Loss.OUTBID}
    values = [loser.value for loser in decision.losers]
    assert values == sorted(values, reverse=True)
    assert decision.winner.value > values[0]
    assert decision.winner.price == pytest.approx(values[0] + 0.01)


@pytest.mark.parametrize("way", WAYS)
def test_a_broken_model_means_the_ads_take_turns(way):
    decision = pick(market(5), Broken(way))
    assert decision.fallback == "rotation"
    assert decision.fault
    assert decision.winner.crid == "a0"
    assert decision.winner.value is decision.winner.price is None
    assert {loser.reason for loser in decision.losers} == {Loss.NOT_ITS_TURN}


def test_the_rotation_shows_the_ad_shown_least_recently():
    log, shown = EventLog(), []
    for step in range(7):
        decision = pick(market(3), None, log)
        assert decision.fault == "model: there is no model"
        shown.append(decision.winner.crid)
        log = log.appended(
            Event(NOW + timedelta(seconds=step), "impression", decision.winner.crid, decision.winner.cid)
        )
    assert shown == ["a0", "a1", "a2", "a0", "a1", "a2", "a0"]


def test_the_rotation_respects_a_floor():
    floor = (Imp(id="1", banner=Banner(320, 50), bidfloor=0.5),)
    decision = pick(market(3), None, imp=floor)
    assert decision.winner is None
    assert decision.nbr is NoBid.NONE_REACHED_FLOOR
    assert {loser.reason for loser in decision.losers} == {Loss.UNPRICED}
    assert pick(market(3, pricing="cpm"), None, imp=floor).winner.charge == 1.0


def test_no_ad_has_its_reason():
    assert pick(catalogue((), ()), Rule()).nbr is NoBid.EMPTY_CATALOGUE
    assert pick(catalogue((campaign(),), (ad(audit=1),)), Rule()).nbr is NoBid.NO_CANDIDATE
    assert pick(market(3, caps=(Cap("creative", "impression", 0, 60),)), Rule()).nbr is NoBid.ALL_CAPPED
    high = (Imp(id="1", banner=Banner(320, 50), bidfloor=900.0),)
    below = pick(market(3), Rule(), imp=high)
    assert below.nbr is NoBid.NONE_REACHED_FLOOR
    assert {loser.reason for loser in below.losers} == {Loss.BELOW_FLOOR}
    assert below.fallback == "none"


def test_a_person_who_declined_selection_gets_no_ad_and_the_model_is_not_asked():
    scorer = Rule()
    decision = pick(market(3), scorer, consent=Consent(serve_contextual=False))
    assert (decision.winner, decision.nbr, scorer.calls) == (None, NoBid.NOT_ALLOWED, 0)


class Recorder(Rule):
    """A rule that keeps the inputs it was given."""

    def scores(self, context, events, outcomes, ad):
        self.given = [*getattr(self, "given", []), (context.copy(), events.copy(), outcomes.copy())]
        return super().scores(context, events, outcomes, ad)


logs = st.lists(
    st.tuples(
        st.sampled_from(["impression", "click", "conversion", "dismiss"]), st.integers(0, 4), st.integers(0, 10**6)
    ),
    max_size=15,
).map(lambda drawn: EventLog(tuple(event(kind, n, ago) for kind, n, ago in drawn)))


@settings(max_examples=50)
@given(logs)
def test_without_consent_the_model_sees_nothing_of_the_person_whatever_the_log(log):
    scorer, no_limits = Recorder(history=0.5, device=0.2), PickerPolicy(cool_downs=())
    decision = pick(market(5), scorer, log, ANONYMOUS, policy=no_limits)
    for context, events, outcomes in scorer.given:
        assert not events.any()
        assert not outcomes.any()
        assert context[0, 0] == 0
    nothing = pick(market(5), Rule(history=0.5, device=0.2), EventLog(), ANONYMOUS, policy=no_limits)
    assert decision.winner == nothing.winner
    assert decision.losers == nothing.losers
    assert decision.mode == "contextual"
    assert decision.evidence.remembered == 0


def test_with_consent_the_log_does_change_the_scores():
    with_log, without = pick(market(5), Rule(history=0.5)), pick(market(5), Rule(history=0.5), EventLog())
    assert with_log.winner.scores != without.winner.scores


@pytest.mark.parametrize(
    "changes",
    [
        {"regs": Regs(coppa=1)},
        {"device": DeviceFlags(lmt=1)},
        {"app": Publisher(bundle="clinic.example", cat=("301",), cattax=9)},
        {"app": Publisher(bundle="old.example", cat=("IAB7",))},
    ],
)
def test_a_sensitive_page_or_a_restricted_request_is_contextual_only(changes):
    scorer = Recorder(history=0.5, device=0.2)
    decision = pick(market(5), scorer, **changes)
    assert decision.mode == "contextual"
    assert all(not events.any() and context[0, 0] == 0 for context, events, _ in scorer.given)


def test_a_sensitive_ad_is_never_personalised_but_may_run_from_the_page():
    shop = catalogue((campaign("c1", cat=("1391",)),), (ad("a1", "c1"),))
    refused = pick(shop, Rule())
    assert refused.winner is None
    assert refused.losers[0].reason is Loss.SENSITIVE
    assert pick(shop, Rule(), consent=ANONYMOUS).winner.crid == "a1"


def test_a_campaign_per_conversion_needs_the_head():
    class OneHead(Rule):
        def scores(self, context, events, outcomes, ad):
            return super().scores(context, events, outcomes, ad)[:, :1]

    decision = pick(market(2, pricing="cpa"), OneHead())
    assert (decision.winner, decision.nbr) == (None, NoBid.NO_CANDIDATE)
    assert {loser.reason for loser in decision.losers} == {Loss.UNPRICED}


def test_ties_fall_to_the_smaller_crid_and_the_answer_repeats():
    class Flat(Rule):
        def scores(self, context, events, outcomes, ad):
            return np.full((len(ad), 2), 0.25, np.float32)

    first = pick(market(12), Flat())
    assert first.winner.crid == "a0"
    assert first == pick(market(12), Flat())


def test_a_decision_is_plain_data_and_a_moment_without_zone_is_a_wrong_call():
    decision = pick(market(3), Rule())
    data = msgspec.json.decode(msgspec.json.encode(decision.in_full()))
    assert data["winner"]["crid"] == "a2"
    assert data["losers"][0]["reason"] == 102
    with pytest.raises(ValueError, match="time zone"):
        pick(market(3), Rule(), now=datetime(2026, 11, 23))


@pytest.mark.parametrize("scorer", [Rule(history=0.5), None, Broken("nan")], ids=["model", "none", "nan"])
@pytest.mark.parametrize("consent", [ALLOWED, ANONYMOUS], ids=["personalised", "contextual"])
def test_caps_hold_over_a_long_run_on_every_path(scorer, consent):
    caps = (Cap("creative", "impression", 2, 600), Cap("campaign", "impression", 3, 1800))
    picker, log, now = Picker(SCHEMA, scorer, market(4, caps=caps)), EventLog(), NOW
    shown: list[tuple[datetime, str]] = []
    for step in range(150):
        now += timedelta(seconds=37)
        decision = picker.pick(page(id=f"r{step}"), log, consent, now)
        if decision.winner:
            shown.append((now, decision.winner.crid))
            log = log.appended(Event(now, "impression", decision.winner.crid, decision.winner.cid))
        for most, window in ((2, 600), (3, 1800)):
            recent = [crid for at, crid in shown if now - at < timedelta(seconds=window)]
            assert all(recent.count(crid) <= most for crid in set(recent))
    assert 10 < len(shown) < 150


PERSONAL = st.sampled_from([0.0, 1.0])
"""With the personal layer and without."""


@settings(max_examples=60)
@given(
    logs,
    st.sampled_from([*WAYS, "good", "absent"]),
    st.booleans(),
    st.integers(0, 30),
    st.integers(-400, 400),
    PERSONAL,
)
def test_every_request_is_answered_whatever_is_broken(log, way, allowed, size, years, personal):
    scorer = None if way == "absent" else Rule() if way == "good" else Broken(way)
    caps = (Cap("category", "impression", 2, 86400),)
    now = NOW + timedelta(days=365 * years)
    picker = Picker(SCHEMA, scorer, market(size, caps=caps), personal)
    decision = picker.pick(page(), log, ALLOWED if allowed else ANONYMOUS, now)
    assert (decision.winner is None) == (decision.nbr is not None)
    assert len(decision.losers) + (decision.winner is not None) == size


RUNTIME = (
    "auction best_arm bid_response caps catalogue choice columns combination combination_choice consent controls "
    "counterfactual creative creative_rules decision eligibility events explanation exploration features gpp ladder "
    "limits occasion offers pace page_scorer personal personal_scorer picker policy posterior ranking reasons replay "
    "request rotation runtimes sale scorer screening serving shapley showing signals situation taxonomy trace value "
    "what_if why_not workings"
)


def test_the_runtime_imports_without_anything_that_trains():
    code = f"""
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"torch", "flwr", "opacus", "ray", "pyarrow", "jax", "onnx", "litert_torch"}}:
            raise ImportError(name + " is not part of the device runtime")
sys.meta_path.insert(0, Wall())
import importlib
for name in {RUNTIME!r}.split():
    importlib.import_module("sottovoce.client." + name)
from sottovoce.client.scorer import LiteRTScorer, OnnxScorer
from sottovoce.privacy.errors import DeviceError
for build in (LiteRTScorer, OnnxScorer):
    try:
        build(b"no model")
    except DeviceError:
        continue
    raise SystemExit("took no model for one")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_house_ad_fills_what_nobody_who_pays_can_and_takes_its_turn():
    house = campaign("c1", price=0.0)
    shop = catalogue((house, campaign("c2")), (ad("a1", "c1"), ad("a2", "c1"), ad("a3", "c2")))
    paid = pick(shop, Rule())
    assert (paid.winner.crid, paid.fallback) == ("a3", "model")
    assert {loser.crid: loser.reason for loser in paid.losers} == {"a1": Loss.UNPAID, "a2": Loss.UNPAID}
    blocked = pick(shop, Rule(), log=EventLog((Event(NOW, "impression", "a1", "c1"),)), badv=("advertiser-c2.example",))
    assert (blocked.winner.crid, blocked.fallback, blocked.nbr) == ("a2", "house", None)
    assert (blocked.winner.price, blocked.winner.charge, blocked.winner.scores) == (None, 0.0, ())
    high = (Imp(id="1", banner=Banner(320, 50), bidfloor=900.0),)
    unsold = pick(shop, Rule(), log=EventLog(), imp=high)
    assert (unsold.winner.crid, unsold.fallback) == ("a1", "house")
    assert {loser.crid: loser.reason for loser in unsold.losers} == {"a2": Loss.UNPAID, "a3": Loss.BELOW_FLOOR}


def test_a_notification_is_held_back_where_a_page_is_not():
    night = NOW.replace(hour=23)
    notification = (Imp(id="1", banner=Banner(320, 50), ext=ImpExt("notification")),)
    held = pick(market(3), Rule(), now=night, imp=notification)
    assert (held.winner, held.nbr, held.losers) == (None, NoBid.QUIET_HOURS, ())
    assert pick(market(3), Rule(), now=night).winner is not None


def test_a_pause_leaves_the_page_alone_to_choose():
    picker, scorer = Picker(SCHEMA, Recorder(history=0.5, device=0.2), market(5)), Recorder(history=0.5, device=0.2)
    paused = picker.pick(page(), CLICKS, ALLOWED, NOW, Controls(paused=True))
    assert (paused.mode, paused.mode_words) == ("contextual", "the person paused personalisation")
    assert paused.winner == pick(market(5), scorer, EventLog(), ANONYMOUS).winner


def test_after_a_reset_earlier_events_count_for_limits_and_turns_only():
    shop = market(5, caps=(Cap("creative", "click", 1, 3600),))
    reset = Controls(since=NOW - timedelta(seconds=30))
    found = Picker(SCHEMA, Rule(history=0.5), shop).pick(page(), CLICKS, ALLOWED, NOW, reset)
    assert found.evidence.remembered == 0
    assert {loser.crid: loser.reason for loser in found.losers}["a3"] is Loss.CAPPED_CREATIVE
    turns = Picker(SCHEMA, None, market(2)).pick(
        page(), CLICKS.appended(event("impression", 0, 40)), ALLOWED, NOW, reset
    )
    assert turns.winner.crid == "a1"


def test_what_the_person_muted_is_gone_with_the_next_decision():
    picker = Picker(SCHEMA, Rule(history=0.5), market(5))
    muted = Controls(("a3",), ("advertiser-c4",), (("1097", 8),))
    assert picker.pick(page(), CLICKS, ALLOWED, NOW).winner.crid == "a3"
    reasons = {loser.crid: loser.reason for loser in picker.pick(page(), CLICKS, ALLOWED, NOW, muted).losers}
    expected = {"a3": Loss.MUTED_AD, "a4": Loss.MUTED_ADVERTISER, "a2": Loss.MUTED_CATEGORY}
    assert expected.items() <= reasons.items()


def test_a_decision_read_back_is_the_same_decision_and_says_how_to_learn_more():
    decision = pick(market(5), Rule(history=0.5))
    back = msgspec.json.decode(msgspec.json.encode(decision), type=Decision)
    assert back == decision
    assert decision.reasons == {Loss.OUTBID: 4}
    assert decision.used == Used(market(5).digest, "", 3)
    assert (decision.propensity, decision.considered) == (1.0, ())
    with pytest.raises(DeviceError, match="was read back"):
        back.losers  # noqa: B018
    again = pick(market(5), Rule(history=0.5))
    assert again.in_full() == decision.in_full()


def test_what_a_decision_says_later_is_what_was_true_when_it_was_made():
    picker = Picker(SCHEMA, Rule(history=0.5), market(3, caps=(Cap("creative", "impression", 1, 600),)))
    log = EventLog((event("impression", 2, 60),))
    first = picker.pick(page(), log, ALLOWED, NOW)
    picker.pick(page(id="r2"), log.appended(event("impression", 1, 0)), ALLOWED, NOW)
    assert {loser.crid: loser.reason for loser in first.losers} == {"a0": Loss.OUTBID, "a2": Loss.CAPPED_CREATIVE}


@pytest.mark.parametrize("draw", [-0.1, 1.0, float("nan")])
def test_a_draw_out_of_range_is_a_wrong_call(draw):
    with pytest.raises(ValueError, match="draw"):
        Picker(SCHEMA, Rule(), market(2)).pick(page(), EventLog(), ALLOWED, NOW, draw=draw)


def test_the_model_does_not_see_what_happened_with_a_muted_advertiser():
    picker, log = Picker(SCHEMA, Rule(history=0.5), market(5)), CLICKS
    seen = picker.pick(page(), log, ALLOWED, NOW).evidence.remembered
    hidden = picker.pick(page(), log, ALLOWED, NOW, Controls(muted_seats=("advertiser-c3",))).evidence.remembered
    again = picker.pick(page(), log, ALLOWED, NOW).evidence.remembered
    assert hidden < seen == again
