import pytest
import torch

from sottovoce.client.stacked_weights import InputLayout, Table
from sottovoce.models.ranker import RankerConfig, shapes
from sottovoce.models.schema import Feature, FeatureSchema

SCHEMA = FeatureSchema(
    features=(
        Feature(name="kind", source="device", buckets=4),
        Feature(name="ad", source="ad", buckets=6, in_history=True),
        Feature(name="size", source="ad", buckets=2),
    ),
    heads=("click", "conversion"),
)
CPU = torch.device("cpu")


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_weights_come_back_as_they_went_in(width, layers):
    config = RankerConfig(embedding_width=width, tower_width=5, hidden_width=7, cross_layers=layers)
    made = {name: torch.rand(shape) + 1 for name, shape in shapes(SCHEMA, config).items()}
    layout = InputLayout(SCHEMA, config)
    stacked = layout.stacked(made, CPU)
    back = layout.unstacked({name: value[0] for name, value in stacked.items()})
    assert {*back, "table"} == set(made)
    for name, value in back.items():
        torch.testing.assert_close(value, made[name], rtol=0, atol=0)
    # Nothing but zeros was added: the norm of an update is that of the ranker's own weights.
    assert sum(int(v.count_nonzero()) for v in stacked.values()) == sum(v.numel() for v in back.values())
    assert layout.width == layout.places * width


def test_the_padding_row_reads_as_zero_and_reading_changes_nothing():
    whole = torch.ones(5, 4)
    table = Table(whole, CPU)
    first, embedding = table.rows(torch.tensor([0, 3, 3]))
    assert first.tolist() == [0.0, 1.0, 1.0]
    assert embedding.sum(1).tolist() == [0.0, 3.0, 3.0]
    embedding += 1.0
    assert table.rows(torch.tensor([0, 3]))[1].sum(1).tolist() == [0.0, 3.0]
    assert bool((whole == 1).all())
