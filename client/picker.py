"""The picker: one request in, one answer out, always.

consent -> eligibility -> caps -> features -> score -> auction -> decision. When the model fails, the ads that passed
take turns; when none passed there is no ad. A broken model, an empty catalogue or a log full of nonsense never raises.

The choice is deterministic: the same request, log, consent, catalogue and model give the same decision.
"""

from datetime import datetime
from typing import NamedTuple

from sottovoce.client import auction
from sottovoce.client.auction import MICRO, Bid, millionths
from sottovoce.client.caps import Counts
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.consent import Consent
from sottovoce.client.decision import Decision, Effect, Evidence, Loser, Mode, Winner
from sottovoce.client.eligibility import Refusal, Situation, refusals, refused
from sottovoce.client.events import EventLog
from sottovoce.client.explanation import effects
from sottovoce.client.features import Encoder, Inputs, Remembered
from sottovoce.client.personal_scorer import PersonalLayer
from sottovoce.client.reasons import Loss, NoBid
from sottovoce.client.request import Request
from sottovoce.client.rotation import next_in_turn
from sottovoce.client.scorer import Scorer, ask
from sottovoce.client.taxonomy import named, sensitive
from sottovoce.models.request import Scores
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import DeviceError


class Choice(NamedTuple):
    """What a step of the ladder came to: see `Decision` and `Evidence`; `past` is what the model was given."""

    winner: Winner | None
    losers: tuple[Loser, ...]
    nbr: NoBid | None = None
    effects: tuple[Effect, ...] | None = ()
    past: tuple[Remembered, ...] = ()
    fault: str = ""


