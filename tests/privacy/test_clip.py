"""No device's contribution is longer than the bound."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sottovoce.privacy.clip import clip_factors

norms = hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(0) | st.just(math.nan))
bounds = st.floats(1e-300, 1e300)


@given(norms, bounds)
@settings(max_examples=200)
def test_the_clipped_norm_is_within_the_bound_and_short_updates_are_untouched(norm, bound):
    factors = clip_factors(norm, bound)
    assert factors.shape == norm.shape
    assert ((factors >= 0) & (factors <= 1)).all()
    finite = np.isfinite(norm)
    assert (factors[finite] * norm[finite] <= bound * (1 + 2.0**-51)).all()
    assert (factors[finite & (norm <= bound)] == 1).all()
    assert (factors[~finite] == 0).all()


@given(bounds)
def test_a_long_update_is_shortened_to_the_bound_not_further(bound):
    norm = bound * 1000
    assert clip_factors([norm], bound)[0] * norm == pytest.approx(bound)


def test_a_zero_norm_needs_no_division():
    assert clip_factors([0.0, -0.0, 5e-324], 1.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_bounds_nothing_is_refused(bound):
    with pytest.raises(ValueError, match="bound must be positive"):
        clip_factors([1.0], bound)


def test_a_negative_norm_is_refused():
    with pytest.raises(ValueError, match="negative"):
        clip_factors([1.0, -1.0], 1.0)
