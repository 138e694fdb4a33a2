from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.client.examples import Examples
from sottovoce.client.fleet import LocalTraining, fleet_update
from sottovoce.client.scoring import pad
from sottovoce.models.batch import interest
from sottovoce.models.ranker import RankerConfig, initial, logits
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.simulations.alone import train_alone

CONFIG = RankerConfig(embedding_width=4, tower_width=6, hidden_width=5)
MODELS = {
    "ranker": CONFIG,
    "ranker with a personal layer": RankerConfig(
        embedding_width=4, tower_width=6, hidden_width=5, personal_variance=0.7
    ),
    "linear model": RankerConfig(embedding_width=0),
    "linear model with a personal layer": RankerConfig(embedding_width=0, personal_variance=0.7),
    "linear model without counts": RankerConfig(embedding_width=0, personal_variance=0.7, interest_counts=False),
}
HEADS = {"one head": ("click",), "two heads": ("click", "conversion")}


def schema(heads=("click",), moments=True, remembered=True):
    features = [Feature(name="kind", source="device", buckets=4)]
    features += [Feature(name="page", source="context", buckets=5)] if moments else []
    features += [
        Feature(name="ad", source="ad", kind="integer", buckets=12, in_history=remembered),
        Feature(name="topic", source="ad", buckets=3, in_history=remembered),
        Feature(name="size", source="ad", buckets=2),
    ]
    return FeatureSchema(features=tuple(features), history_length=4, heads=heads)


def examples(made, lengths, seed=0):
    rng = np.random.default_rng(seed)
    rows, devices, ads = sum(lengths), len(lengths), 9

    def ids(features, count):
        columns = [made.offsets[f.name] + rng.integers(0, f.buckets, count) for f in features]
        return np.stack(columns, 1).astype(np.int32) if columns else np.zeros((count, 0), np.int32)

    click = rng.integers(0, 2, rows)
    labels = np.stack([click, click * rng.integers(0, 2, rows)], 1)[:, : len(made.heads)]
    catalogue = ids(made.ad, ads)
    catalogue[0, -1] = 0  # a missing value
    return Examples(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids([f for f in made.features if f.source == "device"], devices),
        ids([f for f in made.features if f.source == "context"], rows),
        rng.integers(0, ads, rows).astype(np.int32),
        labels.astype(np.int8),
        catalogue,
    )


def parameters(made, config=CONFIG, seed=0):
    values = initial(made, config, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    moved = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in values.items()}
    moved["table"][0] = 0.0
    return moved


def one_by_one(values, rows, made, training, clip_norm, devices, config=CONFIG):
    total = {name: np.zeros(value.shape) for name, value in values.items()}
    for device in devices:
        update = train_alone(values, rows, int(device), made, config, training)
        norm = np.sqrt(sum(np.square(value).sum() for value in update.values()))
        for name, value in update.items():
            total[name] += value * min(1.0, clip_norm / norm) if norm else 0.0
    return total


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("moments", [True, False], ids=["page features", "no page features"])
def test_the_fleet_computes_what_each_device_would_alone(config, heads, moments):
    made = schema(heads, moments)
    rows = examples(made, [7, 1, 0, 12, 3, 1, 6])  # ragged, empty, one-row
    values, training = parameters(made, config=config), LocalTraining(steps=3, learning_rate=0.4, max_rows=5)
    devices = np.array([0, 1, 2, 3, 3, 4, 5, 6])  # one asked twice
    together = fleet_update(values, rows, made, config, training, 0.7, devices, chunk_rows=16)
    alone = one_by_one(values, rows, made, training, 0.7, devices, config)
    for name in values:
        np.testing.assert_allclose(together.total[name], alone[name], atol=1e-5)
    assert together.devices == 8
    assert any(np.abs(value).max() > 1e-3 for value in alone.values())


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_a_schema_whose_devices_remember_nothing_of_an_ad_trains_all_the_same(config):
    made = schema(remembered=False)
    rows = examples(made, [6, 0, 1, 3])
    values, training, devices = parameters(made, config=config), LocalTraining(steps=3), np.arange(4)
    together = fleet_update(values, rows, made, config, training, 0.7, devices).total
    alone = one_by_one(values, rows, made, training, 0.7, devices, config)
    for name in values:
        np.testing.assert_allclose(together[name], alone[name], atol=1e-5)


