"""The picker: one request in, one answer out, always.

consent -> pace -> eligibility -> caps -> creatives -> features -> score -> value -> ranking -> exploration -> price.
Who scores is a matter of the ladder (`client.ladder`): the model, the one before it, a table of pages; without any of
them the ads that passed take turns. When nobody who pays fits, the house ads do; when none passed there is no ad.

Nothing an argument of the right type holds, and nothing a model does, raises: see `Picker.pick`. What cannot be checked
is not shown, because a cap that could not be read is no cap.

A choice is a function of request, log, consent, controls, catalogue, models, policy, moment, what was learnt and one
random number, which only exploration and the choice of parts read: the same again gives the same decision. With a clock
it is also one of how fast the models were, lately.
"""

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from sottovoce.client import auction
from sottovoce.client.auction import Ints, millionths
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.choice import Asking, Choice, decided, in_rotation
from sottovoce.client.columns import Codes, Places, columns
from sottovoce.client.combination import Showable
from sottovoce.client.combination_posterior import Posterior as PartsPosterior
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls, visible
from sottovoce.client.decision import PROFILED, Climb, Decision, Used
from sottovoce.client.events import EventLog, micros
from sottovoce.client.features import Inputs
from sottovoce.client.ladder import Clock, Ladder, Ranker, Step, steps
from sottovoce.client.limits import Limits
from sottovoce.client.offers import Offers, offered
from sottovoce.client.pace import held_back
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.posterior import Posterior
from sottovoce.client.ranking import Ranking
from sottovoce.client.reasons import Loss, NoBid
from sottovoce.client.request import Request
from sottovoce.client.rotation import in_turn
from sottovoce.client.sale import sold
from sottovoce.client.scorer import Scorer, ask, said
from sottovoce.client.screening import screened
from sottovoce.client.serving import serving
from sottovoce.client.showing import Showing
from sottovoce.client.situation import NOTHING_SET, Situation
from sottovoce.client.workings import Asked
from sottovoce.models.schema import FeatureSchema

_NO_EVENTS = EventLog()
_SHIPPED = PartsPosterior()


