"""The personal layer on the phone: the offset that the model was evaluated with, and where it speaks and where not."""

import msgspec
import numpy as np
import pytest
import torch
from small_market import ALLOWED, ANONYMOUS, NOW, SCHEMA, Rule, event, market, request

from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.events import Event, EventLog, decode_log
from sottovoce.client.features import Encoder
from sottovoce.client.personal import NEWEST, logit, offsets, shifted
from sottovoce.client.personal_scorer import fitted_offset
from sottovoce.client.picker import Picker
from sottovoce.client.request import RequestExt, decode_request
from sottovoce.client.scoring import personal_offsets
from sottovoce.models.parity import float_scorer
from sottovoce.models.ranker import RankerConfig, shapes
from sottovoce.models.request import Request
from sottovoce.simulations import market as simulated
from sottovoce.simulations import phone

LOG = EventLog(
    (
        event("impression", 3, 90),
        event("click", 3, 85),
        event("impression", 1, 80),
        event("click", 1, 75),
        event("impression", 2, 60),
    )
)
"""Three impressions, two of them clicked."""


class Floats:
    """The model of training as a scorer."""

    def __init__(self, parameters, schema, config):
        self._score = float_scorer(parameters, schema, config)

    def scores(self, context, events, outcomes, ad):
        return self._score(Request(context, events, outcomes, ad))


@pytest.fixture(scope="module")
def world():
    """A market of busy and quiet devices, with the encoder of its phones."""
    rows = 90.0
    data, people = simulated.load(40, 3, rows), simulated.Market(3, rows_per_device=rows)
    return data, people, Encoder(data.schema, decode_catalogue(phone.catalogue_json(people)))


