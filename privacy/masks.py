"""Masks that cancel: a stream of uniform whole numbers from a 256-bit seed, and modular vectors in as few bits as fit.

The modulus is a power of two, 2**bits, so that the low bits of a uniform word are uniform, and arithmetic that wraps at
32 or 64 bits agrees with it: sums need no reduction before the end.

Source: Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning".
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SEED_BYTES = 32

MOST_BITS = 62
"""Widest modulus: sums of two still fit 64 signed bits."""

Words = npt.NDArray[np.unsignedinteger[Any]]
"""A modular vector: only the low bits of each word count."""


def word_type(bits: int) -> type[np.unsignedinteger[Any]]:
    """Numpy's narrower type that holds numbers below 2**bits.

    Raises:
        ValueError: bits is not 1 ... 62.
    """
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"a modulus of {bits} bits is not between 1 and {MOST_BITS}")
    return np.uint32 if bits <= 32 else np.uint64


def mask(seed: bytes, size: int, bits: int) -> Words:
    """The mask of a seed: shape (size,), uniform modulo 2**bits to whoever lacks the seed.

    AES-256 in counter mode from a counter of zero: a seed is used for one mask and nothing else, ever.

    Args:
        seed: 32 bytes, itself uniform.
        size: how many numbers.
        bits: of the modulus.

    Raises:
        ValueError: the seed has another length, or the modulus is out of range.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, this one {len(seed)}")
    kind = np.dtype(word_type(bits)).newbyteorder("<")
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    drawn = np.frombuffer(stream.update(bytes(size * kind.itemsize)), kind)
    return drawn.astype(word_type(bits), copy=False)


def pack(words: npt.NDArray[np.integer], bits: int) -> bytes:
    """The low `bits` bits of each number, one after the other, most significant first; the last byte is filled with 0.

    Args:
        words: shape (n,); negative numbers stand for their residues.
        bits: of the modulus.
    """
    kind = word_type(bits)
    width = 8 * np.dtype(kind).itemsize
    wide = words.astype(kind).astype(np.dtype(kind).newbyteorder(">")).view(np.uint8)
    return np.packbits(np.unpackbits(wide).reshape(-1, width)[:, width - bits :]).tobytes()


def unpack(data: bytes, size: int, bits: int) -> Words:
    """The numbers that `pack` wrote, shape (size,).

    Raises:
        ValueError: another number of bytes, or anything but zeros after the last number.
    """
    kind = word_type(bits)
    width = 8 * np.dtype(kind).itemsize
    if len(data) != packed_bytes(size, bits):
        raise ValueError(f"{len(data)} bytes, {packed_bytes(size, bits)} expected")
    flat = np.unpackbits(np.frombuffer(data, np.uint8))
    if flat[size * bits :].any():
        raise ValueError("bits after the last number")
    whole = np.zeros((size, width), np.uint8)
    whole[:, width - bits :] = flat[: size * bits].reshape(size, bits)
    return np.packbits(whole).view(np.dtype(kind).newbyteorder(">")).astype(kind)


def packed_bytes(size: int, bits: int) -> int:
    """Bytes that `size` numbers take."""
    return -(-size * bits // 8)


def centred(words: Words, bits: int) -> npt.NDArray[np.int64]:
    """The representatives in -2**(bits - 1) ... 2**(bits - 1) - 1."""
    low = (words & words.dtype.type((1 << bits) - 1)).astype(np.int64)
    return low - ((low >> (bits - 1)) << bits)
