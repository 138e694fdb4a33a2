"""The picker: one request in, one answer out, always.

consent -> pace -> eligibility -> caps -> features -> score -> value -> auction -> exploration -> decision. When the
model fails, the ads that passed take turns; when nobody who pays fits, the house ads do; when none passed there is no
ad. A broken model, an empty catalogue or a log full of nonsense never raises.

A choice is a function of request, log, consent, controls, catalogue, model, policy, moment and one random number, which
only exploration reads: the same again gives the same decision.
"""

from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import numpy as np

from sottovoce.client import auction
from sottovoce.client.auction import MICRO, millionths
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.columns import Codes, Places, columns
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls, visible
from sottovoce.client.decision import Decision, Level, Mode, Used, Winner
from sottovoce.client.events import EventLog, micros
from sottovoce.client.features import Encoder, Inputs
from sottovoce.client.limits import Limits
from sottovoce.client.offers import Explorer, Offers, ValueRule
from sottovoce.client.pace import held_back
from sottovoce.client.personal_scorer import PersonalLayer
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.reasons import Loss, NoBid
from sottovoce.client.request import Request
from sottovoce.client.rotation import in_turn
from sottovoce.client.sale import offered, sold
from sottovoce.client.scorer import Scorer, ask
from sottovoce.client.screening import screened
from sottovoce.client.serving import serving
from sottovoce.client.situation import NOTHING_SET, Situation
from sottovoce.client.taxonomy import named
from sottovoce.client.workings import Asked, PickWorkings
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import DeviceError

_NO_EVENTS = EventLog()


class Choice(NamedTuple):
    """What a step of the ladder came to: see `Decision`; `codes` are those of the whole catalogue."""

    fallback: Level
    winner: int | None
    codes: Codes | None
    nbr: NoBid | None = None
    offers: Offers | None = None
    row: int | None = None
    price: int | None = None
    turn: tuple[int, ...] = ()
    asked: Asked | None = None
    fault: str = ""
    propensity: float = 1.0
    considered: tuple[tuple[str, float], ...] = ()


