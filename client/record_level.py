"""Train one device so that its update hides each of its rows: DP-SGD by Opacus, on the device.

Opacus' `GradSampleModule` computes the gradient of every record by itself, its `DPOptimizer` clips, adds up, adds noise
and steps. Three things are ours. Batches are drawn by `privacy.sampling` from the operating system's generator, because
Opacus' loader derives its rate from the number of rows. Noise comes from `privacy.noise`. And the denominator is the
public one of the plan.

What one record is: one row with its label, its page context, and its presence. In the ordinary local training a row is
also an input to the twenty rows after it, as their history, so that taking it out would change all of their gradients.
Here **the history is cut**: every row is seen as the first one of its device, and one row changes nothing but its own
gradient. The guarantee then needs no exception, at a price: the parts of the ranker that read the history learn nothing
from this device and receive noise. What a device is (`Examples.device`: its class, its region) is no record; it is the
same in all rows and is not hidden by this guarantee, nor is the number of rounds that it joined.

This is what a phone runs. A simulation trains its devices together in `record_fleet`, which is held to this one.

All rows of the device may be drawn, however many; a cut at the newest few would let an older row in for each one taken
out. Noise falls on the whole embedding table, not on the rows it met: which those are is what is to be hidden. Only the
padding row is spared, the same one on every device.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.nn import functional

from sottovoce.client.examples import Examples
from sottovoce.client.fleet import FleetUpdate
from sottovoce.models.batch import Batch, interest
from sottovoce.models.ranker import RankerConfig, logits, losses, shapes
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.clip import clip_factors
from sottovoce.privacy.entropy import Entropy, Source
from sottovoce.privacy.errors import DataError
from sottovoce.privacy.noise import gaussian
from sottovoce.privacy.record import RecordPlan

MOST_VALUES = 2**24
"""Gradient values held at once, 64 MB: larger batches are taken in parts, which changes nothing but the memory."""

MOST_WEIGHTS = 2**24
"""Largest model, in values: one record's gradient is as large as the whole model, and ids must be exact in float32."""

Update = dict[str, npt.NDArray[np.float64]]


class RecordRanker(torch.nn.Module):
    """The ranker for rows without history, as Opacus wants it: one tensor in, one row of logits a record out.

    Args:
        parameters: by name, shapes as in `ranker.shapes`; the padding row of the table counts as zero.
        schema: of the ids.
        config: sizes.
    """

    def __init__(self, parameters: Mapping[str, Tensor], schema: FeatureSchema, config: RankerConfig) -> None:
        super().__init__()
        self.names = tuple(parameters)
        self._click_row = schema.outcome_row("click")
        self._contexts, self._history = len(schema.context), len(schema.history)
        self._config = config
        for name, value in parameters.items():
            self.register_parameter(_attribute(name), torch.nn.Parameter(value.detach().clone()))
        with torch.no_grad():
            self.values()["table"][0] = 0.0

    def values(self) -> dict[str, torch.nn.Parameter]:
        """The parameters under the ranker's own names."""
        return {name: getattr(self, _attribute(name)) for name in self.names}

    def forward(self, ids: Tensor) -> Tensor:
        """(records, context + ad features) ids of the table, to (records, heads) logits.

        Ids come as float32, exact up to 2**24: Opacus takes integers for a foreign precision and turns autocast on.
        """
        ids = ids.long()
        context, ad = ids[:, None, : self._contexts], ids[:, None, self._contexts :]
        nothing = ids.new_zeros(len(ids), 0)
        batch = Batch(
            context, ad, ids.new_zeros(len(ids), 0, self._history), nothing, nothing[:, None].to(torch.float32)
        )
        seen = interest(batch, self._click_row)
        return logits(self.values(), batch, seen, self._config, _look_up)[:, 0]


