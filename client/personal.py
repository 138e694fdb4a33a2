"""The personal layer: one number that a device learns about its owner, keeps, and never sends.

How often somebody clicks at all differs more from person to person than most things an ad can do about it. A shared
model can only guess it from the history; the device knows it from its own impressions. So the device adds an offset to
the click logit of every candidate, fitted on its own past: a random intercept, as in a generalised linear mixed model.
It is worked out wherever it is needed, from the shared weights and the rows on the device. It is part of no message,
so it costs no privacy.

In training the offset is fitted first and the shared weights are moved with it in place: the sums that are clipped and
noised then no longer hold what is only one person's habit. Record-level training leaves the offset out: fitted on all
rows of a device, it would let one row move the gradients of the others.

Here is the arithmetic for a phone, without torch; the fleet does the same to all its devices at once
(`client.local_offsets`).

Source: Zhang et al. 2016, "GLMix", KDD, section 3; Singhal et al. 2021, arXiv:2102.03448, for parameters that are
rebuilt on the device and never leave it.
"""

import numpy as np
import numpy.typing as npt

NEWEST = 64
"""Impressions of a device that its offset is fitted on, the newest ones."""

NEWTON_STEPS = 12
"""Four or five are enough for a variance near 1; twelve, where it is 100 and the model is sure and wrong."""

LARGEST_STEP = 4.0
"""Of one Newton step; where every probability is close to 0 or 1 the curvature promises too much."""

Floats = npt.NDArray[np.float64]


def offsets(
    chances: Floats, clicks: npt.NDArray[np.integer], owner: npt.NDArray[np.int64], devices: int, variance: float
) -> Floats:
    """The offset of each device, shape (devices,): the most probable one, before which none is favoured but 0.

    ================================  =======================
    device                            offset
    ================================  =======================
    owns no rows                      0
    clicks as often as predicted      0
    never, or always, clicks          finite: the prior holds
    a probability of its is NaN       NaN
    ================================  =======================

    Args:
        chances: (rows,) probabilities of a click by the shared model, each row seen with the rows before it only.
        clicks: (rows,) 0 or 1.
        owner: (rows,) device of each row, 0 ... devices - 1.
        devices: how many there are.
        variance: of the offsets among people, before a device's own rows are seen; above 0.

    Raises:
        ValueError: `variance` is not above 0.
    """
    if not variance > 0:
        raise ValueError(f"the variance of the personal layer must be above 0, got {variance}")
    known = logit(chances)
    found = np.zeros(devices)
    for _ in range(NEWTON_STEPS):
        likely = sigmoid(known + found[owner])
        slope = np.bincount(owner, clicks - likely, devices) - found / variance
        curvature = np.bincount(owner, likely * (1.0 - likely), devices) + 1.0 / variance
        found += np.clip(slope / curvature, -LARGEST_STEP, LARGEST_STEP)
    return found


def shifted(chances: Floats, offset: float | Floats) -> Floats:
    """Probabilities whose logit is moved by the offset; 0 moves nothing, not even in the last digit."""
    moved: Floats = np.where(offset == 0.0, chances, sigmoid(logit(chances) + offset))
    return moved


def logit(chances: Floats) -> Floats:
    """Log odds; a probability of 0 or 1 counts as the nearest one that float32 tells apart from it."""
    inside = np.clip(chances, 2.0**-24, 1.0 - 2.0**-24)
    odds: Floats = np.log(inside) - np.log1p(-inside)
    return odds


def sigmoid(x: Floats) -> Floats:
    """Probability of these log odds, without overflow."""
    small = np.exp(-np.abs(x))
    chance: Floats = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return chance
