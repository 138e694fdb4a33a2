"""What a pick went by, kept as long as its decision: from it losers are named and signals are measured, when asked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from msgspec.structs import replace

from sottovoce.client.auction import MICRO, Ints, millionths
from sottovoce.client.caps import Counts
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.columns import Codes, Places
from sottovoce.client.decision import Climb, Evidence, Loser, Signals
from sottovoce.client.eligibility import refusal
from sottovoce.client.events import EventLog
from sottovoce.client.features import Encoder, Inputs
from sottovoce.client.offers import Offers
from sottovoce.client.policy import CoolDown
from sottovoce.client.reasons import LOSSES, Loss
from sottovoce.client.remembered import Remembered
from sottovoce.client.scorer import Scorer
from sottovoce.client.showing import Showing
from sottovoce.client.signals import signals
from sottovoce.client.situation import Refusal, Situation
from sottovoce.client.taxonomy import named
from sottovoce.models.topics import NONE, Numbers


@dataclass(frozen=True, slots=True)
class Asked:
    """What the model was asked.

    Attributes:
        scorer: that answered, with the personal layer in it or without.
        encoder: of its schema.
        inputs: what it read.
        past: what `inputs` remember.
        ranked: the offers of ads at some positions of the catalogue with such chances in millionths, as the policy
            ranks them.
        read: pages of each topic that it read as read before, see `models.topics`.
        row: the winner's among the inputs; None without one.
        taste: whether what this device learned that the person likes counted in the draw.
    """

    scorer: Scorer
    encoder: Encoder
    inputs: Inputs
    past: tuple[Remembered, ...]
    ranked: Callable[[Places, Ints], Offers]
    read: Numbers
    row: int | None = None
    taste: bool = False


@dataclass(frozen=True)
class PickWorkings:
    """See `decision.Workings`.

    Attributes:
        catalogue: all ads.
        at: the request and what surrounds it.
        log: of the device.
        cool_downs: of the app.
        codes: (ads,) why each lost, 0 for the winner; None when nothing was looked at.
        winner: position of the ad, or None.
        offers: what was scored, or None.
        turn: positions of those that waited for their turn, in order, and of those that could not take part.
        asked: of the model, or None.
        climb: how the ladder came to its answer; None where no model was to be asked.
        showing: the combinations of the catalogue.
    """

    catalogue: Catalogue
    at: Situation
    log: EventLog
    cool_downs: tuple[CoolDown, ...]
    showing: Showing
    codes: Codes | None = None
    winner: int | None = None
    offers: Offers | None = None
    turn: tuple[int, ...] = ()
    asked: Asked | None = None
    climb: Climb | None = None

    @property
    def creatives(self) -> str:
        """See `decision.Workings`."""
        return self.showing.digest

    @property
    def impid(self) -> str:
        """See `decision.Workings`."""
        return self.at.request.place.id

    def losers(self) -> tuple[Loser, ...]:
        """See `decision.Workings`: scored ones, best first, then the rest in the order of the catalogue."""
        if self.codes is None:
            return ()
        first = [] if self.offers is None else [*self._scored(self.offers)]
        listed = {*(loser.crid for loser in first), *(self.catalogue.ads[place].crid for place in self.turn)}
        first += [self.lost(place) for place in self.turn]
        ads = enumerate(self.catalogue.ads)
        return (*first, *(self.lost(n) for n, ad in ads if n != self.winner and ad.crid not in listed))

    def _scored(self, offers: Offers) -> Iterator[Loser]:
        """Those in the auction, then those that a rule kept out of it."""
        for row in (*offers.ranked().tolist(), *np.flatnonzero(offers.codes).tolist()):
            place = int(offers.ads[row])
            if place != self.winner:
                lost = self.lost(place)
                if lost.reason is not Loss.UNPRICED:
                    chances = tuple(chance / MICRO for chance in offers.chances[row].tolist())
                    lost = replace(lost, value=int(offers.value[row]) / MICRO, scores=chances)
                yield lost

    def row(self, place: int) -> int | None:
        """The ad's row among the offers; None when it was not scored."""
        if self.offers is None:
            return None
        rows = np.flatnonzero(self.offers.ads == place)
        return int(rows[0]) if len(rows) else None

    def lost(self, place: int) -> Loser:
        """What the ad at this position of the catalogue lost by."""
        ad = self.catalogue.ads[place]
        campaign = self.catalogue.campaign[ad.cid]
        reason, row = LOSSES[int(self._codes[place])], self.row(place)
        if row is not None and self.offers is not None and self.offers.codes[row] == 0:
            found = Refusal(reason, "auction", _valued(self.offers, row))
        elif reason is Loss.UNPAID:
            found = Refusal(reason, "unpaid", "price 0")
        elif reason is Loss.NOT_ITS_TURN:
            found = Refusal(reason, "rotation", "the model could not be used")
        elif reason is Loss.UNPRICED and self.offers is None:
            found = Refusal(reason, "rotation", "there is a floor, and without the model no value")
        elif reason is Loss.UNPRICED:
            found = Refusal(reason, "auction", f"{campaign.pricing} needs a model with a conversion head")
        elif reason in (Loss.LOW_QUALITY, Loss.NOT_WORTH_SHOWING):
            found = Refusal(reason, "quality", "by what the app sets")
        else:
            told = refusal(ad, campaign, self.at) or self.counts.refusal(ad, campaign)
            found = told if told and told.reason is reason else Refusal(reason, "creative", "what may be shown of it")
        return Loser(ad.crid, reason, reason.words, found.rule, found.detail)

    @cached_property
    def counts(self) -> Counts:
        """What the device's log holds against the limits."""
        return Counts(self.log, self.catalogue, self.at.now, self.cool_downs)

    @property
    def _codes(self) -> Codes:
        if self.codes is None:
            raise ValueError("nothing was looked at")
        return self.codes

    def evidence(self) -> Evidence:
        """See `decision.Workings`."""
        publisher, campaigns = self.at.request.publisher, self.catalogue.campaign
        past = self.asked.past if self.asked else ()
        own = set() if self.winner is None else set(campaigns[self.catalogue.ads[self.winner].cid].cat)
        alike = [one for one in past if own & set(campaigns[one.event.cid].cat)]
        told = Evidence(
            signals=self._signals(),
            remembered=len(past),
            shown=len(alike),
            clicked=sum(one.outcome != "seen" for one in alike),
            read=self._read()[0],
            about=self._read()[1],
            topics=tuple(dict.fromkeys(named(category, cattax) for category, cattax in sorted(publisher.categories))),
            publisher=publisher.bundle or publisher.domain,
        )
        return self._ranked(told)

    def _read(self) -> tuple[int, int]:
        """How many pages read before the model was given, and how many of them are about what the winner sells."""
        asked = self.asked
        if asked is None or asked.row is None or not asked.encoder.topics.count:
            return 0, 0
        topic = int(asked.encoder.topics.of_ads(asked.inputs.ad[asked.row]))
        return int(asked.read.sum()), 0 if topic == NONE else int(asked.read[0, topic])

    def _ranked(self, told: Evidence) -> Evidence:
        """The evidence with what the ranking went by."""
        offers, asked = self.offers, self.asked
        if offers is None or asked is None or asked.row is None:
            return told
        able = (offers.codes == 0) & (offers.value >= millionths(self.at.request.place.bidfloor))
        best = next(row for row in offers.ranked().tolist() if able[row])
        return replace(
            told,
            first=best == asked.row,
            besides=bool(offers.term[able].any()),
            wished=bool((offers.weight[able] != MICRO).any()),
            taste=asked.taste,
        )

    def _signals(self) -> Signals | None:
        asked = self.asked
        if asked is None or asked.row is None or self.winner is None:
            return None
        pricing = self.catalogue.campaign[self.catalogue.ads[self.winner].cid].pricing
        of: Literal["click", "conversion"] = "conversion" if pricing == "cpa" else "click"
        return signals(asked.scorer, asked.encoder, asked.inputs, asked.row, of)


def _valued(offers: Offers, row: int) -> str:
    """What an offer is worth, and what it was ranked by where that is something else."""
    value, worth = int(offers.value[row]), int(offers.worth[row])
    return f"value {value / MICRO:g}" + (f", ranked as {worth / MICRO:g}" if worth != value else "")
