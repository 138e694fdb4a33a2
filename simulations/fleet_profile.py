"""Where the time of a round goes, and the floor under it: the matrix products alone.

The parts are told apart by Python's own profiler, which also counts the torch operations that a function calls.
"""

import cProfile
import math
import pstats
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from sottovoce.client.examples import Examples
from sottovoce.client.fleet import LocalTraining, fleet_update
from sottovoce.models.ranker import RankerConfig, initial, shapes
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.simulations import kuairand

PARTS: Mapping[str, tuple[str, ...]] = {
    "laying out rows": ("examples.py:take", "cohort_batches.py:prepare", "cohort_batches.py:chunks"),
    "dense products": ("local_steps.py:_affine", "local_steps.py:_back", "local_steps.py:_move"),
    "attention": ("event_attention.py:forward", "event_attention.py:backward"),
    "loss": ("local_offsets.py:loss_slope",),
    "embeddings": ("local_steps.py:_read", "local_steps.py:_move_rows"),
    "norms, clipping, sum": ("clipped_sum.py:__init__", "clipped_sum.py:add", "clipped_sum.py:total"),
}
"""Functions whose whole time counts as a part; none of them calls another. What is left is the rest."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What to profile: who trains on what."""

    name: str
    examples: Examples
    schema: FeatureSchema
    config: RankerConfig
    training: LocalTraining
    devices: npt.NDArray[np.int64]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Where one round went, on one thread.

    Attributes:
        case: what was trained.
        devices: of the round.
        parameters: of the model.
        rows: mean trained rows of a device.
        steps: local steps.
        ms_per_device_round: without the profiler, least of the repeats.
        floor_ms: of that, what the products of dense weights take alone, in batches of the same shape.
        percent: share of each part in the profiled time.
    """

    case: str
    devices: int
    parameters: int
    rows: float
    steps: int
    ms_per_device_round: float
    floor_ms: float
    percent: dict[str, float]


def kuairand_case(data_dir: Path) -> Case:
    """KuaiRand with the default model: one cohort of a tenth."""
    dataset = kuairand.load(data_dir)
    chosen = np.flatnonzero(np.random.default_rng(0).random(dataset.train.devices) < 0.1)
    return Case(
        name="kuairand",
        examples=dataset.train,
        schema=dataset.schema,
        config=RankerConfig(),
        training=LocalTraining(),
        devices=chosen,
    )


def large_case(devices: int = 256, rows: int = 64, steps: int = 8) -> Case:
    """Devices of one size with random rows, and a ranker of 139,323 parameters."""
    features = (
        Feature(name="device_class", source="device", kind="integer", buckets=8),
        Feature(name="page", source="context", kind="integer", buckets=64),
        Feature(name="hour", source="context", kind="integer", buckets=8),
        Feature(name="ad", source="ad", kind="integer", buckets=12_000, in_history=True),
        Feature(name="advertiser", source="ad", kind="integer", buckets=2_800, in_history=True),
        Feature(name="format", source="ad", kind="integer", buckets=16),
    )
    schema = FeatureSchema(features=features)
    rng = np.random.default_rng(0)

    def ids(source: str, count: int) -> npt.NDArray[np.int32]:
        drawn = [schema.offsets[f.name] + rng.integers(0, f.buckets, count) for f in features if f.source == source]
        return np.stack(drawn, 1).astype(np.int32)

    total = devices * rows
    popular = (12_000 * rng.random(total) ** 3).astype(np.int32)
    examples = Examples(
        np.arange(devices + 1, dtype=np.int64) * rows,
        ids("device", devices),
        ids("context", total),
        popular,
        rng.integers(0, 2, (total, 1)).astype(np.int8),
        ids("ad", 12_000),
    )
    training = LocalTraining(steps=steps, max_rows=rows)
    return Case(
        name="large",
        examples=examples,
        schema=schema,
        config=RankerConfig(),
        training=training,
        devices=np.arange(devices),
    )


def profile(case: Case, repeats: int = 5) -> Profile:
    """One round of the case, on one thread; the caller sets torch to one."""
    parameters = initial(case.schema, case.config, seed=0)

    def once() -> None:
        fleet_update(parameters, case.examples, case.schema, case.config, case.training, 1.0, case.devices)

    least = _least(once, repeats)
    profiler = cProfile.Profile()
    profiler.runcall(once)
    spent: Counter[str] = Counter()
    for (file, _, name), row in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        spent[f"{Path(file).name}:{name}"] += row[3]
    whole = spent["fleet.py:fleet_update"]
    percent = {part: 100 * sum(spent[name] for name in names) / whole for part, names in PARTS.items()}
    percent["rest"] = 100 - sum(percent.values())
    lengths = np.diff(case.examples.offsets)[case.devices]
    mean = float(np.minimum(lengths, case.training.max_rows).mean())
    return Profile(
        case=case.name,
        devices=len(case.devices),
        parameters=sum(value.numel() for value in parameters.values()),
        rows=round(mean, 1),
        steps=case.training.steps,
        ms_per_device_round=round(1e3 * least / len(case.devices), 4),
        floor_ms=round(1e3 * case.training.steps * floor_s(case, max(1, round(mean))), 4),
        percent={part: round(value, 1) for part, value in percent.items()},
    )


def floor_s(case: Case, rows: int, batch: int = 64, repeats: int = 20) -> float:
    """Seconds per device and local step of the products of dense weights: forwards, and the two gradients."""
    products = []
    for name, shape in shapes(case.schema, case.config).items():
        if name.endswith("weight") and not name.startswith(("head", "interest")):
            x, w, y = (torch.zeros(batch, *size) for size in ((rows, shape[0]), shape, (rows, shape[1])))
            products += [(x, w, y), (y, w.mT, x), (x.mT, y, w)]

    def once() -> None:
        for left, right, out in products:
            torch.bmm(left, right, out=out)

    return _least(once, repeats) / batch


def _least(function: Callable[[], None], repeats: int) -> float:
    """Seconds of the fastest call: what disturbs a call only ever makes it slower."""
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return best
