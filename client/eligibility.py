"""Which ads may be shown here and now: one small rule per reason, written to be read.

Rules about the creative come first, then rules about the campaign, each in the order of its table, then the person's
mutes of single ads; the first rule that refuses an ad gives the reason. Frequency caps are counted in `caps`, because
they need the event log. A request asks these rules about one ad at a time only to tell a reason; `screening` answers
for a whole catalogue at once, and never otherwise than they do.
"""

import hashlib
from collections.abc import Callable, Iterator

from sottovoce.client.catalogue import Ad, Campaign
from sottovoce.client.creative_rules import CREATIVE_RULES
from sottovoce.client.reasons import Loss
from sottovoce.client.situation import Refusal, Situation
from sottovoce.client.taxonomy import sensitive


def below(domain: str, other: str) -> bool:
    """Whether a domain is another one or below it; letter case does not matter."""
    return f".{domain.lower()}".endswith(f".{other.lower()}")


def flight(campaign: Campaign, at: Situation) -> Refusal | None:
    """Inside start (included) and end (not included)."""
    if campaign.start <= at.now < campaign.end:
        return None
    return Refusal(Loss.OUTSIDE_FLIGHT, "flight", f"runs {campaign.start.isoformat()} to {campaign.end.isoformat()}")


def daypart(campaign: Campaign, at: Situation) -> Refusal | None:
    """Inside one of the day-parts, in the time zone of `now`; no day-part means always."""
    day, minute = at.now.weekday(), at.now.hour * 60 + at.now.minute
    if not campaign.dayparts or any(
        day in part.dow and part.start_minute <= minute < part.end_minute for part in campaign.dayparts
    ):
        return None
    return Refusal(Loss.OUTSIDE_DAYPART, "daypart", f"day {day}, minute {minute}")


def currency(campaign: Campaign, at: Situation) -> Refusal | None:  # noqa: ARG001
    """The catalogue's currency is accepted, and is the floor's where there is a floor; nothing is converted."""
    place = at.request.place
    if at.request.cur and at.cur not in at.request.cur:
        return Refusal(Loss.CURRENCY, "currency", f"{at.cur}, the page takes {', '.join(at.request.cur)}")
    if place.bidfloor > 0 and place.bidfloorcur != at.cur:
        return Refusal(Loss.CURRENCY, "currency", f"{at.cur}, the floor is in {place.bidfloorcur}")
    return None


def category(campaign: Campaign, at: Situation) -> Refusal | None:
    """None of the campaign's categories is blocked.

    Ids are compared as they are: blocking a parent does not block its children. A block list in another taxonomy than
    the catalogue's blocks everything, since it cannot be honoured.
    """
    if not at.request.bcat:
        return None
    if at.request.cattax != at.cattax:
        return Refusal(Loss.TAXONOMY, "category", f"bcat in cattax {at.request.cattax}, catalogue in {at.cattax}")
    blocked = [cat for cat in campaign.cat if cat in at.request.bcat]
    return Refusal(Loss.CATEGORY_BLOCKED, "category", f"category {blocked[0]}") if blocked else None


def advertiser(campaign: Campaign, at: Situation) -> Refusal | None:
    """None of the advertiser's domains is blocked, nor below a blocked one; letter case does not matter."""
    for domain in campaign.adomain:
        for blocked in at.request.badv:
            if below(domain, blocked):
                return Refusal(Loss.ADVERTISER_BLOCKED, "advertiser", f"domain {domain}")
    return None


def floor(campaign: Campaign, at: Situation) -> Refusal | None:
    """The campaign could reach the floor if every impression were clicked and converted; the auction is exact.

    House campaigns pay nothing and fill what nobody bought: no floor holds for them.
    """
    most = campaign.price * (1 if campaign.pricing == "cpm" else 1000)
    if campaign.price == 0 or most >= at.request.place.bidfloor:
        return None
    return Refusal(Loss.BELOW_FLOOR, "floor", f"at most {most:g} per thousand, floor {at.request.place.bidfloor:g}")


def sensitive_category(campaign: Campaign, at: Situation) -> Refusal | None:
    """A sensitive category is never personalised; chosen from the page alone it may run."""
    found = sensitive(campaign.cat, at.cattax) if at.personalised else ""
    return Refusal(Loss.SENSITIVE, "sensitive_category", f"category {found}") if found else None


def throttle(campaign: Campaign, at: Situation) -> Refusal | None:
    """Takes part in `throttle` of all requests, decided by a hash of request and campaign: the same answer each time.

    Two devices with the same request id decide alike, so the request id must be fresh for each request.
    """
    if campaign.throttle >= 1:
        return None
    digest = hashlib.sha256(f"{at.request.id}|{campaign.cid}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < campaign.throttle:
        return None
    return Refusal(Loss.THROTTLED, "throttle", f"takes part in {campaign.throttle:g} of all requests")


def muted(campaign: Campaign, at: Situation) -> Refusal | None:
    """The person muted neither the advertiser nor one of the categories."""
    if campaign.seat in at.controls.muted_seats:
        return Refusal(Loss.MUTED_ADVERTISER, "muted", f"advertiser {campaign.seat}")
    never = at.controls.never(at.cattax)
    found = next((category for category in campaign.cat if category in never), None)
    return Refusal(Loss.MUTED_CATEGORY, "muted", f"category {found}") if found is not None else None


def beside(campaign: Campaign, at: Situation) -> Refusal | None:
    """No competitor that the campaign names stands beside the place; an ad of its own domains is none.

    Neighbours' categories in another taxonomy than the catalogue's cannot be compared and count as competitors'.
    """
    avoided = campaign.competitors
    for other in at.request.place.ext.beside:
        if any(below(domain, own) or below(own, domain) for domain in other.adomain for own in campaign.adomain):
            continue
        for domain in other.adomain:
            if any(below(domain, competitor) for competitor in avoided.adomain):
                return Refusal(Loss.COMPETITOR_BESIDE, "beside", f"domain {domain}")
        if avoided.cat and other.cat and at.request.cattax != at.cattax:
            detail = f"neighbours in cattax {at.request.cattax}, catalogue in {at.cattax}"
            return Refusal(Loss.COMPETITOR_BESIDE, "beside", detail)
        found = next((category for category in other.cat if category in avoided.cat), None)
        if found is not None:
            return Refusal(Loss.COMPETITOR_BESIDE, "beside", f"category {found}")
    return None


CAMPAIGN_RULES: tuple[Callable[[Campaign, Situation], Refusal | None], ...] = (
    flight,
    daypart,
    currency,
    category,
    advertiser,
    floor,
    sensitive_category,
    throttle,
    muted,
    beside,
)


def refusals(ad: Ad, campaign: Campaign, at: Situation) -> Iterator[Refusal]:
    """Every refusal of one ad, in the order of the rules."""
    for creative_rule in CREATIVE_RULES:
        if found := creative_rule(ad, at):
            yield found
    for campaign_rule in CAMPAIGN_RULES:
        if found := campaign_rule(campaign, at):
            yield found
    if ad.crid in at.controls.muted_crids:
        yield Refusal(Loss.MUTED_AD, "muted", f"ad {ad.crid}")


def refusal(ad: Ad, campaign: Campaign, at: Situation) -> Refusal | None:
    """The first refusal of one ad, or None when it may be shown."""
    return next(refusals(ad, campaign, at), None)
