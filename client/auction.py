"""The auction: what each ad is worth per thousand impressions, which one wins, and what it pays.

All amounts are whole micro-units of the currency per thousand impressions, and probabilities are rounded to millionths
first, so that every runtime and every language finds the same winner. Ties fall to the smaller `crid`.

* Value: `cpm` the price; `cpc` 1000 * price * P(click); `cpa` 1000 * price * P(click) * P(conversion | click).
* First price (`at` 1): the winner pays its value.
* Second price plus (`at` 2): the winner pays the larger of the floor and 0.01 more than the best value of another
  seat, never more than its own value. Its own advertiser's other ads do not raise its price.

`value` and `sell` say what is meant, for one campaign and a handful of bids; `values` and `price_of` are the same for
thousands at once, exact to the last unit.

Source: OpenRTB 2.6, section 3.2.1 (`at`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sottovoce.client.catalogue import Campaign

MICRO = 1_000_000
INCREMENT = MICRO // 100
"""What the winner pays above the second value: 0.01 per thousand impressions."""

PRICINGS = ("cpm", "cpc", "cpa")
UNPRICED = -1
"""Stands for no value where values are an array."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bid:
    """One ad with its value.

    Attributes:
        crid: creative id.
        seat: who pays.
        value: micro-units per thousand impressions.
    """

    crid: str
    seat: str
    value: int


class Sale(NamedTuple):
    """The winner, what it pays in micro-units per thousand impressions, and all bids, best first."""

    winner: Bid | None
    price: int
    ranked: tuple[Bid, ...]


def millionths(amount: float) -> int:
    """An amount or a probability on the grid of 1e-6."""
    return round(amount * MICRO)


def exact(amount: int) -> str:
    """Micro-units as a decimal number, every digit and no zeros behind."""
    whole, rest = divmod(amount, MICRO)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def value(campaign: Campaign, probabilities: Sequence[float]) -> int | None:
    """Micro-units per thousand impressions, rounded down; None when the model lacks the head that the pricing needs.

    Args:
        campaign: its price and pricing.
        probabilities: one per head: click, and conversion given a click.
    """
    price, chances = millionths(campaign.price), [millionths(p) for p in probabilities]
    if campaign.pricing == "cpm":
        return price
    if campaign.pricing == "cpc":
        return 1000 * price * chances[0] // MICRO
    return 1000 * price * chances[0] * chances[1] // MICRO**2 if len(chances) > 1 else None


def grid(chances: npt.NDArray[np.float32]) -> Ints:
    """`millionths` of an array of probabilities."""
    return np.rint(chances.astype(np.float64) * MICRO).astype(np.int64)


def values(price: Ints, pricing: Ints, chances: Ints) -> Ints:
    """`value` of many ads; `UNPRICED` where the model lacks the head.

    Args:
        price: (N,) micro-units, at most 1e12.
        pricing: (N,) positions in `PRICINGS`.
        chances: (N, heads) millionths.
    """
    # 1000 * price * click / 1e6 is price * click / 1000: at most 1e18 before the division, within 63 bits. A third
    # factor would not be, so the quotient and the rest of the division by 1e9 are multiplied apart.
    clicked = price * chances[:, 0]
    worth = np.where(pricing == 0, price, clicked // 1000)
    if chances.shape[1] > 1:
        whole, rest = np.divmod(clicked, 10**9)
        acted = whole * chances[:, 1] + rest * chances[:, 1] // 10**9
    else:
        acted = np.full_like(price, UNPRICED)
    return np.where(pricing == 2, acted, worth)


def price_of(winner: int, worth: Ints, order: Ints, seat: Ints, floor: int, at: int) -> int:
    """What an ad pays at its place in the auction: `sell` among it and the bids that it beats.

    Args:
        winner: position of the ad.
        worth: (N,) micro-units per thousand impressions.
        order: (N,) rank of each `crid`.
        seat: (N,) number of each advertiser.
        floor: micro-units per thousand impressions, at most the ad's worth.
        at: 1 first price, 2 second price plus.
    """
    own = int(worth[winner])
    if at == 1:
        return own
    beaten = (worth < own) | ((worth == own) & (order > order[winner]))
    rivals = worth[beaten & (seat != seat[winner])]
    return min(own, max(floor, int(rivals.max()) + INCREMENT if len(rivals) else 0))


def sell(bids: Sequence[Bid], floor: int, at: int) -> Sale:
    """Who wins and what it pays.

    Args:
        bids: each crid once.
        floor: micro-units per thousand impressions; a value equal to it may win.
        at: 1 first price, 2 second price plus.
    """
    if at not in (1, 2):
        raise ValueError(f"auction type {at} is neither 1 nor 2")
    ranked = tuple(sorted(bids, key=lambda bid: (-bid.value, bid.crid)))
    if not ranked or ranked[0].value < floor:
        return Sale(None, 0, ranked)
    winner = ranked[0]
    if at == 1:
        return Sale(winner, winner.value, ranked)
    rival = next((bid for bid in ranked if bid.seat != winner.seat), None)
    second = rival.value + INCREMENT if rival else 0
    return Sale(winner, min(winner.value, max(floor, second)), ranked)


def charge(campaign: Campaign, price: int, probabilities: Sequence[float]) -> int:
    """What one thousand impressions, one click or one conversion costs, in micro-units, after a sale at `price`.

    It is the smallest offer whose value would still have reached `price`, so never more than the campaign's own.

    Args:
        campaign: of the winner.
        price: from `sell`.
        probabilities: the winner's.
    """
    if campaign.pricing == "cpm":
        return price
    heads = 1 if campaign.pricing == "cpc" else 2
    numerator, denominator = price * MICRO**heads, 1000
    for chance in probabilities[:heads]:
        denominator *= millionths(chance)
    own = millionths(campaign.price)
    return min(own, -(-numerator // denominator)) if denominator else own
