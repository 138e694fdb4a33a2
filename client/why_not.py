"""Why not this ad: everything that stood against it, what it would have been worth, and how much was missing."""

import msgspec
import numpy as np

from sottovoce.client import auction
from sottovoce.client.auction import MICRO, UNPRICED, exact, millionths
from sottovoce.client.catalogue import Ad
from sottovoce.client.decision import Decision
from sottovoce.client.eligibility import refusals
from sottovoce.client.offers import Offers
from sottovoce.client.reasons import LOSSES, Loss, NoBid
from sottovoce.client.scorer import ask
from sottovoce.client.situation import Refusal
from sottovoce.client.workings import PickWorkings
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
        missing: micro-units per thousand impressions by which that falls short of making it first and of the floor,
            were it eligible; 0 when it does not fall short; None without a value, or where no value would do, because
            the person's edited interests make nothing of it.
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
    shown = place == workings.winner
    ad = workings.catalogue.ads[place]
    # Where the rules could not be checked, asking them one by one could fail just the same.
    silent = shown or decision.nbr is NoBid.NOT_CHECKED
    found = [] if silent else _against(workings, ad, place)
    offer = _offer(workings, place, found)
    chances: list[int] = [] if offer is None else offer.chances[0].tolist()
    value = None if offer is None or offer.value[0] == UNPRICED else int(offer.value[0])
    missing = None
    if offer is not None and value is not None:
        code = int(offer.codes[0])
        if code and not silent and LOSSES[code] not in {one.reason for one in found}:
            found.append(Refusal(LOSSES[code], "quality", "by what the app sets"))
        least = needed(workings, place, int(offer.term[0]), int(offer.weight[0]))
        missing = None if least is None else max(0, least - value)
    told = WhyNot(
        crid=crid,
        shown=shown,
        against=tuple(Against(LOSSES[int(one.reason)], one.reason.words, one.rule, one.detail) for one in found),
        scores=tuple(chance / MICRO for chance in chances),
        value=None if value is None else value / MICRO,
        missing=missing,
        sentence="",
    )
    return msgspec.structs.replace(told, sentence=_sentence(told, decision))


def needed(workings: PickWorkings, place: int, term: int = 0, weight: int = MICRO) -> int | None:
    """The least value, in micro-units, with which this ad is ranked first and reaches the floor; None when none does.

    Args:
        workings: of the decision.
        place: of the ad in the catalogue.
        term: its own, see `Offers`.
        weight: its own, likewise.
    """
    floor, offers = millionths(workings.at.request.place.bidfloor), workings.offers
    # Below that it would be refused: the value and the term must not come to less than nothing.
    least = max(floor, -term)
    if offers is None:
        return least
    rivals = (offers.codes == 0) & (offers.value >= floor) & (offers.ads != place)
    if not rivals.any():
        return least
    best = int(offers.worth[rivals].max())
    crids = workings.catalogue.ads
    first = min(crids[ad].crid for ad in offers.ads[rivals & (offers.worth == best)].tolist())
    worth = best + int(first < crids[place].crid)
    if weight == 0:
        return None if worth > 0 else least
    return max(least, -(-worth * MICRO // weight) - term)


def _against(workings: PickWorkings, ad: Ad, place: int) -> list[Refusal]:
    """All that stood against the ad; the first is the reason of the decision."""
    campaign = workings.catalogue.campaign[ad.cid]
    found: list[Refusal] = [
        *refusals(ad, campaign, workings.at),
        *workings.counts.refusals(ad, campaign),
    ]
    nothing = workings.showing.loss(place, workings.at)
    if nothing is not None and nothing not in {refusal.reason for refusal in found}:
        found.append(Refusal(nothing, "creative", "what may be shown of it"))
    if workings.codes is not None:
        code = int(workings.codes[place])
        if code and LOSSES[code] not in {refusal.reason for refusal in found}:
            lost = workings.lost(place)
            found.append(Refusal(lost.reason, lost.rule, lost.detail))
    return found


def _offer(workings: PickWorkings, place: int, found: list[Refusal]) -> Offers | None:
    """The ad's own offer, alone, as it was or would have been; None where the model was not, or may not be, asked."""
    asked, row = workings.asked, workings.row(place)
    if asked is None or any(one.reason is Loss.SENSITIVE for one in found):
        return None
    places = np.asarray([place], np.intp)
    if row is not None and workings.offers is not None:
        return asked.ranked(places, workings.offers.chances[[row]])
    inputs, ads = asked.inputs, asked.encoder.ads(places)
    try:
        scores = ask(asked.scorer, inputs.context, inputs.events, inputs.outcomes, ads)
    except DeviceError:
        return None
    return asked.ranked(places, auction.grid(scores))


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
