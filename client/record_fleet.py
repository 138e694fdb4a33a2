"""Train many devices together with record-level privacy, each exactly as `record_level` would train it alone.

What a record is, what is drawn, clipped, added and divided by is said in `record_level`, which gives each device's
gradients to Opacus. Here no record's gradient is ever written out. In a dense layer it is the outer product of what
went in and what came back, so its norm is a product of two norms, and the sum of clipped gradients is one matrix
product (Goodfellow 2015, arXiv:1510.01799, section 3). In the table it is a few rows.

Noise is most of the work: as many numbers as the model has, for every device and step, each device's from a source of
its own. None can be left out: a step starts from the noise of the step before, and the bound on the whole update is on
all of it.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sottovoce.client.examples import Examples
from sottovoce.client.fleet import FleetUpdate
from sottovoce.client.record_level import require_small
from sottovoce.models.batch import Batch, interest
from sottovoce.models.ranker import Parameters, RankerConfig, dense, logits, losses
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.clip import clip_factors
from sottovoce.privacy.entropy import Entropy, Source
from sottovoce.privacy.noise import gaussian
from sottovoce.privacy.record import RecordPlan

MOST_VALUES = 2**20
"""Weights of the devices of a chunk held at once, 4 MB, and as much again for their gradients."""

MOST_ROWS = 4096
"""Records of a chunk whose gradients are taken at once; more are taken in parts."""

Weights = dict[str, Tensor]


def record_fleet_update(
    parameters: Mapping[str, Tensor],
    examples: Examples,
    schema: FeatureSchema,
    config: RankerConfig,
    plan: RecordPlan,
    learning_rate: float,
    clip_norm: float,
    devices: npt.NDArray[np.integer],
    entropy: Entropy,
    place: str,
    round: int,
) -> FleetUpdate:
    """Train `devices` with record-level privacy, clip each update as a whole and add them up.

    Guarantees all that `record_level_update` does, and its result to float32 rounding: same sources, same draws, same
    order of them.

    Args:
        parameters: by name, shapes as in `ranker.shapes`, float32; the padding row of the table counts as zero.
        examples: rows of at least these devices.
        schema: of the ids in `examples`.
        config: sizes of the ranker.
        plan: of the record-level guarantee.
        learning_rate: of the local steps.
        clip_norm: C of the device-level guarantee.
        devices: indices into `examples`.
        entropy: of batches and noise.
        place: where the devices are, so that no two of a seeded simulation share their noise.
        round: of the run.

    Raises:
        DataError: the model is too large for record-level training.
    """
    size = require_small(parameters)
    start = {name: value.detach().clone() for name, value in parameters.items()}
    start["table"][0] = 0.0
    total = {name: np.zeros(value.shape) for name, value in start.items()}
    clipped = 0
    # Devices of like size side by side, so that little of a batch is padding.
    asked = np.asarray(devices, np.int64)
    asked = asked[np.argsort(np.diff(examples.offsets)[asked], kind="stable")]
    count = max(1, MOST_VALUES // size)
    for first in range(0, len(asked), count):
        some = asked[first : first + count]
        who = [f"{place}/{device}" for device in some]
        chunk = _Chunk(start, examples.take(some), schema, config)
        chunk.train(
            plan,
            learning_rate,
            [entropy.generator(f"record batches {one}", round) for one in who],
            [entropy.generator(f"record noise {one}", round) for one in who],
        )
        clipped += chunk.add_clipped(start, clip_norm, total)
    return FleetUpdate(total, len(asked), clipped)


class _Chunk:
    """Some devices in training: their rows, and weights that carry a leading device axis."""

    def __init__(self, start: Weights, examples: Examples, schema: FeatureSchema, config: RankerConfig) -> None:
        ad = examples.ads(slice(None))
        told = np.concatenate([examples.device[examples.owners], examples.context, ad], 1)
        self._ids = torch.from_numpy(told.astype(np.int64))
        self._labels = torch.from_numpy(examples.labels.astype(np.float32))
        self._offsets = examples.offsets
        self._contexts, self._history = len(schema.context), len(schema.history)
        self._click_row = schema.outcome_row("click")
        self._config = config
        count = examples.devices
        self._weights = {
            name: value.expand(count, *value.shape).clone().requires_grad_() for name, value in start.items()
        }

    def train(self, plan: RecordPlan, learning_rate: float, batches: list[Source], noise: list[Source]) -> None:
        """All steps of a round; `batches` and `noise` are each device's own."""
        for _ in range(plan.steps):
            summed = self._summed(self._draw(plan, batches), plan.clip_norm)
            for device, source in enumerate(noise):
                for value in summed.values():
                    mine = value[device].numpy().reshape(-1)
                    np.add(mine, gaussian(source, mine.size, plan.noise_std), out=mine, casting="unsafe")
            summed["table"][:, 0] = 0.0
            with torch.no_grad():
                for name, value in self._weights.items():
                    value.sub_(summed[name].div_(plan.expected_batch), alpha=learning_rate)

    def add_clipped(self, start: Weights, clip_norm: float, total: dict[str, npt.NDArray[np.float64]]) -> int:
        """Add new minus old of every device, clipped as a whole, to `total`; how many were scaled down."""
        with torch.no_grad():
            updates = {name: (value - start[name]).double().flatten(1) for name, value in self._weights.items()}
            squares = sum(value.square().sum(1) for value in updates.values())
            factors = clip_factors(torch.as_tensor(squares).sqrt().numpy(), clip_norm)
            live = np.flatnonzero(factors)
            scale = torch.from_numpy(factors[live])
            for name, value in updates.items():
                total[name] += (scale @ value[live]).view(start[name].shape).numpy()
        return int((factors < 1).sum())

    def _draw(self, plan: RecordPlan, batches: list[Source]) -> Tensor:
        """(devices, records of the largest batch) indices of the rows that join, -1 where there is none."""
        drawn = [
            plan.sampler(int(stop - begin)).draw(source) + begin if stop > begin else np.zeros(0, np.int64)
            for source, begin, stop in zip(batches, self._offsets[:-1], self._offsets[1:], strict=True)
        ]
        rows = np.full((len(drawn), max(map(len, drawn))), -1)
        for device, mine in enumerate(drawn):
            rows[device, : len(mine)] = mine
        return torch.from_numpy(rows)

    def _summed(self, rows: Tensor, clip_norm: float) -> Weights:
        """Per device the sum of the clipped gradients of its `rows`."""
        summed = {name: torch.zeros_like(value) for name, value in self._weights.items()}
        if rows.numel():
            for part in torch.split(rows, max(1, MOST_ROWS // len(rows)), 1):
                self._add_gradients(part, clip_norm, summed)
        return summed

    def _add_gradients(self, rows: Tensor, clip_norm: float, summed: Weights) -> None:
        real = rows >= 0
        ids = torch.where(real[..., None], self._ids[rows], 0)
        labels = torch.where(real[..., None], self._labels[rows], 0.0)
        count, width, fields = ids.shape
        table = self._weights["table"].detach()
        flat = (ids + torch.arange(count)[:, None, None] * table.shape[1]).view(-1)
        # The table that the model sees has one row for every place where a row of the real one is read.
        read = table.flatten(0, 1)[flat].requires_grad_()
        place = torch.arange(len(flat)).view(count, width, fields)
        nothing = ids.new_zeros(count, 0)
        batch = Batch(
            place[..., : self._contexts],
            place[..., self._contexts :],
            ids.new_zeros(count, 0, self._history),
            nothing,
            torch.zeros(count, width, 0),
        )
        inputs: Weights = {}
        outputs: Weights = {}

        def watched(x: Tensor, parameters: Parameters, layer: str) -> Tensor:
            inputs[layer], outputs[layer] = x, dense(x, parameters, layer)
            return outputs[layer]

        seen = interest(batch, self._click_row)
        scores = logits({**self._weights, "table": read}, batch, seen, self._config, dense=watched)
        _require_known(self._weights, outputs)
        loss = losses(scores, labels).sum()
        at_rows, *at_outputs = torch.autograd.grad(loss, [read, *outputs.values()])
        back = dict(zip(outputs, at_outputs, strict=True))

        with torch.no_grad():
            at_rows = torch.where(ids[..., None] > 0, at_rows.view(*ids.shape, -1), 0.0)
            squares = _squares_of_rows(ids, at_rows)
            for layer, g in back.items():
                x = inputs[layer]
                squares += (_squares(x) / x.shape[-1] + 1.0) * _squares(g)
            # As in `record_level`: a record whose squares leave float32 tells nothing and counts as zero.
            good = real & (squares <= torch.finfo(torch.float32).max)
            factor = (clip_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0).float()
            for layer, g in back.items():
                x = torch.where(good[..., None], inputs[layer], 0.0)
                g = torch.where(good[..., None], g * factor[..., None], 0.0)
                summed[f"{layer}.weight"] += x.transpose(1, 2) @ g / math.sqrt(x.shape[-1])
                summed[f"{layer}.bias"] += g.sum(1, keepdim=True)
            kept = torch.where(good[..., None, None], at_rows * factor[..., None, None], 0.0)
            summed["table"].flatten(0, 1).index_add_(0, flat, kept.flatten(0, 2))


def _squares(vectors: Tensor) -> Tensor:
    """Squared norms along the last axis, in float64, which float32 gradients cannot overflow."""
    return vectors.double().square().sum(-1)


def _squares_of_rows(ids: Tensor, gradients: Tensor) -> Tensor:
    """Squared norm of each record's gradient in the table; a row read in several fields has the sum of them.

    Args:
        ids: (devices, records, fields).
        gradients: (devices, records, fields, 1 + d), at each place where a row is read.
    """
    wide = gradients.double()
    same = ids.unsqueeze(-1) == ids.unsqueeze(-2)
    return torch.where(same, wide @ wide.transpose(-1, -2), 0.0).sum((-1, -2))


def _require_known(parameters: Iterable[str], layers: Iterable[str]) -> None:
    """Refuse a ranker with weights whose gradient by record is not written down here.

    The weights of interest counts need none: without a history all counts are zero.
    """
    known = {"table", "interest.weight"}.union(*((f"{layer}.weight", f"{layer}.bias") for layer in layers))
    if unknown := set(parameters) - known:
        raise ValueError(f"no gradient by record for {sorted(unknown)}")
