"""The noise has the promised scale and shape, and a release lies on the public grid."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sottovoce.privacy.discrete_gaussian import SCALE, discrete_gaussian
from sottovoce.privacy.entropy import OsEntropy, SeededEntropy
from sottovoce.privacy.noise import MOST_CELLS, discrete_std, gaussian, grid, release_sum, release_sum_discrete


class Extreme:
    """A source whose bits are all equal: the ends of the uniform range."""

    def __init__(self, word):
        self.word = word

    def bits(self, size):
        return np.full(size, self.word, np.uint64)

    def uniform53(self, size):
        return (self.bits(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def test_ks_at_200000_draws_accepts_the_promised_scale_and_rejects_five_percent_off():
    draws = gaussian(SeededEntropy(7).generator("noise", 1), 200_000, 3.0)
    assert stats.kstest(draws, stats.norm(scale=3.0).cdf).pvalue > 0.01
    for wrong in (0.95, 1.05):
        assert stats.kstest(draws, stats.norm(scale=3.0 * wrong).cdf).pvalue < 1e-3


@pytest.mark.parametrize("entropy", [OsEntropy(), SeededEntropy(11)])
def test_the_variance_of_a_million_draws_is_within_one_percent(entropy):
    draws = gaussian(entropy.generator("noise", 1), 1_000_000, 0.5)
    assert abs(draws.std() / 0.5 - 1) < 0.005  # standard error 0.07 %
    assert abs(draws.mean()) < 5 * 0.5 / 1000
    assert abs(stats.kurtosis(draws)) < 0.03  # standard error 0.005


def test_neighbouring_numbers_are_independent():
    draws = gaussian(SeededEntropy(3).generator("noise", 1), 400_000, 1.0)
    for lag in (1, 2, 3, 4, 8):
        assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 5 / np.sqrt(400_000)
        assert abs(np.corrcoef(draws[:-lag] ** 2, draws[lag:] ** 2)[0, 1]) < 5 / np.sqrt(400_000)


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_the_ends_of_the_uniform_range_give_finite_noise(word):
    assert np.isfinite(gaussian(Extreme(word), 10, 1.0)).all()


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf])
def test_an_impossible_scale_is_refused(std):
    with pytest.raises(ValueError, match="std must be"):
        gaussian(OsEntropy().generator("noise", 1), 3, std)
    with pytest.raises(ValueError, match="std must be"):
        release_sum(np.zeros(3), std, OsEntropy().generator("noise", 1))


@given(st.floats(1e-250, 1e250), st.integers(0, 2**32))
def test_every_released_number_is_on_a_power_of_two_grid_finer_than_the_noise(std, seed):
    width = grid(std)
    assert math.frexp(width)[0] == 0.5
    assert std / 2**11 < width <= std / 2**10
    total = std * np.array([0.0, 1.0, -7.3, 1e5, 1e-9, math.pi])
    out = release_sum(total, std, SeededEntropy(seed).generator("noise", 1))
    assert (out / width == np.rint(out / width)).all()


def test_the_release_is_the_sum_plus_noise_of_the_promised_variance():
    total = np.linspace(-100, 100, 300_000)
    out = release_sum(total, 2.0, SeededEntropy(5).generator("noise", 9)) - total
    assert stats.kstest(out, stats.norm(scale=2.0).cdf).pvalue > 0.01
    assert abs(out.std() / 2.0 - 1) < 0.01


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_sum_that_is_not_a_number_counts_as_zero_and_still_gets_noise(bad):
    def source():
        return SeededEntropy(1).generator("noise", 1)

    out = release_sum(np.array([bad, 5.0]), 1.0, source())
    assert (out == release_sum(np.array([0.0, 5.0]), 1.0, source())).all()
    assert out[0] != 0


def test_huge_sums_stay_finite():
    out = release_sum(np.array([1e308, -1e308, 1e30]), 1e-3, OsEntropy().generator("noise", 1))
    assert out.tolist() == [1e308, -1e308, 1e30]


def test_without_noise_the_sum_is_unchanged_and_not_shared():
    total = np.array([0.1, -0.2, math.nan])
    out = release_sum(total, 0.0, OsEntropy().generator("noise", 1))
    assert out.tolist() == [0.1, -0.2, 0.0]
    out[0] = 9
    assert total[0] == 0.1


def test_noise_too_small_for_a_grid_is_refused():
    with pytest.raises(ValueError, match="too small"):
        release_sum(np.zeros(2), 1e-306, OsEntropy().generator("noise", 1))


def test_two_releases_of_the_same_sum_differ():
    total = np.zeros(1000)
    first, second = (release_sum(total, 1.0, OsEntropy().generator("noise", 1)) for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(1000)


def noise_source(seed=1):
    return SeededEntropy(seed).generator("noise", 1)


@given(st.floats(1e-250, 1e250), st.integers(0, 2**32))
def test_every_discrete_release_is_a_whole_number_of_cells(std, seed):
    width = std / SCALE
    total = std * np.array([0.0, 1.0, -7.3, 1e5, 1e-9, math.pi])
    out = release_sum_discrete(total, std, noise_source(seed))
    cells = np.rint(out / width)
    assert (cells * width == out).all()
    assert (cells == np.rint(total / width) + discrete_gaussian(noise_source(seed), 6)).all()


def test_the_discrete_release_is_the_sum_plus_noise_of_the_promised_variance():
    total = np.linspace(-100, 100, 300_000)
    out = release_sum_discrete(total, 2.0, noise_source(5)) - total
    assert stats.kstest(out, stats.norm(scale=2.0).cdf).pvalue > 0.01
    assert stats.kstest(out, stats.norm(scale=2.0 * 0.98).cdf).pvalue < 1e-3
    assert abs(out.std() / 2.0 - 1) < 0.005  # standard error 0.13 %


@given(
    st.floats(1e-3, 1e6),
    st.floats(1e-2, 1e4),
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1, 1)), min_size=1, max_size=40),
)
def test_rounding_never_moves_neighbouring_sums_further_apart_than_accounted(clip_norm, noise_multiplier, cells):
    std = discrete_std(clip_norm, noise_multiplier, len(cells))
    places, moves = np.array(cells).T
    one = clip_norm * places
    other = one + moves * (clip_norm / max(1.0, np.linalg.norm(moves)))
    apart = release_sum_discrete(one, std, noise_source()) - release_sum_discrete(other, std, noise_source())
    # The allowance is for the rounding of `other` and of the difference themselves, not for the mechanism.
    assert np.linalg.norm(apart) <= std / noise_multiplier + 1e-15 * np.linalg.norm(one)


def test_the_worst_rounding_exceeds_the_clip_norm_and_stays_within_what_is_accounted():
    size, noise_multiplier, clip_norm = 1_000_000, 1000.0, 1.0
    std = discrete_std(clip_norm, noise_multiplier, size)
    # One coordinate below the middle of its cell, so that any step at all is rounded up; and so are the others.
    one = np.full(size, 0.4999 * std / SCALE)
    other = one + clip_norm / math.sqrt(size)
    apart = release_sum_discrete(other, std, noise_source()) - release_sum_discrete(one, std, noise_source())
    assert clip_norm * 1.0001 < np.linalg.norm(apart) <= std / noise_multiplier


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e4), st.integers(0, 10**8))
def test_the_std_solves_its_equation_from_above_and_tightly(clip_norm, noise_multiplier, size):
    std = Fraction(discrete_std(clip_norm, noise_multiplier, size))
    z, C = Fraction(noise_multiplier), Fraction(clip_norm)
    # std >= z * (C + 2 std sqrt(d) / SCALE), squared so that no root is rounded.
    assert std > z * C
    assert (std - z * C) ** 2 >= (2 * z * std / SCALE) ** 2 * size
    lower = std * (1 - Fraction(1, 10**12))
    assert lower < z * C or (lower - z * C) ** 2 < (2 * z * lower / SCALE) ** 2 * size


def test_no_noise_needs_no_std_and_a_grid_that_is_too_coarse_is_refused():
    assert discrete_std(1.0, 0.0, 10) == 0
    with pytest.raises(ValueError, match="no room"):
        discrete_std(1.0, 1e6, 10**6)
    for wrong in ((0.0, 1.0, 1), (math.inf, 1.0, 1), (1.0, -1.0, 1), (1.0, math.nan, 1), (1.0, 1.0, -1)):
        with pytest.raises(ValueError, match="needs clip_norm"):
            discrete_std(*wrong)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_counts_as_zero_in_a_discrete_release_too(bad):
    out = release_sum_discrete(np.array([bad, 5.0]), 1.0, noise_source())
    assert (out == release_sum_discrete(np.array([0.0, 5.0]), 1.0, noise_source())).all()
    assert out[0] != 0


def test_a_sum_beyond_the_grid_is_held_to_its_end_so_that_neighbours_stay_neighbours():
    bound = MOST_CELLS / SCALE
    inside, beyond, far = (
        release_sum_discrete(np.array([total]), 1.0, noise_source())[0] for total in (bound - 1, bound + 1, 1e308)
    )
    assert beyond - inside == 1
    assert far == beyond
    assert abs(far - bound) < 10
    assert release_sum_discrete(np.array([-1e308]), 1.0, noise_source())[0] < -bound + 10


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf, 1e-300, 1e300])
def test_a_scale_that_no_discrete_grid_fits_is_refused(std):
    with pytest.raises(ValueError, match="std"):
        release_sum_discrete(np.zeros(3), std, noise_source())


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0)])
def test_a_discrete_release_keeps_its_shape(shape):
    out = release_sum_discrete(np.zeros(shape), 1.0, noise_source())
    assert out.shape == shape
    assert out.dtype == np.float64


def test_without_noise_the_discrete_release_is_the_sum_itself():
    total = np.array([0.1, -0.2, math.nan])
    out = release_sum_discrete(total, 0.0, noise_source())
    assert out.tolist() == [0.1, -0.2, 0.0]
    out[0] = 9
    assert total[0] == 0.1
