"""Gates: each is able to fail, an unmeasured one fails, and unknown keys are refused."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.errors import ConfigError, GateError
from sottovoce.server.gates import LIMITS, Gates, Measured, check, load_gates, refuse_failures

ALL = Gates(
    max_epsilon_known_cohort=50.0,
    min_auc=0.6,
    max_calibration_error=0.05,
    max_latency_ratio=3.0,
    max_fairness_gap=0.05,
    max_age_days=14.0,
    fairness_feature="device_class",
)
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
    latency_ratio=1.3,
    fairness_gap=0.02,
    age_days=3.5,
)


def test_a_good_model_passes_every_gate_asked_for():
    results = check(GOOD, ALL)
    assert [result.name for result in results] == list(LIMITS)
    assert all(result.passed for result in results)
    refuse_failures(results)


def test_gates_that_are_not_asked_for_are_not_judged():
    names = {result.name for result in check(GOOD, Gates())}
    optional = {name for name in LIMITS if getattr(Gates(), name) is None}
    assert len(optional) == 6
    assert names == set(LIMITS) - optional


@pytest.mark.parametrize("half", [{"max_fairness_gap": 0.1}, {"fairness_feature": "hour"}], ids=str)
def test_a_fairness_gap_goes_with_its_feature(half):
    with pytest.raises(ValueError, match="go together"):
        Gates(**half)


def test_the_example_in_the_documentation_is_read_and_every_gate_is_explained_with_its_default():
    page = (Path(__file__).parents[2] / "docs" / "release.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    assert load_gates(example.encode()).fairness_feature == "device_class"
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
    assert list(told) == list(Gates.__struct_fields__)
    for name in LIMITS:
        default = getattr(Gates(), name)
        assert told[name] == "not asked" if default is None else float(told[name].replace(",", "")) == default


@pytest.mark.parametrize("gate", LIMITS)
def test_each_gate_fails_alone_and_is_named_with_by_how_much(gate):
    side, _, figure = gate.partition("_")
    limit = getattr(ALL, gate)
    beyond = 1 if gate == "max_bundle_bytes" else 1e-9
    bad = limit - beyond if side == "min" else limit + beyond
    results = check(msgspec.structs.replace(GOOD, **{figure: bad}), ALL)
    assert [result.name for result in results if not result.passed] == [gate]
    with pytest.raises(GateError, match=f"^{gate}: .* misses .* by "):
        refuse_failures(results)


@pytest.mark.parametrize("gate", LIMITS)
def test_a_measurement_at_its_limit_passes(gate):
    figure = gate.partition("_")[2]
    assert all(r.passed for r in check(msgspec.structs.replace(GOOD, **{figure: getattr(ALL, gate)}), ALL))


@pytest.mark.parametrize("value", [None, float("nan")])
@pytest.mark.parametrize(
    "gate", ["max_epsilon", "min_auc", "max_calibration_error", "max_runtime_difference", *LIMITS[-3:]]
)
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
        (b"max_fairness_gap = 0.1", "fairness_feature"),
        (b"fairness_figure = 'f1'", "fairness_figure"),
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
