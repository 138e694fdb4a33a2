"""Why not this ad: everything that stood against it, what it would have been worth, and how much was missing."""

import msgspec
import numpy as np

from sottovoce.client import auction
from sottovoce.client.auction import MICRO, exact, millionths
from sottovoce.client.catalogue import Ad
from sottovoce.client.decision import Decision
from sottovoce.client.eligibility import refusals
from sottovoce.client.reasons import LOSSES, Loss
from sottovoce.client.scorer import ask
from sottovoce.client.situation import Refusal
from sottovoce.client.workings import Asked, PickWorkings
from sottovoce.privacy.errors import DeviceError


class Against(msgspec.Struct, frozen=True):
    """One thing that stood against the ad: code, its words, the rule and what it saw."""

    reason: Loss
    words: str
    rule: str
    detail: str


class WhyNot(msgspec.Struct, frozen=True):
    """What kept one ad from being shown.

    Attributes:
        crid: of the ad.
        shown: it is the one that is shown.
        against: what refused it, the first one first, then all that would have refused it without that. Empty where
            no ad at all was to be shown, and nothing stood against this one.
        scores: chances by the model, as of a winner; empty when the model was not asked, or may not be asked about it.
        value: per thousand impressions, were it eligible; None without scores or where its pricing needs a head that
            the model lacks.
        missing: micro-units per thousand impressions by which it falls short of being worth the most and of the floor,
            were it eligible; 0 when it does not fall short; None without a value.
        sentence: the same for a reader.
    """

    crid: str
    shown: bool
    against: tuple[Against, ...]
    scores: tuple[float, ...]
    value: float | None
    missing: int | None
    sentence: str


def why_not(decision: Decision, crid: str) -> WhyNot:
    """See `WhyNot`. The model is asked again about an ad that a rule kept from it.

    An ad of a sensitive category is not scored with the person's history, not even to say what it would be worth.

    Args:
        decision: of a picker, not read back.
        crid: of any ad of the catalogue.

    Raises:
        DeviceError: the decision was read back, or the catalogue has no such ad.
    """
    workings = decision.workings
    if not isinstance(workings, PickWorkings):
        raise ValueError("a decision of a picker is needed")
    place = workings.catalogue.place.get(crid)
    if place is None:
        raise DeviceError(f"the catalogue has no ad {crid!r}", "name a crid of the catalogue")
    ad = workings.catalogue.ads[place]
    found = () if place == workings.winner else tuple(_against(workings, ad, place))
    chances = _chances(workings, place, found)
    campaign = workings.catalogue.campaign[ad.cid]
    value = auction.value(campaign, [chance / MICRO for chance in chances]) if chances else None
    missing = None
    if value is not None:
        missing = max(0, needed(workings, place) - _worth(workings, place, value))
    told = WhyNot(
        crid=crid,
        shown=place == workings.winner,
        against=found,
        scores=tuple(chance / MICRO for chance in chances),
        value=None if value is None else value / MICRO,
        missing=missing,
        sentence="",
    )
    return msgspec.structs.replace(told, sentence=_sentence(told, decision))


def needed(workings: PickWorkings, place: int) -> int:
    """The least worth, in micro-units, with which this ad is first in the auction and reaches the floor.

    Args:
        workings: of the decision.
        place: of the ad in the catalogue.
    """
    least = millionths(workings.at.request.place.bidfloor)
    offers = workings.offers
    if offers is None:
        return least
    others = (offers.codes == 0) & (offers.ads != place)
    if not others.any():
        return least
    best = int(offers.worth[others].max())
    crids = workings.catalogue.ads
    first = min(crids[ad].crid for ad in offers.ads[others & (offers.worth == best)].tolist())
    return max(least, best + int(first < crids[place].crid))


def _against(workings: PickWorkings, ad: Ad, place: int) -> list[Against]:
    """All that stood against the ad; the first is the reason of the decision."""
    campaign = workings.catalogue.campaign[ad.cid]
    found: list[Refusal] = [
        *refusals(ad, campaign, workings.at),
        *workings.counts.refusals(ad, campaign),
    ]
    if workings.codes is not None:
        code = int(workings.codes[place])
        if code and LOSSES[code] not in {refusal.reason for refusal in found}:
            lost = workings.lost(place)
            found.append(Refusal(lost.reason, lost.rule, lost.detail))
    return [Against(LOSSES[int(one.reason)], one.reason.words, one.rule, one.detail) for one in found]


def _worth(workings: PickWorkings, place: int, value: int) -> int:
    """What the ranking went by: its value, unless a rule said otherwise of it."""
    offers = workings.offers
    if offers is None:
        return value
    row = np.flatnonzero(offers.ads == place)
    return int(offers.worth[row[0]]) if len(row) else value


def _chances(workings: PickWorkings, place: int, found: tuple[Against, ...]) -> list[int]:
    """In millionths, as they were or would have been."""
    offers, asked = workings.offers, workings.asked
    if offers is not None:
        known: list[list[int]] = offers.chances[offers.ads == place].tolist()
        if known:
            return known[0]
    if asked is None or any(one.reason is Loss.SENSITIVE for one in found):
        return []
    return _asked_again(asked, place)


def _asked_again(asked: Asked, place: int) -> list[int]:
    inputs, ads = asked.inputs, asked.encoder.ads(np.asarray([place], np.intp))
    try:
        scores = ask(asked.scorer, inputs.context, inputs.events, inputs.outcomes, ads)
    except DeviceError:
        return []
    chances: list[int] = auction.grid(scores)[0].tolist()
    return chances


def _sentence(told: WhyNot, decision: Decision) -> str:
    if told.shown:
        return f"{told.crid} is the ad that is shown."
    if not told.against:
        return f"{told.crid} was not shown: {decision.nbr_words or 'another ad was'}."
    words = list(dict.fromkeys(one.words for one in told.against))
    said = f"{told.crid} was not shown: {words[0]}."
    if words[1:]:
        said += f" Without that it would not have been shown either: {'; '.join(words[1:])}."
    if told.value is None or told.missing is None:
        return said
    worth = f" It is worth {exact(millionths(told.value))} {decision.cur} per thousand views here"
    if told.missing:
        return f"{said}{worth}, {exact(told.missing)} too little to be first."
    return f"{said}{worth}, enough to be first." if told.against[0].reason is not Loss.OUTBID else f"{said}{worth}."
