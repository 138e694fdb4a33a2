"""Noise that the nodes add themselves: how wide the grid is, how much each adds, and what their sum is worth.

Every node rounds its vector to a public grid of width w, adds discrete Gaussian noise of standard deviation sigma =
2**scale_bits cells, and sends the result modulo 2**bits. The sum of t nodes carries noise of variance t sigma**2. t
is the least number of nodes whose sum is ever unmasked: that many must be enough. Each further node adds noise on
top.

What the sum is worth. A sum of n discrete Gaussians is no discrete Gaussian. Theorem 5 of the paper: it is concentrated
DP with

    epsilon = min(sqrt(D**2 / (n sigma**2) + tau d / 2), D / (sqrt(n) sigma) + tau sqrt(d)),
    tau = 10 * (sum over k = 1 ... n - 1 of exp(-2 pi**2 sigma**2 k / (k + 1))),

for a sensitivity of D cells and d numbers, because the probability of each whole number is within a factor exp(tau)
of that of the discrete Gaussian with variance n sigma**2. `Encoding` solves this for w, with 1 / epsilon not below
the promised noise multiplier. At sigma >= 8 cells tau is below 10**-270 n: it is computed all the same.

From there to the accountants' Gaussian. Let s be the standard deviation of the sum in cells, at least 2**16. For
rounds without sampling, discrete and continuous Gaussian have one and the same Renyi bound (Canonne et al. 2020,
theorem 4). For sampled rounds the privacy losses of the discrete Gaussian and of a rounded continuous one, which is
as private as the Gaussian, differ by the sum of (x**2 - 1) / (24 s**2) over all released numbers, x standard normal
(`discrete_gaussian` has the derivation): a sum that does not depend on data. For m numbers it stays below 12 sqrt(2
m) / (24 s**2) but for a chance of about 10**-30. For ten million numbers that is 5.2e-7, by twice which epsilon
grows: the accountant's grid is 1e-4.

Source: Kairouz, Liu, Steinke 2021, arXiv:2102.06387, theorem 5, section 4.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.discrete_gaussian import discrete_gaussian
from sottovoce.privacy.entropy import Source
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.integer_rounding import (
    inflated_norm,
    round_conditionally,
    round_randomly,
    shifted_norm,
    widest_norm,
)
from sottovoce.privacy.masks import MOST_BITS

GRID_BITS = 16
"""The least noise of a sum spans at least 2**GRID_BITS cells."""

LEAST_SCALE_BITS = 3
"""A node's own noise spans at least 8 cells, where tau is nothing."""

WRAP = 2.0**-40
"""Chance, at most, that noise carries any number of one sum around the modulus."""


def tau(parts: int, scale: float) -> float:
    """By what factor, exp(tau), a sum of discrete Gaussians may differ from the discrete Gaussian of its variance.

    Args:
        parts: n, how many are added up.
        scale: sigma of each, in cells.
    """
    return 10 * sum(math.exp(-2 * (math.pi * scale) ** 2 * k / (k + 1)) for k in range(1, parts))


def worth(sensitivity: float, scale: float, parts: int, size: int) -> float:
    """The noise multiplier of a Gaussian release that costs no less than a sum of discrete Gaussians does.

    Args:
        sensitivity: D, largest L2 change by one device, in cells.
        scale: sigma of each node's noise, in cells.
        parts: nodes that added noise, 1 or more.
        size: d, how many numbers the sum has.
    """
    plain, far = sensitivity / (math.sqrt(parts) * scale), tau(parts, scale)
    return 1 / min(math.sqrt(plain**2 + far * size / 2), plain + far * math.sqrt(size))


