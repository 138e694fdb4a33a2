"""Both files: what is in them, and that they score like the module they came from."""

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as layout
from ai_edge_litert.interpreter import Interpreter

from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, request_scorer
from sottovoce.models import onnx_export, ranker, tflite_export
from sottovoce.models.onnx_export import IR_VERSION, OPERATORS, OPSET, example, to_onnx
from sottovoce.models.parity import (
    float_scorer,
    module_scorer,
    parity,
    quantization_cost,
    slices_of,
)
from sottovoce.models.plain_operators import PLAIN_OPERATORS, operators_used
from sottovoce.models.quantize import quantize
from sottovoce.models.request import INPUTS, OUTPUT, Request, random_requests
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.models.tflite_export import to_tflite
from sottovoce.privacy.errors import GateError

SIZES = (1, 16)


@pytest.fixture(scope="module")
def module(parameters, schema, config):
    return quantize(parameters, schema, config, planes=2)  # holds every operator of one plane, and more


@pytest.fixture(scope="module")
def onnx_bytes(module, schema):
    return to_onnx(module, schema)


@pytest.fixture(scope="module")
def tflite_bytes(module, schema):
    return to_tflite(module, schema, SIZES)


def test_the_onnx_file_is_plain_opset_17_without_traces_of_this_machine(onnx_bytes):
    model = onnx.load_from_string(onnx_bytes)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)] == [("", 17)]
    assert model.ir_version == IR_VERSION == 8
    assert {node.op_type for node in model.graph.node} <= OPERATORS
    assert not model.functions
    assert not model.metadata_props
    assert not any(part.metadata_props for part in (*model.graph.node, *model.graph.value_info))
    assert b".py" not in onnx_bytes
    assert [entry.name for entry in model.graph.input] == list(INPUTS)
    assert [entry.name for entry in model.graph.output] == [OUTPUT]
    tables = [weight for weight in model.graph.initializer if weight.data_type == onnx.TensorProto.INT8]
    assert len(tables) == 1


def test_the_tflite_file_has_shared_weights_named_signatures_and_no_traces(module, tflite_bytes, schema):
    signatures = Interpreter(model_content=tflite_bytes).get_signature_list()
    assert signatures == {f"rank_{size}": {"inputs": sorted(INPUTS), "outputs": [OUTPUT]} for size in SIZES}
    assert b".py" not in tflite_bytes
    assert b"site-packages" not in tflite_bytes
    model = layout.ModelT.InitFromPackedBuf(tflite_bytes, 0)
    table = module.codes.numpy().tobytes()
    assert [b.data is not None and bytes(b.data) == table for b in model.buffers].count(True) == 1


def test_the_same_weights_give_the_same_bytes(module, schema, onnx_bytes, tflite_bytes):
    assert to_onnx(module, schema) == onnx_bytes
    assert to_tflite(module, schema, SIZES) == tflite_bytes


def test_all_runtimes_score_and_choose_alike(module, parameters, schema, config, onnx_bytes, tflite_bytes):
    rng = np.random.default_rng(1)
    requests = [request for size in (1, 2, 7, 15, 16) for request in random_requests(schema, 60, size, rng)]
    scorers = [
        module_scorer(module),
        request_scorer(OnnxScorer(onnx_bytes)),
        request_scorer(LiteRTScorer(tflite_bytes)),
    ]
    report = parity(float_scorer(parameters, schema, config), *scorers, requests)
    assert report.requests == 300
    assert report.candidates == 60 * 41
    assert report.runtime_difference <= 1e-6
    assert report.runtime_decision_change == 0.0
    assert 0.0 < report.quantization_error < 5e-4


def test_a_ranker_of_every_plain_operator_is_exported_and_scored_alike_by_all_runtimes(schema, config):
    """An export refuses what is not on its list: both files exist, so torch's list is no longer than theirs."""
    schema = FeatureSchema(features=schema.features[1:], history_length=4, heads=schema.heads)
    generator = torch.Generator().manual_seed(6)
    shapes = ranker.shapes(schema, config)
    parameters = {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}
    parameters["table"][0] = 0.0
    module = quantize(parameters, schema, config, planes=2, one_byte_scales=True)
    assert operators_used(module, example(schema, 2)) == PLAIN_OPERATORS
    onnx_file, tflite_file = to_onnx(module, schema), to_tflite(module, schema, (16,))
    requests = random_requests(schema, 200, 9, np.random.default_rng(4))
    scorers = [module_scorer(module), request_scorer(OnnxScorer(onnx_file)), request_scorer(LiteRTScorer(tflite_file))]
    report = parity(float_scorer(parameters, schema, config), *scorers, requests)
    assert report.runtime_difference <= 1e-6
    assert report.runtime_decision_change == 0.0
    assert 0.0 < report.quantization_error < 5e-4


