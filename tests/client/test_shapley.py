from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.client.shapley import MOST_PLAYERS, shares

NUMBER = st.floats(-20, 20)
GAMES = st.integers(0, 5).flatmap(lambda n: st.lists(NUMBER, min_size=2**n, max_size=2**n))


def by_orders(values):
    """The definition: what each adds when it comes in, over all orders."""
    players = len(values).bit_length() - 1
    found = np.zeros(players)
    for order in permutations(range(players)):
        there = 0
        for player in order:
            found[player] += values[there | 1 << player] - values[there]
            there |= 1 << player
    return found / factorial(players)


@settings(max_examples=60)
@given(GAMES)
def test_a_share_is_the_mean_over_all_orders_and_the_sum_is_the_whole_change(values):
    found = shares(values)
    np.testing.assert_allclose(found, by_orders(values), atol=1e-9)
    assert found.sum() == pytest.approx(values[-1] - values[0], abs=1e-6)


@settings(max_examples=60)
@given(st.lists(NUMBER, min_size=8, max_size=8), NUMBER, st.integers(0, 3))
def test_whoever_adds_the_same_to_everybody_gets_that_and_nobody_else_is_touched(others, own, player):
    low = (1 << player) - 1
    values = [others[(c & low) | (c >> 1 & ~low)] + own * (c >> player & 1) for c in range(16)]
    found = shares(values)
    assert found[player] == pytest.approx(own, abs=1e-9)
    np.testing.assert_allclose(np.delete(found, player), shares(others), atol=1e-9)


@settings(max_examples=60)
@given(st.lists(NUMBER, min_size=16, max_size=16))
def test_two_that_are_interchangeable_get_the_same(values):
    def swapped(c):
        return c & 0b1100 | (c & 1) << 1 | c >> 1 & 1

    symmetric = [values[c] + values[swapped(c)] for c in range(16)]
    assert shares(symmetric)[0] == pytest.approx(shares(symmetric)[1], abs=1e-9)
    assert shares(values)[0] == pytest.approx(shares([values[swapped(c)] for c in range(16)])[1], abs=1e-9)


@given(st.lists(NUMBER, min_size=8, max_size=8), st.lists(NUMBER, min_size=8, max_size=8))
def test_the_shares_of_a_sum_are_the_sums_of_the_shares(one, other):
    np.testing.assert_allclose(shares(np.add(one, other)), shares(one) + shares(other), atol=1e-9)


def test_a_change_that_needs_both_is_halved_and_an_empty_game_has_no_shares():
    assert shares([0.0, 0.0, 0.0, 1.0]).tolist() == [0.5, 0.5]
    assert shares([3.0]).tolist() == []


@pytest.mark.parametrize("values", [[], [1.0] * 3, [[1.0, 2.0]], np.zeros(2 << MOST_PLAYERS)])
def test_values_that_are_no_game_are_a_wrong_call(values):
    with pytest.raises(ValueError, match="coalitions"):
        shares(values)
