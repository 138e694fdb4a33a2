"""The order of a filter that is declared before any plan is the best for what most campaigns release."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.events import Gaussian
from sottovoce.privacy.renyi import best_order, epsilon_at_order, epsilon_rdp, widest_order

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")


def gaussian_that_costs(epsilon, delta):
    """By bisection: the Gaussian whose cost by Renyi DP is exactly `epsilon`."""
    low, high = 1e-3, 1e6
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (
            (middle, high) if epsilon_rdp({Gaussian(noise_multiplier=middle): 1}, delta) > epsilon else (low, middle)
        )
    return Gaussian(noise_multiplier=high)


@given(st.floats(0.5, 20.0), st.floats(-10, -3))
@settings(max_examples=20, deadline=None)
def test_the_widest_order_is_the_best_one_of_a_gaussian_that_costs_the_whole_budget(epsilon, exponent):
    delta = 10.0**exponent
    event = gaussian_that_costs(epsilon, delta)
    order = widest_order(epsilon, delta)
    assert epsilon_at_order({event: 1}, delta, order) == pytest.approx(epsilon, rel=1e-6)
    assert (
        epsilon_at_order({event: 1}, delta, order)
        <= epsilon_at_order({event: 1}, delta, best_order({event: 1}, delta)) + 1e-9
    )


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (4.0, 1e-5), (8.0, 1e-8)])
def test_no_other_order_lets_more_gaussian_releases_through(epsilon, delta):
    event = Gaussian(noise_multiplier=10.0)

    def admitted(order):
        return next(n for n in range(1, 10**6) if epsilon_at_order({event: n}, delta, order) > epsilon)

    best = admitted(widest_order(epsilon, delta))
    assert best > 5
    assert all(admitted(order) <= best for order in (1.5, 2.0, 4.0, 8.0, 16.0, 60.0, 512.0))


def test_a_budget_too_small_for_any_gaussian_still_has_an_order():
    assert widest_order(1e-6, 1e-9) > 1
