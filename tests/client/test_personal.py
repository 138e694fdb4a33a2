import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.client.local_offsets import fitted_offsets
from sottovoce.client.personal import logit, offsets, shifted, sigmoid
from sottovoce.client.personal_scorer import PersonalScorer, fitted_offset
from sottovoce.simulations.alone import own_offset


def fitted(chances, clicks, variance=1.0):
    chances, clicks = np.asarray(chances, np.float64), np.asarray(clicks)
    return offsets(chances, clicks, np.zeros(len(chances), np.int64), 1, variance)[0]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=1, max_size=40),
    variance=st.floats(0.01, 100),
)
def test_the_offset_is_where_the_slope_of_the_posterior_is_zero(rows, variance):
    chances, clicks = np.array([chance for chance, _ in rows]), np.array([int(click) for _, click in rows])
    found = fitted(chances, clicks, variance)
    assert abs((clicks - sigmoid(logit(chances) + found)).sum() - found / variance) < 1e-6


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.floats(-12, 12), min_size=1, max_size=30),
    seed=st.integers(0, 2**32 - 1),
    often=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    variance=st.sampled_from([0.1, 1.0, 10.0, 100.0]),
)
def test_newtons_offset_is_the_one_that_halving_an_interval_finds(scores, seed, often, variance):
    clicks = (np.random.default_rng(seed).random(len(scores)) < often).astype(np.int64)
    known = torch.tensor([scores], dtype=torch.float64)
    fleet = fitted_offsets(known, torch.from_numpy(clicks[None]), torch.ones(1, len(scores), dtype=bool), variance)
    slow = own_offset(known[0], torch.from_numpy(clicks).double(), variance)
    assert fleet.item() == pytest.approx(slow, abs=1e-6)
    inside = np.clip(scores, -16, 16)
    assert fitted(sigmoid(np.asarray(inside)), clicks, variance) == pytest.approx(slow, abs=1e-4)


def test_the_prior_keeps_people_who_always_or_never_click_finite_and_draws_harder_when_it_is_narrow():
    always, never = fitted([0.3] * 20, [1] * 20), fitted([0.3] * 20, [0] * 20)
    assert 1 < always < 5
    assert -5 < never < -1
    assert fitted([0.3] * 20, [1] * 20, 0.1) < always / 2


def test_a_device_without_rows_has_no_offset_and_neighbours_do_not_mix():
    owner = np.array([0, 0, 2, 2])
    both = offsets(np.full(4, 0.5), np.array([1, 1, 0, 0]), owner, 3, 1.0)
    assert both[1] == 0.0
    assert both[0] == pytest.approx(-both[2]) == pytest.approx(fitted([0.5, 0.5], [1, 1]))


def test_an_offset_of_zero_changes_no_digit_and_any_other_keeps_the_order_of_ads():
    chances = np.random.default_rng(0).uniform(0, 1, 200).astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(shifted(chances, 0.0), chances)
    for offset in (-3.0, -0.1, 0.4, 5.0):
        moved = shifted(chances, offset)
        np.testing.assert_array_equal(np.argsort(moved, kind="stable"), np.argsort(chances, kind="stable"))
        assert ((moved > chances) == (offset > 0)).all()


def test_a_variance_that_is_none_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        fitted([0.5], [1], 0.0)


class Half:
    def scores(self, context, events, outcomes, ad):
        return np.full((len(ad), 2), 0.5, np.float32)


def test_without_history_the_shared_model_speaks_alone():
    scorer = PersonalScorer(Half(), 1.0)
    nothing, some = np.zeros(3, np.int32), np.array([0, 0, 7], np.int32)
    ad, context, events = np.ones((2, 1), np.int32), np.ones((1, 1), np.int32), np.zeros((3, 1), np.int32)
    assert scorer.scores(context, events, nothing, ad)[0].tolist() == [0.5, 0.5]
    moved = scorer.scores(context, events, some, ad)
    assert moved[0, 0] == pytest.approx(sigmoid(np.float64(1.0)))
    assert moved[0, 1] == 0.5
    assert fitted_offset(Half(), [], [], 1.0) == 0.0
