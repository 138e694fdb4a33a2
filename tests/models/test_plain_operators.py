"""Every ranker that can be asked for is plain, and what is not is named; test_export holds the list to account."""

import itertools

import pytest
import torch

from sottovoce.models import ranker
from sottovoce.models.onnx_export import example
from sottovoce.models.plain_operators import PLAIN_OPERATORS, operators_used, require_plain
from sottovoce.models.quantize import PLANES, quantize
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy.errors import ConfigError

AD = Feature(name="ad", source="ad", kind="integer", buckets=9, in_history=True, privacy="public")
TOPIC = Feature(name="topic", source="ad", buckets=5, in_history=True, privacy="public")
HOUR = Feature(name="hour", source="context", kind="integer", buckets=4)
SCHEMAS = [
    FeatureSchema(features=features, history_length=2, heads=heads)
    for features, heads in (((HOUR, AD), ("click",)), ((HOUR, AD, TOPIC), ("click", "conversion")))
]
CONFIGS = [
    ranker.RankerConfig(embedding_width=4, cross_layers=0),
    ranker.RankerConfig(embedding_width=1, cross_layers=2),
    ranker.RankerConfig(embedding_width=0),
    ranker.RankerConfig(embedding_width=0, interest_counts=False, personal_variance=0.5),
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=["one head", "two heads"])
@pytest.mark.parametrize("config", CONFIGS, ids=["no cross layer", "narrow", "linear", "without counts"])
def test_every_kind_of_ranker_is_plain_however_it_is_quantized(schema, config):
    require_plain(schema, config)
    weights = ranker.initial(schema, config, 1)
    for planes, one_byte in itertools.product(PLANES, (False, True)):
        module = quantize(weights, schema, config, planes, one_byte_scales=one_byte)
        assert operators_used(module, example(schema, 3)) <= PLAIN_OPERATORS


def by_value(scores):
    return torch.sigmoid(scores) if scores.sum() > 0 else scores * 0.5


@pytest.mark.parametrize(
    ("last", "name"),
    [
        (torch.erf, "aten.erf.default"),
        (lambda scores: scores.sort(0).values, "aten.sort.default"),
        (lambda scores: torch.div(scores, 2.0, rounding_mode="floor"), "aten.div.Tensor_mode"),
        (by_value, "aten._local_scalar_dense.default"),
    ],
    ids=["erf", "sort", "floor division", "branch"],
)
def test_an_operator_that_is_not_plain_is_named(last, name, monkeypatch):
    monkeypatch.setattr(ranker, "probabilities", last)
    with pytest.raises(ConfigError, match=name):
        require_plain(SCHEMAS[0], CONFIGS[0])
