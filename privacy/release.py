"""The only way a sum leaves the server: with the noise of its plan, and paid for."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.entropy import Source
from sottovoce.privacy.ledger import Reservation
from sottovoce.privacy.noise import Vector, discrete_std, release_sum, release_sum_discrete

Family = Literal["gaussian", "discrete_gaussian"]
"""`gaussian`: floating point, rounded with the sum to a public grid; `discrete_gaussian`: exact, on whole numbers."""


@dataclass(frozen=True, slots=True)
class SumNoise:
    """Turns the sum of clipped contributions into a release that was paid for.

    Attributes:
        multiplier: z; 0 releases the exact sum, which is not private.
        sensitivity: largest L2 norm by which one device can move the sum. The clipper's slack in it is a billion times
            what adding up in float64 can err by.
        family: which noise.
        plan_hash: of the plan whose reservations pay for it.
    """

    multiplier: float
    sensitivity: float
    family: Family
    plan_hash: str

    def std(self, size: int) -> float:
        """Standard deviation of the noise on a sum of `size` numbers, in weight units.

        Whole numbers cost a little more than the promised multiple of the sensitivity, for rounding the sum to them.
        """
        if self.family == "discrete_gaussian":
            return discrete_std(self.sensitivity, self.multiplier, size)
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
        add = release_sum_discrete if self.family == "discrete_gaussian" else release_sum
        return add(total, self.std(np.size(total)), source)
