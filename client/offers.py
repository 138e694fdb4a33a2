"""The candidates of one request after scoring, as columns, and where other rules plug in.

Two rules may stand between scoring and sale: a value rule changes what the ranking goes by, or refuses; an explorer
draws one of the best. Both are pure functions of what they are given.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sottovoce.client.columns import Codes, Ints, Places


@dataclass(frozen=True, slots=True)
class Offers:
    """Scored candidates.

    Attributes:
        ads: (N,) positions in the catalogue.
        order: (N,) rank of each `crid`; ties fall to the smaller.
        seat: (N,) number of each advertiser.
        chances: (N, heads) probabilities in millionths.
        value: (N,) what each is worth to its advertiser, micro-units per thousand impressions; no ad pays more.
        worth: (N,) what the ranking and the floor go by, micro-units; the value, unless a value rule says otherwise.
        codes: (N,) why a candidate is out of the auction; 0 for those in it.
    """

    ads: Places
    order: Ints
    seat: Ints
    chances: Ints
    value: Ints
    worth: Ints
    codes: Codes

    def taken(self, places: Places) -> "Offers":
        """These candidates, in this order."""
        return Offers(*(getattr(self, field.name)[places] for field in fields(self)))

    def ranked(self) -> Places:
        """Positions of those in the auction, best first."""
        inside = np.flatnonzero(self.codes == 0)
        return inside[np.lexsort((self.order[inside], -self.worth[inside]))]


class Drawn(NamedTuple):
    """The position that was drawn, and the exact chance that each had."""

    position: int
    propensities: npt.NDArray[np.float64]


ValueRule = Callable[[Offers], Offers]
"""The same candidates with another `worth`, or with codes for those it refuses."""

Explorer = Callable[[Offers, float], Drawn]
"""Draws from the best candidates, best first, all of which reach the floor, by a number in [0, 1)."""
