import dataclasses

import numpy as np
import pytest

from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.consent import decode_consent
from sottovoce.client.events import decode_log
from sottovoce.client.request import decode_request
from sottovoce.simulations import market, phone
from sottovoce.simulations.market import DAY_S, SIZES, TRAIN_DAYS, Market

DEVICES = np.arange(60)


@pytest.fixture(scope="module")
def world() -> Market:
    return Market(3)


def test_the_phone_reads_the_catalogue_and_encodes_it_as_training_did(world: Market) -> None:
    catalogue = decode_catalogue(phone.catalogue_json(world))
    assert len(catalogue.ads) == len(world.share)
    for number, ad in enumerate(catalogue.ads):
        assert world.schema.encode_one(world.schema.ad, ad.features).tolist() == world.catalogue[number].tolist()
        assert (ad.w, ad.h) == SIZES[world.size[number]]
        assert catalogue.campaign[ad.cid].price == world.price[world.campaign[number]]


def test_the_event_log_is_the_devices_own_training_rows(world: Market) -> None:
    data = market.load(len(DEVICES), seed=3)
    people = world.people(DEVICES)
    learners = np.flatnonzero(people.learn)
    assert len(learners) > 20
    for device in learners:
        log = decode_log(phone.events_jsonl(world, int(device))).events
        rows = slice(*data.train.offsets[device : device + 2])
        shown = [event.features["ad_id"] for event in log if event.event == "impression"]
        assert shown == data.train.ad[rows].tolist()
        clicked = sorted(event.features["ad_id"] for event in log if event.event == "click")
        assert clicked == sorted(data.train.ad[rows][data.train.labels[rows, 0] == 1].tolist())
        moments = [event.ts for event in log]
        assert moments == sorted(moments)
        assert all(event.crid == f"a{event.features['ad_id']}" for event in log)


def test_what_has_not_happened_yet_is_not_in_the_log(world: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_second(_: Market, block: int, people: market.People) -> market.Log:
        log = real(world, block, people)
        late = np.full_like(log.time, TRAIN_DAYS * DAY_S - 1)
        return dataclasses.replace(log, time=late, click=log.click | True, conversion=log.click | True)

    real = Market.block_log
    monkeypatch.setattr(Market, "block_log", last_second)
    events = decode_log(phone.events_jsonl(world, 1)).events
    assert {event.event for event in events} == {"impression"}


def test_without_consent_to_serving_there_is_no_log(world: Market) -> None:
    people = world.people(DEVICES)
    refused = np.flatnonzero(~people.serve)
    assert len(refused)
    assert all(phone.events_jsonl(world, int(device)) == b"" for device in refused)


def test_the_phone_finds_the_consent_that_the_market_gave(world: Market) -> None:
    people = world.people(DEVICES)
    for device in DEVICES:
        gates = decode_consent(phone.consent_json(world, int(device)))
        assert (gates.serve_personalised, gates.learn, gates.report) == (
            people.serve[device],
            people.learn[device],
            people.report[device],
        )
        assert gates.serve_contextual


def test_a_request_encodes_to_a_context_whose_truth_can_be_asked_for(world: Market) -> None:
    for device in DEVICES[:10]:
        for number in range(3):
            request = decode_request(phone.request_json(world, int(device), number))
            rows = world.schema.encode_one(world.schema.context, request.ext.features)
            visit = phone.visit(world, int(device), number)
            assert rows[0] == world.device_rows[world.people(np.array([device])).device_class[0]]
            assert np.array_equal(rows[1:], world.context_rows(visit.context)[0])
            assert visit.time.hour // 3 == request.ext.features["hour_part"]
            truth = world.true_probabilities(np.full(288, device), np.tile(rows[1:], (288, 1)), np.arange(288))
            assert ((truth > 0) & (truth < 1)).all()


def test_visits_differ_and_come_after_everything_in_the_log(world: Market) -> None:
    visits = [phone.visit(world, 1, number) for number in range(20)]
    assert len({visit.time for visit in visits}) == 20
    last = max(event.ts for event in decode_log(phone.events_jsonl(world, 1)).events)
    assert all(visit.time > last for visit in visits)
    assert phone.request_json(world, 1, 4) == phone.request_json(world, 1, 4)
