"""Noise that the nodes add themselves: how wide the grid is, and how much each adds.

Every node rounds its vector to a public grid of width w, adds discrete Gaussian noise of standard deviation sigma =
2**scale_bits cells, and sends the result modulo 2**bits. The noise that hides a device is that of the nodes whose noise
nobody knows who looks: of the least number of nodes whose sum is ever unmasked, less those that may collude with the
coordinator. A node knows its own share, and sees the next round's weights: one is taken off at any rate. The `parts`
that are left must be enough. All further noise comes on top.

`near_gaussian` proves what such a sum is worth. `Encoding` chooses w so that it is worth no less than the promised
noise multiplier. What is then charged is a Gaussian release.

Taking a sum modulo 2**bits is done to what is private already. A sum that goes around the modulus is wrong, and no less
private.

Source: Kairouz, Liu, Steinke 2021, arXiv:2102.06387, section 4.1.
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
from sottovoce.privacy.near_gaussian import LEAST_SCALE, drift

GRID_BITS = 16
"""The least noise of a sum spans at least 2**GRID_BITS cells."""

WRAP = 2.0**-40
"""Chance, at most, that noise carries any number of one sum around the modulus."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How vectors become whole numbers with noise, the same for all nodes of a round; all of it is public.

    Attributes:
        size: d, numbers in a vector.
        sensitivity: C, largest L2 norm of one device's update, in weight units.
        noise_multiplier: z that the noise of `parts` nodes keeps; 0 adds no noise.
        nodes: how many take part.
        parts: least number of nodes in a sum whose noise is unknown to whoever looks: it has to suffice.
        devices: most devices that are in a sum, on which the modulus depends.
        phones: whether every node hosts one device, which lets it round conditionally.

    Raises:
        ConfigError: the grid has no room for so much noise, or the modulus would be too wide.
    """

    size: int
    sensitivity: float
    noise_multiplier: float
    nodes: int
    parts: int
    devices: int
    phones: bool

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        if not (0 < self.sensitivity < math.inf and 0 <= self.noise_multiplier < math.inf):
            raise ConfigError("secure aggregation without a bound or a noise multiplier", "correct the experiment")
        if not (self.size >= 1 and 1 <= self.parts <= self.nodes and self.devices >= 1):
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
        return math.ceil(max(math.log2(LEAST_SCALE), GRID_BITS - math.log2(self.parts) / 2))

    @property
    def std(self) -> float:
        """Standard deviation of the least unknown noise of a sum, in cells."""
        return math.sqrt(self.parts) * 2.0**self.scale_bits

    @property
    def norm(self) -> float:
        """C in cells."""
        if not self.noise_multiplier:
            return 2.0**GRID_BITS
        far = math.sqrt(2 * math.pi) * drift(2.0**self.scale_bits, self.parts, self.nodes, self.size)
        most = self.std * (1 / self.noise_multiplier - far)
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

        Discrete Gaussians are sub-Gaussian with their own sigma (Canonne et al. 2020): the bound is over all numbers of
        the sum, with all nodes' noise.
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
