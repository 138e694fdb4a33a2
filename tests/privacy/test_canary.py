"""Lower bounds from canaries: nothing from nothing, never above a known truth, and enough where much leaks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from sottovoce.privacy import canary
from sottovoce.privacy.accountant import epsilon_without_sampling
from sottovoce.privacy.canary import Guesses, one_run, one_run_gaussian, possible
from sottovoce.privacy.canary_scores import every_round, final_model, knows_cohorts, scores
from sottovoce.privacy.events import Gaussian

DELTA = 1e-5


def gaussian_epsilon(mu, delta=DELTA):
    return epsilon_without_sampling([(Gaussian(noise_multiplier=1 / mu), 1)], delta)


def test_a_pure_game_is_bounded_as_by_hand():
    """Without delta the bound is the largest e^eps / (1 + e^eps) below Clopper and Pearson's lower limit."""
    for made, right in ((1000, 700), (200, 190), (50, 50)):
        least = stats.beta.ppf(0.05, right, made - right + 1)
        assert one_run(Guesses(1000, made, right), 0.0, 0.05) == pytest.approx(special.logit(least), abs=1e-5)


def test_the_second_term_of_the_one_run_bound_is_as_in_the_paper():
    """The p-value at the reported epsilon, computed anew term by term, is the significance."""
    outcome = Guesses(1000, 300, 250)
    epsilon = one_run(outcome, 1e-4, 0.05)
    chance = 1 / (1 + math.exp(-epsilon))
    law = stats.binom(300, chance)
    tail = sum(law.pmf(k) for k in range(250, 301))
    extra = max(sum(law.pmf(250 - j) for j in range(1, i + 1)) / i for i in range(1, 251))
    assert tail + 2 * 1000 * 1e-4 * extra == pytest.approx(0.05, rel=1e-3)
    assert one_run(outcome, 0.0, 0.05) > epsilon


