"""Units are read off the schema, and only a linear model has any."""

import math

import pytest
import torch

from sottovoce.models.ranker import RankerConfig
from sottovoce.models.schema import Feature, FeatureSchema

SCHEMA = FeatureSchema(
    features=(
        Feature(name="kind", source="device", buckets=4),
        Feature(name="ad", source="ad", kind="integer", buckets=3000, in_history=True),
        Feature(name="topic", source="ad", buckets=256),
    )
)


def test_a_rare_row_has_unit_one_and_a_frequent_one_the_root_of_its_fields_share():
    units = RankerConfig(embedding_width=0).scales(SCHEMA)
    table = units["table"][:, 0]
    for name, size, unit in (("kind", 4, 1 / 16), ("ad", 3000, 1.0), ("topic", 256, 0.5)):
        start = SCHEMA.offsets[name]
        assert table[start : start + size].tolist() == [unit] * size
    for name in ("interest.weight", "head.bias"):
        assert units[name].unique().tolist() == pytest.approx([math.sqrt(10 / 1024)])


@pytest.mark.parametrize("counts", [True, False])
def test_every_weight_has_a_unit_above_zero_in_its_shape(counts):
    config = RankerConfig(embedding_width=0, interest_counts=counts)
    units = config.scales(SCHEMA)
    assert {name: tuple(unit.shape) for name, unit in units.items()} == config.shapes(SCHEMA)
    assert list(units) == list(config.initial(SCHEMA, 0))
    assert all(bool((unit > 0).all()) for unit in units.values())


def test_with_embeddings_weights_are_their_own_unit():
    assert RankerConfig().scales(SCHEMA) == {}


def test_a_linear_model_starts_by_saying_the_guessed_rates():
    start = RankerConfig(embedding_width=0, click_rate=0.05).initial(SCHEMA, 0)
    assert not start["table"].any()
    assert not start["interest.weight"].any()
    assert torch.sigmoid(start["head.bias"]).item() == pytest.approx(0.05)
