"""A module rebuilt from an ONNX file is the one that was exported."""

import numpy as np
import pytest
import torch

from sottovoce.models import ranker
from sottovoce.models.onnx_export import to_onnx
from sottovoce.models.parity import module_scorer
from sottovoce.models.quantize import quantize
from sottovoce.models.request import random_requests
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy.errors import DeviceError
from sottovoce.simulations.latency import measure
from sottovoce.simulations.runtimes import callers
from sottovoce.simulations.torch_module import module_of, weights_of

SCHEMA = FeatureSchema(
    features=(
        Feature(name="hour", source="context", kind="integer", buckets=4),
        Feature(name="ad", source="ad", kind="integer", buckets=40, in_history=True, privacy="public"),
    ),
    history_length=3,
    heads=("click", "conversion"),
)


@pytest.mark.parametrize(("width", "planes"), [(4, 2), (0, 1)], ids=["ranker", "linear"])
def test_it_scores_the_same_to_the_last_bit(width, planes):
    config = ranker.RankerConfig(embedding_width=width, tower_width=3, hidden_width=5)
    generator = torch.Generator().manual_seed(1)
    weights = {n: torch.randn(s, generator=generator) for n, s in ranker.shapes(SCHEMA, config).items()}
    weights["table"][0] = 0.0
    exported = quantize(weights, SCHEMA, config, planes)
    found = weights_of(to_onnx(exported, SCHEMA))
    again = module_of(found, SCHEMA)
    for request in random_requests(SCHEMA, 20, 7, np.random.default_rng(0)):
        np.testing.assert_array_equal(module_scorer(again)(request), module_scorer(exported)(request))
    for name in found:
        with pytest.raises(DeviceError, match="weights of a ranker"):
            module_of({other: value for other, value in found.items() if other != name} | {"cross_9_bias": 1}, SCHEMA)


def test_what_is_no_onnx_file_is_refused():
    with pytest.raises(DeviceError, match=r"model\.onnx"):
        weights_of(b"garbage")


def test_first_and_second_call_of_a_turn_are_told_apart():
    """The first is cold: something else ran in between."""
    made = []
    calls = {"a": {1: lambda: made.append("a")}, "b": {1: lambda: made.append("b"), 16: lambda: made.append("c")}}
    found = measure(calls, 10, np.random.default_rng(0))
    assert made[::2] == made[1::2]
    assert {made.count(name) for name in "abc"} == {20}
    assert found.p50_us.keys() == found.p50_cold_us.keys() == {"a", "b"}
    assert found.p99_cold_us["b"].keys() == {"1", "16"}


def test_engines_that_do_not_score_alike_are_not_measured(monkeypatch):
    class Fixed:
        def __init__(self, score):
            self.score = score

        def scores(self, context, events, outcomes, ad):
            return np.full((len(ad), 1), self.score, np.float32)

    monkeypatch.setattr("sottovoce.simulations.runtimes.LiteRTScorer", lambda data: Fixed(0.5))
    monkeypatch.setattr("sottovoce.simulations.runtimes.OnnxScorer", lambda data: Fixed(float(data)))
    asked = {3: random_requests(SCHEMA, 1, 3, np.random.default_rng(0))[0]}
    assert callers(b"", b"0.5", asked).keys() == {"litert", "onnxruntime"}
    with pytest.raises(DeviceError, match=r"onnxruntime scores 3 candidates by 1\.0e-01"):
        callers(b"", b"0.6", asked)
