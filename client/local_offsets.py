"""The personal layer of all devices of a batch at once; see `client.personal`."""

import torch
from torch import Tensor

from sottovoce.client.personal import LARGEST_STEP, NEWTON_STEPS


def fitted_offsets(scores: Tensor, clicks: Tensor, trained: Tensor, variance: float) -> Tensor:
    """The offset of each device, shape (D, 1); 0 without a personal layer.

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
