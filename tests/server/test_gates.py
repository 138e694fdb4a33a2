"""Gates: each is able to fail, an unmeasured one fails, and unknown keys are refused."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.errors import ConfigError, GateError
from sottovoce.server.gates import Gates, Measured, check, load_gates, refuse_failures

ALL = Gates(max_epsilon_known_cohort=50.0, min_auc=0.6, max_calibration_error=0.05)
GOOD = Measured(
    bundle_bytes=1_000_000,
    runtime_difference=2e-7,
    runtime_decision_change=0.0,
    quantization_error=1e-3,
    decision_change=0.0005,
    epsilon=4.0,
    epsilon_known_cohort=40.0,
    auc=0.7,
    calibration_error=0.01,
)


def test_a_good_model_passes_every_gate_asked_for():
    results = check(GOOD, ALL)
    assert [result.name for result in results] == list(Gates.__struct_fields__)
    assert all(result.passed for result in results)
    refuse_failures(results)


def test_gates_that_are_not_asked_for_are_not_judged():
    names = {result.name for result in check(GOOD, Gates())}
    assert names.isdisjoint({"min_auc", "max_calibration_error", "max_epsilon_known_cohort"})


@pytest.mark.parametrize("gate", Gates.__struct_fields__)
def test_each_gate_fails_alone_and_is_named_with_by_how_much(gate):
    side, _, figure = gate.partition("_")
    limit = getattr(ALL, gate)
    bad = limit - 0.1 if side == "min" else limit + 1
    results = check(msgspec.structs.replace(GOOD, **{figure: bad}), ALL)
    assert [result.name for result in results if not result.passed] == [gate]
    with pytest.raises(GateError, match=f"^{gate}: .* misses .* by "):
        refuse_failures(results)


@pytest.mark.parametrize("gate", Gates.__struct_fields__)
def test_a_measurement_at_its_limit_passes(gate):
    figure = gate.partition("_")[2]
    assert all(r.passed for r in check(msgspec.structs.replace(GOOD, **{figure: getattr(ALL, gate)}), ALL))


@pytest.mark.parametrize("value", [None, float("nan")])
@pytest.mark.parametrize("gate", ["max_epsilon", "min_auc", "max_calibration_error", "max_runtime_difference"])
def test_what_was_not_measured_does_not_pass(gate, value):
    results = check(msgspec.structs.replace(GOOD, **{gate.partition("_")[2]: value}), ALL)
    assert [result.name for result in results if not result.passed] == [gate]
    with pytest.raises(GateError, match=gate):
        refuse_failures(results)


def test_several_failures_are_all_named():
    with pytest.raises(GateError, match=r"max_quantization_error.*; min_auc"):
        refuse_failures(check(msgspec.structs.replace(GOOD, quantization_error=1.0, auc=0.1), ALL))


def test_release_toml_overrides_defaults_and_keeps_the_rest():
    gates = load_gates(b"max_bundle_bytes = 500_000\nmin_auc = 0.69\nmax_epsilon = 4\n")
    assert gates == Gates(max_bundle_bytes=500_000, min_auc=0.69, max_epsilon=4.0)
    assert load_gates(b"") == Gates()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"max_size = 1", "max_size"),
        (b"min_auc = 1.5", "min_auc"),
        (b"max_epsilon = -1", "max_epsilon"),
        (b"max_bundle_bytes = 1.5", "max_bundle_bytes"),
        (b"min_auc = 'high'", "min_auc"),
        (b"min_auc = ", "release.toml"),
        (b"\xff", "release.toml"),
        (b"a = " + b"[" * 5000, "release.toml"),
    ],
)
def test_a_wrong_release_toml_is_refused_by_key(text, named):
    with pytest.raises(ConfigError, match=named):
        load_gates(text)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
def test_random_bytes_only_cause_config_errors(data):
    try:
        load_gates(data)
    except ConfigError:
        return
