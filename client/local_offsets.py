"""The personal layer of all devices of a batch at once, and the slope of their losses with it in place."""

import torch
from torch import Tensor

from sottovoce.client.personal import LARGEST_STEP, NEWTON_STEPS
from sottovoce.models.ranker import losses


def loss_slope(scores: Tensor, labels: Tensor, weight: Tensor, variance: float) -> Tensor:
    """Derivative of each device's loss with respect to its scores, (D, heads, N).

    By autograd, so that the loss stands in one place. The offset is a constant in it: at the offset that fits best, the
    loss does not change with it to first order.

    Args:
        scores: (D, heads, N) logits of the shared model; the offsets are added to them.
        labels: (D, N, heads) float, 0 or 1.
        weight: (D, N) of each row in its device's loss, 0 for rows that are not trained on.
        variance: of the offsets among people; 0 for no personal layer.
    """
    scores[:, 0] += fitted_offsets(scores[:, 0], labels[..., 0], weight > 0, variance)
    leaf = scores.detach().requires_grad_()
    with torch.enable_grad():
        loss = (losses(leaf.mT, labels) * weight).sum()
    return torch.autograd.grad(loss, leaf)[0]


def fitted_offsets(scores: Tensor, clicks: Tensor, trained: Tensor, variance: float) -> Tensor:
    """The offset of each device, shape (D, 1); 0 without a personal layer. See `client.personal`.

    Args:
        scores: (D, N) click logits of the shared model.
        clicks: (D, N) float, 0 or 1.
        trained: (D, N) bool, rows that count.
        variance: of the offsets among people; 0 for no personal layer.
    """
    found = scores.new_zeros(len(scores), 1)
    if not variance:
        return found
    for _ in range(NEWTON_STEPS):
        likely = torch.sigmoid(scores + found)
        left = torch.where(trained, clicks - likely, 0.0).sum(1, keepdim=True)
        curvature = torch.where(trained, likely * (1.0 - likely), 0.0).sum(1, keepdim=True)
        step = (left - found / variance) / (curvature + 1.0 / variance)
        found = found + step.clamp(-LARGEST_STEP, LARGEST_STEP)
    return found
