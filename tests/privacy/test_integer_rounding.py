"""Rounding is unbiased, and no device moves a rounded sum by more than the bound."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.integer_rounding import (
    BIAS,
    inflated_norm,
    round_conditionally,
    round_randomly,
    shifted_norm,
    widest_norm,
)


def source(seed=0):
    return SeededEntropy(seed).generator("rounding", 1)


def test_rounding_goes_to_a_neighbour_and_is_right_in_the_mean():
    values = np.repeat([-1.75, -0.5, 0.0, 0.1, 2.0, 3.999], 100_000)
    drawn = round_randomly(values, source()).reshape(6, -1)
    assert (np.abs(drawn - values.reshape(6, -1)) < 1).all()
    # Standard error at most 0.5 / sqrt(100000) = 0.0016.
    np.testing.assert_allclose(drawn.mean(axis=1), values.reshape(6, -1)[:, 0], atol=0.007)


@pytest.mark.parametrize("norm", [0.5, 30.0, 3000.0])
def test_a_vector_is_drawn_again_until_it_keeps_the_bound(norm):
    size = 400
    values = np.full(size, norm / math.sqrt(size))
    bound, random = inflated_norm(norm, size), source(1)
    lengths = [np.linalg.norm(round_conditionally(values, bound, random)) for _ in range(200)]
    assert max(lengths) <= bound
    free = np.array([np.linalg.norm(round_randomly(values, random)) for _ in range(400)])
    assert (free > bound).mean() <= BIAS
    # A tighter bound is kept too, as long as it can be: the loop does more than hope.
    tight = float(np.quantile(free, 0.2))
    assert tight >= max(np.linalg.norm(round_conditionally(values, tight, random)) for _ in range(20))


def test_a_vector_longer_than_promised_is_an_error_and_not_a_loop():
    with pytest.raises(ValueError, match="does not round"):
        round_conditionally(np.full(100, 5.0), 49.0, source())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**30), st.floats(0, 20), st.integers(1, 60))
def test_one_device_moves_a_rounded_sum_by_less_than_the_bound(seed, norm, size):
    rng = np.random.default_rng(seed)
    others, mine = rng.normal(0, 50, size), rng.normal(0, 1, size)
    mine *= norm / max(float(np.linalg.norm(mine)), 1e-12)
    moved = round_randomly(others + mine, source(seed)) - round_randomly(others, source(seed))
    assert np.linalg.norm(moved) <= shifted_norm(norm, size)


@settings(max_examples=200, deadline=None)
@given(st.floats(1, 1e7), st.integers(1, 10**6), st.booleans())
def test_the_widest_norm_keeps_within_the_bound_and_is_no_smaller_than_it_must_be(rounded, size, conditional):
    norm = widest_norm(rounded, size, conditional=conditional)
    grown = inflated_norm if conditional else shifted_norm
    if norm > 0:
        assert grown(norm, size) <= rounded
        assert grown(norm * (1 + 1e-6) + 1e-6, size) > rounded
    else:
        assert grown(0.0, size) >= rounded * (1 - 1e-9)
