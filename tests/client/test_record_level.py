"""Record-level training is Opacus' own, and keeps what it rests on: each record by itself, noise whatever happens."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer

from sottovoce.client.examples import Examples
from sottovoce.client.record_level import RecordRanker, RecordTrainer, record_level_update, rows_of
from sottovoce.models.ranker import Batch, RankerConfig, initial, interest, logits, losses
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.noise import gaussian
from sottovoce.privacy.record import RecordPlan

CONFIG = RankerConfig(embedding_width=4, tower_width=6, hidden_width=5)
SCHEMA = FeatureSchema(
    features=(
        Feature(name="kind", source="device", buckets=4),
        Feature(name="page", source="context", buckets=5),
        Feature(name="ad", source="ad", kind="integer", buckets=12, in_history=True),
        Feature(name="topic", source="ad", buckets=3, in_history=True),
        Feature(name="size", source="ad", buckets=2),
    ),
    history_length=4,
    heads=("click", "conversion"),
)
PLAN = RecordPlan(
    records=20, sampling_rate=0.4, clip_norm=0.3, noise_multiplier=0.8, steps=10, participations=3, delta=1e-5
)
RATE = 0.5

# torch says so whenever the input of a module with Opacus' hooks has no gradient, which ids never have
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")


def examples(lengths, seed=0):
    """Rows with repeated ads and missing values (id 0, the padding row)."""
    rng = np.random.default_rng(seed)
    rows = sum(lengths)

    def ids(features, count):
        return np.stack([SCHEMA.offsets[f.name] + rng.integers(0, f.buckets, count) for f in features], 1).astype(
            np.int32
        )

    click = rng.integers(0, 2, rows)
    catalogue = ids(SCHEMA.ad, 5)
    catalogue[0, -1] = 0
    page = ids([f for f in SCHEMA.features if f.source == "context"], rows)
    page[::3] = 0
    return Examples(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids([f for f in SCHEMA.features if f.source == "device"], len(lengths)),
        page,
        rng.integers(0, 5, rows).astype(np.int32),
        np.stack([click, click * rng.integers(0, 2, rows)], 1).astype(np.int8),
        catalogue,
    )


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed + 1)
    values = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in initial(SCHEMA, CONFIG, seed).items()
    }
    values["table"][0] = 0.0
    return values


def sources(seed=0):
    made = SeededEntropy(seed)
    return made.generator("batches", 1), made.generator("noise", 1)


class Plain(torch.nn.Module):
    """The ranker written down again for Opacus, with the history as one empty place instead of none."""

    def __init__(self, values):
        super().__init__()
        self.names = list(values)
        for number, value in enumerate(values.values()):
            self.register_parameter(f"w{number}", torch.nn.Parameter(value.clone()))
        self.weights = tuple(self.parameters())

    def forward(self, ids):
        ids = ids.long()
        values = {name: getattr(self, f"w{number}") for number, name in enumerate(self.names)}
        keep = torch.ones(len(values["table"]), 1)
        keep[0] = 0.0
        values["table"] = values["table"] * keep
        batch = Batch(
            ids[:, None, :2],
            ids[:, None, 2:],
            torch.zeros(len(ids), 1, 2, dtype=torch.int64),
            torch.zeros(len(ids), 1, dtype=torch.int64),
            torch.zeros(len(ids), 1, 1),
        )
        return logits(values, batch, interest(batch, SCHEMA.outcome_row("click")), CONFIG)[:, 0]


class GivenNoise(DPOptimizer):
    """Opacus' optimizer with the noise handed in."""

    def add_noise(self):
        for parameter in self.params:
            noise = gaussian(self.stream, parameter.numel(), self.noise_multiplier * self.max_grad_norm * (1 + 1e-5))
            noise = torch.from_numpy(noise).view_as(parameter).float()
            if parameter is self.params[0]:
                noise[0] = 0.0
            parameter.grad = parameter.summed_grad + noise


def by_opacus(values, ids, labels, plan, seed=0):
    """The same rows, batches and noise through Opacus' own module and optimizer, mean losses and all."""
    batches, noise = sources(seed)
    model = Plain(values)
    sampled = GradSampleModule(model, force_functorch=True, loss_reduction="mean")
    optimizer = GivenNoise(
        torch.optim.SGD(model.parameters(), RATE),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.clip_norm,
        expected_batch_size=plan.sampling_rate * plan.records,
    )
    optimizer.stream = noise
    for _ in range(plan.steps):
        chosen = np.flatnonzero(batches.uniform53(len(ids)) < plan.sampling_rate)
        optimizer.zero_grad()
        if len(chosen):
            losses(sampled(ids[chosen]), labels[chosen]).mean().backward()
        else:
            for parameter in model.parameters():
                parameter.grad_sample = torch.zeros(0, *parameter.shape)
        optimizer.step()
    return {name: (w.detach() - values[name]).numpy() for name, w in zip(model.names, model.weights, strict=True)}


def gap(one, other):
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.mark.parametrize("rows", [1, 2, 9, 31], ids=["one row", "two rows", "nine rows", "more than the public figure"])
def test_ten_steps_equal_those_of_opacus_with_the_same_batches_and_noise(rows):
    values = parameters()
    ids, labels = rows_of(examples([rows, 3]), 0)
    ours = RecordTrainer(values, SCHEMA, CONFIG, PLAN, RATE).update(ids, labels, *sources())
    assert gap(ours, by_opacus(values, ids, labels, PLAN)) <= 1e-6
    assert max(np.abs(value).max() for value in ours.values()) > 0.01
    # What the comparison would notice: another bound, denominator or batch.
    for wrong in (replace(PLAN, clip_norm=0.29), replace(PLAN, records=19), replace(PLAN, sampling_rate=0.41)):
        assert gap(ours, by_opacus(values, ids, labels, wrong)) > 1e-5


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


def norm(update):
    return math.sqrt(sum(float(np.square(value).sum()) for value in update.values()))


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
