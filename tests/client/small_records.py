"""Devices with a few rows, and the yardstick of record-level training: Opacus' own module and optimizer on one."""

import math

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer

from sottovoce.client.examples import Examples
from sottovoce.models.batch import Batch, interest
from sottovoce.models.ranker import RankerConfig, initial, logits, losses
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


def by_opacus(values, ids, labels, plan, batches, noise):
    """The same rows, batches and noise through Opacus' own module and optimizer, mean losses and all."""
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


def norm(update):
    return math.sqrt(sum(float(np.square(value).sum()) for value in update.values()))
