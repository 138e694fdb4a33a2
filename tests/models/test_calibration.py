"""What a calibration may say, that a graph does exactly this, and that one which does not is found."""

import json
import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models import ranker
from sottovoce.models.calibration import (
    LEAST_SLOPE,
    MOST_INTERCEPT,
    MOST_SLOPE,
    Calibration,
    HeadCalibration,
    PaidMeasurement,
    identity,
    load_calibration,
    require_applied,
)
from sottovoce.models.parity import float_scorer, logits_as_trained, module_scorer
from sottovoce.models.quantize import quantize
from sottovoce.models.request import random_requests
from sottovoce.privacy.errors import BundleError, GateError

HEADS = ("click", "conversion")
PAID = PaidMeasurement(
    run_id="run",
    number=1,
    model_round=60,
    ledger_row=123,
    ledger_hash="ab" * 32,
    artifact_sha256="cd" * 32,
    noise_std=20.0,
)


def calibration(slope=0.875, intercept=0.125, heads=HEADS):
    first = HeadCalibration(head=heads[0], slope=slope, intercept=intercept, source=PAID)
    return Calibration(heads=(first, *identity(heads[1:]).heads))


# What it may say


def test_a_calibration_is_read_as_it_was_written():
    for made in (calibration(), identity(HEADS), identity(HEADS[:1])):
        assert load_calibration(made.canonical(), [one.head for one in made.heads]) == made


def test_what_changes_nothing_needs_no_payment_and_what_changes_something_does():
    assert identity(HEADS).identity
    assert not calibration().identity
    for bent in ({"slope": 0.9}, {"intercept": 1e-9}):
        with pytest.raises(ValueError, match="no measurement"):
            HeadCalibration(head="click", **bent)


NONSENSE = [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf, math.nextafter(LEAST_SLOPE, 0), math.nextafter(10, 11)]


@pytest.mark.parametrize("slope", NONSENSE)
def test_a_slope_that_is_none_cannot_be_stated_or_read(slope):
    with pytest.raises(ValueError, match="no calibration"):
        calibration(slope=slope)
    text = json.dumps(slope).encode()  # NaN and Infinity, as careless writers do
    with pytest.raises(BundleError):
        load_calibration(calibration().canonical().replace(b"0.875", text), HEADS)


@pytest.mark.parametrize("intercept", [math.nan, math.inf, -math.inf, 20.5, -20.5])
def test_an_intercept_that_is_none_cannot_be_stated_or_read(intercept):
    with pytest.raises(ValueError, match="no calibration"):
        calibration(intercept=intercept)
    with pytest.raises(BundleError):
        load_calibration(calibration().canonical().replace(b"0.125", json.dumps(intercept).encode()), HEADS)


@pytest.mark.parametrize("heads", [(), ("click",), ("conversion", "click"), (*HEADS, "click"), ("click", "Conversion")])
def test_a_calibration_of_other_heads_than_the_schemas_is_refused(heads):
    made = calibration(heads=heads) if heads else Calibration(heads=())
    with pytest.raises(BundleError, match="heads"):
        load_calibration(made.canonical(), HEADS)


@pytest.mark.parametrize(
    "bend",
    [
        lambda data: b"",
        lambda data: b"[]",
        lambda data: b"[" * 60_000,
        lambda data: data + b"\n",
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b'"click"', b'"cl\xffck"'),
        lambda data: data.replace(b'"click"', b'"cl\\u0069ck"'),
        lambda data: data.replace(b'"slope":', b'"slope": '),
        lambda data: data.replace(b'"slope":', b'"slope":2.0,"slope":'),
        lambda data: data.replace(b'"slope":', b'"for":"all","slope":'),
        lambda data: data.replace(b"0.875", b'"0.875"'),
        lambda data: data.replace(b'"ledger_row":123', b'"ledger_row":0'),
        lambda data: data.replace(b"ab" * 32, b"ab" * 31),
        lambda data: data.replace(b"20.0", b"0.0"),
        lambda data: data.replace(msgspec.json.encode(PAID, order="sorted"), b"null"),
    ],
)
def test_a_file_that_is_not_what_is_written_here_is_refused(bend):
    data = calibration().canonical()
    assert bend(data) != data
    with pytest.raises(BundleError):
        load_calibration(bend(data), HEADS)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_random_bytes_are_refused_and_never_anything_else(noise):
    data = calibration().canonical()
    for bent in (noise, data[: len(noise)] + noise, noise + data):
        try:
            assert load_calibration(bent, HEADS).canonical() == bent
        except BundleError:
            continue


