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
from sottovoce.models.batch import Batch, Interest, interest
from sottovoce.models.ranker import RankerConfig, logits, losses
from sottovoce.models.schema import FeatureSchema


class LoneDevice(NamedTuple):
    """The rows of one device, as tensors.

    Attributes:
        schema: of the ids.
        batch: every row, with table ids.
        seen: from `batch.interest` on it.
        labels: (rows, heads) float32.
        trained: (rows,) bool, the rows that the loss is taken over.
        share: (table rows, 1) what a table row's gradient is divided by, see `LocalTraining.learning_rate`.
    """

    schema: FeatureSchema
    batch: Batch
    seen: Interest
    labels: Tensor
    trained: Tensor
    share: Tensor


def open_device(examples: Examples, device: int, schema: FeatureSchema, training: LocalTraining) -> LoneDevice:
    """The rows of a device that has some."""
    rows = np.arange(int(examples.offsets[device]), int(examples.offsets[device + 1]))
    ad = examples.ads(rows)
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
        schema,
        batch,
        interest(batch, schema.outcome_row("click")),
        torch.from_numpy(labels.astype(np.float32)),
        torch.from_numpy(trained),
        share[:, None],
    )


def loss_of(parameters: Mapping[str, Tensor], device: LoneDevice, config: RankerConfig) -> Tensor:
    """Mean loss over the trained rows, of the linear model their sum; the device's personal layer in place."""
    scores = logits(parameters, device.batch, device.seen, config)[device.trained]
    labels = device.labels[device.trained]
    if config.personal_variance:
        own = own_offset(scores[:, 0].detach().double(), labels[:, 0].double(), config.personal_variance)
        scores = torch.cat([scores[:, :1] + own, scores[:, 1:]], 1)
    loss = losses(scores, labels)
    return loss.mean() if config.embedding_width else loss.sum()


def own_offset(scores: Tensor, clicks: Tensor, variance: float) -> float:
    """The personal layer of one device by halving an interval, which cannot go wrong.

    Args:
        scores: (rows,) click logits, float64.
        clicks: (rows,) 0 or 1.
        variance: of the layer.
    """
    # At the offset, what is left of the clicks equals the offset over the variance: it cannot lie further out.
    low, high = -variance * len(clicks), variance * len(clicks)
    for _ in range(80):
        middle = (low + high) / 2
        if float((clicks - torch.sigmoid(scores + middle)).sum()) > middle / variance:
            low = middle
        else:
            high = middle
    return low


def descend(
    parameters: Mapping[str, Tensor], device: LoneDevice, config: RankerConfig, training: LocalTraining
) -> dict[str, Tensor]:
    """The parameters after the device's local steps, by name; those given are not changed."""
    scales = config.scales(device.schema)
    local = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    for _ in range(training.steps):
        gradients = torch.autograd.grad(loss_of(local, device, config), list(local.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(local.items(), gradients, strict=True):
                # A step in units of s moves the weight itself by s times s times its gradient.
                pace = scales[name].square() if scales else 1.0 / device.share if name == "table" else 1.0
                value -= training.learning_rate * pace * gradient
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
    """The device's update before clipping: new minus old by name, in the units of `Model.scales`.

    Zeros for a device without rows.
    """
    if examples.offsets[device + 1] == examples.offsets[device]:
        return {name: np.zeros(value.shape) for name, value in parameters.items()}
    trained = descend(parameters, open_device(examples, device, schema, training), config, training)
    moved = {name: (value - parameters[name]).double() for name, value in trained.items()}
    scales = config.scales(schema)
    return {name: (value / scales[name] if scales else value).numpy() for name, value in moved.items()}


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
