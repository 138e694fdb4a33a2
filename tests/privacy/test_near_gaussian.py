"""Each step of the proof that a sum of discrete Gaussians is worth what is charged, held against exact sums."""

import math

import numpy as np
import pytest
from scipy import stats

from sottovoce.privacy.near_gaussian import LEAST_SCALE, drift, tau, worth


def discrete(scale, reach):
    chance = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * scale**2))
    return chance / chance.sum()


def summed(parts, scale, reach):
    """The law of a sum, on -parts * reach ... parts * reach."""
    found = one = discrete(scale, reach)
    for _ in range(parts - 1):
        found = np.convolve(found, one)
    return found


def test_tau_is_the_papers_sum_and_vanishes_at_the_scales_in_use():
    assert tau(1, 0.5) == 0
    assert tau(3, 0.5) == pytest.approx(10 * (math.exp(-(math.pi**2) / 4) + math.exp(-(math.pi**2) / 3)))
    assert tau(10**6, LEAST_SCALE) < 1e-260


@pytest.mark.parametrize(("parts", "scale"), [(2, 0.8), (5, 1.0), (9, 1.3)])
def test_a_sum_of_discrete_gaussians_is_as_near_to_one_discrete_gaussian_as_tau_says(parts, scale):
    found, whole = summed(parts, scale, 60), discrete(math.sqrt(parts) * scale, 60 * parts)
    near = np.abs(np.arange(-60 * parts, 60 * parts + 1)) <= 6 * math.sqrt(parts) * scale
    apart = np.abs(np.log(found[near] / whole[near])).max()
    assert apart <= tau(parts, scale) + 1e-12
    assert apart > tau(parts, scale) / 20 or parts > 2  # not by far too wide either


@pytest.mark.parametrize("scale", [8.0, 20.0, 90.0])
def test_one_discrete_gaussian_is_as_near_to_rounded_gaussian_noise_as_the_second_step_says(scale):
    k = np.arange(0, int(6 * scale))
    x = k / scale
    # From above zero the upper tail has all its digits; the law is symmetric.
    rounded = stats.norm.sf((k - 0.5) / scale) - stats.norm.sf((k + 0.5) / scale)
    reach = int(12 * scale)
    apart = np.log(rounded / discrete(scale, reach)[reach + k])
    assert (apart <= x**2 / (24 * scale**2) + 1e-9).all()
    assert (apart >= -1.01 / (24 * scale**2) - 1e-9).all()
    # The bound is met at zero, and within a unit of x**2 elsewhere.
    assert apart[0] == pytest.approx(-1 / (24 * scale**2), rel=0.01)
    assert apart[-1] == pytest.approx((x[-1] ** 2 - 1) / (24 * scale**2), rel=0.01)


def test_squares_of_the_noise_are_rarely_many():
    for scale in (8.0, 30.0):
        k = np.arange(-int(12 * scale), int(12 * scale) + 1)
        rounded = stats.norm.cdf((k + 0.5) / scale) - stats.norm.cdf((k - 0.5) / scale)
        for law in (rounded, discrete(scale, int(12 * scale))):
            mean = float((law * np.exp((k / scale) ** 2 / 4)).sum())
            assert mean <= math.sqrt(2) * math.exp(1 / (11 * scale**2)) + 1e-12
    # Markov: (mean ** d) exp(-(2 d ln 2 + 512 ln 2) / 4) is 2 ** -128 for a mean of sqrt(2), whatever d.
    for size in (1, 1000):
        assert size * math.log2(2) / 2 - (2 * size + 512) / 4 == -128


def test_quantiles_move_at_most_by_root_two_pi_quarters_of_the_logarithm_of_the_odds():
    at = np.linspace(-37, 37, 20_001)
    slope = np.exp(stats.norm.logcdf(at) + stats.norm.logcdf(-at) - stats.norm.logpdf(at))
    assert slope.max() == pytest.approx(math.sqrt(2 * math.pi) / 4, rel=1e-12)


