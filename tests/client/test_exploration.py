"""Exploration: the propensity that is stored is the probability that was used, and nothing makes it raise."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.client.exploration import PARTS, Candidates, Exploration, explore, in_parts
from sottovoce.client.posterior import Posterior


def candidates(rng, n=12, arms=5, variance=0.25):
    chance = np.round(np.exp(rng.normal(-4, 0.5, n)), 6)
    moving = (1000 * 50_000 * rng.lognormal(0, 0.3, n) * chance).astype(np.int64)
    order = np.argsort(-moving, kind="stable")
    arm, mean, spread = Posterior().beliefs([f"{one}" for one in rng.integers(0, arms, n)], variance)
    return Candidates(moving[order], moving[order], moving[order], chance[order], arm, mean, spread)


def tail(hits, n, p):
    """Probability of a count at least as far out on its side, exactly."""
    low = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits + 1))
    return min(low, 1 - low + comb(n, hits) * p**hits * (1 - p) ** (n - hits))


@pytest.mark.parametrize("method", ["thompson", "epsilon"])
def test_candidates_are_drawn_as_often_as_their_propensity_says(method):
    rng, ads = np.random.default_rng(3), candidates(np.random.default_rng(2))
    rule = Exploration(method=method, epsilon=0.2)
    first = explore(rule, ads, 0, 0.0)
    ends = np.cumsum(first.propensities)
    # Every draw gives the same probabilities, so where they end tells all draws at once; a few are made for real.
    for draw in [*rng.random(50), *np.nextafter(ends[:-1], 0), *ends[:-1]]:
        one = explore(rule, ads, 0, float(draw))
        assert one.propensities.tolist() == first.propensities.tolist()
        assert one.place == first.places[np.flatnonzero(draw < ends)[0]]
        assert one.propensity == one.propensities[one.places.tolist().index(one.place)]
    n = 1000
    hits = np.bincount(np.searchsorted(ends, rng.random(n), side="right"), minlength=len(ends))
    assert min(tail(int(h), n, float(p)) for h, p in zip(hits, first.propensities, strict=True)) > 1e-6


@given(seed=st.integers(0, 10**6), arms=st.integers(1, 8), k=st.integers(1, 12), draw=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_propensities_add_up_to_exactly_one_and_none_is_below_the_stated_least(seed, arms, k, draw):
    ads = candidates(np.random.default_rng(seed), arms=arms)
    rule = Exploration(method="thompson", candidates=k, epsilon=0.05)
    floor = int(ads.value[9])
    drawn = explore(rule, ads, floor, draw)
    assert sum(drawn.propensities.tolist()) == 1.0
    assert len(drawn.places) == min(k, 10)
    if len(drawn.places) > 1:
        assert drawn.propensities.min() >= 0.05 / len(drawn.places) - 1 / PARTS
    assert ads.value[drawn.place] >= floor
    assert drawn.reason == ""


def test_no_draw_shows_an_ad_below_the_floor():
    ads = candidates(np.random.default_rng(0))
    # A long-term term may rank an ad first that pays too little.
    ads = ads._replace(value=ads.value.copy())
    ads.value[0] = 0
    drawn = [explore(Exploration(method="thompson", epsilon=1.0), ads, 1, draw) for draw in np.linspace(0, 0.999, 40)]
    assert {one.place for one in drawn} == set(range(1, 9))
    assert explore(Exploration(method="thompson"), ads, int(ads.value.max()) + 1, 0.5) is None


def test_without_exploration_the_best_is_shown_for_certain():
    drawn = explore(Exploration(), candidates(np.random.default_rng(0)), 0, 0.99)
    assert (drawn.place, drawn.propensity, drawn.reason) == (0, 1.0, "")


BROKEN = {
    "nan chance": ("chance", np.nan),
    "chance above one": ("chance", 1.5),
    "nan mean": ("mean", np.nan),
    "infinite mean": ("mean", np.inf),
    "nan variance": ("variance", np.nan),
    "negative variance": ("variance", -1.0),
    "infinite variance": ("variance", np.inf),
}


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("column", BROKEN)
def test_a_broken_number_is_answered_with_the_best_and_a_reason(column, place):
    ads = candidates(np.random.default_rng(0))
    name, number = BROKEN[column]
    getattr(ads, name)[place] = number
    drawn = explore(Exploration(method="thompson"), ads, 0, 0.99)
    assert (drawn.place, drawn.propensity) == (0, 1.0)
    assert drawn.reason


@pytest.mark.parametrize("draw", [np.nan, np.inf, -0.1, 1.0])
def test_a_number_that_is_no_draw_is_answered_with_the_best_and_a_reason(draw):
    drawn = explore(Exploration(method="epsilon"), candidates(np.random.default_rng(0)), 0, draw)
    assert (drawn.place, drawn.propensity) == (0, 1.0)
    assert drawn.reason


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("chance", [0.0, 1.0, 1e-6, 0.5])
@pytest.mark.parametrize("mean", [-50.0, 0.0, 50.0])
@pytest.mark.parametrize("variance", [0.0, 1e-300, 100.0])
@pytest.mark.parametrize("worth", [0, -5, 10**15])
def test_the_edges_of_every_range_give_probabilities(chance, mean, variance, worth):
    n = 4
    ads = Candidates(
        np.full(n, max(worth, 0)),
        np.full(n, worth),
        np.full(n, max(worth, 0)),
        np.full(n, chance),
        np.array([0, 0, 1, 2]),
        np.full(n, mean),
        np.full(n, variance),
    )
    drawn = explore(Exploration(method="thompson"), ads, 0, 0.5)
    assert sum(drawn.propensities.tolist()) == 1.0
    assert drawn.reason == ""


def test_a_clear_favourite_is_shown_nearly_always_and_a_doubtful_one_more_often_than_its_value_says():
    def three(variance):
        value = np.array([1000, 990, 100])
        return Candidates(
            value, value, value, np.full(3, 0.01), np.arange(3), np.zeros(3), np.array([0.0001, variance, 0.0001])
        )

    rule = Exploration(method="thompson", epsilon=0.01)
    doubtful = explore(rule, three(1.0), 0, 0.0).propensities
    certain = explore(rule, three(0.000001), 0, 0.0).propensities
    assert certain[1] < 0.2 < doubtful[1] < 0.6
    assert max(doubtful[2], certain[2]) < 0.004


def test_parts_are_whole_and_complete_even_for_the_smallest_probabilities():
    parts = in_parts(np.array([1 - 3e-13, 1e-13, 1e-13, 1e-13]))
    assert parts.sum() == PARTS
    assert parts.min() >= 0