class Picker:
    """Picks ads for one model and one catalogue.

    Args:
        schema: of the model; its device features are read from the request too, and dropped unless personalised.
        scorer: the model; None when no bundle can be trusted, and the ads take turns.
        catalogue: all ads; turned into columns and encoded once, here.
        personal_variance: of the personal layer, as the bundle's manifest says; 0 for none.
        policy: of the app.
        model: what to call the model in decisions.
        value_rule: changes what the ranking goes by; None for the plain value.
        explorer: draws from the best; None for the best.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        scorer: Scorer | None,
        catalogue: Catalogue,
        personal_variance: float = 0.0,
        policy: PickerPolicy | None = None,
        model: str = "",
        value_rule: ValueRule | None = None,
        explorer: Explorer | None = None,
    ) -> None:
        self._scorer = scorer
        self._catalogue = catalogue
        self._policy = policy or PickerPolicy()
        self._model = model
        self._value_rule, self._explorer = value_rule, explorer
        self._columns = columns(catalogue)
        self._limits = Limits(catalogue, self._columns, self._policy.cool_downs)
        self._encoder = Encoder(schema, catalogue)
        self._personal: PersonalLayer | None = None
        if scorer is not None and personal_variance:
            self._personal = PersonalLayer(self._encoder, scorer, personal_variance)
        self._kept: tuple[EventLog, Controls, EventLog] = _NO_EVENTS, NOTHING_SET, _NO_EVENTS

    def pick(
        self,
        request: Request,
        log: EventLog,
        consent: Consent,
        now: datetime,
        controls: Controls | None = None,
        draw: float = 0.0,
    ) -> Decision:
        """The answer to a request.

        Args:
            request: what the page asks for.
            log: what happened on this device; only limits and the rotation look at it unless personalised.
            consent: `Consent()` when it could not be read.
            now: with a time zone, the device's own: day-parts and quiet hours are read in it.
            controls: what the person decided; None for nothing.
            draw: a fresh uniform random number in [0, 1), the only randomness; without exploration nothing reads it.

        Raises:
            ValueError: `now` has no time zone, or `draw` is out of range.
        """
        if now.tzinfo is None:
            raise ValueError(f"{now} has no time zone")
        if not 0 <= draw < 1:
            raise ValueError(f"draw must lie in [0, 1), got {draw}")
        controls = controls or NOTHING_SET
        mode, why = serving(request, consent, controls)
        at = self._situation(request, now, mode, controls)
        if mode == "none":
            choice = Choice("none", None, None, NoBid.NOT_ALLOWED)
        else:
            self._limits.follow(log)
            held = held_back(self._policy.pace(request.place.ext.kind), self._limits.shown, now)
            choice = self._choose(at, log, draw) if held is None else Choice("none", None, None, held)
        return self._decision(at, log, consent, mode, why, choice, draw)

    def _situation(self, request: Request, now: datetime, mode: Mode, controls: Controls) -> Situation:
        catalogue, personalised = self._catalogue, mode == "personalised"
        return Situation(request, now, personalised, catalogue.cur, catalogue.cattax, controls, self._policy.mrating)

    def _choose(self, at: Situation, log: EventLog, draw: float) -> Choice:
        """The model's choice, a turn of the rotation when the model fails, or a house ad."""
        codes = screened(self._catalogue, self._columns, at)
        passed = np.flatnonzero(codes == 0)
        codes[passed] = self._limits.codes(passed, micros(at.now))
        fit = passed[codes[passed] == 0]
        unpaid = self._columns.price[self._columns.campaign[fit]] == 0
        codes[fit[unpaid]] = Loss.UNPAID
        candidates, house = fit[~unpaid], fit[unpaid]
        if len(candidates):
            choice = self._by_model(at, log, codes, candidates, draw)
        elif len(passed):
            choice = Choice("none", None, codes, NoBid.ALL_CAPPED)
        else:
            empty = not self._catalogue.ads
            choice = Choice("none", None, codes, NoBid.EMPTY_CATALOGUE if empty else NoBid.NO_CANDIDATE)
        if choice.winner is None and len(house):
            first = in_turn(self._catalogue, house.tolist(), log, 0.0)[0][0]
            codes[first] = 0
            choice = choice._replace(fallback="house", winner=first, nbr=None)
        return choice

    def _seen(self, log: EventLog, controls: Controls) -> EventLog:
        """The events that the model may see; the same object while log and controls are the same."""
        if self._kept[0] is not log or self._kept[1] != controls:
            self._kept = log, controls, visible(controls, log, self._catalogue)
        return self._kept[2]

    def _by_model(self, at: Situation, log: EventLog, codes: Codes, candidates: Places, draw: float) -> Choice:
        try:
            if self._scorer is None:
                raise DeviceError("there is no model", "install a bundle")
            seen = self._seen(log, at.controls) if at.personalised else _NO_EVENTS
            events, outcomes, past = self._encoder.history(seen)
            context = self._encoder.context(at.request, at.personalised)
            inputs = Inputs(context, events, outcomes, self._encoder.ads(candidates))
            layer = self._personal if at.personalised else None
            scorer = layer.over(at.request, seen) if layer else self._scorer
            scores = ask(scorer, context, events, outcomes, inputs.ad, self._encoder.like[candidates])
            offers = offered(self._columns, candidates, auction.grid(scores))
            # Here a rule about value may change what the ranking goes by; the explorer comes in at the sale.
            offers = self._value_rule(offers) if self._value_rule else offers
            return self._sale(at, codes, offers, Asked(scorer, self._encoder, inputs, past), draw)
        except DeviceError as error:
            return self._rotation(at, log, codes, candidates)._replace(fault=error.what)

    def _sale(self, at: Situation, codes: Codes, offers: Offers, asked: Asked, draw: float) -> Choice:
        """What the auction of the candidates comes to."""
        sale = sold(offers, millionths(at.request.place.bidfloor), at.request.at, self._explorer, draw)
        codes[offers.ads] = sale.codes
        if sale.row is None:
            some = (offers.codes == 0).any()
            nbr = NoBid.NONE_REACHED_FLOOR if some else NoBid.NO_CANDIDATE
            return Choice("none", None, codes, nbr, offers, asked=asked)
        ads = self._catalogue.ads
        return Choice(
            "model",
            int(offers.ads[sale.row]),
            codes,
            offers=offers,
            row=sale.row,
            price=sale.price,
            asked=replace(asked, row=sale.row),
            propensity=sale.propensity,
            considered=tuple((ads[offers.ads[row]].crid, chance) for row, chance in sale.considered),
        )

    def _rotation(self, at: Situation, log: EventLog, codes: Codes, candidates: Places) -> Choice:
        """The next ad in turn; it is charged what its campaign offers."""
        able, unable = in_turn(self._catalogue, candidates.tolist(), log, at.request.place.bidfloor)
        codes[able] = Loss.NOT_ITS_TURN
        codes[unable] = Loss.UNPRICED
        if not able:
            return Choice("none", None, codes, NoBid.NONE_REACHED_FLOOR, turn=tuple(unable))
        codes[able[0]] = 0
        return Choice("rotation", able[0], codes, turn=(*able[1:], *unable))

    def _winner(self, choice: Choice) -> Winner | None:
        if choice.winner is None:
            return None
        ad = self._catalogue.ads[choice.winner]
        campaign = self._catalogue.campaign[ad.cid]
        chances: tuple[float, ...] = ()
        charge, value = millionths(campaign.price), None
        if choice.offers is not None and choice.row is not None and choice.price is not None:
            chances = tuple(chance / MICRO for chance in choice.offers.chances[choice.row].tolist())
            charge = auction.charge(campaign, choice.price, chances)
            value = int(choice.offers.value[choice.row])
        return Winner(
            crid=ad.crid,
            cid=ad.cid,
            seat=campaign.seat,
            adomain=campaign.adomain,
            sponsored=ad.sponsored,
            category=named(campaign.cat[0], self._catalogue.cattax) if campaign.cat else "",
            pricing=campaign.pricing,
            price=None if choice.price is None else choice.price / MICRO,
            charge=charge / MICRO,
            value=None if value is None else value / MICRO,
            scores=chances,
        )

    def _decision(
        self, at: Situation, log: EventLog, consent: Consent, mode: Mode, why: str, choice: Choice, draw: float
    ) -> Decision:
        counts = np.bincount(choice.codes) if choice.codes is not None else np.zeros(0, np.int64)
        decision = Decision(
            request=at.request.id,
            now=at.now,
            cur=self._catalogue.cur,
            winner=self._winner(choice),
            nbr=choice.nbr,
            nbr_words=choice.nbr.words if choice.nbr else "",
            mode=mode,
            mode_words=why,
            fallback=choice.fallback,
            fault=choice.fault,
            consent=consent,
            draw=draw,
            propensity=0.0 if choice.winner is None else choice.propensity,
            considered=choice.considered,
            reasons={int(code): int(counts[code]) for code in np.flatnonzero(counts) if code},
            used=Used(self._catalogue.digest, self._model if self._scorer else "", len(log.events)),
        )
        return decision.explained_by(
            PickWorkings(
                catalogue=self._catalogue,
                at=at,
                log=log,
                cool_downs=self._policy.cool_downs,
                codes=choice.codes,
                winner=choice.winner,
                offers=choice.offers,
                turn=choice.turn,
                asked=choice.asked,
            )
        )
