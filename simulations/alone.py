"""Train one device by itself, in the plainest way there is: the yardstick for the fleet, in tests and in benchmarks.

The whole embedding table, ordinary autograd, one device after the other. Nothing here is fast.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sottovoce.client.examples import Examples
from sottovoce.client.fleet import LocalTraining
from sottovoce.models.ranker import Batch, Interest, RankerConfig, interest, logits, losses
from sottovoce.models.schema import FeatureSchema


class LoneDevice(NamedTuple):
    """The rows of one device, as tensors.

    Attributes:
        batch: every row, with table ids.
        seen: from `ranker.interest` on it.
        labels: (rows, heads) float32.
        trained: (rows,) bool, the rows that the loss is taken over.
        share: (table rows, 1) what a table row's gradient is divided by, see `LocalTraining.learning_rate`.
    """

    batch: Batch
    seen: Interest
    labels: Tensor
    trained: Tensor
    share: Tensor


def open_device(examples: Examples, device: int, schema: FeatureSchema, training: LocalTraining) -> LoneDevice:
    """The rows of a device that has some."""
    rows = np.arange(int(examples.offsets[device]), int(examples.offsets[device + 1]))
    ad = examples.catalogue[examples.ad[rows]]
    labels = examples.labels[rows]
    context = np.concatenate(
        [np.broadcast_to(examples.device[device], (len(rows), examples.device.shape[1])), examples.context[rows]], 1
    )
    outcome = schema.outcome_row("seen") + labels.sum(1, dtype=np.int64)
    visible = np.zeros((len(rows), len(rows)), np.float32)
    for row in range(len(rows)):
        visible[row, max(0, row - schema.history_length) : row] = 1.0
    trained = np.arange(len(rows)) >= len(rows) - training.max_rows
    batch = Batch(
        torch.from_numpy(context.astype(np.int64)),
        torch.from_numpy(ad.astype(np.int64)),
        torch.from_numpy(ad[:, : len(schema.history)].astype(np.int64)),
        torch.from_numpy(outcome),
        torch.from_numpy(visible),
    )
    share = _shares(
        schema, context[trained], ad[trained], np.concatenate([ad[:, : len(schema.history)].ravel(), ad.ravel()])
    )
    return LoneDevice(
        batch,
        interest(batch, schema.outcome_row("click")),
        torch.from_numpy(labels.astype(np.float32)),
        torch.from_numpy(trained),
        share[:, None],
    )


def loss_of(parameters: Mapping[str, Tensor], device: LoneDevice, config: RankerConfig) -> Tensor:
    """Mean loss over the trained rows."""
    return losses(logits(parameters, device.batch, device.seen, config), device.labels)[device.trained].mean()


def descend(
    parameters: Mapping[str, Tensor], device: LoneDevice, config: RankerConfig, training: LocalTraining
) -> dict[str, Tensor]:
    """The parameters after the device's local steps, by name; those given are not changed."""
    local = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    for _ in range(training.steps):
        gradients = torch.autograd.grad(loss_of(local, device, config), list(local.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(local.items(), gradients, strict=True):
                value -= training.learning_rate * (gradient / device.share if name == "table" else gradient)
            local["table"][0] = 0.0
    return {name: value.detach() for name, value in local.items()}


def train_alone(
    parameters: Mapping[str, Tensor],
    examples: Examples,
    device: int,
    schema: FeatureSchema,
    config: RankerConfig,
    training: LocalTraining,
) -> dict[str, npt.NDArray[np.float64]]:
    """The device's update before clipping: new minus old by name, zeros for a device without rows."""
    if examples.offsets[device + 1] == examples.offsets[device]:
        return {name: np.zeros(value.shape) for name, value in parameters.items()}
    trained = descend(parameters, open_device(examples, device, schema, training), config, training)
    return {name: (value - parameters[name]).double().numpy() for name, value in trained.items()}


def _shares(
    schema: FeatureSchema, context: npt.NDArray[np.int32], ad: npt.NDArray[np.int32], met: npt.NDArray[np.int32]
) -> Tensor:
    """Share of the trained impressions that show each table row; rows met only in the history count as shown by one."""
    share = np.zeros(schema.rows)
    for column in (*context.T, *ad.T):
        share += np.bincount(column, minlength=schema.rows) / len(ad)
    share[schema.outcome_row("seen") :] = 1.0
    share[met] = np.maximum(share[met], 1.0 / len(ad))
    share[share == 0] = 1.0
    return torch.from_numpy(np.minimum(share, 1.0).astype(np.float32))
