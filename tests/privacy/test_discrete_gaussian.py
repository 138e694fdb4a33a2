"""The sampler's law is the discrete Gaussian's: right ones pass, and every mistake planted here is caught."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sottovoce.privacy import discrete_gaussian as module
from sottovoce.privacy.discrete_gaussian import SCALE, discrete_gaussian
from sottovoce.privacy.entropy import OsEntropy, SeededEntropy

BITS = 2
"""A scale of 4 grid units, at which every number can be counted."""


class Scripted:
    """A source that gives the words it was told to give, and counts them."""

    def __init__(self, *words):
        self.words = list(words)

    def bits(self, size):
        given, self.words = self.words[:size], self.words[size:]
        return np.array(given, np.uint64)


class Counting:
    """Another source's bits, and how many words were taken."""

    def __init__(self, source):
        self.source, self.taken = source, 0

    def bits(self, size):
        self.taken += size
        return self.source.bits(size)


def source(seed):
    return SeededEntropy(seed).generator("noise", 1)


def p_value(draws, scale, bits=BITS):
    """Chi-square of draws made at 2**bits against the exact law at `scale`; numbers beyond 4 scales share a cell."""
    reach = 4 * 2**bits
    numbers = np.arange(-10 * reach, 10 * reach + 1)
    weights = np.exp(-(numbers**2) / (2 * scale**2))
    inside = weights[np.abs(numbers) <= reach] / weights.sum()
    seen = np.bincount(draws[np.abs(draws) <= reach] + reach, minlength=2 * reach + 1)
    seen, chances = np.append(seen, len(draws) - seen.sum()), np.append(inside, 1 - inside.sum())
    return stats.chisquare(seen, len(draws) * chances, sum_check=False).pvalue


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
def test_the_law_is_exact_at_scales_small_enough_to_count(bits):
    draws = module._draw(source(bits), 400_000, bits)
    assert p_value(draws, 2**bits, bits) > 1e-3


@pytest.mark.parametrize("wrong", [0.98, 1.02])
def test_a_scale_two_percent_off_is_noticed(wrong):
    # The expected chi-square is 2 * 400000 * 0.02**2 = 320 above its mean of 33, whose standard deviation is 8.
    assert p_value(module._draw(source(BITS), 400_000, BITS), wrong * 2**BITS) < 1e-9


def test_a_sampler_whose_gammas_are_three_percent_too_large_is_noticed(monkeypatch):
    right = module._exp_minus
    monkeypatch.setattr(module, "_exp_minus", lambda source, gamma: right(source, gamma + (gamma >> np.uint64(5))))
    assert p_value(module._draw(source(BITS), 400_000, BITS), 2**BITS) < 1e-9


@pytest.mark.parametrize(
    "factor", [lambda gamma, power: power * 0, lambda gamma, power: power + (power > 0)], ids=["left out", "once more"]
)
def test_a_sampler_with_a_wrong_power_is_noticed(monkeypatch, factor):
    right = module._exp_minus_power
    monkeypatch.setattr(
        module,
        "_exp_minus_power",
        lambda source, gamma, power: right(source, gamma, factor(gamma, power).astype(np.uint64)),
    )
    assert p_value(module._draw(source(BITS), 400_000, BITS), 2**BITS) < 1e-9


def test_a_sampler_that_keeps_plus_and_minus_zero_is_noticed(monkeypatch):
    right = module._discrete_laplace

    def both_zeros(source, candidates, scale_bits):
        proposals = right(source, candidates, scale_bits)
        return np.concatenate([proposals, proposals[proposals == 0]])

    monkeypatch.setattr(module, "_discrete_laplace", both_zeros)
    assert p_value(module._draw(source(BITS), 400_000, BITS), 2**BITS) < 1e-9


def variance_is_right(draws, scale):
    """Within one percent; at a million draws the standard error is 0.14 %."""
    return abs(np.var(draws / scale) - 1) < 0.01


