import numpy as np
import pytest
from small_market import SCHEMA, WAYS, Broken

from sottovoce.client.litert_call import signature_call
from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, ask, checked
from sottovoce.privacy.errors import DeviceError

torch = pytest.importorskip("torch", reason="building a real model needs the train extra")

from sottovoce.models import ranker  # noqa: E402
from sottovoce.models.onnx_export import to_onnx  # noqa: E402
from sottovoce.models.quantize import quantize  # noqa: E402
from sottovoce.models.request import random_requests, without_twins  # noqa: E402
from sottovoce.models.tflite_export import to_tflite  # noqa: E402


@pytest.fixture(scope="module")
def module():
    """A real quantized ranker with weights large enough that inputs matter."""
    config = ranker.RankerConfig(embedding_width=4, tower_width=4, hidden_width=8)
    generator = torch.Generator().manual_seed(1)
    parameters = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in ranker.initial(SCHEMA, config, 0).items()
    }
    parameters["table"][0] = 0.0
    return quantize(parameters, SCHEMA, config)


@pytest.fixture(scope="module")
def files(module):
    return to_tflite(module, SCHEMA, (1, 16)), to_onnx(module, SCHEMA)


@pytest.fixture(scope="module")
def scorers(files):
    return {"litert": LiteRTScorer(files[0]), "onnx": OnnxScorer(files[1])}


def inputs(candidates, seed=0):
    one = random_requests(SCHEMA, 1, candidates, np.random.default_rng(seed))[0]
    return one.context, one.events, one.outcomes, one.ad


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
@pytest.mark.parametrize("candidates", [1, 2, 16, 17, 40])
def test_a_runtime_scores_like_torch_for_any_number_of_candidates(module, scorers, runtime, candidates):
    arrays = inputs(candidates, candidates)
    with torch.inference_mode():
        expected = module(*(torch.from_numpy(array) for array in arrays)).numpy()
    got = scorers[runtime].scores(*arrays)
    assert got.shape == (candidates, 2)
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() < 1e-6
    assert np.ptp(got[:, 0]) > 1e-3 or candidates == 1


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_a_candidates_score_does_not_depend_on_its_company(scorers, runtime):
    context, events, outcomes, ad = inputs(20)
    together = scorers[runtime].scores(context, events, outcomes, ad)
    alone = np.concatenate([scorers[runtime].scores(context, events, outcomes, ad[n : n + 1]) for n in range(20)])
    assert np.abs(together - alone).max() < 1e-6


@pytest.mark.parametrize("build", [LiteRTScorer, OnnxScorer])
@pytest.mark.parametrize("bad", [b"", b"garbage", b"\x00" * 4096])
def test_a_file_that_is_no_model_is_refused(build, bad):
    with pytest.raises(DeviceError, match=r"model\.(tflite|onnx)"):
        build(bad)


@pytest.mark.parametrize("which", [0, 1])
def test_a_cut_model_is_refused(files, which):
    build = (LiteRTScorer, OnnxScorer)[which]
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(DeviceError):
            build(files[which][: int(len(files[which]) * share)])


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_inputs_of_another_schema_are_refused(scorers, runtime):
    context, events, outcomes, ad = inputs(3)
    for wrong in ((context[:, :1], events, outcomes, ad), (context, events, outcomes, ad[:, :2])):
        with pytest.raises(DeviceError, match="cannot run these inputs"):
            scorers[runtime].scores(*wrong)


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_a_refused_request_leaves_nothing_behind_for_the_next(scorers, runtime):
    context, events, outcomes, ad = inputs(3)
    before = scorers[runtime].scores(context, events, outcomes, ad)
    beyond = np.full_like(ad, 10**6)
    for wrong in ((context[:, :1], events, outcomes, ad), (context, events, outcomes, beyond), (context, events)):
        with pytest.raises((DeviceError, TypeError)):
            scorers[runtime].scores(*wrong)
        np.testing.assert_array_equal(scorers[runtime].scores(context, events, outcomes, ad), before)


def test_litert_scores_of_one_call_are_not_overwritten_by_the_next(scorers):
    one, other = inputs(16, 1), inputs(16, 2)
    first = scorers["litert"].scores(*one)
    kept = first.copy()
    assert np.abs(scorers["litert"].scores(*other) - kept).max() > 1e-3
    np.testing.assert_array_equal(first, kept)


