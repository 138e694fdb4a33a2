"""One plan gives sampler, noise, event and claims; calibration is tight and never short."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from sottovoce.privacy.clip import SLACK, Clipper
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import NonPrivate, PoissonGaussian
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.sampling import PoissonSampler

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

PLAN = MechanismPlan(population=6040, sampling_rate=0.02, clip_norm=0.5, noise_multiplier=1.0, rounds=200, delta=1e-5)


def test_the_plan_fixes_denominator_noise_sampler_and_event():
    assert PLAN.expected_cohort == pytest.approx(120.8)
    assert PLAN.clipper() == Clipper(0.5)
    # The sum may exceed the bound by float32 rounding on its way; the noise covers that too.
    assert 0.5 < PLAN.summed_noise().std(1000) <= 0.5 * (1 + 2 * SLACK)
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
        ({"cohorts": "public"}, "cohorts"),
        ({"noise": "uniform"}, "noise"),
        ({"sampling": "fixed"}, "sampling"),
        ({"sampling": "none"}, "sampling_rate"),
        ({"sampling": "truncated_poisson"}, "cap"),
        ({"cap": 100}, "cap"),
        ({"sampling": "truncated_poisson", "cap": 0}, "cap"),
        ({"sampling": "truncated_poisson", "cap": 6041}, "cap"),
        ({"max_participations": 0}, "max_participations"),
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
        "max_participations": 5,
        "cohorts": "visible",
        "noise": "discrete_gaussian",
    }
    digests = {PLAN.digest(), *(replace(PLAN, **{name: value}).digest() for name, value in changes.items())}
    assert len(digests) == len(changes) + 1
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
