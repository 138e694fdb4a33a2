"""From scores to a sale, for all candidates at once: what each is worth, which one is shown, what it pays."""

from typing import NamedTuple

import numpy as np

from sottovoce.client import auction
from sottovoce.client.auction import Ints
from sottovoce.client.columns import Codes, Columns, Places
from sottovoce.client.offers import Explorer, Offers
from sottovoce.client.reasons import Loss

TOP = 8
"""How many of the best candidates exploration may draw from."""


class Sale(NamedTuple):
    """How an auction ended.

    Attributes:
        codes: (N,) why each candidate lost, 0 for the one that is shown.
        row: of the one that is shown; None when none reaches the floor.
        price: what it pays, micro-units per thousand impressions.
        propensity: its chance over all draws.
        considered: rows that exploration drew from, each with its chance.
    """

    codes: Codes
    row: int | None = None
    price: int = 0
    propensity: float = 1.0
    considered: tuple[tuple[int, float], ...] = ()


def offered(columns: Columns, candidates: Places, chances: Ints) -> Offers:
    """What the candidates are worth by their campaigns' prices.

    Args:
        columns: of the catalogue.
        candidates: (N,) positions in it.
        chances: (N, heads) millionths.
    """
    campaign = columns.campaign[candidates]
    value = auction.values(columns.price[campaign], columns.pricing[campaign], chances)
    return Offers(
        ads=candidates,
        order=columns.order[candidates],
        seat=columns.seat[campaign],
        chances=chances,
        value=value,
        worth=value,
        codes=np.where(value == auction.UNPRICED, Loss.UNPRICED, 0).astype(np.int16),
    )


def sold(offers: Offers, floor: int, at: int, explorer: Explorer | None = None, draw: float = 0.0) -> Sale:
    """The candidate of most worth, or the explorer's draw from the best, at the price of its place in the auction.

    Args:
        offers: what is for sale; never more than its value is paid for any.
        floor: micro-units per thousand impressions; a worth equal to it may win.
        at: 1 first price, 2 second price plus.
        explorer: None for the best.
        draw: a number in [0, 1).
    """
    inside = offers.codes == 0
    lost = np.where(offers.worth < floor, Loss.BELOW_FLOOR, Loss.OUTBID)
    codes = np.where(inside, lost, offers.codes).astype(np.int16)
    able = np.flatnonzero(inside & (offers.worth >= floor))
    if not len(able):
        return Sale(codes)
    able = able[best(offers.worth[able], offers.order[able], TOP if explorer else 1)]
    row, propensity = int(able[0]), 1.0
    considered: tuple[tuple[int, float], ...] = ()
    if explorer:
        drawn = explorer(offers.taken(able), draw)
        row, propensity = int(able[drawn.position]), float(drawn.propensities[drawn.position])
        considered = tuple(zip(able.tolist(), drawn.propensities.tolist(), strict=True))
    codes[row] = 0
    # Whoever a rule refused bids for nothing, and raises nobody's price.
    bids = np.where(inside, offers.worth, auction.UNPRICED)
    price = auction.price_of(row, bids, offers.order, offers.seat, floor, at)
    return Sale(codes, row, min(price, int(offers.value[row])), propensity, considered)


def best(worth: Ints, order: Ints, count: int) -> Places:
    """Positions of the `count` best, best first, ties by order; all when there are fewer."""
    near = np.arange(len(worth))
    if count == 1:
        near = np.flatnonzero(worth == worth.max())
        return near[[order[near].argmin()]]
    if len(worth) > count:
        near = np.flatnonzero(worth >= np.partition(worth, -count)[-count])
    return near[np.lexsort((order[near], -worth[near]))][:count]
