"""A linear model in its files: nothing to quantize, all four inputs, the scores of training."""

import numpy as np
import onnx
import pytest
import torch

from sottovoce.client.scorer import OnnxScorer, request_scorer
from sottovoce.models.onnx_export import to_onnx
from sottovoce.models.parity import float_scorer, module_scorer
from sottovoce.models.quantize import quantize
from sottovoce.models.ranker import RankerConfig, shapes
from sottovoce.models.request import INPUTS, Request, random_requests


@pytest.fixture(scope="module", params=[True, False], ids=["interest counts", "no interest counts"])
def linear(request, schema):
    """Config, weights, quantized module and ONNX file."""
    config = RankerConfig(embedding_width=0, interest_counts=request.param)
    generator = torch.Generator().manual_seed(5)
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes(schema, config).items()}
    made["table"][0] = 0.0
    module = quantize(made, schema, config)
    return config, made, module, to_onnx(module, schema)


def test_its_files_score_as_training_does(linear, schema):
    config, parameters, module, file = linear
    exact = float_scorer(parameters, schema, config)
    scorers = module_scorer(module), request_scorer(OnnxScorer(file))
    for size in (1, 5, 40):
        for request in random_requests(schema, 30, size, np.random.default_rng(size)):
            for scorer in scorers:
                np.testing.assert_allclose(scorer(request), exact(request), rtol=0, atol=1e-6)


def test_its_file_reads_all_four_inputs(linear):
    model = onnx.load_from_string(linear[3])
    assert [one.name for one in model.graph.input] == list(INPUTS)
    read = {name for node in model.graph.node for name in node.input}
    assert set(INPUTS) <= read


def test_the_history_moves_the_scores_only_through_interest_counts(linear, schema):
    config, _, _, file = linear
    score = request_scorer(OnnxScorer(file))
    moved = [
        np.abs(score(one) - score(Request(one.context, 0 * one.events, 0 * one.outcomes, one.ad))).max()
        for one in random_requests(schema, 30, 10, np.random.default_rng(0))
    ]
    assert (max(moved) > 0.01) == config.interest_counts


def test_it_says_that_nothing_was_quantized(linear):
    assert "no embeddings" in linear[2].storage
    assert "int8" not in linear[2].storage