@dataclass(frozen=True, slots=True)
class Encoding:
    """How vectors become whole numbers with noise, the same for all nodes of a round; all of it is public.

    Attributes:
        size: d, numbers in a vector.
        sensitivity: C, largest L2 norm of one device's update, in weight units.
        noise_multiplier: z that the sum of `survivors` nodes keeps; 0 adds no noise.
        nodes: how many take part.
        survivors: least number of nodes whose sum may be unmasked, whose noise has to suffice.
        devices: most devices that are in a sum, on which the modulus depends.
        phones: whether every node hosts one device, which lets it round conditionally.

    Raises:
        ConfigError: the grid has no room for so much noise, or the modulus would be too wide.
    """

    size: int
    sensitivity: float
    noise_multiplier: float
    nodes: int
    survivors: int
    devices: int
    phones: bool

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        if not (0 < self.sensitivity < math.inf and 0 <= self.noise_multiplier < math.inf):
            raise ConfigError("secure aggregation without a bound or a noise multiplier", "correct the experiment")
        if not (self.size >= 1 and 1 <= self.survivors <= self.nodes and self.devices >= 1):
            raise ConfigError(f"nobody can encode {self}", "correct the experiment")
        if self.norm <= 0:
            raise ConfigError(
                f"noise multiplier {self.noise_multiplier:.3g} on {self.size:,} numbers leaves no room on the grid",
                "ask for less noise, or use a smaller model",
            )
        if self.bits > MOST_BITS:
            raise ConfigError(f"a sum over {self.devices:,} devices needs {self.bits} bits", "use smaller cohorts")

    @property
    def scale_bits(self) -> int:
        """A node's noise has a standard deviation of 2**scale_bits cells."""
        return max(LEAST_SCALE_BITS, math.ceil(GRID_BITS - math.log2(self.survivors) / 2))

    @property
    def std(self) -> float:
        """Standard deviation of the least noise of a sum, in cells."""
        return math.sqrt(self.survivors) * 2.0**self.scale_bits

    @property
    def norm(self) -> float:
        """C in cells."""
        if not self.noise_multiplier:
            return 2.0**GRID_BITS
        far = tau(self.survivors, 2.0**self.scale_bits)
        most = self.std * (1 / self.noise_multiplier - far * math.sqrt(self.size))
        return widest_norm(most, self.size, conditional=self.phones)

    @property
    def moved(self) -> float:
        """Largest L2 change of a sum by one device, in cells, rounding included."""
        return inflated_norm(self.norm, self.size) if self.phones else shifted_norm(self.norm, self.size)

    @property
    def width(self) -> float:
        """Of a cell, in weight units."""
        return self.sensitivity / self.norm

    @property
    def bits(self) -> int:
        """Of the modulus: no sum of clipped updates reaches it, and noise does so with a chance of 2**-40 a round.

        Discrete Gaussians are sub-Gaussian with their own sigma (Canonne et al. 2020, corollary 9): the bound is over
        all numbers of the sum, with all nodes' noise.
        """
        far = 0.0
        if self.noise_multiplier:
            far = 2.0**self.scale_bits * math.sqrt(2 * self.nodes * math.log(2 * self.size / WRAP))
        return math.ceil(math.log2(2 * (self.devices * self.norm + self.nodes + far) + 2))

    def encode(
        self, update: npt.NDArray[np.float64], rounding: Source, noise: Source, devices: int
    ) -> npt.NDArray[np.int64]:
        """What one node adds to the sum, before the mask.

        Args:
            update: (size,), sum of its devices' clipped updates, in weight units.
            rounding: fair bits.
            noise: other fair bits.
            devices: how many are in it; a node without any adds noise alone.

        Raises:
            ValueError: the update is not finite, or longer than its devices could make it.
        """
        if update.shape != (self.size,):
            raise ValueError(f"{update.size} numbers, {self.size} expected")
        length = float(np.linalg.norm(update))
        if not length <= devices * self.sensitivity:
            raise ValueError(f"an update of norm {length:.6g} by {devices} devices")
        cells = update / self.width
        conditional = self.phones
        whole = round_conditionally(cells, self.moved, rounding) if conditional else round_randomly(cells, rounding)
        if self.noise_multiplier:
            whole += discrete_gaussian(noise, self.size, self.scale_bits)
        return whole

    def decode(self, total: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The noisy sum in weight units, float64."""
        return total.astype(np.float64) * self.width
