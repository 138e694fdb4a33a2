"""Bounding what one device can contribute: the factor that brings its update down to the bound."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SLACK = 1e-5
"""Relative excess over the bound that a sum may show for float32 rounding on its way; counted into the sensitivity."""


@dataclass(frozen=True, slots=True)
class Clipper:
    """Bounds what one device contributes, and says by how much a sum can then move.

    Attributes:
        bound: C, largest L2 norm let through, in weight units.
    """

    bound: float

    @property
    def sensitivity(self) -> float:
        """Largest L2 change of a sum when one device's contribution is replaced by zero: C, and rounding."""
        return self.bound * (1.0 + SLACK)

    def factors(self, norms: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Factor for each device's update, see `clip_factors`."""
        return clip_factors(norms, self.bound)


def clip_factors(norms: npt.ArrayLike, bound: float) -> npt.NDArray[np.float64]:
    """Factor by which to multiply each device's update so that its L2 norm is at most `bound`.

    Guarantees, for every finite norm: factor * norm <= bound * (1 + 2**-51), and the factor is in [0, 1].

    ======================  ==============================================
    norm                    factor
    ======================  ==============================================
    at most bound, or zero  1
    above bound             bound / norm; 0 when that is below 2.2e-308
    NaN or infinite         0: the caller counts the contribution as zero
    ======================  ==============================================

    NaN times zero is NaN: a caller must replace such an update by zeros, not only multiply it.

    Args:
        norms: shape (devices,), L2 norm of each device's whole update, in weight units, computed in float64.
        bound: largest norm let through, in weight units.

    Returns:
        Shape (devices,) float64.

    Raises:
        ValueError: `bound` is not positive and finite, or a norm is negative.

    Source: McMahan et al. 2018, arXiv:1710.06963, section 3.
    """
    if not 0 < bound < np.inf:
        raise ValueError(f"bound must be positive and finite, got {bound}")
    wide = np.asarray(norms, np.float64)
    if (wide < 0).any():
        raise ValueError("a norm cannot be negative")
    finite = np.isfinite(wide)
    factors = np.where(finite, 1.0, 0.0)
    above = finite & (wide > bound)
    factors[above] = bound / wide[above]
    # Subnormal numbers have lost digits: multiplying back would overshoot the bound.
    factors[factors < np.finfo(np.float64).tiny] = 0.0
    return factors
