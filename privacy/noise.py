"""Gaussian noise that hides one device, and the only way a sum leaves the server."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.entropy import Source
from sottovoce.privacy.ledger import Reservation

Vector = npt.NDArray[np.float64]

Family = Literal["gaussian", "discrete_gaussian"]
"""`gaussian`: floating point, rounded with the sum to a public grid; `discrete_gaussian`: exact, on integers."""

GRID_BITS = 10
"""The release grid is at most std / 2**GRID_BITS wide."""


def gaussian(source: Source, size: int, std: float) -> Vector:
    """Independent Gaussian noise, shape (size,), standard deviation `std`.

    Each number is the sum of four Box-Muller draws divided by two, each from a pair of uniforms of its own: with one
    draw the set of floating-point values that can occur is thin enough for an attacker to tell which one was added.
    The radius takes all 64 bits, so that each draw differs from a Gaussian by less than 2**-63 in total variation
    (53 bits would lose a tail of 2**-53), and the logarithm never sees zero.

    Args:
        source: fair bits; 64 bytes are taken for each number.
        size: how many numbers.
        std: in weight units, 0 or more.

    Raises:
        ValueError: `std` is negative or not finite.

    Source: Holohan and Braghin 2021, arXiv:2107.10138, section 4.
    """
    if not 0 <= std < math.inf:
        raise ValueError(f"std must be 0 or more and finite, got {std}")
    total = np.zeros(size)
    for _ in range(4):
        radius = np.sqrt(-2.0 * np.log((source.bits(size).astype(np.float64) + 1.0) * 2.0**-64))
        total += radius * np.cos(2.0 * math.pi * source.uniform53(size))
    return total * (std / 2.0)


def grid(std: float) -> float:
    """Width of the public grid that a release with noise `std` > 0 is rounded to: a power of two <= std / 2**10."""
    return 2.0 ** math.floor(math.log2(std) - GRID_BITS)


def release_sum(total: npt.ArrayLike, std: float, source: Source) -> Vector:
    """The noisy sum: what may be seen of a cohort.

    Guarantees: the result is finite and has the shape of `total`; with noise, every entry is a multiple of
    `grid(std)`. Rounding sum and noise together to a public grid is post-processing, costs no privacy, and removes the
    low-order bits in which floating-point noise leaks (Mironov 2012); the variance grows by less than 1e-7.

    ========================  ===============================================
    input                     result
    ========================  ===============================================
    NaN or infinity in total  counts as zero, noise is still added
    std = 0                   `total` unrounded: a non-private release
    empty cohort (zeros)      noise only, exactly as for any other sum
    ========================  ===============================================

    Args:
        total: shape (n,), sum of clipped updates, in weight units, accumulated in float64.
        std: standard deviation of the noise on the sum, in weight units.
        source: fair bits, never used for anything else.

    Raises:
        ValueError: `std` is negative or not finite, or so small that its grid is not a floating-point number.
    """
    wide = np.array(total, np.float64)
    wide[~np.isfinite(wide)] = 0.0
    if std == 0:
        return wide
    noisy = wide + gaussian(source, wide.size, std).reshape(wide.shape)
    width = grid(std)
    if width < np.finfo(np.float64).tiny:
        raise ValueError(f"std {std} is too small to round to a grid")
    # Far above the grid every float64 is a multiple of it already, and dividing could overflow.
    near = np.abs(noisy) < width * 2.0**52
    noisy[near] = np.rint(noisy[near] / width) * width
    return noisy


@dataclass(frozen=True, slots=True)
class SumNoise:
    """Turns the sum of clipped contributions into a release that was paid for.

    Attributes:
        multiplier: z; 0 releases the exact sum, which is not private.
        sensitivity: largest L2 norm by which one device can move the sum.
        family: which noise.
        plan_hash: of the plan whose reservations pay for it.
    """

    multiplier: float
    sensitivity: float
    family: Family
    plan_hash: str

    @property
    def std(self) -> float:
        """Standard deviation of the noise on the sum, in weight units."""
        return self.multiplier * self.sensitivity

    def release(self, total: npt.ArrayLike, paid: Reservation, source: Source) -> Vector:
        """The noisy sum.

        Args:
            total: shape (n,), sum of clipped contributions, accumulated in float64; see `release_sum` for NaN.
            paid: proof that the ledger was debited for this very plan. Each pays for one release.
            source: fair bits, never used for anything else.

        Raises:
            ValueError: the reservation is for another plan.
        """
        if paid.plan_hash != self.plan_hash:
            raise ValueError("the reservation pays for another plan")
        return release_sum(total, self.std, source)