def delta(noise, shift, epsilon):
    """Exact, of adding noise of that law to 0 or to `shift` cells."""
    here, there = np.concatenate([noise, np.zeros(shift)]), np.concatenate([np.zeros(shift), noise])
    return float(np.maximum(here - math.exp(epsilon) * there, 0).sum())


def gaussian_delta(mu, epsilon):
    return stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)


EPSILONS = (-2.0, -1.0, -0.3, 0.0, 0.1, 0.3, 0.77, 1.0, 2.0)


@pytest.mark.parametrize(("parts", "scale"), [(1, 8.0), (3, 8.0), (2, 16.0)])
def test_a_sum_costs_no_more_at_any_epsilon_than_the_gaussian_that_is_charged_and_more_than_one_of_its_deviation(
    parts, scale
):
    noise, deviation, understated = summed(parts, scale, int(12 * scale)), math.sqrt(parts) * scale, 0
    for shift in (1, 5, int(deviation), int(2 * deviation)):
        charged = 1 / worth(shift, scale, parts, 1)
        for epsilon in EPSILONS:
            real = delta(noise, shift, epsilon)
            # Below 1e-20 the exact sum is nothing but its cut tails.
            assert real <= gaussian_delta(charged, epsilon) + 1e-20
            understated += real > gaussian_delta(shift / deviation, epsilon) + 1e-12
    # To charge the Gaussian of the same deviation, as if whole numbers were nothing, would be wrong.
    assert understated > 5


def test_what_whole_numbers_cost_grows_with_them_and_vanishes_with_the_grid():
    assert drift(8.0, 1, 1, 100) < drift(8.0, 1, 1, 200)
    assert drift(2.0**10, 70, 100, 100_000) / drift(2.0**11, 70, 100, 100_000) == pytest.approx(4)
    # The figure of the decision: 100,000 parameters and noise of 2**16 cells.
    assert drift(2.0**16, 1, 1, 100_000) == pytest.approx(2.33e-6, rel=0.01)


def test_what_is_charged_is_the_formula_to_its_last_term():
    tail, each = 512 * math.log(2), 2 * math.log(2) + 1.01
    assert drift(8.0, 1, 1, 1) == pytest.approx((each + tail) / (24 * 64), rel=1e-12)
    assert drift(8.0, 1, 1, 300) - drift(8.0, 1, 1, 1) == pytest.approx(299 * each / (24 * 64), rel=1e-12)
    assert drift(8.0, 2, 5, 1) == pytest.approx((each + tail) / (24 * 128), rel=1e-12)


@pytest.mark.parametrize("apart", [1e-4, 0.1, 1.0])
@pytest.mark.parametrize("mu", [1e-4, 0.5, 2.0])
def test_laws_so_near_to_gaussian_ones_cost_no_more_than_the_third_step_says_and_at_worst_as_much(apart, mu):
    """The worst pair: every event as likely, and as unlikely, as a ratio of exp(+-apart) lets it be."""
    at = np.linspace(-12, 12, 24_001)

    def highest(quantile):
        by_ratio = stats.norm.logcdf(quantile) + apart
        by_rest = stats.norm.logsf(quantile) - apart
        # Each where it keeps its digits.
        first = np.where(by_ratio < 0, stats.norm.ppf(np.exp(np.minimum(by_ratio, 0.0))), np.inf)
        return np.minimum(first, stats.norm.isf(np.exp(by_rest)))

    moved = highest(at + mu) + highest(-at) - mu
    inside = (np.abs(at) < 6) & (np.abs(at + mu) < 6)
    needed = moved[inside].max() / (math.sqrt(2 * math.pi) * apart)
    assert needed <= 1 + 1e-6
    assert needed > 0.99 or max(mu, apart) > 1e-3


def test_nothing_is_claimed_of_more_numbers_than_the_noise_bears():
    worth(1.0, 8.0, 1, 448)
    with pytest.raises(ValueError, match="too many"):
        worth(1.0, 8.0, 1, 449)


def test_nothing_is_claimed_of_noise_of_a_few_cells():
    with pytest.raises(ValueError, match="8"):
        worth(1.0, 7.0, 3, 10)
