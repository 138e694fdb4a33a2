"""Record-level training is Opacus' own, and keeps what it rests on: each record by itself, noise whatever happens."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from small_records import CONFIG, PLAN, RATE, SCHEMA, Plain, by_opacus, examples, gap, norm, parameters, sources

from sottovoce.client.record_level import RecordRanker, RecordTrainer, record_level_update, rows_of
from sottovoce.models.ranker import losses
from sottovoce.privacy.entropy import SeededEntropy

# torch says so whenever the input of a module with Opacus' hooks has no gradient, which ids never have
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")


@pytest.mark.parametrize("rows", [1, 2, 9, 31], ids=["one row", "two rows", "nine rows", "more than the public figure"])
def test_ten_steps_equal_those_of_opacus_with_the_same_batches_and_noise(rows):
    values = parameters()
    ids, labels = rows_of(examples([rows, 3]), 0)
    ours = RecordTrainer(values, SCHEMA, CONFIG, PLAN, RATE).update(ids, labels, *sources())
    assert gap(ours, by_opacus(values, ids, labels, PLAN, *sources())) <= 1e-6
    assert max(np.abs(value).max() for value in ours.values()) > 0.01
    # What the comparison would notice: another bound, denominator or batch.
    for wrong in (replace(PLAN, clip_norm=0.29), replace(PLAN, records=19), replace(PLAN, sampling_rate=0.41)):
        assert gap(ours, by_opacus(values, ids, labels, wrong, *sources())) > 1e-5


def test_the_gradient_of_every_record_is_that_of_plain_autograd():
    values = parameters()
    ids, labels = rows_of(examples([8]), 0)
    module = RecordRanker(values, SCHEMA, CONFIG)
    losses(GradSampleModule(module, loss_reduction="sum", force_functorch=True)(ids), labels).sum().backward()
    for row in range(len(ids)):
        alone = Plain(values)
        losses(alone(ids[row : row + 1]), labels[row : row + 1]).sum().backward()
        for name, weight in zip(alone.names, alone.weights, strict=True):
            torch.testing.assert_close(module.values()[name].grad_sample[row], weight.grad, atol=1e-6, rtol=1e-5)
    assert not module.values()["table"].grad_sample[:, 0].any()


def test_a_batch_in_parts_is_the_whole_batch(monkeypatch):
    values = parameters()
    ids, labels = rows_of(examples([13]), 0)
    whole = RecordTrainer(values, SCHEMA, CONFIG, PLAN, RATE).update(ids, labels, *sources())
    monkeypatch.setattr("sottovoce.client.record_level.MOST_VALUES", 1)
    parts = RecordTrainer(values, SCHEMA, CONFIG, PLAN, RATE).update(ids, labels, *sources())
    assert gap(whole, parts) <= 1e-6


def one_step(values, ids, labels, plan, noise=1e-9):
    """The clipped sum of one step over all rows, noise next to none."""
    plan = replace(plan, steps=1, sampling_rate=1.0, noise_multiplier=noise)
    update = RecordTrainer(values, SCHEMA, CONFIG, plan, 1.0).update(ids, labels, *sources())
    return {name: -value * plan.expected_batch for name, value in update.items()}


@pytest.mark.parametrize("gone", [0, 3, 6])
def test_taking_one_row_out_moves_the_sum_by_at_most_its_clipped_gradient(gone):
    """With the history kept, a row would also move the rows after it."""
    values = parameters()
    ids, labels = rows_of(examples([7]), 0)
    rest = [row for row in range(7) if row != gone]
    plan = replace(PLAN, clip_norm=0.05)
    whole, less = one_step(values, ids, labels, plan), one_step(values, ids[rest], labels[rest], plan)
    moved = norm({name: whole[name] - less[name] for name in whole})
    assert 0.049 <= moved <= 0.05 * (1 + 1e-4)


def test_a_record_that_is_not_finite_counts_as_zero_and_the_rest_trains_on():
    values = parameters()
    rows = examples([6])
    ids, labels = rows_of(rows, 0)
    bad = int(ids[2, -3])  # the ad of one row overflows
    values["table"][bad] = float("nan")
    kept = [row for row in range(6) if int(ids[row, -3]) != bad]
    assert 0 < len(kept) < 6
    whole, rest = one_step(values, ids, labels, PLAN), one_step(values, ids[kept], labels[kept], PLAN)
    for name in whole:
        mask = np.ones(len(whole[name]), bool)
        if name == "table":
            mask[bad] = False
        np.testing.assert_allclose(whole[name][mask], rest[name][mask], atol=1e-6)
        assert np.isfinite(whole[name][mask]).all()


@pytest.mark.parametrize("rows", [0, 4], ids=["no rows at all", "rows of which none is drawn"])
def test_an_empty_batch_releases_noise_of_the_promised_size_on_every_weight_but_padding(rows):
    """About 390 numbers a step, 40 steps: 10 % too little or too much noise lies 17 standard errors out."""
    values = parameters()
    ids, labels = rows_of(examples([rows]), 0)
    plan = replace(PLAN, steps=40, sampling_rate=1e-9, records=10**9, delta=1e-12)
    update = RecordTrainer(values, SCHEMA, CONFIG, plan, 1.0).update(ids, labels, *sources())
    assert not update["table"][0].any()
    flat = np.concatenate([value.ravel() for value in update.values()])
    flat = np.concatenate([flat[update["table"].shape[1] :]]) * plan.expected_batch
    assert (flat != 0).all()
    size = 0.8 * 0.3 * math.sqrt(40)
    assert abs(flat.std() / size - 1) < 5 / math.sqrt(2 * len(flat))


def test_the_sum_over_devices_is_bounded_and_two_devices_never_share_noise():
    values, rows = parameters(), examples([5, 5, 0])
    seeded = SeededEntropy(3)

    def total(devices, bound=0.2, place="0"):
        return record_level_update(
            values, rows, SCHEMA, CONFIG, PLAN, RATE, bound, np.array(devices), seeded, place, 1
        ).total

    for device in range(3):
        assert 0 < norm(total([device])) <= 0.2 * (1 + 1e-6)
    together = total([0, 1, 2])
    assert gap(together, {name: sum(total([d])[name] for d in range(3)) for name in together}) <= 1e-7
    first, second = total([2], 1e6), total([2], 1e6, place="1")  # noise alone, at two places
    a, b = (np.concatenate([value.ravel() for value in one.values()]) for one in (first, second))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.2
