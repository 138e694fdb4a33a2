"""Where randomness comes from: the operating system, or a seed for simulations.

Both kinds hand out one source per purpose and round, so that the cohort of a round and its noise never share numbers.
"""

import hashlib
import os
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt


class Source(Protocol):
    """A stream of independent fair bits."""

    def bits(self, size: int) -> npt.NDArray[np.uint64]:
        """The next `size` words of 64 fair bits, shape (size,)."""
        ...

    def uniform53(self, size: int) -> npt.NDArray[np.float64]:
        """The next `size` uniform numbers, shape (size,), multiples of 2**-53 in [0, 1)."""
        ...


class Entropy(Protocol):
    """Hands out sources of randomness."""

    @property
    def kind(self) -> Literal["secure", "seeded"]:
        """What the ledger and every claim say about it."""
        ...

    def generator(self, purpose: str, round: int) -> Source:
        """The source for one purpose of one round."""
        ...


def _uniform53(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """The top 53 bits of each word as a fraction: every multiple of 2**-53 in [0, 1) equally likely."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


class OsSource:
    """Bits from the operating system's cryptographic generator."""

    def bits(self, size: int) -> npt.NDArray[np.uint64]:
        """The next `size` words of 64 fair bits, shape (size,)."""
        return np.frombuffer(os.urandom(8 * size), np.uint64)

    def uniform53(self, size: int) -> npt.NDArray[np.float64]:
        """The next `size` uniform numbers, shape (size,), multiples of 2**-53 in [0, 1)."""
        return _uniform53(self.bits(size))


class SeededSource:
    """Reproducible bits: a counter-based stream (Philox) under a 128-bit key."""

    def __init__(self, key: int) -> None:
        self._stream = np.random.Philox(key=key)

    def bits(self, size: int) -> npt.NDArray[np.uint64]:
        """The next `size` words of 64 fair bits, shape (size,)."""
        return np.asarray(self._stream.random_raw(size), np.uint64)

    def uniform53(self, size: int) -> npt.NDArray[np.float64]:
        """The next `size` uniform numbers, shape (size,), multiples of 2**-53 in [0, 1)."""
        return _uniform53(self.bits(size))


class OsEntropy:
    """The only entropy that supports a guarantee: nobody can reproduce it, not even this program."""

    kind: Literal["secure"] = "secure"

    def generator(self, purpose: str, round: int) -> Source:  # noqa: ARG002 - every call is fresh whatever it is for
        """A fresh source; purpose and round make no difference because nothing is ever repeated."""
        return OsSource()


class SeededEntropy:
    """Reproducible randomness for simulations and tests; every claim made with it says NO GUARANTEE.

    Args:
        seed: any integer. Sources for different (seed, purpose, round) are independent; equal ones are identical.
    """

    kind: Literal["seeded"] = "seeded"

    def __init__(self, seed: int) -> None:
        self._seed = int(seed)

    def generator(self, purpose: str, round: int) -> Source:
        """The source of (seed, purpose, round), from its start."""
        # The length of the free-text part keeps ("a", 11) and ("a1", 1) apart.
        label = f"sottovoce entropy 1|{self._seed}|{len(purpose)}|{purpose}|{int(round)}"
        return SeededSource(int.from_bytes(hashlib.sha256(label.encode()).digest()[:16], "big"))