def test_a_device_with_a_long_past_costs_no_more_than_its_newest_rows_and_its_history():
    made = schema()
    training, values = LocalTraining(max_rows=3), parameters(made)
    long = examples(made, [40])
    kept = long.take(np.array([0]), newest=3 + made.history_length)
    assert kept.rows == 7
    whole = fleet_update(values, long, made, CONFIG, training, 1.0, np.array([0])).total
    part = fleet_update(values, kept, made, CONFIG, training, 1.0, np.array([0])).total
    alone = one_by_one(values, long, made, training, 1.0, [0])
    for name in values:
        np.testing.assert_array_equal(whole[name], part[name])
        np.testing.assert_allclose(whole[name], alone[name], atol=1e-5)


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_ten_rounds_of_the_fleet_end_where_ten_rounds_one_by_one_end(config):
    made = schema()
    rows = examples(made, [5, 2, 9, 0, 1, 4])
    training, devices = LocalTraining(steps=2, learning_rate=0.3), np.array([0, 1, 2, 2, 3, 4, 5])
    fast, slow = parameters(made, config=config), parameters(made, config=config)
    for _ in range(10):
        update = fleet_update(fast, rows, made, config, training, 1.0, devices).total
        fast = {name: value + torch.from_numpy(update[name]).float() / 5 for name, value in fast.items()}
        update = one_by_one(slow, rows, made, training, 1.0, devices, config)
        slow = {name: value + torch.from_numpy(update[name]).float() / 5 for name, value in slow.items()}
    for name in fast:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-5, rtol=0)


def test_how_devices_are_grouped_makes_no_difference():
    made = schema()
    rows = examples(made, [3, 8, 8, 1, 5, 2])
    values, training, devices = parameters(made), LocalTraining(), np.arange(6)
    large = fleet_update(values, rows, made, CONFIG, training, 1.0, devices, chunk_rows=10_000).total
    small = fleet_update(values, rows, made, CONFIG, training, 1.0, devices, chunk_rows=1).total
    for name in values:
        np.testing.assert_allclose(large[name], small[name], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    bound=st.floats(1e-3, 10),
    rate=st.sampled_from([0.01, 1.0, 50.0, 1e6, 1e30]),
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    config=st.sampled_from([*MODELS.values()]),
)
def test_no_device_moves_the_sum_by_more_than_the_bound(bound, rate, lengths, config):
    made = schema()
    rows = examples(made, lengths)
    training = LocalTraining(steps=2, learning_rate=rate)
    for device in range(len(lengths)):
        values = parameters(made, config)
        total = fleet_update(values, rows, made, config, training, bound, np.array([device])).total
        norm = np.sqrt(sum(np.square(value).sum() for value in total.values()))
        assert np.isfinite(norm)
        assert norm <= bound * (1 + 1e-6)


def test_a_device_that_diverges_counts_as_zero_and_spoils_nobody_elses_update():
    made = schema()
    rows = examples(made, [4, 4])
    rows = replace(rows, device=np.array([[made.offsets["kind"]], [made.offsets["kind"] + 1]], np.int32))
    values = parameters(made)
    training = LocalTraining(steps=4, learning_rate=1.0)
    healthy = fleet_update(values, rows, made, CONFIG, training, 1.0, np.array([1])).total
    # A weight so large that only device 0, whose kind it belongs to, overflows.
    values["table"] = values["table"].clone()
    values["table"][rows.device[0, 0]] = 3e38
    both = fleet_update(values, rows, made, CONFIG, training, 1.0, np.array([0, 1])).total
    for name in values:
        assert np.isfinite(both[name]).all()
        np.testing.assert_allclose(both[name], healthy[name], atol=1e-5)


def test_the_padding_row_never_moves_and_devices_without_rows_add_nothing():
    made = schema()
    rows = examples(made, [6, 0])
    update = fleet_update(parameters(made), rows, made, CONFIG, LocalTraining(), 1.0, np.array([0, 1]))
    assert not update.total["table"][0].any()
    nothing = fleet_update(parameters(made), rows, made, CONFIG, LocalTraining(), 1.0, np.array([1]))
    assert nothing.devices == 1
    assert not any(value.any() for value in nothing.total.values())


def test_a_row_sees_earlier_rows_of_its_own_device_and_nothing_else():
    made = schema()
    rows = examples(made, [6, 3])
    values = parameters(made)

    def scores(labels):
        changed = Examples(rows.offsets, rows.device, rows.context, rows.ad, labels, rows.catalogue)
        batch, _, _ = pad(changed, made, max_rows=64)
        return logits(values, batch, interest(batch, made.outcome_row("click")), CONFIG)[..., 0].detach().numpy()

    before = scores(rows.labels)
    flipped = rows.labels.copy()
    flipped[3] ^= 1  # row 3 of the first device
    changed = np.abs(scores(flipped) - before) > 1e-7
    assert changed[0, 4:6].all()
    assert not changed[0, :4].any()
    assert not changed[1].any()


