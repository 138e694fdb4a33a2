"""Buffers that are used again: fresh memory costs more than the arithmetic of a local step."""

import math

import torch
from torch import Tensor


class Workspace:
    """Buffers by name, which keep their memory from one batch to the next.

    Args:
        device: where they lie.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The buffer of that name as a contiguous tensor; its content is whatever was left there."""
        size = math.prod(shape)
        kept = self._kept.get(name)
        if kept is None or len(kept) < size:
            kept = self._kept[name] = torch.empty(size, device=self._device, dtype=dtype)
        return kept[:size].view(shape)
