"""Shamir's sharing of a 256-bit secret: any `threshold` shares give it back, fewer say nothing about it.

The field is that of the integers modulo the least prime above 2**256, so that every secret of 32 bytes is an element.
The functions take the modulus as an argument: in a field small enough to count, tests enumerate every polynomial.

Source: Shamir 1979, "How to share a secret".
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

PRIME = 2**256 + 297
"""Least prime above 2**256."""

SECRET_BYTES = 32
SHARE_BYTES = 33
"""A share on the wire, big endian: an element may need 257 bits."""

Below = Callable[[int], int]
"""A uniform whole number below its argument."""


def split(
    secret: int, threshold: int, holders: Sequence[int], below: Below = secrets.randbelow, prime: int = PRIME
) -> dict[int, int]:
    """One share for each holder: values of a random polynomial of degree threshold - 1 that is `secret` at 0.

    Args:
        secret: 0 ... prime - 1.
        threshold: how many shares give it back, 1 or more.
        holders: where the polynomial is evaluated; each 1 ... prime - 1, and each once.
        below: fair random numbers.
        prime: of the field.

    Raises:
        ValueError: an argument is out of range, or a holder is named twice.
    """
    if not 0 <= secret < prime or not 1 <= threshold <= len(holders):
        raise ValueError(f"cannot split among {len(holders)} holders with threshold {threshold}")
    if len(set(holders)) < len(holders) or not all(0 < holder < prime for holder in holders):
        raise ValueError("holders must be different and lie between 1 and prime - 1")
    coefficients = [below(prime) for _ in range(threshold - 1)]
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * holder % prime
        shares[holder] = (value + secret) % prime
    return shares


@lru_cache(maxsize=64)
def weights(holders: tuple[int, ...], prime: int = PRIME) -> tuple[int, ...]:
    """By what each holder's share is multiplied so that the sum is the secret: Lagrange's polynomials at 0.

    They cost the square of the number of holders, who are public; one set serves any number of secrets.

    Raises:
        ValueError: a holder is named twice or is 0.
    """
    if len(set(holders)) < len(holders) or not all(0 < holder < prime for holder in holders):
        raise ValueError("holders must be different and lie between 1 and prime - 1")
    found = []
    for mine in holders:
        above = below = 1
        for other in holders:
            if other != mine:
                above = above * other % prime
                below = below * (other - mine) % prime
        found.append(above * pow(below, -1, prime) % prime)
    return tuple(found)


def combine(shares: Mapping[int, int], threshold: int, prime: int = PRIME) -> int:
    """The secret, from at least `threshold` shares by holder; more than that are not looked at.

    A false share gives a false secret, unnoticed: callers compare the result with what its owner committed to.

    Raises:
        ValueError: fewer shares than the threshold.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, {threshold} are needed")
    holders = tuple(sorted(shares)[:threshold])
    return sum(weight * shares[one] for weight, one in zip(weights(holders, prime), holders, strict=True)) % prime