def test_training_that_cannot_move_is_refused():
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"learning_rate": float("inf")}, {"max_rows": 0}):
        with pytest.raises(ValueError, match="positive"):
            LocalTraining(**wrong)


def test_a_padding_row_that_is_not_zero_neither_counts_nor_moves():
    made = schema()
    rows, values = examples(made, [6, 2]), parameters(made)
    spoilt = {**values, "table": values["table"].clone()}
    spoilt["table"][0] = 5.0
    clean = fleet_update(values, rows, made, CONFIG, LocalTraining(), 1.0, np.array([0, 1])).total
    found = fleet_update(spoilt, rows, made, CONFIG, LocalTraining(), 1.0, np.array([0, 1])).total
    for name in values:
        np.testing.assert_array_equal(found[name], clean[name])


def test_every_row_knows_its_owner_past_devices_without_rows():
    assert examples(schema(), [2, 0, 0, 3, 1]).owners.tolist() == [0, 0, 3, 3, 3, 4]


@pytest.mark.parametrize("layers", [0, 2])
def test_any_number_of_cross_layers_is_trained_as_alone(layers):
    made, config = schema(HEADS["two heads"]), msgspec.structs.replace(CONFIG, cross_layers=layers, embedding_width=3)
    rows, training = examples(made, [7, 2, 9]), LocalTraining(steps=3, learning_rate=0.4, max_rows=5)
    values = parameters(made, config)
    together = fleet_update(values, rows, made, config, training, 1e6, np.arange(3)).total
    for name in values:
        alone = sum(train_alone(values, rows, device, made, config, training)[name] for device in range(3))
        np.testing.assert_allclose(together[name], alone, atol=1e-5)


def test_an_ad_that_points_at_an_outcomes_row_is_still_one_weight_of_its_device():
    # No encoder makes such rows; were the two kept apart, the norm of an update would be taken too small.
    made = schema()
    rows = examples(made, [6, 4])
    catalogue = rows.catalogue.copy()
    catalogue[:, 0] = made.outcome_row("click")
    rows = replace(rows, catalogue=catalogue)
    values, training = parameters(made), LocalTraining(learning_rate=5.0)
    together = fleet_update(values, rows, made, CONFIG, training, 0.1, np.arange(2)).total
    for name, value in one_by_one(values, rows, made, training, 0.1, range(2)).items():
        np.testing.assert_allclose(together[name], value, atol=1e-5)


def test_workers_side_by_side_add_up_to_the_same():
    made = schema()
    rows = examples(made, [3, 8, 8, 1, 5, 2, 0])
    values, training, devices = parameters(made), LocalTraining(), np.arange(7)
    one = fleet_update(values, rows, made, CONFIG, training, 0.3, devices, chunk_rows=8)
    for workers in (2, 3, 20):
        many = fleet_update(values, rows, made, CONFIG, training, 0.3, devices, chunk_rows=8, workers=workers)
        assert (many.devices, many.clipped) == (one.devices, one.clipped)
        for name in values:
            np.testing.assert_allclose(many.total[name], one.total[name], atol=1e-7)


def test_no_worker_is_refused():
    made = schema()
    with pytest.raises(ValueError, match="worker"):
        fleet_update(parameters(made), examples(made, [1]), made, CONFIG, LocalTraining(), 1.0, [0], workers=0)


def test_what_a_batch_leaves_in_the_buffers_does_not_reach_the_next():
    made = schema()
    rows = examples(made, [9, 9, 4, 4])
    rows = replace(rows, device=made.offsets["kind"] + np.array([[0], [0], [1], [2]], np.int32))
    values, training = parameters(made), LocalTraining(steps=3)
    # The first batch overflows and leaves NaN behind; the second one is healthy, and trained with the same buffers.
    sick = {**values, "table": values["table"].clone()}
    sick["table"][made.offsets["kind"]] = 3e38
    both = fleet_update(sick, rows, made, CONFIG, training, 1.0, np.arange(4), chunk_rows=18).total
    healthy = fleet_update(sick, rows, made, CONFIG, training, 1.0, np.array([2, 3])).total
    assert any(value.any() for value in healthy.values())
    for name in values:
        np.testing.assert_array_equal(both[name], healthy[name])
