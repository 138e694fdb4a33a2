"""Gaussian noise that hides one device, and the two ways a sum leaves the server.

`release_sum` adds floating-point noise and rounds the result to a public grid. `release_sum_discrete` rounds the sum to
a grid first and adds whole numbers drawn exactly, so that no floating-point number has a part in the noise.
"""

import math

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.discrete_gaussian import SCALE, discrete_gaussian
from sottovoce.privacy.entropy import Source

Vector = npt.NDArray[np.float64]

GRID_BITS = 10
"""The release grid is at most std / 2**GRID_BITS wide."""

MOST_CELLS = 2**52
"""A sum is held to this many cells of the discrete grid on either side: about four million standard deviations."""


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


def discrete_std(clip_norm: float, noise_multiplier: float, size: int) -> float:
    """Standard deviation that `release_sum_discrete` needs on a sum, in weight units, for a promised noise multiplier.

    Rounding to a grid of width w = std / SCALE moves each of d coordinates by less than w (half of it by the rounding,
    the rest being more than the division's own error). The sums of two neighbouring data sets, C apart, end up at most
    C + 2 w sqrt(d) apart. The result is the solution of std = z (C + 2 w sqrt(d)), rounded up.

    Args:
        clip_norm: C > 0, largest L2 norm of one device's update, in weight units.
        noise_multiplier: z, 0 or more; 0 gives 0, the loudly non-private release.
        size: d, how many numbers the sum has.

    Raises:
        ValueError: an argument is out of range, or 4 z sqrt(d) >= SCALE: the grid is too coarse for that much noise.
    """
    if not 0 < clip_norm < math.inf or not 0 <= noise_multiplier < math.inf or size < 0:
        raise ValueError(
            f"needs clip_norm > 0, noise_multiplier >= 0, size >= 0, got {clip_norm}, {noise_multiplier}, {size}"
        )
    share = 2 * noise_multiplier * math.sqrt(size) / SCALE
    if share >= 0.5:
        raise ValueError(
            f"noise multiplier {noise_multiplier} on {size} numbers leaves no room for rounding to the grid"
        )
    return noise_multiplier * clip_norm / (1 - share) * (1 + 2.0**-48)


def release_sum_discrete(total: npt.ArrayLike, std: float, source: Source) -> Vector:
    """The noisy sum, with exact discrete Gaussian noise on a public grid of width std / SCALE.

    Guarantees: the result is finite and has the shape of `total`; every entry is a whole number of cells, below 2**53,
    times the width. With `std` from `discrete_std` the release is as private as Gaussian noise of that noise
    multiplier: the module `discrete_gaussian` says up to what.

    Assumes that the sums of neighbouring data sets differ by at most C in L2. Floating-point sums do so only up to
    their own rounding error, unless every update was rounded to a grid before it was added.

    =========================  =====================================================================
    input                      result
    =========================  =====================================================================
    NaN or infinity in total   counts as zero, noise is still added
    beyond `MOST_CELLS` cells  held to that bound: no two sums end up further apart than they were
    std = 0                    `total` unrounded: a non-private release
    empty cohort (zeros)       noise only, exactly as for any other sum
    =========================  =====================================================================

    Args:
        total: shape (n,), sum of clipped updates, in weight units, accumulated in float64.
        std: standard deviation of the noise on the sum, in weight units.
        source: fair bits, never used for anything else.

    Raises:
        ValueError: `std` is negative or not finite, or its grid does not fit floating-point numbers.

    Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010; Kairouz, Liu, Steinke 2021, arXiv:2102.06387 (grid).
    """
    if not 0 <= std < math.inf:
        raise ValueError(f"std must be 0 or more and finite, got {std}")
    wide = np.array(total, np.float64)
    wide[~np.isfinite(wide)] = 0.0
    if std == 0:
        return wide
    width = std / SCALE
    if not np.finfo(np.float64).tiny <= width < 2.0**960:
        raise ValueError(f"std {std} is too small or too large for a grid of floating-point numbers")
    bound = width * MOST_CELLS
    cells = np.rint(np.clip(wide, -bound, bound) / width).astype(np.int64)
    cells += discrete_gaussian(source, wide.size).reshape(wide.shape)
    return cells.astype(np.float64) * width