def test_sizes_of_one_file_asked_in_turn_do_not_disturb_each_other(scorers, module):
    for seed, size in enumerate((1, 16, 1, 5, 16, 1, 20)):
        arrays = inputs(size, seed)
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(array) for array in arrays)).numpy()
        assert np.abs(scorers["litert"].scores(*arrays) - expected).max() < 1e-6


class Plain:
    """An interpreter whose runners have nothing but the documented call."""

    def __init__(self, real):
        self.get_signature_list = real.get_signature_list
        self.get_signature_runner = lambda name: lambda **named: real.get_signature_runner(name)(**named)


def test_a_runtime_without_the_parts_of_a_runner_scores_the_same(files, scorers):
    from ai_edge_litert.interpreter import Interpreter

    real = Interpreter(model_content=files[0], num_threads=1)
    arrays = inputs(16)
    expected = scorers["litert"].scores(*arrays)
    for interpreter in (real, Plain(real)):
        np.testing.assert_array_equal(signature_call(interpreter, "rank_16")(*arrays), expected)
    with pytest.raises(ValueError, match="rank_7"):
        signature_call(real, "rank_7")


def test_a_model_that_answers_nan_is_refused(module):
    poisoned = module.state_dict()
    poisoned["head_bias"] = torch.full_like(poisoned["head_bias"], float("nan"))
    module.load_state_dict(poisoned)
    with pytest.raises(DeviceError, match="no probabilities"):
        OnnxScorer(to_onnx(module, SCHEMA)).scores(*inputs(3))


@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_scorer_does_wrong_comes_out_as_a_device_error(way):
    with pytest.raises(DeviceError):
        ask(Broken(way), *inputs(3))


@pytest.mark.parametrize("good", [[[0.0, 1.0]], [[0.5]]])
def test_probabilities_pass_unchanged(good):
    assert checked(good, 1).tolist() == good


@pytest.mark.parametrize("bad", [[0.5], [[0.5], [0.5]], [[0.1, 0.2, 0.3]], [[]], [["x"]], [[1.0000001]]])
def test_other_shapes_and_values_do_not(bad):
    with pytest.raises(DeviceError):
        checked(bad, 1)


def test_ads_with_the_same_features_get_the_same_score_wherever_they_stand():
    class ByPlace:
        def scores(self, context, events, outcomes, ad):
            return ((ad[:, :1] % 7) * 0.1 + np.arange(len(ad))[:, None] * 1e-4).astype(np.float32)

    context, events, outcomes, ad = inputs(6)
    ad[3], ad[5] = ad[0], ad[1]
    scores = ask(ByPlace(), context, events, outcomes, ad)
    assert len(scores) == 6
    np.testing.assert_array_equal(scores[3], scores[0])
    np.testing.assert_array_equal(scores[5], scores[1])
    assert len(np.unique(scores[:3])) == 3


@pytest.mark.parametrize(
    ("candidates", "calls"),
    [(1, [1]), (2, [16]), (16, [16]), (17, [16, 1]), (40, [16, 16, 16]), (50, [64]), (334, [64] * 5 + [16])],
)
def test_candidates_are_split_so_that_little_is_scored_for_nothing(candidates, calls):
    made = []

    def call(size):
        def answer(context, events, outcomes, ad):
            made.append(size)
            return ad[:, :1].astype(np.float32) / 1000

        return answer

    scorer = object.__new__(LiteRTScorer)
    scorer._calls = {size: call(size) for size in (1, 16, 64)}
    ad = np.arange(candidates, dtype=np.int32)[:, None]
    scores = scorer.scores(None, None, None, ad)
    assert made == calls
    np.testing.assert_allclose(scores[:, 0], np.arange(candidates) / 1000, rtol=1e-6)


def test_twins_that_the_caller_knows_are_told_apart_as_those_that_are_searched_for():
    rng = np.random.default_rng(0)
    for candidates in (1, 2, 9, 30):
        ad = rng.integers(0, 3, (candidates, 2)).astype(np.int32)
        _, like = without_twins(np.concatenate([rng.integers(0, 3, (20, 2)).astype(np.int32), ad]))
        rows = Rows()
        scores = ask(rows, None, None, None, ad), ask(rows, None, None, None, ad, like[20:])
        np.testing.assert_array_equal(*scores)
        np.testing.assert_array_equal(*rows.given[-2:])


class Rows:
    """A scorer that keeps the ads that it was given."""

    def __init__(self):
        self.given = []

    def scores(self, context, events, outcomes, ad):
        self.given.append(ad)
        return ad[:, :1].astype(np.float32) / 3