def test_half_right_shows_nothing():
    for made in (1, 10, 100, 1000):
        outcome = Guesses(1000, made, made // 2)
        assert one_run(outcome, DELTA, 0.05) == 0.0
        assert one_run_gaussian(outcome, DELTA, 0.05) == 0.0
    assert one_run(Guesses(10, 0, 0), DELTA, 0.05) == 0.0


@given(st.integers(1, 200), st.data())
@settings(max_examples=30)
def test_more_right_guesses_never_show_less(made, data):
    right = data.draw(st.integers(1, made))
    for bound in (one_run, one_run_gaussian):
        assert bound(Guesses(200, made, right), DELTA, 0.05) >= bound(Guesses(200, made, right - 1), DELTA, 0.05)


def linear_program(outcome, epsilon, delta):
    """Largest probability of as many right guesses that all constraints of the derivation in `possible` permit."""
    made, canaries = outcome.made, outcome.canaries
    number = np.arange(made + 1)
    rows, limits = [], []
    for least in range(1, made + 1):
        right = np.where(number >= least, number, 0) / canaries
        wrong = np.where(number >= least - 1, made - number, 0) / canaries
        rows += [right - math.exp(epsilon) * wrong, right - math.exp(-epsilon) * wrong]
        limits += [delta, 1 - math.exp(-epsilon) * (1 - delta)]
    found = optimize.linprog(-(number >= outcome.right).astype(float), rows, limits, np.ones((1, made + 1)), [1.0])
    return -found.fun


@given(st.integers(1, 9), st.integers(0, 4), st.data(), st.floats(0, 3), st.sampled_from([0.0, 1e-3, 0.05]))
@settings(max_examples=60, deadline=None)
def test_the_recursion_finds_what_linear_programming_finds(made, more, data, epsilon, delta):
    """The recursion is greedy; were it not optimal, it would refute mechanisms that are possible."""
    outcome = Guesses(made + more, made, data.draw(st.integers(1, made)))

    def least_wrong(right):
        return max(0.0, (right - delta) * math.exp(-epsilon), 1 - delta - (1 - right) * math.exp(epsilon))

    best = linear_program(outcome, epsilon, delta)
    assert possible(outcome, least_wrong, best * (1 - 1e-6))
    assert best > 1 - 1e-6 or not possible(outcome, least_wrong, best * (1 + 1e-6) + 1e-9)


def game(rng, mu, canaries=1000, included=True):
    """A Gaussian release of each canary with means `mu` standard deviations apart: the truth is known."""
    coins = rng.random(canaries) < 0.5
    seen = rng.normal(size=canaries) + mu * coins * included
    return seen * mu - mu * mu / 2, coins


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_bounds_stay_below_a_known_truth_and_reach_a_fair_part_of_it(mu):
    """60 games at 95 %: more than 9 above the truth would have probability 0.002 if the bound were tight."""
    truth = gaussian_epsilon(mu)
    found = []
    for seed in range(60):
        outcome = canary.guess(*game(np.random.default_rng(seed), mu), share=0.2)
        found.append((one_run(outcome, DELTA, 0.05), one_run_gaussian(outcome, DELTA, 0.05)))
    plain, curve = np.array(found).T
    assert max(sum(plain > truth), sum(curve > truth)) <= 9
    assert np.median(curve) > 0.25 * truth
    assert np.median(curve) > np.median(plain)


def test_nothing_is_found_where_canaries_were_never_included():
    """200 null games at 95 %: at most 20 find anything (21 or more: probability 0.001), and none finds much."""
    found = []
    for seed in range(200):
        outcome = canary.guess(*game(np.random.default_rng(seed), 1.0, included=False), share=0.2)
        found.append((one_run(outcome, DELTA, 0.05), one_run_gaussian(outcome, DELTA, 0.05)))
    plain, curve = np.array(found).T
    assert max(sum(plain > 0), sum(curve > 0)) <= 20
    assert max(plain.max(), curve.max()) < 0.5


def test_a_bound_above_the_claim_shows_a_mechanism_ten_times_too_quiet():
    outcome = canary.guess(*game(np.random.default_rng(0), 10.0), share=0.5)
    assert one_run(outcome, DELTA, 0.05) > 4 > gaussian_epsilon(0.9)


def test_counting_stays_below_the_truth_and_finds_nothing_in_nothing():
    truth = gaussian_epsilon(2.0)
    found = [canary.counted(*game(np.random.default_rng(seed), 2.0), DELTA, 0.05) for seed in range(60)]
    assert sum(value > truth for value in found) <= 9
    assert np.median(found) > 1.5
    null = [canary.counted(*game(np.random.default_rng(s), 2.0, included=False), DELTA, 0.05) for s in range(60)]
    assert sum(value > 0 for value in null) <= 9


def test_the_estimate_comes_near_a_known_truth_from_above():
    """Two fitted spreads that differ by chance look like a leak, so that few canaries estimate too much."""
    truth = gaussian_epsilon(1.0)
    few, many = (
        np.median([canary.fitted(*game(np.random.default_rng(seed), 1.0, size), DELTA) for seed in range(20)])
        for size in (1000, 40_000)
    )
    assert truth < many < few
    assert many == pytest.approx(truth, rel=0.06)


def test_an_estimate_needs_two_canaries_on_a_side_and_is_infinite_without_spread():
    assert canary.fitted(np.array([1.0, 2.0]), np.array([True, False]), DELTA) == 0.0
    assert canary.fitted(np.array([1.0, 1, 0, 0]), np.array([True, True, False, False]), DELTA) == math.inf


def test_a_game_without_canaries_in_or_out_counts_nothing():
    assert canary.counted(np.ones(5), np.ones(5, bool), DELTA, 0.05) == 0.0


def test_canaries_that_nobody_can_judge_are_not_guessed():
    outcome = canary.guess(np.array([0.0, 3.0, -2.0, 0.0]), np.array([True, True, True, False]), 1.0)
    assert outcome == Guesses(4, 2, 1)


@pytest.mark.parametrize("impossible", [(5, 6, 1), (5, 3, 4), (5, 3, -1)])
def test_an_outcome_that_no_game_has_is_refused(impossible):
    with pytest.raises(ValueError, match="needs 0 <= right"):
        Guesses(*impossible)


def test_scores_are_the_log_likelihood_ratios_of_the_promised_mechanism():
    rng = np.random.default_rng(3)
    released, clip, rate = rng.normal(size=(3, 4)), 1.3, 0.25
    took_part = rng.random((3, 4)) < 0.5

    def density(x, mean):
        return stats.norm.pdf(x, mean)

    mixed = (1 - rate) * density(released, 0) + rate * density(released, clip)
    np.testing.assert_allclose(every_round(released, rate, clip), np.log(mixed / density(released, 0)).sum(0))
    known = np.where(took_part, np.log(density(released, clip) / density(released, 0)), 0).sum(0)
    np.testing.assert_allclose(knows_cohorts(released, took_part, clip), known, atol=1e-12)
    total, spread = released.sum(0), math.sqrt(3)
    inside = sum(stats.binom.pmf(k, 3, rate) * stats.norm.pdf(total, k * clip, spread) for k in range(4))
    np.testing.assert_allclose(final_model(released, rate, clip), np.log(inside / stats.norm.pdf(total, 0, spread)))
    for observer in ("final_model", "every_round", "knows_cohorts"):
        assert scores(observer, released, took_part, rate, clip).shape == (4,)


def test_when_everybody_takes_part_all_observers_of_every_round_know_the_same():
    released = np.random.default_rng(0).normal(size=(5, 6))
    np.testing.assert_allclose(every_round(released, 1.0, 0.7), knows_cohorts(released, np.ones((5, 6), bool), 0.7))
