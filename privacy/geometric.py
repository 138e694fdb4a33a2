"""Two-sided geometric noise on whole numbers: pure counts on somebody's behalf, exact to the last bit.

Nothing here is a floating-point number: the law that is sampled is the law that is accounted. Loss is counted in whole
millionths of an epsilon, so that shares of several queriers add up without rounding.
"""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.chain import digest
from sottovoce.privacy.entropy import Source
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import MICRO, Event, Pure, Purpose
from sottovoce.privacy.ledger import Reservation

Counts = npt.NDArray[np.int64]

MOST = 2**40
"""Largest L1 bound and count: far from where 64 bits would overflow."""


@dataclass(frozen=True, slots=True)
class CountPlan:
    """Counts that are released with a pure guarantee, as a ledger and a budget see them.

    Every device adds whole numbers whose absolute values sum to at most `l1_bound`; each count gets noise of its own
    whose scale is l1_bound / epsilon. All devices take part: pure noise gains nothing that is worth a sampled cohort.

    Attributes:
        population: enrolled devices, public.
        delta: of the campaign; the counts themselves need none.
        micro_epsilon: epsilon of one release, in millionths, a whole number above 0.
        l1_bound: most that one device moves all counts together, a whole number.
        rounds: how many releases are planned.
        purpose: why they are released.
    """

    population: int
    delta: float
    micro_epsilon: int
    l1_bound: int
    rounds: int
    purpose: Purpose = "analytics"

    def __post_init__(self) -> None:
        """Refuse a plan that promises nothing.

        Raises:
            ConfigError: names the value.
        """
        if self.rounds < 1:
            raise ConfigError(f"rounds = {self.rounds}: a plan needs at least one", "set rounds to 1 or more")
        if self.population < 1:
            raise ConfigError(f"population = {self.population}: nobody to protect", "enrol at least one device")
        if not 0 < self.delta < 1 / self.population:
            raise ConfigError(f"delta = {self.delta} is not below 1/population", "choose a smaller delta")
        if not 1 <= self.micro_epsilon <= 1_000 * MICRO:
            raise ConfigError(
                f"an epsilon of {self.micro_epsilon} millionths is not above 0 and at most 1000", "correct the epsilon"
            )
        if not 1 <= self.l1_bound <= MOST:
            raise ConfigError(f"l1_bound = {self.l1_bound} is not 1 ... {MOST}", "bound what one device may add")

    @property
    def cohorts(self) -> Literal["secret"]:
        """Everybody takes part: there is nothing to see."""
        return "secret"

    @property
    def max_participations(self) -> None:
        """A device is in every release."""
        return

    def event(self) -> Event:
        """The privacy event of one release."""
        return Pure(micro_epsilon=self.micro_epsilon)

    def charged(self, rounds: int | None = None) -> dict[Event, int]:
        """What `rounds` releases are charged; None for all that are planned."""
        return {self.event(): self.rounds if rounds is None else rounds}

    def settings(self) -> dict[str, str | int | float | None]:
        """Every setting, as the ledger keeps it."""
        return asdict(self)

    def digest(self) -> str:
        """SHA-256 of the settings as canonical JSON, in hexadecimal."""
        return digest(self.settings())

    def release(self, total: npt.ArrayLike, paid: Reservation, source: Source) -> Counts:
        """The noisy counts, see `noisy_counts`.

        Raises:
            ValueError: the reservation is for another plan.
        """
        if paid.plan_hash != self.digest():
            raise ValueError("the reservation pays for another plan")
        return noisy_counts(total, self.micro_epsilon, self.l1_bound, source)


def noisy_counts(total: npt.ArrayLike, micro_epsilon: int, l1_bound: int, source: Source) -> Counts:
    """Whole counts plus two-sided geometric noise of scale l1_bound / epsilon on each.

    Args:
        total: shape (n,), whole numbers, the sum of what each device added; a device moves them by at most `l1_bound`
            in absolute value, all together.
        micro_epsilon: epsilon in millionths.
        l1_bound: see `total`.
        source: fair bits, never used for anything else.

    Raises:
        TypeError: `total` does not hold whole numbers.
        ValueError: a bound below 1, or a count beyond 2**40.
    """
    counts = np.asarray(total)
    if counts.dtype.kind not in "iu":
        raise TypeError("needs whole numbers")
    if micro_epsilon < 1 or not 1 <= l1_bound <= MOST:
        raise ValueError(f"needs micro_epsilon and l1_bound of 1 or more, got {micro_epsilon} and {l1_bound}")
    if counts.size and not -MOST <= int(counts.min()) <= int(counts.max()) <= MOST:
        raise ValueError(f"a count beyond {MOST} cannot be released")
    bits = _Bits(source)
    noise = [discrete_laplace(bits, l1_bound * MICRO, micro_epsilon) for _ in range(counts.size)]
    return counts.astype(np.int64) + np.array(noise, np.int64).reshape(counts.shape)


class _Bits:
    """Words of 64 fair bits, taken from a source in blocks."""

    def __init__(self, source: Source, block: int = 256) -> None:
        self._source = source
        self._block = block
        self._words: list[int] = []

    def below(self, end: int) -> int:
        """A uniform whole number, 0 ... end - 1, exactly: what does not fit is drawn again."""
        size = (end - 1).bit_length()
        while True:
            value = 0
            for _ in range((size + 63) // 64):
                if not self._words:
                    self._words = self._source.bits(self._block).tolist()
                value = value << 64 | self._words.pop()
            value &= (1 << size) - 1
            if value < end:
                return value


def discrete_laplace(bits: _Bits, numerator: int, denominator: int) -> int:
    """A whole number x with probability proportional to exp(-|x| / scale), scale = numerator / denominator.

    Args:
        bits: fair bits.
        numerator: above 0.
        denominator: above 0.

    Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, algorithm 2.
    """
    shared = math.gcd(numerator, denominator)
    t, s = numerator // shared, denominator // shared
    while True:
        low = bits.below(t)
        if not _bernoulli_exp(bits, low, t):
            continue
        high = 0
        while _bernoulli_exp(bits, 1, 1):
            high += 1
        size = (low + t * high) // s
        negative = bits.below(2)
        if not (negative and size == 0):
            return -size if negative else size


def _bernoulli_exp(bits: _Bits, numerator: int, denominator: int) -> bool:
    """True with probability exp(-numerator / denominator), for a fraction of 0 ... 1.

    Source: the same, algorithm 1.
    """
    trial = 1
    while bits.below(denominator * trial) < numerator:
        trial += 1
    return trial % 2 == 1
