"""Scoring thousands of held-out rows at once must be what each device would do alone."""

import dataclasses

import numpy as np
import pytest
import torch

from sottovoce.client import scoring
from sottovoce.client.examples import Examples
from sottovoce.client.fleet import LocalTraining
from sottovoce.client.personal import NEWEST, logit, sigmoid
from sottovoce.client.scoring import requests, score
from sottovoce.models import ranker
from sottovoce.models.batch import Batch, interest
from sottovoce.models.ranker import RankerConfig, logits, probabilities
from sottovoce.simulations import market
from sottovoce.simulations.alone import open_device, own_offset

CONFIG = RankerConfig(embedding_width=4, tower_width=4, hidden_width=8)
PERSONAL = RankerConfig(embedding_width=4, tower_width=4, hidden_width=8, personal_variance=0.8)


@pytest.fixture(scope="module")
def world():
    dataset = market.load(40, 0, 12)
    generator = torch.Generator().manual_seed(3)
    parameters = {
        name: torch.randn(shape, generator=generator) * 0.3
        for name, shape in ranker.shapes(dataset.schema, CONFIG).items()
    }
    parameters["table"][0] = 0.0
    return dataset, parameters


def alone(dataset, parameters, device, row):
    """One row of one device, from the raw columns, as one request."""
    past, rows, schema = dataset.train, dataset.valid, dataset.schema
    begin, end = past.offsets[device], past.offsets[device + 1]
    mine = np.arange(begin, end)[-schema.history_length :]
    length = schema.history_length
    events, outcomes = np.zeros((length, len(schema.history)), np.int64), np.zeros(length, np.int64)
    if len(mine):
        events[-len(mine) :] = past.catalogue[past.ad[mine]][:, : len(schema.history)]
        outcomes[-len(mine) :] = schema.outcome_row("seen") + past.labels[mine].sum(1)
    context = np.concatenate([rows.device[device], rows.context[row]])
    batch = Batch(
        torch.from_numpy(context[None, None].astype(np.int64)),
        torch.from_numpy(rows.ads(np.array([row]))[None].astype(np.int64)),
        torch.from_numpy(events[None]),
        torch.from_numpy(outcomes[None]),
        torch.from_numpy((np.arange(length) >= length - len(mine))[None, None].astype(np.float32)),
    )
    seen = interest(batch, schema.outcome_row("click"))
    return probabilities(logits(parameters, batch, seen, CONFIG))[0, 0].double().numpy()


def test_every_row_scores_as_it_would_alone(world):
    dataset, parameters = world
    together = score(parameters, dataset.schema, CONFIG, dataset.train, dataset.valid)
    assert together.shape == (dataset.valid.rows, len(dataset.schema.heads))
    owners = np.repeat(np.arange(dataset.valid.devices), np.diff(dataset.valid.offsets))
    for row, device in enumerate(owners):
        np.testing.assert_allclose(together[row], alone(dataset, parameters, device, row), atol=1e-6)
    assert together.std() > 0.01


def test_how_many_rows_are_scored_at_once_makes_no_difference(world, monkeypatch):
    dataset, parameters = world
    together = score(parameters, dataset.schema, CONFIG, dataset.train, dataset.valid)
    monkeypatch.setattr(scoring, "BATCH_ROWS", 1)
    apart = score(parameters, dataset.schema, CONFIG, dataset.train, dataset.valid)
    np.testing.assert_allclose(apart, together, atol=1e-6)


def test_labels_of_scored_rows_are_never_looked_at(world):
    dataset, parameters = world
    expected = score(parameters, dataset.schema, CONFIG, dataset.train, dataset.valid)
    turned = dataclasses.replace(dataset.valid, labels=1 - dataset.valid.labels[:, [1, 0]])
    np.testing.assert_array_equal(score(parameters, dataset.schema, CONFIG, dataset.train, turned), expected)


def test_labels_of_the_past_are_looked_at(world):
    dataset, parameters = world
    expected = score(parameters, dataset.schema, CONFIG, dataset.train, dataset.valid)
    clicked = dataclasses.replace(dataset.train, labels=np.ones_like(dataset.train.labels))
    assert np.abs(score(parameters, dataset.schema, CONFIG, clicked, dataset.valid) - expected).max() > 1e-3


