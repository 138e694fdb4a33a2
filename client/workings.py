"""What a pick went by, kept as long as its decision: from it losers are named and signals are measured, when asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from msgspec.structs import replace

from sottovoce.client.auction import MICRO
from sottovoce.client.caps import Counts
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.columns import Codes
from sottovoce.client.decision import Effect, Evidence, Loser
from sottovoce.client.eligibility import refusal
from sottovoce.client.events import EventLog
from sottovoce.client.explanation import effects
from sottovoce.client.features import Encoder, Inputs, Remembered
from sottovoce.client.offers import Offers
from sottovoce.client.policy import CoolDown
from sottovoce.client.reasons import LOSSES, Loss
from sottovoce.client.scorer import Scorer
from sottovoce.client.situation import Refusal, Situation
from sottovoce.client.taxonomy import named


@dataclass(frozen=True, slots=True)
class Asked:
    """What the model was asked: `past` is what `inputs` remember, `row` the winner's among them, None without one."""

    scorer: Scorer
    encoder: Encoder
    inputs: Inputs
    past: tuple[Remembered, ...]
    row: int | None = None


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
    """

    catalogue: Catalogue
    at: Situation
    log: EventLog
    cool_downs: tuple[CoolDown, ...]
    codes: Codes | None = None
    winner: int | None = None
    offers: Offers | None = None
    turn: tuple[int, ...] = ()
    asked: Asked | None = None

    def losers(self) -> tuple[Loser, ...]:
        """See `decision.Workings`: scored ones, best first, then the rest in the order of the catalogue."""
        if self.codes is None:
            return ()
        first = [] if self.offers is None else [*self._scored(self.offers)]
        listed = {*(loser.crid for loser in first), *(self.catalogue.ads[place].crid for place in self.turn)}
        first += [self._lost(place) for place in self.turn]
        ads = enumerate(self.catalogue.ads)
        return (*first, *(self._lost(n) for n, ad in ads if n != self.winner and ad.crid not in listed))

    def _scored(self, offers: Offers) -> Iterator[Loser]:
        """Those in the auction, then those that a rule kept out of it."""
        for row in offers.ranked():
            place = int(offers.ads[row])
            if place != self.winner:
                chances = tuple(chance / MICRO for chance in offers.chances[row].tolist())
                reason = LOSSES[int(self._codes[place])]
                detail = f"value {offers.worth[row] / MICRO:g}"
                crid = self.catalogue.ads[place].crid
                yield Loser(crid, reason, reason.words, "auction", detail, int(offers.value[row]) / MICRO, chances)
        for row in (offers.codes != 0).nonzero()[0]:
            place = int(offers.ads[row])
            lost = self._lost(place)
            if lost.reason in (Loss.LOW_QUALITY, Loss.NOT_WORTH_SHOWING):
                chances = tuple(chance / MICRO for chance in offers.chances[row].tolist())
                lost = replace(lost, value=int(offers.value[row]) / MICRO, scores=chances)
            yield lost

    def _lost(self, place: int) -> Loser:
        ad = self.catalogue.ads[place]
        campaign = self.catalogue.campaign[ad.cid]
        reason = LOSSES[int(self._codes[place])]
        if reason is Loss.UNPAID:
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
            told = refusal(ad, campaign, self.at) or self._counts.refusal(ad, campaign)
            found = told if told and told.reason is reason else Refusal(reason, "creative", "what may be shown of it")
        return Loser(ad.crid, reason, reason.words, found.rule, found.detail)

    @cached_property
    def _counts(self) -> Counts:
        return Counts(self.log, self.catalogue, self.at.now, self.cool_downs)

    @property
    def _codes(self) -> Codes:
        if self.codes is None:
            raise ValueError("nothing was looked at")
        return self.codes

    def evidence(self) -> Evidence:
        """See `decision.Workings`."""
        publisher, campaigns, asked = self.at.request.publisher, self.catalogue.campaign, self.asked
        past = asked.past if asked else ()
        own = set() if self.winner is None else set(campaigns[self.catalogue.ads[self.winner].cid].cat)
        alike = [one for one in past if own & set(campaigns[one.event.cid].cat)]
        measured: tuple[Effect, ...] | None = ()
        if asked is not None and asked.row is not None:
            measured = effects(asked.scorer, asked.encoder, asked.inputs, asked.row)
        return Evidence(
            effects=measured,
            remembered=len(past),
            shown=len(alike),
            clicked=sum(one.outcome != "seen" for one in alike),
            topics=tuple(dict.fromkeys(named(category, cattax) for category, cattax in sorted(publisher.categories))),
            publisher=publisher.bundle or publisher.domain,
        )
