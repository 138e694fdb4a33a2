"""From real numbers to whole ones without bias, and how far that can move a vector.

Each number goes to one of its two neighbours, to the upper one with the chance of its fraction. Two bounds on what one
device then changes are of use:

* A phone sends its own vector x or nothing. Its rounded norm is random, up to |x| + sqrt(d) at worst and hardly ever
  above `inflated_norm`: whoever rounds draws again until it is not (`round_conditionally`), and the bound holds
  always.
* A node that hosts several devices rounds their sum. With one and the same uniform numbers in both worlds, with and
  without one device, the two rounded sums differ by a vector whose numbers are off by less than 1 each, that is by less
  than |u| + sqrt(d) (`shifted_norm`), always. The node cannot check the smaller bound, for it would have to know which
  device is the one in question.

Source: Kairouz, Liu, Steinke 2021, arXiv:2102.06387, section 4.1 (conditional randomized rounding).
"""

import math

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.entropy import Source

BIAS = math.exp(-0.5)
"""Chance, at most, of a vector to be drawn again; the paper's own choice, beta = exp(-1/2)."""

MOST_TRIES = 1_000
"""Fails less often than once in 10**200 for a vector within the bound."""


def inflated_norm(norm: float, size: int, beta: float = BIAS) -> float:
    """Largest L2 norm of a vector after `round_conditionally`, in cells.

    The square root of norm**2 + d/4 + sqrt(2 ln(1/beta)) (norm + sqrt(d)/2), but never above norm + sqrt(d).

    Args:
        norm: largest L2 norm before rounding, in cells.
        size: d.
        beta: largest chance with which a drawing misses the bound.
    """
    tail = math.sqrt(2 * math.log(1 / beta))
    drawn = math.sqrt(norm**2 + size / 4 + tail * (norm + math.sqrt(size) / 2))
    return min(drawn, shifted_norm(norm, size))


def shifted_norm(norm: float, size: int) -> float:
    """Largest L2 distance, in cells, of two rounded vectors that were `norm` cells apart: norm + sqrt(d)."""
    return norm + math.sqrt(size)


def widest_norm(rounded: float, size: int, *, conditional: bool, beta: float = BIAS) -> float:
    """Largest norm before rounding, in cells, that keeps within `rounded` cells after it; 0 or less when none does.

    The inverse of `inflated_norm` (conditional) or of `shifted_norm`, made a little smaller than either, so that the
    error of its own arithmetic never turns the inequality around.
    """
    plain = rounded - math.sqrt(size)
    if conditional:
        tail = math.sqrt(2 * math.log(1 / beta))
        left = rounded**2 - size / 4 - tail * math.sqrt(size) / 2
        plain = max(plain, (math.sqrt(tail**2 + 4 * left) - tail) / 2 if left > 0 else 0.0)
    return plain * (1 - 2.0**-40)


def round_randomly(cells: npt.NDArray[np.float64], source: Source) -> npt.NDArray[np.int64]:
    """Each number to one of its two neighbours, so that the mean is the number itself (to 2**-53).

    Args:
        cells: finite, below 2**52 in absolute value.
        source: fair bits, 8 bytes for each number.
    """
    return np.floor(cells + source.uniform53(cells.size).reshape(cells.shape)).astype(np.int64)


def round_conditionally(cells: npt.NDArray[np.float64], bound: float, source: Source) -> npt.NDArray[np.int64]:
    """`round_randomly`, drawn again until the L2 norm is at most `bound`.

    Given the condition the mean is no longer exactly the vector; the paper bounds the difference, and with beta
    = exp(-1/2) and large cells nearly every drawing passes.

    Args:
        cells: finite, with `inflated_norm` of its L2 norm at most `bound`.
        bound: in cells.
        source: fair bits.

    Raises:
        ValueError: no drawing passed: the vector was longer than promised.
    """
    for _ in range(MOST_TRIES):
        drawn = round_randomly(cells, source)
        if float(np.square(drawn, dtype=np.float64).sum()) <= bound**2:
            return drawn
    raise ValueError(f"a vector of norm {float(np.linalg.norm(cells)):.6g} cells does not round to within {bound:.6g}")
