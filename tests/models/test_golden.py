"""Requests, the rule of choice, and the golden requests a device scores before it trusts a model."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models.golden import SIZES, check_scores, draw_golden, load_golden, write_golden
from sottovoce.models.request import GRID, random_requests, winner
from sottovoce.privacy.errors import BundleError, GoldenError


@pytest.fixture(scope="module")
def golden(schema, scorer):
    return draw_golden(schema, scorer, np.random.default_rng(0))


def test_the_highest_score_wins_and_the_first_of_equals():
    assert winner(np.array([[0.1], [0.3], [0.2]], np.float32)) == 1
    assert winner(np.array([[0.1], [0.3], [0.3]], np.float32)) == 1
    assert winner(np.array([[0.5, 0.1], [0.2, 0.9]], np.float32)) == 1  # by the product of the heads


def test_the_last_bits_of_a_float_do_not_choose():
    score = np.float32(0.3)
    scores = np.array([[score], [np.nextafter(score, np.float32(1))]], np.float32)
    assert winner(scores) == winner(scores[::-1]) == 0
    assert winner(np.array([[0.3], [0.3 + 2 * GRID]], np.float32)) == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_random_requests_hold_only_ids_of_their_own_feature(schema, seed, candidates):
    (request,) = random_requests(schema, 1, candidates, np.random.default_rng(seed))
    for features, columns in (
        (schema.context, request.context),
        (schema.ad, request.ad),
        (schema.history, request.events),
    ):
        for place, feature in enumerate(features):
            start = schema.offsets[feature.name]
            column = columns[:, place]
            assert bool(((column == 0) | ((column >= start) & (column < start + feature.buckets))).all())
    filled = np.flatnonzero(request.outcomes)
    assert list(filled) == list(range(schema.history_length - len(filled), schema.history_length))
    assert not request.events[: schema.history_length - len(filled)].any()


def test_golden_requests_cover_padding_survive_the_file_and_pass_their_own_model(golden, schema, scorer):
    assert tuple(len(one.ad) for one in golden) == SIZES
    assert load_golden(write_golden(golden), schema) == golden
    check_scores(golden, scorer)


def test_another_winner_is_noticed_even_within_the_tolerance(golden, scorer):
    fooled = [msgspec.structs.replace(one, winner=(one.winner + 1) % len(one.ad)) for one in golden[1:]]
    with pytest.raises(GoldenError, match="wins"):
        check_scores(fooled, scorer)


@pytest.mark.parametrize(
    "change",
    [
        {"context": (1,)},
        {"context": (1, 10**6)},
        {"context": (1, -1)},
        {"context": (1, 2**40)},
        {"events": ()},
        {"outcomes": ()},
        {"winner": -1},
        {"winner": 40},
        {"scores": ()},
        {"scores": ((0.1,),) * 5},
        {"scores": ((0.1, 1.5),) * 5},
        {"ad": ((1, 1, 1),) * 5},
    ],
    ids=str,
)
def test_a_golden_request_that_does_not_fit_is_refused(golden, schema, change):
    with pytest.raises(BundleError, match="golden"):
        load_golden(write_golden([msgspec.structs.replace(golden[1], **change)]), schema)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_only_cause_bundle_errors(schema, data):
    with pytest.raises(BundleError):
        load_golden(data, schema)
