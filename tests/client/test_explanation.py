import pytest
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, Broken, Rule, ad, campaign, catalogue, event, market, request

from sottovoce.client.events import EventLog
from sottovoce.client.explanation import why
from sottovoce.client.picker import Picker
from sottovoce.client.request import RequestExt

LOG = EventLog(
    (event("impression", 3, 90), event("click", 3, 80), event("impression", 3, 60), event("impression", 1, 30))
)


def decide(scorer, consent=ALLOWED, log=LOG, pricing="cpc", size=5, **changes):
    return Picker(SCHEMA, scorer, market(size, pricing)).pick(request(**changes), log, consent, NOW)


@pytest.mark.parametrize(
    ("scorer", "group"),
    [
        (Rule(0.1, history=0.6, page=0.01, device=0.02), "history"),
        (Rule(0.1, history=0.06, page=0.3, device=0.02), "page"),
        (Rule(0.1, history=0.06, page=0.01, device=0.3), "device"),
        (Rule(0.5, history=0.06, page=-0.3, device=0.02), "page"),
    ],
)
def test_the_planted_dominant_group_is_the_one_named(scorer, group):
    decision = decide(scorer)
    assert decision.evidence.signals.effects[0].group == group
    words = {
        "history": "what this device remembers of earlier ads: that",
        "page": "the page, which is about Sports: that",
        "device": "the kind of device this is: that",
    }
    assert why(decision).sentence.startswith(f"What counted most is {words[group]} ")


def test_every_effect_is_the_difference_that_the_group_makes():
    decision = decide(Rule(0.1, history=0.6, page=0.01, device=-0.02))
    signals = decision.evidence.signals
    change = {effect.group: signals.given - effect.without for effect in signals.effects}
    assert decision.winner.crid == "a3"
    assert change["history"] == pytest.approx(0.6 / 6, abs=1e-6)
    assert change["page"] == pytest.approx(0.01, abs=1e-6)
    assert change["device"] == pytest.approx(-0.02, abs=1e-6)
    assert signals.given == pytest.approx(decision.winner.scores[0], abs=1e-6)


def test_the_history_sentence_states_counts_and_both_chances():
    sentence = why(decide(Rule(0.1, history=0.6))).sentence
    assert "raised the ad's estimated chance of a click from 10 % to 20 %" in sentence
    assert "You clicked or acted on 1 of the 2 ads that share a category with this one" in sentence
    assert "among the last 3 remembered here" in sentence
    assert "Its offer was worth the most among 5 ads" in sentence


def test_a_group_that_lowered_the_chance_is_said_to_have_lowered_it():
    assert (
        "lowered the ad's estimated chance of a click from 50 % to 20 %"
        in why(decide(Rule(0.5, page=-0.3), size=1)).sentence
    )


def test_a_group_that_was_not_given_is_not_measured():
    decision = decide(Rule(0.1, history=0.6, page=0.3), log=EventLog(), ext=RequestExt({}))
    assert decision.evidence.signals.effects == ()
    assert "Neither your activity, this device nor the page changed" in why(decision).sentence


def test_without_consent_the_sentence_speaks_of_the_page_only():
    decision = decide(Rule(0.1, history=0.6, page=0.3, device=0.2), ANONYMOUS)
    assert [effect.group for effect in decision.evidence.signals.effects] == ["page"]
    assert "Nothing about your earlier activity was used" in why(decision).sentence
    assert "remember" not in why(decision).sentence


def test_an_ad_paid_per_view_owes_nothing_to_an_estimate():
    sentence = why(decide(Rule(0.1, history=0.6), pricing="cpm")).sentence
    assert "no estimate about you decided its value" in sentence
    assert "What counted most" not in sentence


def test_what_could_not_be_measured_is_said_so():
    class Once(Rule):
        def scores(self, context, events, outcomes, ad):
            if self.calls:
                raise RuntimeError("gone")
            return super().scores(context, events, outcomes, ad)

    decision = decide(Once(0.1, history=0.6))
    assert decision.fallback == "model"
    assert decision.evidence.signals is None
    assert "could not be measured" in why(decision).sentence


@pytest.mark.parametrize(
    ("scorer", "consent", "used"),
    [(Rule(), ALLOWED, [1, 2]), (Rule(), ANONYMOUS, [2]), (Broken("nan"), ALLOWED, [2])],
)
def test_the_dsa_fields_say_whether_a_profile_was_used(scorer, consent, used):
    decision = decide(scorer, consent)
    dsa = why(decision).dsa
    assert dsa["transparency"] == [{"domain": "news.example", "dsaparams": used}]
    assert dsa["paid"] == decision.winner.seat
    assert dsa["behalf"] == decision.winner.sponsored
    assert len(dsa["behalf"]) <= 100


def test_every_loser_has_a_line_with_its_code():
    lines = why(decide(Rule())).losers
    assert len(lines) == 4
    assert all("another ad was worth more (102; auction: value" in line for line in lines)


def test_no_ad_and_a_rotation_are_explained_as_what_they_are():
    assert why(decide(Rule(), size=0)).sentence == "No ad is shown: the catalogue holds no ads."
    assert why(decide(Rule(), size=0)).dsa == {}
    assert "take turns" in why(decide(Broken("nan"))).sentence


def test_a_house_ad_is_not_said_to_be_paid_for():
    shop = catalogue((campaign("c1", price=0.0),), (ad("a1", "c1"),))
    told = why(Picker(SCHEMA, Rule(), shop).pick(request(), LOG, ALLOWED, NOW))
    assert "place's own ads take turns" in told.sentence
    assert "pays" not in told.sentence
    assert told.dsa["transparency"][0]["dsaparams"] == [2]
