"""The noise has the promised scale and shape, and a release lies on the public grid."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sottovoce.privacy.entropy import OsEntropy, SeededEntropy
from sottovoce.privacy.noise import gaussian, grid, release_sum


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
