from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.events import EventLog
from sottovoce.client.picker import Picker
from sottovoce.client.request import decode_request
from sottovoce.models.signing import generate_key
from sottovoce.simulations import device_trial, phone
from sottovoce.simulations.device_trial import Phone, above, always, try_caps, try_faults
from sottovoce.simulations.market import Market
from sottovoce.simulations.picker_latency import crowded, measure
from sottovoce.simulations.picker_value import CONTEXTUAL, OneBlock, Truth, compare, held_out, interval, worth

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def market():
    return OneBlock()


@pytest.fixture
def device(tmp_path, market):
    """A device of the market without a model: caps and faults are the same, and no training is needed."""
    made = Phone(tmp_path / "phone", generate_key().public_key())
    opened = made.open(NOW)
    opened.take_catalogue(msgspec.json.encode(always(decode_catalogue(phone.catalogue_json(market)))), NOW)
    opened.close()
    return made, [decode_request(phone.request_json(market, 3, number)) for number in range(3)]


def test_the_count_of_its_own_sees_the_first_impression_above_a_cap(market):
    catalogue = decode_catalogue(phone.catalogue_json(market))
    ad = catalogue.ads[0]
    shown = [(NOW + timedelta(minutes=n), ad, catalogue.campaign[ad.cid]) for n in range(4)]
    assert [above(shown[: n + 1]) for n in range(4)] == [0, 0, 0, 1]
    shown[3] = (NOW + timedelta(days=1), *shown[3][1:])
    assert above(shown) == 0


def test_caps_that_are_not_counted_are_found_violated(device, monkeypatch):
    held, requests = device
    found = try_caps(held, requests, NOW, 120, 4)
    assert (found.violated, found.shown, found.restarts) == (0, 120, 4)
    monkeypatch.setattr(device_trial.Device, "happened", lambda *_: True)
    assert try_caps(held, requests, NOW + timedelta(days=9), 120, 4).violated > 50


def test_every_fault_is_answered_and_an_exception_is_no_answer(device, monkeypatch):
    held, requests = device
    monkeypatch.setattr(device_trial, "FAULTS", {name: device_trial.FAULTS[name] for name in ("lost key", "no fault")})
    found = try_faults(held, requests, NOW, 1)
    assert (found.asked, found.answered) == (30, 1.0)
    monkeypatch.setattr(device_trial.Device, "pick", lambda *_: 1 / 0)
    assert try_faults(held, requests, NOW, 1).answered == 0
    assert held.open(NOW).store.fault == ""


def test_the_truth_earns_what_an_oracle_does_and_nobody_earns_more(market):
    asked = held_out(market, 100, 25, 2)
    truth = Truth(market)
    catalogue = decode_catalogue(phone.catalogue_json(market))

    class Told(Picker):
        def pick(self, request, log, consent, now):
            truth.of(next(one for one in asked if one.request.id == request.id))
            return super().pick(request, log, consent, now)

    found = compare(lambda ads: Told(market.schema, truth, ads), market, asked)
    assert (found.vs_oracle, found.people, found.requests) == (1.0, 25, 50)
    turns = Picker(market.schema, None, catalogue)
    assert compare(lambda _: turns, market, asked).vs_oracle < 0.5
    one = asked[0]
    truth.of(one)
    fit = [place for place, ad in enumerate(catalogue.ads) if (ad.w, ad.h) in one.request.place.banner.sizes]
    winner = Told(market.schema, truth, catalogue).pick(one.request, one.log, CONTEXTUAL, one.now).winner
    best = max(worth(market, truth, place) for place in fit)
    assert worth(market, truth, catalogue.place[winner.crid]) == pytest.approx(best, rel=1e-3)


def test_people_who_are_asked_are_the_same_with_and_without_the_block_at_hand(market):
    slow, quick = held_out(Market(), 100, 2, 2), held_out(market, 100, 2, 2)
    assert [one[:4] for one in slow] == [one[:4] for one in quick]
    assert {one.person // 4096 for one in quick} == {100}


def test_the_interval_holds_the_ratio():
    ones = np.arange(1.0, 101.0)
    low, high = interval(ones, 2 * ones[::-1])
    assert low < 0.5 < high
    assert interval(ones, 2 * ones) == (0.5, 0.5)


def test_a_crowded_place_has_just_as_many_ads_that_fit():
    class Even:
        def scores(self, context, events, outcomes, ad):
            return np.full((len(ad), 2), 0.1, np.float32)

    found = measure(300, 20, 50, lambda _: Even())
    assert (found.ads, found.eligible, found.decisions) == (300, 20, 50)
    assert found.p50_range_ms[0] <= found.p50_ms <= found.p50_range_ms[1] <= found.p99_ms
    market = Market()
    catalogue = crowded(market, 120, 30, NOW)
    decision = Picker(market.schema, None, catalogue).pick(
        decode_request(phone.request_json(market, 3)), EventLog(), CONTEXTUAL, NOW
    )
    assert decision.reasons[521] + decision.reasons[520] + 1 == 30
