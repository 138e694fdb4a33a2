"""Epsilon is right or too high, never too low: golden vectors, other accountants, and laws that always hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.accountant import COARSE, epsilon_pld, epsilon_without_sampling, published
from sottovoce.privacy.cross_check import cross_check, epsilon_opacus_rdp, epsilon_prv
from sottovoce.privacy.events import (
    Gaussian,
    NonPrivate,
    PoissonGaussian,
    Pure,
    RepeatAndSelect,
    TruncatedPoissonGaussian,
)
from sottovoce.privacy.renyi import best_order, epsilon_at_order, epsilon_rdp

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

DELTA = 1e-5


def event(rate, noise):
    return PoissonGaussian(sampling_rate=rate, noise_multiplier=noise)


@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "delta", "pld", "tolerance"),
    [
        (0.02, 1.0, 200, 1e-5, 1.8527, 1e-4),
        (1.0, 1.0, 1, 1e-5, 4.3772, 1e-4),
        (1.0, 2.0, 1, 1e-5, 1.9931, 1e-4),
        (1.0, 1.0, 200, 1e-5, 159.44, 2e-3),
        (0.01, 0.8, 100_000, 1e-7, 49.585, 1e-3),
        (1e-5, 0.5, 100_000, 1e-8, 1.4929, 1e-4),
    ],
)
def test_pld_gives_the_published_figures(rate, noise, rounds, delta, pld, tolerance):
    assert epsilon_pld({event(rate, noise): rounds}, delta) == pytest.approx(pld, abs=tolerance)


def test_rdp_gives_the_published_figures():
    assert epsilon_rdp({event(0.02, 1.0): 200}, DELTA) == pytest.approx(2.2298, abs=1e-4)
    assert epsilon_rdp({event(1.0, 1.0): 200}, DELTA) == pytest.approx(166.04, abs=1e-2)


def test_opacus_gives_the_published_figures():
    assert epsilon_prv({event(0.02, 1.0): 200}, DELTA) == pytest.approx(1.8629, abs=1e-4)
    assert epsilon_opacus_rdp({event(0.02, 1.0): 200}, DELTA) == pytest.approx(2.2298, abs=1e-3)


@pytest.mark.parametrize(
    ("k", "epsilon"), [(1, 4.377), (2, 6.573), (4, 9.997), (8, 15.456), (10, 17.857), (13, 21.220), (200, 159.441)]
)
def test_without_sampling_the_published_table_comes_out(k, epsilon):
    assert epsilon_without_sampling({event(0.02, 1.0): 200}, DELTA, k) == pytest.approx(epsilon, abs=1e-3)


@pytest.mark.parametrize("noise", [0.7, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("count", [1, 7])
def test_the_closed_formula_confirms_pld_where_everybody_takes_part(noise, count):
    exact = epsilon_without_sampling({event(1.0, noise): count}, DELTA)
    assert exact <= epsilon_pld({event(1.0, noise): count}, DELTA) <= exact + 1e-3


def test_a_quadrature_of_our_own_confirms_renyi():
    """Whole orders by direct integration: E over the base Gaussian of (mixture / base) ** alpha."""
    rate, noise, rounds = 0.02, 1.0, 200
    x = np.linspace(-30, 50, 80_001)
    base = np.exp(-(x**2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
    ratio = 1 - rate + rate * np.exp((2 * x - 1) / (2 * noise**2))
    found = []
    for alpha in range(2, 12):
        divergence = math.log((base * ratio**alpha).sum() * (x[1] - x[0])) / (alpha - 1)
        # conversion of Canonne et al. 2020, proposition 12
        found.append(rounds * divergence + math.log1p(-1 / alpha) - math.log(DELTA * alpha) / (alpha - 1))
    ours = epsilon_rdp({event(rate, noise): rounds}, DELTA)
    assert ours <= min(found) + 1e-6  # it may also choose orders in between
    assert ours == pytest.approx(min(found), rel=0.01)


@pytest.mark.parametrize(
    ("rate", "noise", "rounds"), [(0.02, 1.0, 200), (0.1, 1.76, 200), (0.001, 0.6, 2000), (0.2, 5.0, 50), (1.0, 4.0, 3)]
)
def test_pld_lies_below_rdp_and_within_two_hundredths_below_prv(rate, noise, rounds):
    found = cross_check({event(rate, noise): rounds}, DELTA)
    assert found["pld"] <= found["rdp"] + 1e-6
    assert found["pld"] <= found["opacus_prv"] <= found["pld"] + 0.02
    assert found["pld"] <= found["opacus_rdp"] + 1e-6


def test_a_truncated_cohort_costs_what_was_published_and_more_the_tighter_the_cap():
    def cut(cap):
        event = TruncatedPoissonGaussian(population=6040, sampling_rate=0.02, cap=cap, noise_multiplier=1.0)
        return epsilon_pld({event: 200}, DELTA, COARSE)

    assert cut(160) == pytest.approx(2.5477, abs=1e-3)
    assert cut(121) == pytest.approx(9.93, abs=1e-2)
    assert epsilon_pld({event(0.02, 1.0): 200}, DELTA) < cut(400) < cut(160)


def test_replacing_a_device_costs_twice_the_distance():
    """Zero-out is what is claimed; swapping one contribution for another moves the sum by 2 C, as if z were halved."""
    assert epsilon_pld({Gaussian(noise_multiplier=0.5): 1}, DELTA) == pytest.approx(9.9973, abs=1e-3)


def test_concentrated_dp_gives_the_published_figure():
    """rho = 0.81 at delta 1e-10, in 2,000 releases (OpenDP deployments registry): 8.92 by its own conversion."""
    noise = math.sqrt(2000 / (2 * 0.81))
    assert epsilon_rdp({Gaussian(noise_multiplier=noise): 2000}, 1e-10) == pytest.approx(8.92, abs=5e-3)
    assert epsilon_without_sampling({Gaussian(noise_multiplier=noise): 2000}, 1e-10) == pytest.approx(8.55, abs=5e-3)


def test_pure_releases_add_up_and_every_accountant_bounds_them_by_their_sum():
    tenth = Pure(micro_epsilon=100_000)
    for figure in (epsilon_pld({tenth: 10}, DELTA), epsilon_without_sampling({tenth: 10}, DELTA)):
        assert 0.9 < figure <= 1.0 + 1e-3
    one = Pure(micro_epsilon=1_000_000)
    assert epsilon_pld({one: 1}, 1e-15) == pytest.approx(1.0, abs=1e-4)
    assert epsilon_rdp({one: 1}, 1e-15) == pytest.approx(1.0, abs=0.05)
    mixed = {one: 1, event(0.02, 1.0): 50}
    apart = epsilon_pld({event(0.02, 1.0): 50}, DELTA)
    assert apart < epsilon_pld(mixed, DELTA) <= apart + 1.0 + 1e-3


@pytest.mark.parametrize(
    ("shape", "mean", "epsilon"),
    [(0, 2, 2.89), (0, 5, 3.37), (0, 10, 3.68), (0, 50, 4.30), (1, 2, 3.10), (1, 10, 4.21), (1, 50, 5.11)],
)
def test_random_stopping_costs_what_was_published(shape, mean, epsilon):
    inner = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
    tuned = {RepeatAndSelect(event=inner, rounds=200, mean=mean, shape=shape): 1}
    assert epsilon_rdp(tuned, DELTA) == pytest.approx(epsilon, abs=6e-3)
    assert published(tuned, DELTA) == (epsilon_rdp(tuned, DELTA), "Renyi DP")
    with pytest.raises(ValueError, match="random stopping"):
        epsilon_pld(tuned, DELTA)
    assert epsilon_without_sampling(tuned, DELTA) > 100


def test_a_filter_of_one_order_is_never_below_the_best_of_all_orders():
    counts = {event(0.02, 1.0): 200}
    best = best_order(counts, DELTA)
    assert epsilon_at_order(counts, DELTA, best) == pytest.approx(epsilon_rdp(counts, DELTA), abs=1e-9)
    for order in (2.0, 4.0, 32.0):
        assert epsilon_at_order(counts, DELTA, order) >= epsilon_rdp(counts, DELTA)
    with pytest.raises(ValueError, match="not among"):
        epsilon_at_order(counts, DELTA, 2.345)
    assert best_order({}, DELTA) is None
    assert best_order({NonPrivate(sampling_rate=0.1): 1}, DELTA) is None


def test_the_observer_who_knows_less_is_never_charged_more():
    loud = {event(0.9, 2.0): 10}
    assert published(loud, DELTA)[0] <= epsilon_without_sampling(loud, DELTA)


def test_stock_dp_accounting_replays_to_the_same_figure():
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.privacy_accountant import NeighboringRelation

    stock = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    for rate, noise, count in ((0.02, 1.0, 200), (0.05, 2.0, 10)):
        stock.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), count)
    ours = epsilon_pld({event(0.02, 1.0): 200, event(0.05, 2.0): 10}, DELTA)
    assert ours == pytest.approx(stock.get_epsilon(DELTA), abs=1e-6)


rates, noises, counts = st.floats(0.001, 0.5), st.floats(0.6, 8.0), st.integers(1, 300)


@given(rates, noises, counts)
@settings(max_examples=8, deadline=None)
def test_epsilon_grows_with_rounds_and_rate_and_falls_with_noise_and_delta(rate, noise, count):
    here = epsilon_pld({event(rate, noise): count}, DELTA, COARSE)
    slack = 1e-6 + 1e-6 * here
    assert epsilon_pld({event(rate, noise): count + 20}, DELTA, COARSE) >= here - slack
    assert epsilon_pld({event(rate * 1.2, noise): count}, DELTA, COARSE) >= here - slack
    assert epsilon_pld({event(rate, noise * 1.2): count}, DELTA, COARSE) <= here + slack
    assert epsilon_pld({event(rate, noise): count}, DELTA * 2, COARSE) <= here + slack
    assert epsilon_without_sampling({event(rate, noise): count}, DELTA) >= here - 0.01 - slack


@pytest.mark.parametrize("epsilon", [epsilon_pld, epsilon_rdp, epsilon_prv, epsilon_opacus_rdp])
def test_order_and_grouping_change_nothing(epsilon):
    one, two = event(0.02, 1.0), event(0.05, 2.0)
    together = epsilon({one: 5, two: 3}, DELTA)
    assert epsilon([(two, 1), (one, 5), (two, 2)], DELTA) == together
    assert epsilon([(one, 2), (two, 3), (one, 3)], DELTA) == together
    assert together > epsilon({one: 5}, DELTA)


@pytest.mark.parametrize(
    "epsilon", [epsilon_pld, epsilon_rdp, epsilon_prv, epsilon_opacus_rdp, epsilon_without_sampling]
)
def test_nothing_costs_nothing_no_noise_costs_everything_and_negative_counts_are_refused(epsilon):
    assert epsilon({}, DELTA) == 0
    assert epsilon({event(0.02, 1.0): 0, NonPrivate(sampling_rate=1.0): 0}, DELTA) == 0
    assert epsilon({event(0.02, 1.0): 5, NonPrivate(sampling_rate=0.001): 1}, DELTA) == math.inf
    with pytest.raises(ValueError, match="-1 times"):
        epsilon({event(0.02, 1.0): -1}, DELTA)
    with pytest.raises(ValueError, match="no accountant knows"):
        epsilon({"a strange event": 1}, DELTA)
    for delta in (0, 1, -1e-5, math.nan):
        with pytest.raises(ValueError, match="delta must be"):
            epsilon({event(0.02, 1.0): 1}, delta)


def test_the_observer_who_knows_cohorts_is_charged_for_the_least_noisy_rounds():
    bare, loud = event(0.5, 1.0), event(0.02, 10.0)
    both = {bare: 3, loud: 100}
    assert epsilon_without_sampling(both, DELTA, 3) == epsilon_without_sampling({bare: 3}, DELTA)
    assert epsilon_without_sampling(both, DELTA, 0) == 0
    assert epsilon_without_sampling(both, DELTA, 4) > epsilon_without_sampling(both, DELTA, 3)
    assert epsilon_without_sampling(both, DELTA, 1000) == epsilon_without_sampling(both, DELTA)
    assert epsilon_without_sampling({NonPrivate(sampling_rate=1.0): 1}, DELTA, 0) == 0
    with pytest.raises(ValueError, match="participations"):
        epsilon_without_sampling(both, DELTA, -1)


def test_the_coarse_grid_is_looser_never_tighter():
    for rounds in (1, 50, 200):
        fine = epsilon_pld({event(0.1, 1.76): rounds}, DELTA)
        assert fine <= epsilon_pld({event(0.1, 1.76): rounds}, DELTA, COARSE) <= fine + 2e-3


def test_out_of_range_accountants_are_left_out_not_guessed():
    assert cross_check({event(0.02, 0.25): 200}, DELTA)["opacus_prv"] is None
    none = cross_check({NonPrivate(sampling_rate=0.1): 1}, DELTA)
    assert none == {"pld": math.inf, "rdp": math.inf, "opacus_prv": None, "opacus_rdp": math.inf}


def test_a_delta_below_what_prv_can_resolve_leaves_it_out_instead_of_failing():
    assert cross_check({event(0.02, 8.0): 2}, 1e-15)["opacus_prv"] is None