def test_one_device_never_sees_anothers_past(world):
    dataset, parameters = world
    expected = score(parameters, dataset.schema, CONFIG, dataset.train, dataset.valid)
    device = int(np.argmax(np.diff(dataset.train.offsets)))
    mine = slice(dataset.train.offsets[device], dataset.train.offsets[device + 1])
    labels = dataset.train.labels.copy()
    labels[mine] = 1 - labels[mine]
    changed = score(
        parameters, dataset.schema, CONFIG, dataclasses.replace(dataset.train, labels=labels), dataset.valid
    )
    rows = np.zeros(dataset.valid.rows, bool)
    rows[dataset.valid.offsets[device] : dataset.valid.offsets[device + 1]] = True
    np.testing.assert_array_equal(changed[~rows], expected[~rows])


@pytest.fixture(scope="module")
def without_past(world):
    """The held-out rows' devices, none of which remembers anything."""
    valid = world[0].valid
    return Examples(
        np.zeros(valid.devices + 1, np.int64),
        valid.device,
        valid.context[:0],
        valid.ad[:0],
        valid.labels[:0],
        valid.catalogue,
    )


def test_devices_without_a_past_are_scored_too(world, without_past):
    dataset, parameters = world
    scores = score(parameters, dataset.schema, CONFIG, without_past, dataset.valid)
    assert np.isfinite(scores).all()
    nothing = score(parameters, dataset.schema, CONFIG, dataset.train, without_past)
    assert nothing.shape == (0, len(dataset.schema.heads))


def test_with_a_personal_layer_each_devices_clicks_move_by_the_offset_of_its_own_past(world):
    dataset, parameters = world
    shared = score(parameters, dataset.schema, CONFIG, dataset.train, dataset.valid)
    found = score(parameters, dataset.schema, PERSONAL, dataset.train, dataset.valid)
    np.testing.assert_array_equal(found[:, 1], shared[:, 1])
    checked = 0
    for device in np.flatnonzero(np.diff(dataset.valid.offsets)):
        rows = slice(*dataset.valid.offsets[device : device + 2])
        offset = 0.0
        if np.diff(dataset.train.offsets)[device]:
            past = open_device(dataset.train, int(device), dataset.schema, LocalTraining(max_rows=NEWEST))
            logits_then = logits(parameters, past.batch, past.seen, CONFIG)[past.trained, 0]
            offset = own_offset(logits_then.double(), past.labels[past.trained, 0].double(), 0.8)
            checked += abs(offset) > 0.1
        np.testing.assert_allclose(found[rows, 0], sigmoid(logit(shared[rows, 0]) + offset), atol=1e-6)
    assert checked > 5


def test_the_personal_layer_never_looks_at_the_labels_of_scored_rows(world):
    dataset, parameters = world
    expected = score(parameters, dataset.schema, PERSONAL, dataset.train, dataset.valid)
    turned = dataclasses.replace(dataset.valid, labels=1 - dataset.valid.labels[:, [1, 0]])
    np.testing.assert_array_equal(score(parameters, dataset.schema, PERSONAL, dataset.train, turned), expected)


def test_a_device_without_a_past_has_no_personal_layer(world, without_past):
    dataset, parameters = world
    found, shared = (score(parameters, dataset.schema, c, without_past, dataset.valid) for c in (PERSONAL, CONFIG))
    np.testing.assert_array_equal(found, shared)
    assert score(parameters, dataset.schema, PERSONAL, dataset.train, without_past).shape == (0, found.shape[1])


def test_a_request_for_the_parity_check_scores_like_the_batch(world):
    dataset, parameters = world
    together = score(parameters, dataset.schema, CONFIG, dataset.train, dataset.valid)
    devices = np.flatnonzero(np.diff(dataset.valid.offsets))
    compared = 0
    for device, request in zip(devices, requests(dataset.schema, dataset.train, dataset.valid, devices), strict=True):
        begin, end = dataset.valid.offsets[device], dataset.valid.offsets[device + 1]
        assert request.ad.shape == (end - begin, len(dataset.schema.ad))
        known = request.outcomes > 0
        assert known.sum() == min(dataset.schema.history_length, np.diff(dataset.train.offsets)[device])
        batch = Batch(
            torch.from_numpy(request.context[None]).long(),
            torch.from_numpy(request.ad[None]).long(),
            torch.from_numpy(request.events[None]).long(),
            torch.from_numpy(request.outcomes[None]).long(),
            torch.from_numpy(known[None, None].astype(np.float32)),
        )
        # A request has one context for all its candidates: that of its first row.
        if len(np.unique(dataset.valid.context[begin:end], axis=0)) > 1:
            continue
        seen = interest(batch, dataset.schema.outcome_row("click"))
        mine = probabilities(logits(parameters, batch, seen, CONFIG))[0].double().numpy()
        np.testing.assert_allclose(mine, together[begin:end], atol=1e-6)
        compared += 1
    assert compared
