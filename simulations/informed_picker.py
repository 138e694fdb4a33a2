"""How good could any picker be that knows everything about the market, and about a person only what the device saw?

Nobody reaches the oracle, which knows a person's taste before the first click. `Informed` knows the world's true
effects and how people differ, and infers the person by Bayes' rule from the same past as the learned picker has: pages
read, ads shown, clicks. It weighs a crowd of simulated people by how likely each would have had that past, and scores
an ad by what the crowd would do (importance sampling, so it falls a little short of the exact answer).
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sottovoce.models.request import Scores
from sottovoce.simulations.market import BLOCK, DAY_S, TRAIN_DAYS, Market
from sottovoce.simulations.picker_value import Asked, Truth

CROWD = 200
"""Block of the people who stand for everybody; nobody of them trains or is asked."""

LEAST_WEIGHT = 1e-4
"""Of the likeliest one; whoever counts less is left out."""

Floats = npt.NDArray[np.float64]


class Informed(Truth):
    """A scorer that knows the market and infers the person; see `Truth`.

    Args:
        market: whose truth.
    """

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self._crowd = market.block_people(CROWD)
        liking = np.exp(np.float32(0.6) * self._crowd.taste)
        self._reads = np.log(liking / liking.sum(1, keepdims=True)).astype(np.float64)
        self._known: tuple[int, Floats] | None = None

    def of(self, asked: Asked) -> None:
        """Answer for this person on this page from now on."""
        self._context = asked.context
        if self._known is None or self._known[0] != asked.person:
            self._known = asked.person, self._past(asked.person)
        # Somebody is on this page, which tells something as well.
        likely = self._known[1] + self._reads[:, asked.context[0, 0]]
        weight = np.exp(likely - likely.max())
        kept = np.flatnonzero(weight > LEAST_WEIGHT)
        self._weight = weight[kept] / weight[kept].sum()
        self._people = self._alike.take(kept)

    def _past(self, person: int) -> Floats:
        """(crowd,) log likelihood of the person's past, up to a constant."""
        block, row = divmod(person, BLOCK)
        people = self._market.block_people(block)
        log = self._market.block_log(block, people)
        # What kind of device it is, everybody sees.
        same = np.full(len(self._reads), people.device_class[row])
        self._alike = replace(self._crowd, device_class=same)
        likely = np.zeros(len(self._reads))
        member = np.arange(len(likely))
        for at in np.flatnonzero((log.device == row) & (log.time < TRAIN_DAYS * DAY_S)):
            where, ad = np.tile(log.context[at], (len(member), 1)), np.full(len(member), log.ad[at])
            click, bought = self._market.probabilities(self._alike, member, where, ad).astype(np.float64).T
            likely += self._reads[:, log.context[at, 0]]
            likely += np.log(click) if log.click[at] else np.log1p(-click)
            if log.click[at]:
                likely += np.log(bought) if log.conversion[at] else np.log1p(-bought)
        return likely

    def chances(self, ads: npt.ArrayLike) -> Scores:
        """P(click) and P(conversion | click) of these ads of the market, shape (ads, 2), over all who may be asking."""
        ads = np.asarray(ads)
        count = len(self._weight)
        member, ad = np.repeat(np.arange(count), len(ads)), np.tile(ads, count)
        chance = self._market.probabilities(self._people, member, np.tile(self._context, (len(ad), 1)), ad)
        click, bought = chance.reshape(count, len(ads), 2).astype(np.float64).transpose(2, 0, 1)
        clicked = self._weight @ click
        return np.stack([clicked, (self._weight @ (click * bought)) / clicked], 1).astype(np.float32)
