"""The sale: which of the scored candidates is shown, with what probability, and what it pays."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sottovoce.client.auction import INCREMENT, MICRO, Ints
from sottovoce.client.columns import Codes, Places
from sottovoce.client.exploration import Candidates, Exploration, explore
from sottovoce.client.offers import Offers
from sottovoce.client.reasons import Loss
from sottovoce.client.value import price

_LAST = float(np.nextafter(1.0, 0.0))
_NOTHING_TRIED = Exploration()

Believed = Callable[[Places], Candidates]
"""Rows of the offers, as exploration sees them."""


class Sale(NamedTuple):
    """How an auction ended.

    Attributes:
        codes: (N,) why each candidate lost, 0 for the one that is shown.
        row: of the one that is shown; None when none reaches the floor.
        price: what it pays, micro-units per thousand impressions.
        propensity: its chance over all draws.
        considered: rows that exploration drew from, each with its chance.
        rest: in [0, 1), what is left of the draw: see `sold`.
        fault: why nothing was tried out although it was asked for; empty otherwise.
    """

    codes: Codes
    row: int | None = None
    price: int = 0
    propensity: float = 1.0
    considered: tuple[tuple[int, float], ...] = ()
    rest: float = 0.0
    fault: str = ""


def sold(
    offers: Offers,
    floor: int,
    at: int,
    rule: Exploration = _NOTHING_TRIED,
    believed: Believed | None = None,
    draw: float = 0.0,
) -> Sale:
    """The candidate of most worth, or one drawn from the best, at the price of its place in the auction.

    A uniform number that fell into a candidate's share lies uniformly within that share. Where it lies there, as a part
    of the share, is `rest`: a second uniform number that does not depend on which candidate was drawn.

    Args:
        offers: what is for sale.
        floor: micro-units per thousand impressions, held against values; one equal to it may win.
        at: 1 first price, 2 second price plus.
        rule: how much is tried out.
        believed: what is known of the best; None tries nothing out.
        draw: a number in [0, 1).
    """
    inside = offers.codes == 0
    reach = offers.value >= floor
    codes = np.where(inside, np.where(reach, Loss.OUTBID, Loss.BELOW_FLOOR), offers.codes).astype(np.int16)
    able = np.flatnonzero(inside & reach)
    if not len(able):
        return Sale(codes)
    tries = believed is not None and rule.method != "none"
    top = able[best(offers.worth[able], offers.order[able], rule.candidates if tries else 1)]
    row, propensity, rest, fault = int(top[0]), 1.0, draw, ""
    considered: tuple[tuple[int, float], ...] = ()
    drawn = explore(rule, believed(top), floor, draw) if believed is not None and tries else None
    if drawn is not None:
        row, propensity, fault = int(top[drawn.place]), drawn.propensity, drawn.reason
        place = int(np.flatnonzero(drawn.places == drawn.place)[0])
        # Probabilities are whole parts of 2**-40, so this sum is exact.
        rest = min((draw - float(drawn.propensities[:place].sum())) / propensity, _LAST)
        considered = tuple(zip(top[drawn.places].tolist(), drawn.propensities.tolist(), strict=True))
    codes[row] = 0
    return Sale(codes, row, _paid(offers, row, inside, reach, floor, at), propensity, considered, rest, fault)


def _paid(
    offers: Offers,
    row: int,
    inside: "np.typing.NDArray[np.bool_]",
    reach: "np.typing.NDArray[np.bool_]",
    floor: int,
    at: int,
) -> int:
    """What the ad of this row pays: the least value with which it would have kept its place; see `value.price`."""
    value, own, weight = int(offers.value[row]), int(offers.worth[row]), int(offers.weight[row])
    if at == 1:
        return price(value, own, (), floor, at)
    others = inside & (offers.seat != offers.seat[row])
    behind = (offers.worth < own) | ((offers.worth == own) & (offers.order > offers.order[row]))
    rivals = offers.worth[others & reach & behind]
    # A rival's worth seen through the own weight: only what the own value would have to be counts.
    seen = [-(-int(rivals.max()) * MICRO // weight) if weight else 0] if len(rivals) else []
    # Values below the floor come to no more than the increment above it, whatever they are weighed with.
    below = offers.value[others & ~reach]
    least = max(floor, int(below.max()) + INCREMENT) if len(below) else floor
    return price(value, value + int(offers.term[row]), seen, least, at)


def best(worth: Ints, order: Ints, count: int) -> Places:
    """Positions of the `count` best, best first, ties by order; all when there are fewer."""
    near = np.arange(len(worth))
    if count == 1:
        near = np.flatnonzero(worth == worth.max())
        return near[[order[near].argmin()]]
    if len(worth) > count:
        near = np.flatnonzero(worth >= np.partition(worth, -count)[-count])
    return near[np.lexsort((order[near], -worth[near]))][:count]
