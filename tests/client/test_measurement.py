"""What a device contributes: its own rows, counted once, bounded as a whole, whatever the others do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.client.fleet import LocalTraining, fleet_update
from sottovoce.client.measurement import bounded_sum, score_bin, tally
from sottovoce.client.question import Question
from sottovoce.client.scoring import score
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.simulations.market import load

CONFIG = RankerConfig(embedding_width=4, tower_width=4, hidden_width=4, click_rate=0.1)
EDGES = np.linspace(-4.0, 0.0, 9)
NORMS = np.array([0.2, 0.5, 1.0, 2.0])
FREE = 1e9
"""A bound that nobody reaches."""


@pytest.fixture(scope="module")
def world():
    dataset = load(60, 0, 12)
    start = initial(dataset.schema, CONFIG, 0)
    noise = torch.Generator().manual_seed(1)
    return dataset, {name: value + 0.2 * torch.randn(value.shape, generator=noise) for name, value in start.items()}


def ask(world, query, devices=None, bound=FREE, **changes):
    dataset, parameters = world
    marks = {"quality": EDGES, "calibration": EDGES, "clip": NORMS, "popularity": np.zeros(0)}[query]
    question = Question(
        run_id="run",
        number=1,
        plan_hash="plan",
        query=query,
        clip_norm=bound,
        marks=marks,
        training=LocalTraining(),
        parameters={name: value.numpy() for name, value in parameters.items()},
        devices=np.arange(dataset.train.devices) if devices is None else np.asarray(devices),
    )
    question = replace(question, **changes)
    return bounded_sum(question, dataset.train, dataset.valid, dataset.schema, CONFIG)


QUERIES = ("quality", "calibration", "clip", "popularity")


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("bound", [0.3, 1.0, 5.0])
def test_no_device_moves_the_sum_by_more_than_the_bound_and_each_is_scaled_as_a_whole(world, query, bound):
    dataset, _ = world
    together = np.zeros_like(ask(world, query))
    for device in range(dataset.train.devices):
        alone, free = ask(world, query, [device], bound), ask(world, query, [device])
        length = np.linalg.norm(free)
        assert np.linalg.norm(alone) <= bound * (1 + 1e-12)
        np.testing.assert_allclose(alone, free * min(1.0, bound / length) if length else free, atol=1e-12)
        together += alone
    np.testing.assert_allclose(ask(world, query, bound=bound), together, atol=1e-9)


def test_quality_counts_every_held_out_row_once_in_the_bin_of_its_score(world):
    dataset, parameters = world
    chances = score(parameters, dataset.schema, CONFIG, dataset.train, dataset.valid)[:, 0]
    logit = np.log(chances / (1 - chances))
    expected = np.zeros(2 * (len(EDGES) + 1))
    for value, label in zip(logit, dataset.valid.labels[:, 0], strict=True):
        expected[2 * int((value >= EDGES).sum()) + label] += 1
    np.testing.assert_array_equal(ask(world, "quality"), expected)
    assert (expected > 0).sum() > 6


def test_calibration_counts_the_newest_training_rows_and_hides_from_each_row_its_own_outcome(world):
    dataset, parameters = world
    total = ask(world, "calibration", training=LocalTraining(max_rows=3))
    kept = np.minimum(np.diff(dataset.train.offsets), 3)
    assert total.sum() == kept.sum()
    # Turning over the newest label of every device moves rows between the two columns and changes no score.
    labels = dataset.train.labels.copy()
    last = dataset.train.offsets[1:][np.diff(dataset.train.offsets) > 0] - 1
    labels[last] = 1 - labels[last]
    turned = ask((replace(dataset, train=replace(dataset.train, labels=labels)), parameters), "calibration")
    plain = ask(world, "calibration")
    np.testing.assert_array_equal(turned[0::2] + turned[1::2], plain[0::2] + plain[1::2])
    assert not np.array_equal(turned, plain)


def test_popularity_counts_impressions_and_clicks_of_every_ad(world):
    dataset, _ = world
    total = ask(world, "popularity", parameters={})
    ads = len(dataset.train.catalogue)
    np.testing.assert_array_equal(total[0::2], np.bincount(dataset.train.ad, minlength=ads))
    clicked = dataset.train.ad[dataset.train.labels[:, 0] == 1]
    np.testing.assert_array_equal(total[1::2], np.bincount(clicked, minlength=ads))


def test_clip_votes_by_half_bits_on_the_norm_that_training_would_clip(world):
    dataset, parameters = world
    votes = ask(world, "clip")
    for mark, vote in zip(NORMS, votes, strict=True):
        update = fleet_update(
            parameters,
            dataset.train,
            dataset.schema,
            CONFIG,
            LocalTraining(),
            float(mark),
            np.arange(dataset.train.devices),
        )
        assert vote == dataset.train.devices / 2 - update.clipped
    one = ask(world, "clip", [0])
    np.testing.assert_array_equal(np.abs(one), 0.5)


def test_a_device_without_rows_adds_nothing_and_votes_for_an_update_of_norm_zero(world):
    dataset, _ = world
    (idle,) = np.flatnonzero(np.diff(dataset.train.offsets) == 0)[:1]
    assert not ask(world, "popularity", [idle]).any()
    assert not ask(world, "calibration", [idle]).any()
    np.testing.assert_array_equal(ask(world, "clip", [idle]), 0.5)
    assert not ask(world, "quality", np.zeros(0, np.int64)).any()


def test_weights_that_are_not_numbers_contribute_nothing_and_vote_above_every_mark(world):
    dataset, parameters = world
    broken = {name: torch.full_like(value, torch.nan) for name, value in parameters.items()}
    busy = np.flatnonzero(np.diff(dataset.train.offsets))
    for query in ("quality", "calibration"):
        assert not ask((dataset, broken), query).any()
    np.testing.assert_array_equal(ask((dataset, broken), "clip", busy), -len(busy) / 2)


def test_a_score_at_either_end_falls_into_an_outer_bin():
    chances = np.array([0.0, 1e-300, 0.5, 1.0])
    np.testing.assert_array_equal(score_bin(chances, np.array([-1.0, 0.0, 1.0])), [0, 0, 2, 3])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40),
    st.floats(0.01, 50),
)
def test_taking_a_device_away_moves_a_tally_by_at_most_the_bound(rows, bound):
    owner = np.array([device for device, _ in rows], np.int64)
    cell = np.array([where for _, where in rows], np.int64)
    whole = tally(owner, cell, 4, 5, bound)
    for device in range(4):
        left = tally(owner[owner != device], cell[owner != device], 4, 5, bound)
        assert np.linalg.norm(whole - left) <= bound * (1 + 1e-9)