# What a graph does


@settings(max_examples=25, deadline=None)
@given(
    st.floats(LEAST_SLOPE, MOST_SLOPE),
    st.floats(-MOST_INTERCEPT, MOST_INTERCEPT),
    st.integers(0, 2**32 - 1),
)
def test_the_calibrated_logit_is_slope_times_logit_plus_intercept(schema, config, parameters, slope, intercept, seed):
    made = calibration(slope, intercept)
    shipped = ranker.calibrated(parameters, made)
    requests = random_requests(schema, 2, 5, np.random.default_rng(seed))
    module = quantize(shipped, schema, config)
    require_applied(made, logits_as_trained(module), module_scorer(module), requests)
    before, after = float_scorer(parameters, schema, config), float_scorer(shipped, schema, config)
    for request in requests:
        one, other = before(request).astype(np.float64), after(request).astype(np.float64)
        np.testing.assert_array_equal(one[:, 1], other[:, 1])  # the head that nobody measured
        sure = (np.minimum(other, 1 - other)[:, 0] > 1e-3) & (np.minimum(one, 1 - one)[:, 0] > 1e-3)
        logits = [np.log(p / (1 - p)) for p in (one[sure, 0], other[sure, 0])]
        np.testing.assert_allclose(logits[1], slope * logits[0] + intercept, atol=1e-2)


def test_identity_adds_nothing_to_a_model(parameters):
    assert ranker.calibrated(parameters, identity(HEADS)).keys() == parameters.keys()


def test_a_model_is_calibrated_once_and_in_all_of_its_heads(parameters):
    with pytest.raises(ValueError, match="already"):
        ranker.calibrated(ranker.calibrated(parameters, calibration()), identity(HEADS))
    with pytest.raises(ValueError, match="1 heads"):
        ranker.calibrated(parameters, calibration(heads=HEADS[:1]))


def test_half_a_calibration_is_not_quantized(schema, config, parameters):
    for left_out in (ranker.SLOPE, ranker.INTERCEPT):
        half = {n: v for n, v in ranker.calibrated(parameters, calibration()).items() if n != left_out}
        with pytest.raises(ValueError, match="names and shapes"):
            quantize(half, schema, config)
    wide = ranker.calibrated(parameters, calibration()) | {ranker.SLOPE: torch.ones(1, 3)}
    with pytest.raises(ValueError, match="names and shapes"):
        quantize(wide, schema, config)


def test_a_graph_that_ignores_its_calibration_applies_it_twice_or_scores_nan_is_found(schema, config, parameters):
    made = calibration(0.98, 0.01)  # a small one: no score moves by more than a hundredth
    requests = random_requests(schema, 4, 16, np.random.default_rng(0))
    module = quantize(ranker.calibrated(parameters, made), schema, config)
    plain = quantize(parameters, schema, config)
    twice = dict(parameters) | {
        ranker.SLOPE: torch.tensor([[0.98**2, 1.0]]),
        ranker.INTERCEPT: torch.tensor([[0.98 * 0.01 + 0.01, 0.0]]),
    }
    wrong = (
        module_scorer(plain),
        module_scorer(quantize(twice, schema, config)),
        lambda request: np.full((len(request.ad), 2), np.nan, np.float32),
    )
    require_applied(made, logits_as_trained(module), module_scorer(module), requests)
    for scorer in wrong:
        with pytest.raises(GateError, match=r"does not apply calibration\.json"):
            require_applied(made, logits_as_trained(module), scorer, requests)
