"""The empirical audit says what it saw, at which power, and fails closed."""

from dataclasses import replace

import msgspec
import pytest

from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations.audit_facts import empirical_part
from sottovoce.simulations.empirical_audit import CHECKS, FALSE_ALARM, EmpiricalReport, empirical_audit
from sottovoce.simulations.planted_bugs import REQUIRED

PLAN = MechanismPlan(6040, 0.05, 1.0, 1.0, 40, 1e-5)


@pytest.fixture(scope="module")
def clean():
    return empirical_audit(PLAN, SeededEntropy(1), canaries=200)


def test_a_sound_run_is_reported_without_a_violation_and_without_a_promise(clean):
    assert clean.verdict == "no violation detected at this power"
    assert clean.violations == []
    assert b"verified" not in msgspec.json.encode(clean)


def test_the_false_alarms_of_all_checks_add_up_to_what_is_stated(clean):
    assert sum(check.p_value is not None for check in clean.checks) == CHECKS
    shares = sum(check.alarm for check in clean.checks)
    assert shares == pytest.approx(FALSE_ALARM * CHECKS / (CHECKS + 1))


def test_every_check_states_its_power(clean):
    assert all(check.power and check.expected and check.measured and check.detail for check in clean.checks)
    assert len({check.name for check in clean.checks}) == len(clean.checks) == 18


def test_bounds_are_below_the_claims_and_grow_with_what_is_seen(clean):
    last, every, known = clean.bounds
    assert last.claimed == every.claimed < known.claimed
    assert all(bound.lower_bound < bound.claimed for bound in clean.bounds)
    assert known.lower_bound > 0.5
    assert known.lower_bound == known.one_run_gaussian > known.one_run
    assert known.estimate == pytest.approx(4.377, rel=0.5)
    assert all(bound.null_bound < 0.3 and not bound.null_refuted for bound in clean.bounds)


def test_the_report_survives_json_and_the_documents_can_read_it(clean):
    assert msgspec.json.decode(msgspec.json.encode(clean), type=EmpiricalReport) == clean
    shown = empirical_part(clean)
    assert (shown.m, shown.rounds, shown.alpha) == (200, 40, 0.05)
    assert [bound.claimed for bound in shown.by_observer()] == [bound.claimed for bound in clean.bounds]
    assert len(shown.checks) == 18


def test_a_bound_above_the_claim_is_a_violation_though_every_check_passes():
    """A claim that is too low for what the plan does: only the game can tell."""
    claimed = {"final_model": 10.0, "every_round": 10.0, "knows_cohorts": 0.1}
    found = empirical_audit(PLAN, SeededEntropy(1), claimed, canaries=200)
    assert all(check.passed for check in found.checks)
    assert len(found.violations) == 1
    assert found.verdict.startswith("violation detected: epsilon is at least")


def test_a_failed_check_is_named_in_the_verdict():
    found = empirical_audit(PLAN, SeededEntropy(1), canaries=100, parts=REQUIRED["half the noise"])
    assert "noise size" in found.verdict
    (size,) = (check for check in found.checks if check.name == "noise size")
    assert size.statistic == pytest.approx(0.5, rel=0.02)


def test_what_differs_from_the_run_is_said():
    long = replace(PLAN, rounds=5000, max_participations=7)
    notes = " ".join(empirical_audit(replace(long, rounds=201), SeededEntropy(0), canaries=20).notes)
    assert "200 of 201 rounds" in notes
    assert "without the participation cap" in notes


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, rounds=1),
        replace(PLAN, sampling_rate=1.0, sampling="none"),
        replace(PLAN, sampling_rate=1e-4),
        replace(PLAN, noise_multiplier=20.0, sampling_rate=0.5),
        replace(PLAN, noise_multiplier=0.1, clip_norm=1e-3),
        replace(PLAN, cohorts="visible"),
        replace(PLAN, noise="discrete_gaussian"),
        replace(PLAN, sampling="truncated_poisson", cap=340),
    ],
    ids=[
        "one round",
        "everybody",
        "hardly anybody",
        "much noise",
        "little noise",
        "visible cohorts",
        "whole numbers",
        "capped cohorts",
    ],
)
def test_plans_at_the_edges_are_judged_without_a_false_alarm(plan):
    found = empirical_audit(replace(plan, rounds=min(plan.rounds, 15)), SeededEntropy(6), canaries=60)
    assert found.violations == []


def test_a_plan_without_noise_is_refused():
    with pytest.raises(ConfigError, match="no noise"):
        empirical_audit(replace(PLAN, noise_multiplier=0.0), SeededEntropy(0), canaries=20)


@pytest.mark.parametrize("wrong", [{"canaries": 19}, {"significance": 0.0}, {"false_alarm": 1.0}])
def test_an_audit_that_could_say_nothing_is_a_programmers_mistake(wrong):
    with pytest.raises(ValueError, match="20 canaries"):
        empirical_audit(PLAN, SeededEntropy(0), **wrong)


@pytest.mark.soak
def test_the_reference_case_lands_where_others_measured():
    """N = 6040, q = 0.02, z = 1, T = 200, m = 1000: ranges of independent measurements, widened by seed noise."""
    reference = MechanismPlan(6040, 0.02, 1.0, 1.0, 200, 1e-5)
    for seed in range(5):
        last, every, known = empirical_audit(reference, SeededEntropy(seed)).bounds
        assert last.claimed == pytest.approx(1.8527, abs=1e-3)
        assert last.lower_bound < 0.6
        assert every.lower_bound < 0.8
        assert 3.0 < known.lower_bound < 6.0
        assert 3.5 < known.estimate < 7.0
