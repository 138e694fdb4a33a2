import msgspec
import numpy as np

from sottovoce.client.examples import Examples
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.describe import describe

SCHEMA = FeatureSchema(
    features=(
        Feature(name="age", source="device", kind="integer", buckets=4),
        Feature(name="hour", source="context", kind="integer", buckets=24),
        Feature(name="price", source="ad", kind="integer", buckets=3),
        Feature(name="shop", source="ad", kind="integer", buckets=9, in_history=True),
    ),
    heads=("click", "conversion"),
)
DEVICE = np.array([[1], [0], [3], [0]], np.int32)
CATALOGUE = np.array([[29, 0], [30, 26], [29, 26]], np.int32)


def part(counts: list[int], labels: list[list[int]]) -> Examples:
    rows = sum(counts)
    return Examples(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        DEVICE,
        np.full((rows, 1), 5, np.int32),
        np.zeros(rows, np.int32),
        np.array(labels, np.int8).reshape(rows, 2),
        CATALOGUE,
    )


def given() -> Dataset:
    train = part([3, 0, 1, 0], [[1, 1], [0, 0], [0, 0], [1, 0]])
    return Dataset("shop", SCHEMA, train, part([0, 1, 1, 0], [[1, 0], [0, 0]]), np.arange(4), "MIT", "them")


def test_devices_rows_and_rates_are_counted() -> None:
    summary = describe(given())
    assert (summary.devices, summary.cold_devices, summary.ads, summary.table_rows) == (4, 1, 3, SCHEMA.rows)
    assert (summary.train.rows, summary.train.devices_with_rows) == (4, 2)
    assert summary.train.positive_rate == {"click": 0.5, "conversion": 0.25}
    assert summary.valid.positive_rate == {"click": 0.5, "conversion": 0.0}
    assert (summary.licence, summary.citation) == ("MIT", "them")


def test_rows_per_device_are_those_of_devices_with_rows() -> None:
    spread = describe(given()).train.rows_per_device
    assert (spread.median, spread.max) == (2.0, 3)
    assert abs(spread.p90 - 2.8) < 1e-9


def test_features_tell_what_is_used_and_what_is_missing() -> None:
    features = {feature.name: feature for feature in describe(given()).features}
    assert list(features) == ["age", "hour", "price", "shop"]
    assert (features["age"].used, features["age"].missing) == (2, 0.5)
    assert (features["hour"].used, features["hour"].missing) == (1, 0.0)
    assert (features["shop"].used, features["shop"].missing) == (2, 0.0)
    assert (features["price"].used, round(features["price"].missing, 3)) == (1, 0.333)


def test_a_part_without_rows_is_described_with_zeros() -> None:
    data = given()
    empty = describe(Dataset("shop", SCHEMA, data.train, part([0, 0, 0, 0], []), np.arange(4), "", "")).valid
    assert (empty.rows, empty.devices_with_rows, empty.rows_per_device.max) == (0, 0, 0)
    assert empty.positive_rate == {"click": 0.0, "conversion": 0.0}


def test_a_summary_can_be_printed_as_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(describe(given())))["train"]["rows"] == 4