def test_onnx_takes_any_number_of_candidates(schema, module, onnx_bytes):
    score, exact = request_scorer(OnnxScorer(onnx_bytes)), module_scorer(module)
    for size in (1, 3, 97, 4096):
        (request,) = random_requests(schema, 1, size, np.random.default_rng(size))
        np.testing.assert_allclose(score(request), exact(request), atol=1e-6)


def test_an_empty_history_and_all_missing_values_score_finitely_everywhere(schema, module, onnx_bytes, tflite_bytes):
    nothing = Request(
        *(np.zeros(shape, np.int32) for shape in ((1, 2), (schema.history_length, 1), (schema.history_length,), (3, 2)))
    )
    expected = module_scorer(module)(nothing)
    assert np.isfinite(expected).all()
    for score in (request_scorer(OnnxScorer(onnx_bytes)), request_scorer(LiteRTScorer(tflite_bytes))):
        np.testing.assert_allclose(score(nothing), expected, atol=1e-6)


def test_a_candidates_score_does_not_depend_on_the_others(schema, onnx_bytes, tflite_bytes):
    (request,) = random_requests(schema, 1, 16, np.random.default_rng(3))
    alone = Request(request.context, request.events, request.outcomes, request.ad[5:6])
    for score in (request_scorer(OnnxScorer(onnx_bytes)), request_scorer(LiteRTScorer(tflite_bytes))):
        np.testing.assert_allclose(score(request)[5:6], score(alone), atol=1e-6)


def test_more_candidates_than_the_largest_signature_are_scored_in_parts(schema, module, tflite_bytes):
    (request,) = random_requests(schema, 1, 17, np.random.default_rng(0))
    scored = request_scorer(LiteRTScorer(tflite_bytes))(request)
    np.testing.assert_allclose(scored, module_scorer(module)(request), atol=1e-6)


def test_an_operator_that_is_not_listed_stops_the_export(onnx_bytes, tflite_bytes, monkeypatch):
    model = onnx.load_from_string(onnx_bytes)
    onnx_export._refuse_strangers(model)
    monkeypatch.setattr(onnx_export, "OPERATORS", OPERATORS - {"Gather"})
    with pytest.raises(GateError, match="Gather"):
        onnx_export._refuse_strangers(model)
    monkeypatch.undo()
    model.opset_import[0].version = 18
    with pytest.raises(GateError, match="18"):
        onnx_export._refuse_strangers(model)
    monkeypatch.setattr(tflite_export, "OPERATORS", tflite_export.OPERATORS - {"SOFTMAX"})
    with pytest.raises(GateError, match="SOFTMAX"):
        tflite_export._refuse_strangers(tflite_bytes, SIZES)
    monkeypatch.undo()
    with pytest.raises(GateError, match="signatures"):
        tflite_export._refuse_strangers(tflite_bytes, (1, 16, 64))


def test_changed_decisions_are_counted_in_every_slice_they_belong_to(schema):
    """Two sizes of request; the runtimes go wrong on the small ones of one kind of device only."""
    rng = np.random.default_rng(2)
    requests = [request for size in (3, 40) for request in random_requests(schema, 60, size, rng)]
    kind = schema.context[0]
    bad = schema.offsets[kind.name] + 1

    def rising(request):
        return np.linspace(0.1, 0.9, len(request.ad), dtype=np.float32)[:, None]

    def turned(request):
        return rising(request)[::-1] if request.context[0, 0] == bad and len(request.ad) == 3 else rising(request)

    found = parity(rising, rising, rising, turned, requests, schema)
    by_name = {one.name: one for one in found.slices}
    assert set(by_name) == {"size 0", "size 1", "size 2", "size missing", "candidates 1-4", "candidates 17-64"}
    hit = sum(request.context[0, 0] == bad for request in requests[:60])
    assert 0 < hit < 60
    assert by_name["candidates 1-4"].decision_change == hit / 60
    assert by_name["candidates 17-64"].decision_change == by_name["size 0"].runtime_decision_change == 0.0
    assert by_name["size 1"].runtime_decision_change * by_name["size 1"].requests == pytest.approx(hit)
    assert sum(by_name[name].requests for name in by_name if name.startswith("size")) == 120
    assert found.slices[0].decision_change == max(one.decision_change for one in found.slices) > found.decision_change
    assert parity(rising, rising, rising, turned, requests).slices == ()


