"""One plan gives sampler, noise, event and claims; calibration is tight and never short."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sottovoce.privacy.accountant import epsilon_pld
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import NonPrivate, PoissonGaussian
from sottovoce.privacy.plan import LEAST_NOISE, MOST_NOISE, MechanismPlan, _least, calibrate
from sottovoce.privacy.sampling import PoissonSampler

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

PLAN = MechanismPlan(population=6040, sampling_rate=0.02, clip_norm=0.5, noise_multiplier=1.0, rounds=200, delta=1e-5)


def test_the_plan_fixes_denominator_noise_sampler_and_event():
    assert PLAN.expected_cohort == pytest.approx(120.8)
    assert PLAN.noise_std == 0.5
    assert PLAN.sampler() == PoissonSampler(6040, 0.02)
    assert PLAN.event() == PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
    assert replace(PLAN, noise_multiplier=0.0).event() == NonPrivate(sampling_rate=0.02)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"population": 0}, "population"),
        ({"population": -3}, "population"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 1.01}, "sampling_rate"),
        ({"sampling_rate": math.nan}, "sampling_rate"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": math.inf}, "clip_norm"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"rounds": 0}, "rounds"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1 / 6040}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"purpose": "fun"}, "purpose"),
    ],
)
def test_a_plan_that_promises_nothing_is_refused_by_name(change, named):
    with pytest.raises(ConfigError, match=named) as caught:
        replace(PLAN, **change)
    assert caught.value.todo


def test_every_field_changes_the_digest():
    changes = {
        "population": 6041,
        "sampling_rate": 0.03,
        "clip_norm": 0.6,
        "noise_multiplier": 1.1,
        "rounds": 201,
        "delta": 2e-5,
        "purpose": "eval",
    }
    digests = {PLAN.digest(), *(replace(PLAN, **{name: value}).digest() for name, value in changes.items())}
    assert len(digests) == 8
    assert PLAN.digest() == replace(PLAN).digest()


def test_the_two_claims_differ_by_the_worth_of_secret_cohorts():
    outside, inside = PLAN.claims()
    assert (outside.observer, inside.observer) == ("outsider", "knows_cohorts")
    assert outside.epsilon == pytest.approx(1.8527, abs=1e-4)
    assert inside.epsilon == pytest.approx(159.44, abs=1e-2)
    assert outside.guarantee
    assert inside.guarantee
    _, capped = PLAN.claims(max_participations=13)
    assert capped.epsilon == pytest.approx(21.22, abs=1e-3)
    half, _ = PLAN.claims(rounds=100)
    assert half.epsilon < outside.epsilon


def test_seeded_noise_and_no_noise_guarantee_nothing():
    for claim in PLAN.claims(noise_kind="seeded"):
        assert not claim.guarantee
        assert str(claim).startswith("SIMULATION: NO GUARANTEE")
    for claim in replace(PLAN, noise_multiplier=0.0).claims():
        assert claim.epsilon == math.inf
        assert not claim.guarantee


@pytest.mark.parametrize(
    ("population", "rate", "rounds", "epsilon", "delta"),
    [(25_000, 0.1, 200, 4.0, 1e-5), (1_000_000, 0.001, 500, 2.0, 1e-8)],
)
def test_calibration_is_within_budget_and_a_thousandth_less_noise_is_not(population, rate, rounds, epsilon, delta):
    noise = calibrate(population, rate, rounds, epsilon, delta)
    assert noise * 1000 == pytest.approx(round(noise * 1000))

    def cost(z):
        return epsilon_pld({PoissonGaussian(sampling_rate=rate, noise_multiplier=z): rounds}, delta)

    assert cost(noise) <= epsilon
    assert cost(noise - 0.001) > epsilon
    assert cost(noise - 0.01) > epsilon


@given(st.integers(0, 2 * MOST_NOISE), st.integers(LEAST_NOISE, MOST_NOISE), st.integers(1, 10_000))
def test_the_search_finds_the_least_that_passes_from_anywhere(threshold, start, step):
    found = _least(lambda noise: noise >= threshold, start, step)
    assert found == (None if threshold > MOST_NOISE else max(threshold, LEAST_NOISE))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"epsilon": 1e-9, "delta": 1e-18}, "out of reach"),
        ({"rounds": 0}, "rounds"),
        ({"delta": 0.5}, "delta"),
        ({"sampling_rate": 2.0}, "sampling_rate"),
        ({"population": 0}, "population"),
    ],
)
def test_impossible_budgets_are_refused_by_name(change, named):
    setting = {"population": 1000, "sampling_rate": 0.1, "rounds": 10, "epsilon": 1.0, "delta": 1e-5} | change
    with pytest.raises(ConfigError, match=named):
        calibrate(**setting)


def test_the_device_side_needs_no_accountant():
    """Clipping, claims and errors import where torch and the accountants are missing."""
    script = (
        "import sys\n"
        "for name in ('torch', 'opacus', 'dp_accounting', 'scipy', 'flwr'): sys.modules[name] = None\n"
        "import sottovoce.privacy.errors, sottovoce.privacy.clip, sottovoce.privacy.claim, sottovoce.privacy.plan\n"
        "import sottovoce.privacy.ledger, sottovoce.privacy.noise, sottovoce.privacy.budget, sottovoce.privacy.audit\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_with_everybody_in_every_round_both_observers_get_the_same_epsilon():
    outsider, insider = MechanismPlan(1000, 1.0, 1.0, 8.0, 20, 1e-5).claims()
    assert outsider.epsilon == insider.epsilon
