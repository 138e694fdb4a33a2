import numpy as np
import pytest
import torch

from sottovoce.client.cohort_batches import chunks, prepare
from sottovoce.client.examples import Examples
from sottovoce.client.scoring import pad
from sottovoce.models.batch import interest
from sottovoce.models.schema import Feature, FeatureSchema

SCHEMA = FeatureSchema(
    features=(
        Feature(name="kind", source="device", kind="integer", buckets=4),
        Feature(name="page", source="context", kind="integer", buckets=5),
        Feature(name="ad", source="ad", kind="integer", buckets=6, in_history=True),
        Feature(name="topic", source="ad", kind="integer", buckets=3, in_history=True),
        Feature(name="size", source="ad", kind="integer", buckets=2),
    ),
    history_length=4,
    heads=("click", "conversion"),
)


def examples(lengths, seed=0):
    rng = np.random.default_rng(seed)
    rows, at = int(sum(lengths)), SCHEMA.offsets
    catalogue = np.stack([at["ad"] + np.arange(6), at["topic"] + np.arange(6) % 3, at["size"] + np.arange(6) % 2], 1)
    catalogue[0, 0] = 0  # a missing value
    click = rng.integers(0, 2, rows)
    return Examples(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        (at["kind"] + rng.integers(0, 4, (len(lengths), 1))).astype(np.int32),
        (at["page"] + rng.integers(0, 5, (rows, 1))).astype(np.int32),
        rng.integers(0, 6, rows).astype(np.int32),
        np.stack([click, click * rng.integers(0, 2, rows)], 1).astype(np.int8),
        catalogue.astype(np.int32),
    )


def skewed(devices=3000, seed=0):
    """Few devices with many rows, most with hardly any, some with none."""
    return np.minimum(np.random.default_rng(seed).geometric(0.03, devices) - 1, 200).astype(np.int64)


@pytest.mark.parametrize("lengths", [skewed(), skewed(70), np.array([80, 1, 1, 1, 1, 1, 40]), np.arange(90)])
def test_at_most_a_fifth_of_the_padded_rows_of_a_cohort_is_padding(lengths):
    rows = examples(lengths)
    padded = real = 0
    for group in chunks(rows, np.arange(len(lengths)), newest=84, chunk_rows=4096):
        kept = np.minimum(lengths[group], 84)
        padded, real = padded + len(group) * kept.max(), real + kept.sum()
        assert len(group) == 1 or len(group) * kept.max() <= 4096
    assert real == np.minimum(lengths, 84).sum()
    assert (padded - real) / padded < 0.2


def test_every_device_with_rows_is_in_one_group_and_a_repeated_one_in_as_many():
    rows = examples([5, 0, 3, 9, 1])
    asked = np.array([4, 0, 1, 2, 3, 3])
    found = np.concatenate(list(chunks(rows, asked, newest=84, chunk_rows=10)))
    assert sorted(found) == [0, 2, 3, 3, 4]


def test_batches_hold_what_the_ranker_reads():
    rows = examples([9, 8, 4, 1])
    batch = prepare(rows, SCHEMA, max_rows=5, width=1)
    plain, labels, weight = pad(rows, SCHEMA, max_rows=5)
    counts = interest(plain, SCHEMA.outcome_row("click")).counts
    most, newest = 9, 5
    for device, length in enumerate([9, 8, 4, 1]):
        trained = min(length, newest)
        ours, theirs = slice(newest - trained, newest), slice(length - trained, length)
        torch.testing.assert_close(batch.counts[device, ours], counts[device, theirs])
        torch.testing.assert_close(batch.labels[device, ours], labels[device, theirs])
        torch.testing.assert_close(batch.weight[device, ours], weight[device, theirs])
        seen = batch.bias[device, ours, most - length :] == 0
        torch.testing.assert_close(seen.float(), plain.visible[device, theirs, :length])
        assert not (batch.bias[device, :, : most - length] == 0).any()
        assert batch.past[device, 0, ours].tolist() == plain.visible[device, theirs].amax(-1).tolist()
        assert not batch.weight[device, : newest - trained].any()
    read = batch.row[batch.read]
    ads = read[: 4 * newest * 3].view(4, newest, 3)
    torch.testing.assert_close(ads[0], plain.ad[0, 4:9])
    torch.testing.assert_close(ads[3, -1], plain.ad[3, 0])
    assert not ads[3, :-1].any()
    torch.testing.assert_close(batch.row[batch.events][0], plain.events[0])
