"""Probabilities of being the best: against an independent integral, brute force, and cases with a known answer."""

from statistics import NormalDist

import numpy as np
import pytest

from sottovoce.client.best_arm import best_probabilities

NORMAL = NormalDist()


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def integral(fixed, ceiling, logit, spread, arm, points=4001):
    """Arm by arm over its own offset, the others through the exact normal distribution function."""
    z = (np.arange(points) + 0.5) / points * 16 - 8
    weight = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * 16 / points
    phi = np.vectorize(NORMAL.cdf, otypes=[float])
    found = np.zeros(len(fixed))
    groups = [np.flatnonzero(arm == one) for one in np.unique(arm)]
    for group in groups:
        worth = fixed[group, None] + ceiling[group, None] * sigmoid(logit[group, None] + spread[group, None] * z)
        top = worth.max(0)
        chance = np.ones(points)
        for other in groups:
            if other is group:
                continue
            reach = np.full(points, np.inf)
            for i in other:
                with np.errstate(all="ignore"):
                    share = (top - fixed[i]) / ceiling[i] if ceiling[i] else np.where(top > fixed[i], 1.0, -1.0)
                    offset = (np.log(share) - np.log(1 - share) - logit[i]) / spread[i]
                reach = np.minimum(reach, np.where(share <= 0, -np.inf, np.where(share >= 1, np.inf, offset)))
            chance *= phi(np.clip(reach, -9, 9))
        winner = worth.argmax(0)
        found[group] = [(weight * chance * (winner == place)).sum() for place in range(len(group))]
    return found


def market(rng, n=8, arms=8, fixed=False):
    """Candidates whose worths lie close together and whose spreads do not."""
    chance = np.exp(rng.normal(-4, 1, n))
    arm = np.arange(n) if arms == n else rng.integers(0, arms, n)
    spread = rng.choice([0.02, 0.1, 0.3, 0.5, 1.0, 2.0], n)[arm]
    extra = rng.normal(0, 0.3, n) if fixed else np.zeros(n)
    scale = np.exp(rng.normal(0, 0.2, n)) * 1e6 / (1 + extra)
    return extra * scale, scale / chance, np.log(chance / (1 - chance)), spread, arm


@pytest.mark.parametrize(("arms", "fixed"), [(8, False), (4, False), (3, True)])
def test_probabilities_agree_with_an_independent_integral(arms, fixed):
    rng = np.random.default_rng(arms)
    errors = [
        np.abs(best_probabilities(*case) - integral(*case)).max()
        for case in (market(rng, arms=arms, fixed=fixed) for _ in range(8))
    ]
    assert max(errors) < 2.5e-3
    assert np.median(errors) < 7e-4


@pytest.mark.parametrize("arms", [8, 4])
def test_probabilities_agree_with_how_often_each_is_best_among_brute_force_drawings(arms):
    rng = np.random.default_rng(10 + arms)
    fixed, ceiling, logit, spread, arm = case = market(rng, arms=arms, fixed=True)
    offset = rng.standard_normal((250_000, 8)).astype(np.float32)[:, arm]
    best = (fixed + ceiling * sigmoid(logit + spread * offset)).argmax(1)
    drawn = np.bincount(best, minlength=8) / len(best)
    assert np.abs(best_probabilities(*case) - drawn).max() < 5e-3


def test_a_hundred_times_more_certain_arm_is_no_harder():
    case = (np.zeros(2), np.full(2, 1e6), np.array([-4.0, -4.0]), np.array([0.01, 1.0]), np.arange(2))
    assert best_probabilities(*case) == pytest.approx([0.5, 0.5], abs=1e-3)


def test_two_normal_arms_have_the_textbook_probability():
    logit, spread = np.array([-3.0, -3.4]), np.array([0.3, 0.4])
    known = NORMAL.cdf(0.4 / 0.5)
    found = best_probabilities(np.zeros(2), np.full(2, 1e9), logit, spread, np.arange(2))
    assert found == pytest.approx([known, 1 - known], abs=4e-4)


def test_candidates_of_one_arm_are_not_played_against_each_other():
    # Same arm, one always worth a little more: independent offsets would give nearly a half each.
    found = best_probabilities(np.zeros(2), np.array([1.01e6, 1e6]), np.full(2, -4.0), np.ones(2), np.zeros(2, int))
    assert found.tolist() == [1.0, 0.0]


def test_candidates_of_one_arm_that_change_places_split_where_they_cross():
    # 2 * sigmoid(o) and sigmoid(o + 2): equal where exp(o) = (e**2 - 2) / e**2.
    cross = NORMAL.cdf(np.log((np.e**2 - 2) / np.e**2))
    found = best_probabilities(np.zeros(2), np.array([2.0, 1.0]), np.array([0.0, 2.0]), np.ones(2), np.zeros(2, int))
    assert found == pytest.approx([1 - cross, cross], abs=1e-6)


def test_a_fixed_amount_wins_when_no_uncertain_one_is_above_it():
    # sigmoid(o) > 0.5 half the time, for each of two.
    found = best_probabilities(
        np.array([0.5, 0.0, 0.0]), np.array([0.0, 1.0, 1.0]), np.zeros(3), np.array([0.0, 1.0, 1.0]), np.arange(3)
    )
    assert found == pytest.approx([0.25, 0.375, 0.375], abs=1e-3)


def test_equal_certain_candidates_fall_to_the_first_and_equal_uncertain_ones_share():
    same = (np.zeros(3), np.full(3, 1e6), np.full(3, -3.0))
    assert best_probabilities(*same, np.zeros(3), np.arange(3)).tolist() == [1.0, 0.0, 0.0]
    assert best_probabilities(*same, np.ones(3), np.arange(3)) == pytest.approx([1 / 3] * 3, abs=1e-9)
    assert best_probabilities(*same, np.ones(3), np.zeros(3, int)).tolist() == [1.0, 0.0, 0.0]
