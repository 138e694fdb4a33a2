"""Secrets of nodes, back from the shares that their neighbours handed out."""

from collections.abc import Mapping
from typing import Literal

from sottovoce.client.secure_messages import Shares
from sottovoce.privacy.errors import AggregationError
from sottovoce.privacy.secret_sharing import PRIME, SECRET_BYTES, combine


def recover(place: int, shares: Mapping[int, int], threshold: int) -> bytes:
    """32 bytes; raises AggregationError when there are too few shares, or when they agree on none."""
    if len(shares) < threshold:
        raise AggregationError(
            f"{len(shares)} shares of node at place {place}, {threshold} are needed",
            "nothing was learnt of anybody; ask anew",
        )
    secret = combine(shares, threshold)
    if secret >> (8 * SECRET_BYTES):
        raise false_share(place)
    return secret.to_bytes(SECRET_BYTES, "big")


def by_owner(answers: Mapping[int, Shares], which: Literal["seeds", "keys"]) -> dict[int, dict[int, int]]:
    """Shares by owner and then by the holder's point of the polynomial."""
    found: dict[int, dict[int, int]] = {}
    for holder, answer in answers.items():
        for owner, value in getattr(answer, which):
            found.setdefault(owner, {})[holder + 1] = int.from_bytes(value, "big") % PRIME
    return found


def false_share(place: int) -> AggregationError:
    """What to say of shares that do not fit."""
    return AggregationError(
        f"shares of node at place {place} do not give back what it committed to",
        "a node sent a false share: nothing was learnt of anybody; ask anew",
    )