class Picker:
    """Picks ads for one model and one catalogue.

    Args:
        schema: of the model; its device features are read from the request too, and dropped unless personalised.
        scorer: the model; None when no bundle can be trusted, and the ads take turns.
        catalogue: all ads; encoded once, here.
        personal_variance: of the personal layer, as the bundle's manifest says; 0 for none.
    """

    def __init__(
        self, schema: FeatureSchema, scorer: Scorer | None, catalogue: Catalogue, personal_variance: float = 0.0
    ) -> None:
        self._scorer = scorer
        self._catalogue = catalogue
        self._encoder = Encoder(schema, catalogue)
        self._personal: PersonalLayer | None = None
        if scorer is not None and personal_variance:
            self._personal = PersonalLayer(self._encoder, scorer, personal_variance)

    def pick(self, request: Request, log: EventLog, consent: Consent, now: datetime) -> Decision:
        """The answer to a request.

        Args:
            request: what the page asks for.
            log: what happened on this device; only frequency caps and the rotation look at it unless personalised.
            consent: `Consent()` when it could not be read.
            now: with a time zone, the device's own: day-parts are read in it.

        Raises:
            ValueError: `now` has no time zone.
        """
        if now.tzinfo is None:
            raise ValueError(f"{now} has no time zone")
        mode, why = serving(request, consent)
        if mode == "none":
            choice = Choice(None, (), NoBid.NOT_ALLOWED)
        else:
            candidates, losers, nbr = self._candidates(request, log, mode, now)
            choice = self._choose(request, log, mode, candidates) if candidates else Choice(None, (), nbr)
            choice = choice._replace(losers=choice.losers + losers)
        return self._decision(request, now, consent, mode, why, choice)

    def _candidates(
        self, request: Request, log: EventLog, mode: Mode, now: datetime
    ) -> tuple[list[int], tuple[Loser, ...], NoBid | None]:
        """Positions of the ads that pass every rule and cap, the others with their reasons, and why none passed."""
        catalogue = self._catalogue
        situation = Situation(request, now, mode == "personalised", catalogue.cur, catalogue.cattax)
        verdicts = refusals(catalogue, situation)
        passed = [place for place, refusal in enumerate(verdicts) if refusal is None]
        counts = Counts(log, catalogue, now)
        for place in passed:
            ad = catalogue.ads[place]
            verdicts[place] = counts.refusal(ad, catalogue.campaign[ad.cid])
        candidates = [place for place in passed if verdicts[place] is None]
        losers = [refused(ad.crid, no) for ad, no in zip(catalogue.ads, verdicts, strict=True) if no is not None]
        nbr = NoBid.ALL_CAPPED if passed else NoBid.NO_CANDIDATE if catalogue.ads else NoBid.EMPTY_CATALOGUE
        return candidates, tuple(losers), None if candidates else nbr

    def _choose(self, request: Request, log: EventLog, mode: Mode, candidates: list[int]) -> Choice:
        """The model's choice, or a turn of the rotation when the model fails."""
        try:
            if self._scorer is None:
                raise DeviceError("there is no model", "install a bundle")
            inputs, past = self._inputs(request, log, mode, candidates)
            layer = self._personal if mode == "personalised" else None
            scorer = layer.over(request, log) if layer else self._scorer
            scores = ask(scorer, inputs.context, inputs.events, inputs.outcomes, inputs.ad)
            return self._auction(request, candidates, inputs, scorer, scores)._replace(past=past)
        except DeviceError as error:
            return self._rotation(request, candidates, log)._replace(fault=error.what)

    def _inputs(
        self, request: Request, log: EventLog, mode: Mode, candidates: list[int]
    ) -> tuple[Inputs, tuple[Remembered, ...]]:
        """What the model reads. Unless personalised the history is empty and device features are missing."""
        personalised = mode == "personalised"
        events, outcomes, past = self._encoder.history(log if personalised else EventLog())
        context = self._encoder.context(request, personalised)
        return Inputs(context, events, outcomes, self._encoder.ads(candidates)), past

    def _auction(
        self, request: Request, candidates: list[int], inputs: Inputs, scorer: Scorer, scores: Scores
    ) -> Choice:
        """The best value wins; see `auction`."""
        catalogue = self._catalogue
        floor = millionths(request.place.bidfloor)
        chances: dict[str, tuple[float, ...]] = {}
        bids: list[Bid] = []
        unpriced: list[Loser] = []
        for place, row in zip(candidates, scores.tolist(), strict=True):
            ad = catalogue.ads[place]
            campaign = catalogue.campaign[ad.cid]
            chances[ad.crid] = tuple(millionths(chance) / MICRO for chance in row)
            worth = auction.value(campaign, row)
            if worth is None:
                refusal = Refusal(Loss.UNPRICED, "auction", f"{campaign.pricing} needs a model with a conversion head")
                unpriced.append(refused(ad.crid, refusal))
            else:
                bids.append(Bid(ad.crid, campaign.seat, worth))
        sale = auction.sell(bids, floor, request.at)
        best = sale.winner
        losers = [
            _outbid(bid, chances[bid.crid], below=bid.value < floor) for bid in sale.ranked if bid is not best
        ] + unpriced
        if best is None:
            return Choice(None, tuple(losers), NoBid.NONE_REACHED_FLOOR if bids else NoBid.NO_CANDIDATE)
        place = catalogue.place[best.crid]
        campaign = catalogue.campaign[catalogue.ads[place].cid]
        charge = auction.charge(campaign, sale.price, chances[best.crid])
        winner = self._winner(place, sale.price, charge, best.value, chances[best.crid])
        measured = effects(scorer, self._encoder, inputs, candidates.index(place))
        return Choice(winner, tuple(losers), None, measured)

    def _rotation(self, request: Request, candidates: list[int], log: EventLog) -> Choice:
        """The next ad in turn; it is charged what its campaign offers."""
        place, losers = next_in_turn(self._catalogue, candidates, log, request.place.bidfloor)
        if place is None:
            return Choice(None, losers, NoBid.NONE_REACHED_FLOOR)
        offer = millionths(self._catalogue.campaign[self._catalogue.ads[place].cid].price)
        return Choice(self._winner(place, None, offer, None, ()), losers)

    def _winner(
        self, place: int, price: int | None, charge: int, value: int | None, chances: tuple[float, ...]
    ) -> Winner:
        ad = self._catalogue.ads[place]
        campaign = self._catalogue.campaign[ad.cid]
        return Winner(
            crid=ad.crid,
            cid=ad.cid,
            seat=campaign.seat,
            adomain=campaign.adomain,
            sponsored=ad.sponsored,
            category=named(campaign.cat[0], self._catalogue.cattax) if campaign.cat else "",
            pricing=campaign.pricing,
            price=None if price is None else price / MICRO,
            charge=charge / MICRO,
            value=None if value is None else value / MICRO,
            scores=chances,
        )

    def _decision(
        self, request: Request, now: datetime, consent: Consent, mode: Mode, why: str, choice: Choice
    ) -> Decision:
        winner = choice.winner
        return Decision(
            request=request.id,
            now=now,
            cur=self._catalogue.cur,
            winner=winner,
            nbr=choice.nbr,
            nbr_words=choice.nbr.words if choice.nbr else "",
            mode=mode,
            mode_words=why,
            fallback="none" if winner is None else "rotation" if choice.fault else "model",
            fault=choice.fault,
            consent=consent,
            losers=choice.losers,
            evidence=self._evidence(request, choice),
        )

    def _evidence(self, request: Request, choice: Choice) -> Evidence:
        campaigns, publisher = self._catalogue.campaign, request.publisher
        own = set(campaigns[choice.winner.cid].cat) if choice.winner else set()
        alike = [one for one in choice.past if own & set(campaigns[one.event.cid].cat)]
        return Evidence(
            effects=choice.effects,
            remembered=len(choice.past),
            shown=len(alike),
            clicked=sum(one.outcome != "seen" for one in alike),
            topics=tuple(dict.fromkeys(named(category, cattax) for category, cattax in sorted(publisher.categories))),
            publisher=publisher.bundle or publisher.domain,
        )


def serving(request: Request, consent: Consent) -> tuple[Mode, str]:
    """What may choose the ad, and why: the person's history, the page alone, or nothing."""
    if not consent.serve_contextual:
        return "none", "; ".join(consent.notes)
    if not consent.serve_personalised:
        return "contextual", "; ".join(consent.notes)
    if request.restriction:
        return "contextual", request.restriction
    for category, cattax in sorted(request.publisher.categories):
        if sensitive((category,), cattax):
            return "contextual", f"the page's category {category} (cattax {cattax}) is sensitive or unknown"
    return "personalised", "; ".join(consent.notes)


def _outbid(bid: Bid, chances: tuple[float, ...], below: bool) -> Loser:
    reason = Loss.BELOW_FLOOR if below else Loss.OUTBID
    return Loser(bid.crid, reason, reason.words, "auction", f"value {bid.value / MICRO:g}", bid.value / MICRO, chances)
