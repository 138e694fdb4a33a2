"""Cohorts follow the law that is accounted: Poisson, Poisson cut to a cap, or everybody."""

import math

import numpy as np
import pytest
from scipy import stats

from sottovoce.privacy.entropy import OsEntropy, SeededEntropy
from sottovoce.privacy.events import Gaussian, NonPrivate, PoissonGaussian, TruncatedPoissonGaussian
from sottovoce.privacy.sampling import EveryoneSampler, PoissonSampler, Sampler, TruncatedPoissonSampler

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
    assert PoissonSampler(5, 0.2).event(0.0) == NonPrivate(sampling_rate=0.2)


CAP = 22
"""Two above the mean of 20: more than a quarter of all cohorts are cut."""


def cut_sizes():
    """Probability of each cohort size 0 ... CAP."""
    sizes = stats.binom.pmf(np.arange(CAP + 1), N, RATE)
    sizes[CAP] = stats.binom.sf(CAP - 1, N, RATE)
    return sizes


def sizes_follow(sizes, chances):
    """Chi-square of cohort sizes against the exact law; sizes expected less than 5 times share a cell."""
    seen = np.bincount(sizes, minlength=len(chances))
    expected = chances * len(sizes)
    rare = expected < 5
    seen = np.append(seen[~rare], seen[rare].sum())
    return len(seen) > 10 and stats.chisquare(seen, np.append(expected[~rare], expected[rare].sum())).pvalue > 1e-4


def cohorts_of(draw, rounds=ROUNDS):
    return [draw(SeededEntropy(3).generator("cohort", r)) for r in range(rounds)]


def first_cap_stay(source):
    """The impostor that cuts a cohort by keeping its first devices: those enrolled early join too often."""
    return PoissonSampler(N, RATE).draw(source)[:CAP]


def test_cut_cohorts_have_the_sizes_of_a_cut_binomial():
    sizes = [len(cohort) for cohort in cohorts_of(TruncatedPoissonSampler(N, RATE, CAP).draw)]
    assert max(sizes) == CAP
    assert sizes_follow(sizes, cut_sizes())
    for wrong in (PoissonSampler(N, RATE * 0.95), PoissonSampler(N, RATE * 1.05)):
        assert not sizes_follow([min(CAP, len(cohort)) for cohort in cohorts_of(wrong.draw)], cut_sizes())


def test_every_device_is_as_likely_to_stay_as_any_other_and_keeping_the_first_is_found_out():
    rate = float(cut_sizes() @ np.arange(CAP + 1)) / N
    assert rate < 0.96 * RATE
    counts, impostor = (
        np.bincount(np.concatenate(cohorts_of(draw)), minlength=N)
        for draw in (TruncatedPoissonSampler(N, RATE, CAP).draw, first_cap_stay)
    )
    assert rate_is_right(counts, rate, ROUNDS)
    assert not rate_is_right(impostor, rate, ROUNDS)
    assert not rate_is_right(counts, RATE * 1.25, ROUNDS)
    # The later half, in one sum: sees an order that is too weak to see device by device.
    joined = [int(c[N // 2 :].sum()) for c in (counts, impostor)]
    assert stats.binomtest(joined[0], int(counts.sum()), 0.5).pvalue > 1e-4
    assert stats.binomtest(joined[1], int(impostor.sum()), 0.5).pvalue < 1e-9


def test_pairs_of_devices_stay_together_as_often_as_the_cut_law_has_it():
    # Exact: 4 devices at rate 0.6, at most 2 stay. Every pair is equally likely, and less so than for free coins.
    sampler, rounds = TruncatedPoissonSampler(4, 0.6, 2), 30_000
    pairs = {}
    for cohort in cohorts_of(sampler.draw, rounds):
        if len(cohort) == 2:
            pairs[tuple(cohort.tolist())] = pairs.get(tuple(cohort.tolist()), 0) + 1
    chance = float(stats.binom.sf(1, 4, 0.6)) / 6
    assert len(pairs) == 6
    for seen in pairs.values():
        assert stats.binomtest(seen, rounds, chance).pvalue > 1e-4
        assert stats.binomtest(seen, rounds, 0.6**2).pvalue < 1e-9


def test_a_cap_that_is_never_reached_changes_nothing():
    free, capped = PoissonSampler(1000, 0.1), TruncatedPoissonSampler(1000, 0.1, 1000)
    for one, other in zip(cohorts_of(free.draw, 20), cohorts_of(capped.draw, 20), strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("cap", [1, 7, 999, 1000])
def test_a_cut_cohort_is_ascending_distinct_in_range_and_never_above_the_cap(cap):
    for number in range(20):
        cohort = TruncatedPoissonSampler(1000, 1.0, cap).draw(OsEntropy().generator("cohort", number))
        assert cohort.dtype == np.int64
        assert len(cohort) == cap
        assert (np.diff(cohort) > 0).all()
        assert 0 <= cohort[0] <= cohort[-1] < 1000


def test_equal_random_words_decide_nothing():
    class Repeating:
        """Everybody joins; the first words for the cut are equal, the next are not."""

        def __init__(self):
            self.words = [[5, 5, 5], [9, 9, 1], [3, 1, 2]]

        def uniform53(self, size):
            return np.zeros(size)

        def bits(self, size):
            return np.array(self.words.pop(0)[:size], np.uint64)

    source = Repeating()
    assert TruncatedPoissonSampler(3, 0.5, 2).draw(source).tolist() == [1, 2]
    assert source.words == []


def test_everybody_takes_part_every_round():
    cohort = EveryoneSampler(7).draw(OsEntropy().generator("cohort", 1))
    assert cohort.tolist() == list(range(7))
    assert cohort.dtype == np.int64


@pytest.mark.parametrize(
    ("sampler", "expected", "event"),
    [
        (PoissonSampler(100, 0.2), 20.0, PoissonGaussian(sampling_rate=0.2, noise_multiplier=1.5)),
        (
            TruncatedPoissonSampler(100, 0.2, 30),
            20.0,
            TruncatedPoissonGaussian(population=100, sampling_rate=0.2, cap=30, noise_multiplier=1.5),
        ),
        (
            TruncatedPoissonSampler(100, 0.2, 15),
            15.0,
            TruncatedPoissonGaussian(population=100, sampling_rate=0.2, cap=15, noise_multiplier=1.5),
        ),
        (EveryoneSampler(100), 100.0, Gaussian(noise_multiplier=1.5)),
    ],
)
def test_every_sampler_names_its_event_and_its_public_denominator(sampler: Sampler, expected, event):
    assert sampler.expected == expected
    assert sampler.event(1.5) == event
    assert isinstance(sampler.event(0.0), NonPrivate)
    one, same, other = (sampler.draw(SeededEntropy(1).generator("cohort", r)).tolist() for r in (1, 1, 2))
    assert one == same
    assert (one == other) == isinstance(sampler, EveryoneSampler)


@pytest.mark.parametrize(("population", "rate", "cap"), [(0, 0.1, 1), (5, 0.0, 1), (5, 0.1, 0), (5, 0.1, 6)])
def test_impossible_caps_are_refused(population, rate, cap):
    with pytest.raises(ValueError, match="needs"):
        TruncatedPoissonSampler(population, rate, cap)
    with pytest.raises(ValueError, match="population >= 1"):
        EveryoneSampler(0)