class _RecordOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer, with a record that is not finite counting as zero, and noise from the operating system."""

    std: float
    source: Source
    table: torch.nn.Parameter

    def clip_and_accumulate(self) -> None:
        squares = sum(sample.flatten(1).square().sum(1) for sample in self.grad_samples)
        # float32 squares overflow early; such a gradient tells nothing, and zero is within every bound.
        bad = ~torch.isfinite(squares)
        for parameter in self.params:
            parameter.grad_sample[bad] = 0.0
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        for parameter in self.params:
            noise = torch.from_numpy(gaussian(self.source, parameter.numel(), self.std)).view_as(parameter)
            parameter.grad = (parameter.summed_grad.double() + noise).to(parameter.dtype)
            if parameter is self.table:
                parameter.grad[0] = 0.0


class RecordTrainer:
    """Trains devices one by one from the same parameters.

    Args:
        parameters: by name, shapes as in `ranker.shapes`, float32.
        schema: of the ids in the rows.
        config: sizes of the ranker.
        plan: steps, sampling, clipping and noise.
        learning_rate: of plain gradient steps, on the table like on every other weight.

    Raises:
        DataError: the model is too large for gradients by record.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        schema: FeatureSchema,
        config: RankerConfig,
        plan: RecordPlan,
        learning_rate: float,
    ) -> None:
        self._size = require_small(parameters)
        self._plan = plan
        self._module = RecordRanker(parameters, schema, config)
        self._start = {name: value.detach().clone() for name, value in self._module.values().items()}
        # Functorch mode: the hooks of Opacus' other mode would give the padding row a gradient.
        self._sampled = GradSampleModule(self._module, loss_reduction="sum", force_functorch=True)
        weights = list(self._module.values().values())
        self._optimizer = _RecordOptimizer(
            torch.optim.SGD(weights, learning_rate),
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip_norm,
            expected_batch_size=plan.expected_batch,
            loss_reduction="mean",
        )
        self._optimizer.std = plan.noise_std
        self._optimizer.table = self._module.values()["table"]

    def update(self, ids: Tensor, labels: Tensor, batches: Source, noise: Source) -> Update:
        """New minus old after all steps; not clipped as a whole.

        Guarantees: each step clips every record to the plan's bound, adds noise to the sum, an empty batch's too, and
        divides by the plan's public number; a record whose gradient is not finite counts as zero; the padding row stays
        zero.

        Args:
            ids: (rows, context + ad features), every row of the device; from `rows_of`.
            labels: (rows, heads) float.
            batches: fair bits for who joins a step.
            noise: fair bits for the noise.
        """
        values = self._module.values()
        with torch.no_grad():
            for name, value in values.items():
                value.copy_(self._start[name])
        self._optimizer.source = noise
        for _ in range(self._plan.steps):
            drawn = torch.from_numpy(self._plan.sampler(len(ids)).draw(batches)) if len(ids) else torch.zeros(0).long()
            self._step(ids[drawn], labels[drawn])
        return {name: (value.detach() - self._start[name]).double().numpy() for name, value in values.items()}

    def _step(self, ids: Tensor, labels: Tensor) -> None:
        """One private step over the records drawn, in parts that fit the memory."""
        size = max(1, MOST_VALUES // self._size)
        parts = list(zip(torch.split(ids, size), torch.split(labels, size), strict=True)) if len(ids) else []
        self._optimizer.zero_grad(set_to_none=True)
        for number, (some, truth) in enumerate(parts, 1):
            self._optimizer.signal_skip_step(number < len(parts))
            scores = self._sampled(some)
            with warnings.catch_warnings():
                # Ids have no gradient: the hook fires on the outputs, as it should.
                warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
                torch.autograd.backward(losses(scores, truth).sum())
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        if not parts:
            for parameter in self._optimizer.params:
                parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)


def require_small(parameters: Mapping[str, Tensor]) -> int:
    """Size of the model in values; DataError when it is too large for record-level training."""
    size = sum(value.numel() for value in parameters.values())
    if size > MOST_WEIGHTS:
        raise DataError(
            f"record-level training of a model of {size:,} values: each record's gradient is as large",
            f"use fewer buckets, at most {MOST_WEIGHTS:,} values in all, or train without local.record",
        )
    return size


def rows_of(examples: Examples, device: int) -> tuple[Tensor, Tensor]:
    """(rows, context + ad features) ids and (rows, heads) labels of one device, float32, without any history."""
    rows = slice(int(examples.offsets[device]), int(examples.offsets[device + 1]))
    ad = examples.ads(rows)
    told = np.broadcast_to(examples.device[device], (len(ad), examples.device.shape[1]))
    ids = np.concatenate([told, examples.context[rows], ad], 1).astype(np.float32)
    return torch.from_numpy(ids), torch.from_numpy(examples.labels[rows].astype(np.float32))


def record_level_update(
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
    """Train `devices` one by one with record-level privacy, clip each update as a whole and add them up.

    What `fleet_update` guarantees of the sum holds here too. The two guarantees are separate: this clipping, and the
    coordinator's noise on the sum, are the device-level one. A device without rows sends noise like any other, because
    its silence would tell that it has none.

    Args:
        parameters: by name, float32.
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
    """
    total = {name: np.zeros(shape) for name, shape in shapes(schema, config).items()}
    clipped = 0
    trainer = RecordTrainer(parameters, schema, config, plan, learning_rate)
    for device in devices:
        who = f"{place}/{int(device)}"
        update = trainer.update(
            *rows_of(examples, int(device)),
            entropy.generator(f"record batches {who}", round),
            entropy.generator(f"record noise {who}", round),
        )
        norm = np.sqrt(sum(float(np.square(value).sum()) for value in update.values()))
        factor = float(clip_factors([norm], clip_norm)[0])
        clipped += factor < 1
        if factor:
            for name, value in update.items():
                total[name] += factor * value
    return FleetUpdate(total, len(devices), clipped)


def _look_up(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of the table; the padding row has no gradient."""
    return functional.embedding(ids, table, padding_idx=0)


def _attribute(name: str) -> str:
    """A parameter's name as torch allows it, which is without dots."""
    return name.replace(".", "/")
