"""Calibration is tight and never short."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sottovoce.privacy.accountant import epsilon_pld, epsilon_without_sampling, published
from sottovoce.privacy.calibration import LEAST_NOISE, MOST_NOISE, _least, calibrated
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import Gaussian, PoissonGaussian
from sottovoce.privacy.plan import MechanismPlan

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

SHAPE = MechanismPlan(population=1000, sampling_rate=0.1, clip_norm=1.0, noise_multiplier=0.0, rounds=10, delta=1e-5)


@pytest.mark.parametrize(
    ("population", "rate", "rounds", "epsilon", "delta"),
    [(25_000, 0.1, 200, 4.0, 1e-5), (1_000_000, 0.001, 500, 2.0, 1e-8)],
)
def test_calibration_is_within_budget_and_a_thousandth_less_noise_is_not(population, rate, rounds, epsilon, delta):
    shape = replace(SHAPE, population=population, sampling_rate=rate, rounds=rounds, delta=delta)
    noise = calibrated(shape, epsilon).noise_multiplier
    assert noise * 1000 == pytest.approx(round(noise * 1000))

    def cost(z):
        return epsilon_pld({PoissonGaussian(sampling_rate=rate, noise_multiplier=z): rounds}, delta)

    assert cost(noise) <= epsilon
    assert cost(noise - 0.001) > epsilon
    assert cost(noise - 0.01) > epsilon


def test_visible_cohorts_are_calibrated_for_the_rounds_a_device_may_take_part_in():
    plan = calibrated(replace(SHAPE, rounds=50, cohorts="visible", max_participations=3), 4.0)

    def cost(z):
        return epsilon_without_sampling({Gaussian(noise_multiplier=z): 3}, SHAPE.delta)

    assert cost(plan.noise_multiplier) <= 4.0 < cost(plan.noise_multiplier - 0.002)


def test_what_else_the_budget_pays_for_is_left_over():
    beside = {Gaussian(noise_multiplier=5.0): 2}
    alone, shared = calibrated(SHAPE, 4.0), calibrated(SHAPE, 4.0, beside)
    assert shared.noise_multiplier > alone.noise_multiplier
    both = beside | shared.charged()
    assert published(both, SHAPE.delta)[0] <= 4.0
    assert (
        published(beside | replace(shared, noise_multiplier=shared.noise_multiplier - 0.002).charged(), 1e-5)[0] > 4.0
    )


@given(st.integers(0, 2 * MOST_NOISE), st.integers(LEAST_NOISE, MOST_NOISE), st.integers(1, 10_000))
def test_the_search_finds_the_least_that_passes_from_anywhere(threshold, start, step):
    found = _least(lambda noise: noise >= threshold, start, step)
    assert found == (None if threshold > MOST_NOISE else max(threshold, LEAST_NOISE))


@pytest.mark.parametrize(
    ("epsilon", "delta", "named"),
    [
        (0.0, 1e-5, "epsilon"),
        (-1.0, 1e-5, "epsilon"),
        (math.nan, 1e-5, "epsilon"),
        (math.inf, 1e-5, "epsilon"),
        (1e-9, 1e-18, "out of reach"),
    ],
)
def test_impossible_budgets_are_refused_by_name(epsilon, delta, named):
    with pytest.raises(ConfigError, match=named) as caught:
        calibrated(replace(SHAPE, delta=delta), epsilon)
    assert caught.value.todo