@pytest.mark.parametrize("width", [0, 4], ids=["linear model", "ranker"])
def test_the_phone_finds_from_its_files_the_offset_that_the_model_was_evaluated_with(world, width):
    data, people, encoder = world
    config = RankerConfig(embedding_width=width, tower_width=4, hidden_width=8, personal_variance=0.8)
    generator = torch.Generator().manual_seed(3)
    drawn = {n: torch.randn(s, generator=generator) * 0.3 for n, s in shapes(data.schema, config).items()}
    drawn["table"][0] = 0.0
    lengths = np.diff(data.train.offsets)
    learners = np.flatnonzero(lengths)
    order = learners[np.argsort(lengths[learners])]
    devices = np.array([order[0], order[1], order[len(order) // 2], order[-2], order[-1]])
    assert lengths[devices[0]] < data.schema.history_length
    assert lengths[devices[-1]] > NEWEST + data.schema.history_length
    expected = personal_offsets(drawn, data.schema, config, data.train, devices)
    for device in devices:
        log = decode_log(phone.events_jsonl(people, int(device)))
        asked, clicked = encoder.past(decode_request(phone.request_json(people, int(device))), log, NEWEST)
        # A phone gives a late conversion to the latest impression of its ad, which none of these devices has.
        labels = data.train.labels[slice(*data.train.offsets[device : device + 2]), 0]
        assert clicked == (labels[-NEWEST:] == 1).tolist()
        found = fitted_offset(Floats(drawn, data.schema, config), asked, clicked, config.personal_variance)
        assert found == pytest.approx(expected[device], abs=1e-5)
    assert np.ptp(expected[devices]) > 0.1


class Flat(Rule):
    """Finds every ad equally likely, whatever the history."""

    def scores(self, context, events, outcomes, ad):
        self.calls += 1
        return np.broadcast_to(np.float32([0.2, 0.5]), (len(ad), 2))


def pick(scorer, log=LOG, consent=ALLOWED, variance=1.0, **changes):
    return Picker(SCHEMA, scorer, market(5), variance).pick(request(**changes), log, consent, NOW)


def scored(decision):
    """(ads, heads) what the model said about each ad, by crid."""
    ads = sorted((decision.winner, *decision.losers), key=lambda one: one.crid)
    return np.array([one.scores for one in ads])


def test_the_layer_moves_every_ads_chance_of_a_click_by_the_offset_and_nothing_else():
    offset = offsets(np.full(3, 0.2), np.array([1, 1, 0]), np.zeros(3, np.int64), 1, 1.0)[0]
    assert offset > 0.5
    found = scored(pick(Flat()))
    np.testing.assert_allclose(found, [[shifted(np.array(0.2), offset), 0.5]] * 5, atol=1e-6)
    shared, own = scored(pick(Rule(history=0.5), variance=0.0)), scored(pick(Rule(history=0.5)))
    moved = logit(own[:, 0]) - logit(shared[:, 0])
    np.testing.assert_allclose(moved, moved[0], atol=1e-4)
    assert moved[0] > 0.5


@pytest.mark.parametrize(
    ("log", "consent"),
    [
        (LOG, ANONYMOUS),
        (EventLog(), ALLOWED),
        (EventLog((Event(NOW, "impression", "gone", "gone"), event("click", 3))), ALLOWED),
    ],
    ids=["contextual", "nothing remembered", "nothing that may be remembered"],
)
def test_where_no_history_may_speak_the_layer_is_silent_too(log, consent):
    shared, own = Rule(history=0.5), Rule(history=0.5)
    assert pick(own, log, consent) == pick(shared, log, consent, variance=0.0)
    assert own.calls == shared.calls


def test_it_is_fitted_once_for_a_log_and_again_when_the_log_or_the_device_changes():
    scorer = Flat()
    picker = Picker(SCHEMA, scorer, market(5), 1.0)

    def calls(log, **features):
        before = scorer.calls
        picker.pick(
            request(ext=RequestExt({"device_class": "phone", "page_category": "483"} | features)), log, ALLOWED, NOW
        )
        return scorer.calls - before

    longer = LOG.appended(event("impression", 0, 10))
    first, same, page = calls(LOG), calls(LOG), calls(LOG, page_category="484")
    assert (first - same, page) == (3, same)
    assert calls(longer) - same == 1  # the three before were asked about, and nothing about them changed
    assert calls(longer, device_class="tablet") - same == 4
    assert calls(longer, device_class="tablet") == same


def test_another_log_gives_another_offset_even_after_the_first_was_kept():
    picker = Picker(SCHEMA, Flat(), market(5), 1.0)
    never = EventLog(tuple(one for one in LOG.events if one.event == "impression"))
    for log in (LOG, never, LOG):
        kept = picker.pick(request(), log, ALLOWED, NOW)
        assert kept.in_full() == pick(Flat(), log).in_full()
    assert scored(pick(Flat(), never))[0, 0] < 0.2 < scored(pick(Flat()))[0, 0]


def test_a_late_click_changes_what_later_impressions_saw_and_they_are_asked_about_again():
    clicked = LOG.appended(event("click", 2, 5), event("impression", 4, 3))
    picker = Picker(SCHEMA, Rule(history=0.5), market(5), 1.0)
    for log in (LOG, LOG.appended(event("impression", 4, 3)), clicked):
        found = picker.pick(request(), log, ALLOWED, NOW)
        assert found.in_full() == pick(Rule(history=0.5), log).in_full()


class FailsOnThePast(Rule):
    """Cannot score the oldest impression, which has no history; with one it works."""

    def scores(self, context, events, outcomes, ad):
        if not outcomes.any():
            raise RuntimeError("native library gone")
        return super().scores(context, events, outcomes, ad)


class WrongOnCandidates(Rule):
    """Scores the past well, one impression at a time, and the click of several candidates below 0."""

    def scores(self, context, events, outcomes, ad):
        return super().scores(context, events, outcomes, ad) - np.float32([len(ad) > 1, 0])


@pytest.mark.parametrize(("scorer", "fault"), [(FailsOnThePast(), "gone"), (WrongOnCandidates(), "no probabilities")])
def test_a_model_that_fails_under_the_layer_is_a_model_that_fails(scorer, fault):
    decision = pick(scorer)
    assert decision.fallback == "rotation"
    assert fault in decision.fault
    assert decision.winner.scores == ()


def test_what_the_device_remembers_includes_the_layer_in_the_explanation():
    decision = pick(Flat())
    signals = decision.evidence.signals
    (effect,) = [effect for effect in signals.effects if effect.group == "habit"]
    assert effect.without == pytest.approx(0.2)
    assert signals.given == pytest.approx(decision.winner.scores[0], abs=1e-6)
    assert signals.given - effect.without > 0.1
    assert signals.effects[0] == effect


def test_the_past_is_scored_on_the_pages_of_then_and_the_device_of_now():
    encoder = Encoder(SCHEMA, market(5))
    then = {"page_category": "596", "device_class": "phone"}
    log = EventLog(tuple(msgspec.structs.replace(one, context=then) for one in LOG.events if one.event == "impression"))
    now = request(ext=RequestExt({"device_class": "tablet", "page_category": "483"}))
    (_, before, newest), clicked = encoder.past(now, log, NEWEST)
    assert clicked == [False] * 3
    told = SCHEMA.encode_one(SCHEMA.context, {"device_class": "tablet", "page_category": "596"})
    assert newest.context[0].tolist() == before.context[0].tolist() == told.tolist()
    assert (before.outcomes > 0).sum() == 1
    assert (newest.outcomes > 0).sum() == 2
    history = encoder.history(EventLog(log.events[:2]))
    np.testing.assert_array_equal(newest.events, history[0])
    np.testing.assert_array_equal(newest.ad[0], encoder.ads([2])[0])
    assert len(encoder.past(now, log, 2)[0]) == 2
    silent = encoder.past(request(ext=RequestExt({})), log, 1)[0][0]
    assert silent.context[0, 0] == 0  # not what the device was once
