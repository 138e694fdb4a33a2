"""The candidates of one request after scoring, as columns: what each is worth, and what the ranking goes by."""

from dataclasses import dataclass

import numpy as np

from sottovoce.client import auction
from sottovoce.client.auction import MICRO
from sottovoce.client.columns import Codes, Columns, Ints, Places
from sottovoce.client.reasons import Loss


@dataclass(frozen=True, slots=True)
class Offers:
    """Scored candidates.

    Attributes:
        ads: (N,) positions in the catalogue.
        order: (N,) rank of each `crid`; ties fall to the smaller.
        seat: (N,) number of each advertiser.
        chances: (N, heads) probabilities in millionths.
        value: (N,) what each is worth to its advertiser, micro-units per thousand impressions: what is held against the
            floor, and the most that an ad pays.
        term: (N,) what it is worth besides, to the person and the app; see `value.long_term`.
        weight: (N,) factor of the person's edited interests, millionths.
        worth: (N,) what the ranking goes by: `value` and `term`, weighed.
        codes: (N,) why a candidate is out of the auction; 0 for those in it.
    """

    ads: Places
    order: Ints
    seat: Ints
    chances: Ints
    value: Ints
    term: Ints
    weight: Ints
    worth: Ints
    codes: Codes

    def ranked(self) -> Places:
        """Positions of those in the auction, best first."""
        inside = np.flatnonzero(self.codes == 0)
        return inside[np.lexsort((self.order[inside], -self.worth[inside]))]


def offered(columns: Columns, candidates: Places, chances: Ints) -> Offers:
    """What the candidates are worth by their campaigns' prices alone.

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
        term=np.zeros(len(value), np.int64),
        weight=np.full(len(value), MICRO, np.int64),
        worth=value,
        codes=np.where(value == auction.UNPRICED, Loss.UNPRICED, 0).astype(np.int16),
    )


def weighed(amounts: Ints, weight: Ints) -> Ints:
    """Amounts times a factor, rounded down.

    Args:
        amounts: (N,) at most 1e16 either way.
        weight: (N,) millionths, at most 100 MICRO.
    """
    # The product would not fit into 64 bits, so the whole and the rest are multiplied apart.
    whole, rest = np.divmod(amounts, MICRO)
    return np.asarray(whole * weight + rest * weight // MICRO)