def test_the_category_is_the_winners_and_wide_features_are_no_slices():
    schema = FeatureSchema(
        features=(
            Feature(name="model", source="device", buckets=17),
            Feature(name="page", source="context", buckets=2),
            Feature(name="tag", source="ad", buckets=3),
            Feature(name="category", source="ad", kind="integer", buckets=3),
        )
    )
    first = schema.offsets["category"]
    ad = np.array([[0, first], [0, first + 2]], np.int32)
    (request,) = random_requests(schema, 1, 2, np.random.default_rng(0))
    request = Request(request.context, request.events, request.outcomes, ad)
    assert slices_of(request, 1, schema) == ("category 2", "candidates 1-4")
    assert slices_of(request, 0, schema) == ("category 0", "candidates 1-4")
    many = Request(request.context, request.events, request.outcomes, np.zeros((257, 2), np.int32))
    assert slices_of(many, 0, schema) == ("category missing", "candidates 257 or more")


def test_parity_sees_a_runtime_that_is_off_and_one_that_is_not_a_number(parameters, schema, config, module):
    requests = random_requests(schema, 20, 4, np.random.default_rng(0))
    exact, same = float_scorer(parameters, schema, config), module_scorer(module)
    shifted = parity(exact, same, same, lambda r: same(r) + np.float32(0.01), requests)
    assert shifted.tflite_difference == pytest.approx(0.01, rel=1e-3)
    assert shifted.onnx_difference == 0.0
    assert shifted.runtime_difference == shifted.tflite_difference
    turned = parity(exact, same, lambda r: 1 - same(r), same, requests)
    assert turned.runtime_decision_change > 0.5
    assert turned.decision_change >= turned.runtime_decision_change
    broken = parity(exact, same, lambda r: same(r) * np.nan, same, requests)
    assert broken.runtime_difference == float("inf")
    opposite = parity(lambda r: 1 - exact(r), same, same, same, requests)
    assert opposite.decision_change > 0.5
    assert opposite.runtime_decision_change == 0.0
    assert quantization_cost(exact, exact, requests) == (0.0, 0.0)
    with pytest.raises(ValueError, match="request"):
        parity(exact, same, same, same, [])


@pytest.mark.parametrize(("apart", "what"), [(2e-8, "swaps"), (2e-6, "swaps"), (5e-6, "runtime_decision_change")])
def test_a_swap_of_ads_of_the_same_worth_is_no_changed_decision_and_any_other_is(schema, apart, what):
    """Scores on either side of an edge of the grid: a runtime that is off by half of `apart` shows the other ad."""
    (request,) = random_requests(schema, 1, 3, np.random.default_rng(0))
    edge = 0.3000005
    module = np.array([[0.1], [edge - apart / 2], [edge + apart / 2]])
    found = parity(lambda _: module, lambda _: module, lambda _: module, lambda _: module[[0, 2, 1]], [request], schema)
    other = {"swaps", "runtime_decision_change"} - {what}
    assert getattr(found, what) == getattr(found.slices[0], what) == 1.0
    assert all(getattr(found, name) == 0.0 for name in other)
    assert found.decision_change == found.runtime_decision_change
    broken = parity(
        lambda _: module,
        lambda _: module,
        lambda _: module,
        lambda _: module[[0, 2, 1]] * [[np.nan], [1], [1]],
        [request],
    )
    assert broken.runtime_difference == float("inf")


def test_the_float_scorer_is_the_ranker_of_training(parameters, schema, config):
    """One request with N candidates scores like N training rows of one candidate each."""
    from sottovoce.models.batch import Batch, interest

    (request,) = random_requests(schema, 1, 5, np.random.default_rng(2))
    rows = Batch(
        context=torch.from_numpy(request.context).expand(5, -1),
        ad=torch.from_numpy(request.ad),
        events=torch.from_numpy(request.events),
        outcomes=torch.from_numpy(request.outcomes),
        visible=torch.from_numpy(request.outcomes != 0).float().expand(5, -1),
    )
    seen = interest(rows, schema.outcome_row("click"))
    trained = ranker.probabilities(ranker.logits(parameters, rows, seen, config)).numpy()
    np.testing.assert_allclose(float_scorer(parameters, schema, config)(request), trained, atol=1e-6)
