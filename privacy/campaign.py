"""What a campaign may be: an epsilon, a delta and a population that promise something, and shares of the epsilon.

A share is kept for one purpose, `purpose:NAME`, or for one querier, `querier:NAME`, with `querier:*` for all others.
Shares are whole millionths of an epsilon, so that adding them up never rounds.
"""

import math
from collections.abc import Mapping

from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import MICRO


def check_campaign(
    epsilon: float, delta: float, population: int | None = None, shares: Mapping[str, float] | None = None
) -> None:
    """Refuse a campaign that promises nothing.

    Args:
        epsilon: see `Budget`.
        delta: see `Budget`.
        population: enrolled devices, where known.
        shares: see `Budget`.

    Raises:
        ConfigError: names the value.
    """
    if not epsilon > 0:
        raise ConfigError(f"epsilon = {epsilon} is not a budget", "set epsilon above 0, or infinite for no privacy")
    if not 0 < delta < 1:
        raise ConfigError(f"delta = {delta} is not between 0 and 1", "set delta below 1 / population")
    if population is not None and population < 1:
        raise ConfigError(f"population = {population}: nobody to protect", "enrol at least one device")
    if population is not None and not delta < 1 / population:
        raise ConfigError(
            f"delta = {delta} must be below 1/population = {1 / population:.3g}",
            "choose a smaller delta: at 1/population, publishing one device in full would pass",
        )
    for name, share in (shares or {}).items():
        in_micro(name, share)


def share_of(shares: Mapping[str, int], name: str) -> int | None:
    """Millionths of epsilon that `name` may spend; None for no share of its own; 0 for a stranger among queriers."""
    kind, _, _ = name.partition(":")
    found = shares.get(name, shares.get(f"{kind}:*")) if kind else None
    if found is None and kind == "querier" and any(key.startswith("querier:") for key in shares):
        return 0
    return found


def in_micro(name: str, share: float) -> int:
    """A share in whole millionths, rounded down."""
    if name.partition(":")[0] not in ("purpose", "querier") or not name.partition(":")[2]:
        raise ConfigError(f"share {name!r} names neither purpose:NAME nor querier:NAME", "correct the name")
    if not 0 <= share < math.inf:
        raise ConfigError(f"share {name} = {share} is not an epsilon", "set it to 0 or more")
    return math.floor(share * MICRO)