class Picker:
    """Picks ads for one model and one catalogue.

    Args:
        schema: of the model; its device features are read from the request too, and dropped unless personalised.
        scorer: the model; None when no bundle can be trusted.
        catalogue: all ads; turned into columns and encoded once, here.
        personal_variance: of the personal layer, as the bundle's manifest says; 0 for none.
        policy: of the app.
        model: what to call the model in decisions.
        previous: the last good bundle's model, asked when the first one fails.
        page: asked when both fail, by `client.page_scorer`: scores from the page alone, for ads encoded by `schema`.
        creatives: what may be shown of creatives that have combinations, by `crid`.
        shipped: beliefs about their parts that came with the catalogue.
        clock: rising nanoseconds, such as `time.monotonic_ns`; None times nothing, see `client.ladder`.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        scorer: Scorer | None,
        catalogue: Catalogue,
        personal_variance: float = 0.0,
        policy: PickerPolicy | None = None,
        model: str = "",
        *,
        previous: Ranker | None = None,
        page: Scorer | None = None,
        creatives: Mapping[str, Showable] | None = None,
        shipped: PartsPosterior = _SHIPPED,
        clock: Clock | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._policy = policy or PickerPolicy()
        self._columns = columns(catalogue)
        self._start_limits()
        self._ranking = Ranking(catalogue, self._columns, self._policy)
        self._showing = Showing(catalogue, creatives or {}, shipped)
        newest = Ranker(schema, scorer, personal_variance, model)
        self._ladder = Ladder(steps(catalogue, newest, previous, page), self._policy.deadline_ms, clock)
        self._digest, self._model = catalogue.digest, model if scorer else ""
        self._kept: tuple[EventLog, Controls, EventLog] = _NO_EVENTS, NOTHING_SET, _NO_EVENTS

    def pick(
        self,
        request: Request,
        log: EventLog,
        consent: Consent,
        now: datetime,
        controls: Controls | None = None,
        draw: float = 0.0,
        posterior: Posterior | None = None,
        parts: PartsPosterior | None = None,
        then: Climb | None = None,
    ) -> Decision:
        """The answer to a request.

        Args:
            request: what the page asks for.
            log: what happened on this device; only limits and the rotation look at it unless personalised.
            consent: `Consent()` when it could not be read.
            now: with a time zone, the device's own: day-parts and quiet hours are read in it.
            controls: what the person decided; None for nothing.
            draw: a fresh uniform random number in [0, 1), the only randomness; without exploration and without
                combinations nothing reads it.
            posterior: what was learnt of this person's taste; not read unless personalised.
            parts: what was learnt of parts of creatives; not read unless personalised.
            then: how the ladder came to an earlier answer that is to be given again; see `Ladder.climb`.

        Raises:
            ValueError: `now` has no time zone, or `draw` is out of range.
        """
        if now.tzinfo is None:
            raise ValueError(f"{now} has no time zone")
        if not 0 <= draw < 1:
            raise ValueError(f"draw must lie in [0, 1), got {draw}")
        begun, controls = self._ladder.begun(), controls or NOTHING_SET
        mode, why = serving(request, consent, controls)
        cattax, mrating = self._catalogue.cattax, self._policy.mrating
        at = Situation(request, now, mode == "personalised", self._catalogue.cur, cattax, controls, mrating)
        asking = Asking(at, log, consent, mode, why, draw, posterior, parts, begun, then)
        try:
            return self._decision(asking, self._answer(asking))
        except Exception as error:
            self._start_limits()
            return self._decision(
                asking, Choice("none", None, None, NoBid.NOT_CHECKED, faults=(f"rules: {said(error)}",))
            )

    def _start_limits(self) -> None:
        """Count limits afresh; whatever broke off in the middle of it must not leave half a count."""
        self._limits = Limits(self._catalogue, self._columns, self._policy.cool_downs)

    def _answer(self, asking: Asking) -> Choice:
        if asking.mode == "none":
            return Choice("none", None, None, NoBid.NOT_ALLOWED)
        self._limits.follow(asking.log)
        kind = asking.at.request.place.ext.kind
        held = held_back(self._policy.pace(kind), self._limits.shown, asking.at.now)
        return self._choose(asking) if held is None else Choice("none", None, None, held)

    def _choose(self, asking: Asking) -> Choice:
        """The choice of the ladder among the ads that may be shown, or a house ad."""
        codes = screened(self._catalogue, self._columns, asking.at)
        passed = np.flatnonzero(codes == 0)
        codes[passed] = self._limits.codes(passed, micros(asking.at.now))
        fit = passed[codes[passed] == 0]
        self._showing.refuse(codes, asking.at)
        fit = fit[codes[fit] == 0]
        unpaid = self._columns.price[self._columns.campaign[fit]] == 0
        codes[fit[unpaid]] = Loss.UNPAID
        candidates, house = fit[~unpaid], fit[unpaid]
        if len(candidates):
            choice = self._by_ladder(asking, codes, candidates)
        elif len(passed):
            choice = Choice("none", None, codes, NoBid.ALL_CAPPED)
        else:
            empty = not self._catalogue.ads
            choice = Choice("none", None, codes, NoBid.EMPTY_CATALOGUE if empty else NoBid.NO_CANDIDATE)
        if choice.winner is None and len(house):
            codes = codes if choice.codes is None else choice.codes
            first = in_turn(self._catalogue, house.tolist(), asking.log, 0.0)[0][0]
            codes[first] = 0
            choice = choice._replace(fallback="house", winner=first, nbr=None, codes=codes, rest=asking.draw)
        return choice

    def _seen(self, log: EventLog, controls: Controls) -> EventLog:
        """The events that the model may see; the same object while log and controls are the same."""
        if self._kept[0] is not log or self._kept[1] != controls:
            self._kept = log, controls, visible(controls, log, self._catalogue)
        return self._kept[2]

    def _by_ladder(self, asking: Asking, codes: Codes, candidates: Places) -> Choice:
        """The choice of the first model that answers; a turn of the rotation when none does."""
        climb, choice = self._ladder.climb(
            asking.begun, lambda step: self._by_model(step, asking, codes.copy(), candidates), asking.then
        )
        if choice is None:
            floor = asking.at.request.place.bidfloor
            choice = in_rotation(self._catalogue, candidates, asking.log, floor, codes)._replace(rest=asking.draw)
        return choice._replace(faults=(*climb.faults, *choice.faults), climb=climb)

    def _by_model(self, step: Step, asking: Asking, codes: Codes, candidates: Places) -> Choice:
        """What one model makes of the candidates."""
        at, encoder = asking.at, step.encoder
        personal = at.personalised and step.level != "contextual"
        seen = self._seen(asking.log, at.controls) if personal else _NO_EVENTS
        events, outcomes, past = encoder.history(seen)
        context = encoder.context(at.request, personal)
        read = encoder.read(seen)
        asked_of = encoder.matched(encoder.ads(candidates), context, read)
        inputs = Inputs(context, events, outcomes, asked_of, encoder.topics)
        scorer = step.layer.over(at.request, seen) if step.layer and personal else step.scorer
        scores = ask(scorer, context, events, outcomes, inputs.ad, encoder.like[candidates])

        def ranked(places: Places, chances: Ints) -> Offers:
            return self._ranking.ranked(offered(self._columns, places, chances), seen, at.controls, at.now)

        offers = ranked(candidates, auction.grid(scores))
        taste, rule = asking.posterior if personal else None, self._policy.exploration
        sale = sold(
            offers,
            millionths(at.request.place.bidfloor),
            at.request.at,
            rule,
            lambda rows: self._ranking.candidates(offers, rows, taste),
            asking.draw,
        )
        codes[offers.ads] = sale.codes
        liked = taste is not None and bool(taste.arms) and rule.method == "thompson"
        asked = Asked(scorer, encoder, inputs, past, ranked, read, sale.row, liked)
        if sale.row is None:
            nbr = NoBid.NONE_REACHED_FLOOR if (offers.codes == 0).any() else NoBid.NO_CANDIDATE
            return Choice("none", None, codes, nbr, offers, asked=asked, model=step.name)
        ads = self._catalogue.ads
        return Choice(
            step.level,
            int(offers.ads[sale.row]),
            codes,
            offers=offers,
            row=sale.row,
            price=sale.price,
            asked=asked,
            faults=(f"exploration: {sale.fault}",) if sale.fault else (),
            propensity=sale.propensity,
            considered=tuple((ads[offers.ads[row]].crid, chance) for row, chance in sale.considered),
            rest=sale.rest,
            model=step.name,
        )

    def _decision(self, asking: Asking, choice: Choice) -> Decision:
        """The choice with the parts that are shown, ready to say more."""
        parts = None
        if choice.winner is not None:
            crid = self._catalogue.ads[choice.winner].crid
            # Where no model that knows the person chose the ad, none that knows the person chooses its parts.
            learnt = asking.parts if choice.fallback in PROFILED else None
            parts = self._showing.chosen(crid, asking.at, learnt, choice.rest)
        used = Used(self._digest, choice.model or self._model, len(asking.log.events))
        return decided(asking, choice, self._catalogue, self._policy.cool_downs, used, parts, self._showing)