@pytest.mark.parametrize("entropy", [OsEntropy(), SeededEntropy(11)])
def test_a_million_draws_have_the_moments_of_the_scale(entropy):
    draws = discrete_gaussian(entropy.generator("noise", 1), 1_000_000)
    assert variance_is_right(draws, SCALE)
    assert not variance_is_right(draws, 0.975 * SCALE)
    assert not variance_is_right(draws * 0.95, SCALE)
    assert abs((draws / SCALE).mean()) < 5 / 1000
    assert abs(stats.skew(draws)) < 5 * math.sqrt(6 / 1e6)
    assert abs(stats.kurtosis(draws)) < 5 * math.sqrt(24 / 1e6)


def test_the_shape_at_full_scale_is_gaussian_to_the_last_bit():
    draws = discrete_gaussian(source(4), 400_000)
    assert stats.kstest(draws / SCALE, stats.norm.cdf).pvalue > 1e-3
    assert stats.kstest(draws / SCALE, stats.norm(scale=1.02).cdf).pvalue < 1e-3
    assert stats.chisquare(np.bincount(draws & 255, minlength=256)).pvalue > 1e-3
    for lag in (1, 2, 3):
        assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 5 / math.sqrt(400_000)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 0.75, 1.0])
def test_a_coin_falls_with_probability_exp_of_minus_gamma(gamma):
    heads = int(module._exp_minus(source(6), np.full(200_000, int(gamma * 2**63), np.uint64)).sum())
    assert stats.binomtest(heads, 200_000, math.exp(-gamma)).pvalue > 1e-4
    assert stats.binomtest(heads, 200_000, math.exp(-gamma) * 0.98).pvalue < 1e-4


@given(st.integers(0, 2**63), st.integers(1, 40), st.integers(0, 2**64 - 1))
def test_one_word_decides_as_the_fraction_would(gamma, k, word):
    exact = Fraction(gamma, k)
    if word >> 1 == int(exact):
        return  # the tie below
    assert module._below(Scripted(word), np.array([gamma], np.uint64), k).tolist() == [word >> 1 < exact]


@pytest.mark.parametrize(("k", "rest"), [(3, 2), (5, 3), (7, 1)])
def test_a_tie_is_decided_by_the_remainder_and_without_modulo_bias(k, rest):
    gamma = np.array([2**63], np.uint64)
    tie = 2 * (2**63 // k)
    answers = [module._below(Scripted(tie, word), gamma, k).item() for word in range(k)]
    assert answers == [word < rest for word in range(k)]
    # Words past the last multiple of k would favour small remainders: they are drawn again.
    last = 2**64 - 2**64 % k
    assert module._below(Scripted(tie, last, 2**64 - 1, k - 1), gamma, k).item() is False
    assert module._uniform_below(Scripted(last - 1), k) == k - 1


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_divergence_from_a_rounded_gaussian_is_as_small_as_derived(scale):
    # From the middle to 12 scales: beyond, both laws together hold less than 1e-32.
    numbers = np.arange(0, 12 * scale + 1)
    rounded = stats.norm.sf((numbers - 0.5) / scale) - stats.norm.sf((numbers + 0.5) / scale)
    weights = np.exp(-(numbers**2) / (2 * scale**2))
    discrete = weights / (2 * weights.sum() - weights[0])
    twice = np.where(numbers == 0, 1, 2)
    divergence = float((twice * rounded * np.log(rounded / discrete)).sum())
    assert divergence * 576 * scale**4 == pytest.approx(1, abs=0.5 / scale)
    assert math.sqrt(1e10 / (576 * SCALE**4) / 2) < 3e-15


def test_about_110_bytes_of_entropy_make_a_number():
    counting = Counting(source(2))
    discrete_gaussian(counting, 200_000)
    assert 105 < 8 * counting.taken / 200_000 < 115


@pytest.mark.parametrize("size", [0, 1, 2, 1000, module.BLOCK + 1])
def test_as_many_numbers_as_asked_for(size):
    draws = discrete_gaussian(source(1), size)
    assert draws.shape == (size,)
    assert draws.dtype == np.int64


def test_a_seed_repeats_and_the_system_does_not():
    assert (discrete_gaussian(source(1), 1000) == discrete_gaussian(source(1), 1000)).all()
    first, second = (discrete_gaussian(OsEntropy().generator("noise", 1), 1000) for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(1000)
