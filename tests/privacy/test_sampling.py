"""Cohorts are Poisson: each device joins at the promised rate, whatever the others do."""

import math

import numpy as np
import pytest
from scipy import stats

from sottovoce.privacy.entropy import OsEntropy, SeededEntropy
from sottovoce.privacy.events import PoissonGaussian
from sottovoce.privacy.sampling import PoissonSampler

N, RATE, ROUNDS = 400, 0.05, 4000


def rate_is_right(counts, rate, rounds):
    """No device joins too often or too rarely: two-sided binomial test for each, Bonferroni at 1e-4."""
    tails = np.minimum(stats.binom.cdf(counts, rounds, rate), stats.binom.sf(counts - 1, rounds, rate))
    return 2 * tails.min() * len(counts) > 1e-4


def sizes_are_independent(sizes, population, rate):
    """The cohort size varies as it does when coins are independent: pairs of devices are uncorrelated.

    The variance of the size is the sum of all pairwise covariances, so that a fixed or refilled size shows at once.
    """
    expected = population * rate * (1 - rate)
    ratio = (len(sizes) - 1) * np.var(sizes, ddof=1) / expected
    return 1e-5 < stats.chi2.cdf(ratio, len(sizes) - 1) < 1 - 1e-5


@pytest.mark.parametrize("entropy", [OsEntropy(), SeededEntropy(3)])
def test_devices_join_independently_at_the_promised_rate(entropy):
    sampler = PoissonSampler(N, RATE)
    cohorts = [sampler.draw(entropy.generator("cohort", r)) for r in range(ROUNDS)]
    counts = np.bincount(np.concatenate(cohorts), minlength=N)
    sizes = [len(cohort) for cohort in cohorts]
    assert rate_is_right(counts, RATE, ROUNDS)
    assert not rate_is_right(counts, RATE * 1.25, ROUNDS)
    assert sizes_are_independent(sizes, N, RATE)
    assert stats.binomtest(int(counts.sum()), N * ROUNDS, RATE).pvalue > 1e-4


def test_a_fixed_size_impostor_is_found_out():
    rng = np.random.default_rng(1)
    cohorts = [rng.choice(N, int(N * RATE), replace=False) for _ in range(ROUNDS)]
    assert rate_is_right(np.bincount(np.concatenate(cohorts), minlength=N), RATE, ROUNDS)
    assert not sizes_are_independent([len(cohort) for cohort in cohorts], N, RATE)


def test_a_capped_impostor_is_found_out():
    sampler = PoissonSampler(N, RATE)
    sizes = [min(24, len(sampler.draw(SeededEntropy(3).generator("cohort", r)))) for r in range(ROUNDS)]
    assert not sizes_are_independent(sizes, N, RATE)


def test_two_devices_join_together_as_often_as_chance_has_it():
    sampler = PoissonSampler(2, 0.3)
    entropy = SeededEntropy(9)
    both = sum(len(sampler.draw(entropy.generator("cohort", r))) == 2 for r in range(20_000))
    assert stats.binomtest(both, 20_000, 0.09).pvalue > 1e-4


def test_a_cohort_is_ascending_distinct_and_in_range():
    cohort = PoissonSampler(10_000, 0.5).draw(OsEntropy().generator("cohort", 1))
    assert cohort.dtype == np.int64
    assert (np.diff(cohort) > 0).all()
    assert cohort[0] >= 0
    assert cohort[-1] < 10_000


def test_rate_one_takes_everybody_and_a_tiny_rate_nobody():
    assert len(PoissonSampler(1000, 1.0).draw(OsEntropy().generator("cohort", 1))) == 1000
    assert len(PoissonSampler(1000, 1e-12).draw(SeededEntropy(1).generator("cohort", 1))) == 0


def test_successive_rounds_draw_different_cohorts_and_the_same_seed_the_same():
    sampler, entropy = PoissonSampler(1000, 0.1), SeededEntropy(1)
    first, second = (sampler.draw(entropy.generator("cohort", r)).tolist() for r in (1, 2))
    assert first != second
    assert first == sampler.draw(SeededEntropy(1).generator("cohort", 1)).tolist()


@pytest.mark.parametrize(("population", "rate"), [(0, 0.1), (-1, 0.1), (5, 0.0), (5, 1.1), (5, math.nan)])
def test_impossible_samplers_are_refused(population, rate):
    with pytest.raises(ValueError, match="population >= 1"):
        PoissonSampler(population, rate)


def test_the_sampler_names_its_own_event():
    assert PoissonSampler(5, 0.2).event(1.5) == PoissonGaussian(sampling_rate=0.2, noise_multiplier=1.5)
