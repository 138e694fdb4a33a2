"""What a decision came to, by positions in the catalogue, and how it becomes words and amounts."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sottovoce.client import auction
from sottovoce.client.auction import MICRO, millionths
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.columns import Codes, Places
from sottovoce.client.combination_choice import Choice as Combination
from sottovoce.client.combination_posterior import Posterior as PartsPosterior
from sottovoce.client.consent import Consent
from sottovoce.client.decision import Climb, Decision, Level, Mode, Used, Winner
from sottovoce.client.events import EventLog
from sottovoce.client.offers import Offers
from sottovoce.client.policy import CoolDown
from sottovoce.client.posterior import Posterior
from sottovoce.client.reasons import Loss, NoBid
from sottovoce.client.rotation import in_turn
from sottovoce.client.showing import Showing
from sottovoce.client.situation import Situation
from sottovoce.client.taxonomy import named
from sottovoce.client.workings import Asked, PickWorkings


@dataclass(frozen=True, slots=True)
class Asking:
    """Everything that one decision is made from: see `Picker.pick`.

    Attributes:
        at: the request and what surrounds it.
        log: of this device.
        consent: as given.
        mode: what may choose.
        why: that mode.
        draw: the random number.
        posterior: of this person's taste, or None.
        parts: what was learnt of parts of creatives, or None.
        begun: when the decision began, by the clock of the ladder; None without one.
        then: how the ladder came to its answer, where it is to come to it again.
    """

    at: Situation
    log: EventLog
    consent: Consent
    mode: Mode
    why: str
    draw: float
    posterior: Posterior | None
    parts: PartsPosterior | None
    begun: int | None
    then: Climb | None


class Choice(NamedTuple):
    """What a step of the ladder came to: see `Decision`; `codes` are those of the whole catalogue.

    `rest` is a uniform number that did not choose the ad, and `faults` are those of every step so far.
    """

    fallback: Level
    winner: int | None
    codes: Codes | None
    nbr: NoBid | None = None
    offers: Offers | None = None
    row: int | None = None
    price: int | None = None
    turn: tuple[int, ...] = ()
    asked: Asked | None = None
    faults: tuple[str, ...] = ()
    propensity: float = 1.0
    considered: tuple[tuple[str, float], ...] = ()
    rest: float = 0.0
    model: str = ""
    climb: Climb | None = None


def in_rotation(catalogue: Catalogue, candidates: Places, log: EventLog, floor: float, codes: Codes) -> Choice:
    """The next ad in turn; it is charged what its campaign offers."""
    able, unable = in_turn(catalogue, candidates.tolist(), log, floor)
    codes[able] = Loss.NOT_ITS_TURN
    codes[unable] = Loss.UNPRICED
    if not able:
        return Choice("none", None, codes, NoBid.NONE_REACHED_FLOOR, turn=tuple(unable))
    codes[able[0]] = 0
    return Choice("rotation", able[0], codes, turn=(*able[1:], *unable))


def decided(
    asking: Asking,
    choice: Choice,
    catalogue: Catalogue,
    cool_downs: tuple[CoolDown, ...],
    used: Used,
    combination: Combination | None,
    showing: Showing,
) -> Decision:
    """The decision, able to say more.

    Args:
        asking: what it was made from.
        choice: what it came to.
        catalogue: all ads.
        cool_downs: of the app.
        used: names what it was made from.
        combination: of the winner's parts.
        showing: the combinations of the catalogue.
    """
    counts = np.bincount(choice.codes) if choice.codes is not None else np.zeros(0, np.int64)
    decision = Decision(
        request=asking.at.request.id,
        now=asking.at.now,
        cur=catalogue.cur,
        winner=_winner(choice, catalogue),
        nbr=choice.nbr,
        nbr_words=choice.nbr.words if choice.nbr else "",
        mode=asking.mode,
        mode_words=asking.why,
        fallback=choice.fallback,
        fault="; ".join(choice.faults),
        consent=asking.consent,
        draw=asking.draw,
        propensity=0.0 if choice.winner is None else choice.propensity,
        considered=choice.considered,
        reasons={int(code): int(counts[code]) for code in np.flatnonzero(counts) if code},
        used=used,
        combination=combination,
    )
    return decision.explained_by(
        PickWorkings(
            catalogue=catalogue,
            at=asking.at,
            log=asking.log,
            cool_downs=cool_downs,
            codes=choice.codes,
            winner=choice.winner,
            offers=choice.offers,
            turn=choice.turn,
            asked=choice.asked,
            climb=choice.climb,
            showing=showing,
        )
    )


def _winner(choice: Choice, catalogue: Catalogue) -> Winner | None:
    """The chosen ad with what it pays, or None."""
    if choice.winner is None:
        return None
    ad = catalogue.ads[choice.winner]
    campaign = catalogue.campaign[ad.cid]
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
        category=named(campaign.cat[0], catalogue.cattax) if campaign.cat else "",
        pricing=campaign.pricing,
        price=None if choice.price is None else choice.price / MICRO,
        charge=charge / MICRO,
        value=None if value is None else value / MICRO,
        scores=chances,
    )
