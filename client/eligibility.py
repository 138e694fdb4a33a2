"""Which ads may be shown here and now: one small rule per reason.

Rules about the creative come first, then rules about the campaign, each in the order of its table; the first rule that
refuses an ad gives the reason. Frequency caps are counted in `caps`, because they need the event log.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sottovoce.client.catalogue import Ad, Campaign, Catalogue
from sottovoce.client.decision import Loser
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Banner, Request
from sottovoce.client.taxonomy import sensitive


class Refusal(NamedTuple):
    """Why an ad is out: the code, the rule that said so, and what it saw."""

    reason: Loss
    rule: str
    detail: str


def refused(crid: str, refusal: Refusal) -> Loser:
    """The ad with its reason, for the decision."""
    return Loser(crid, refusal.reason, refusal.reason.words, refusal.rule, refusal.detail)


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at besides the ad.

    Attributes:
        request: what the page asks for.
        now: with its time zone; day-parts are read in that zone, so pass the device's local time.
        personalised: the ad is chosen with the person's history.
        cur: the catalogue's currency.
        cattax: the catalogue's taxonomy.
    """

    request: Request
    now: datetime
    personalised: bool
    cur: str
    cattax: int


def audit(ad: Ad, at: Situation) -> Refusal | None:  # noqa: ARG001
    """Only creatives that are pre-approved (2) or approved (3)."""
    if ad.audit in (2, 3):
        return None
    pending = ad.audit in (1, 5)
    return Refusal(Loss.AUDIT_PENDING if pending else Loss.AUDIT_REFUSED, "audit", f"audit status {ad.audit}")


def markup(ad: Ad, at: Situation) -> Refusal | None:
    """The place takes this kind of markup."""
    if at.request.place.slot(ad.mtype) is not None:
        return None
    return Refusal(Loss.FORMAT, "markup", f"mtype {ad.mtype} is not asked for")


def size(ad: Ad, at: Situation) -> Refusal | None:
    """A banner has one of the sizes of the place; other formats scale."""
    slot = at.request.place.slot(ad.mtype)
    if not isinstance(slot, Banner) or not slot.sizes or (ad.w, ad.h) in slot.sizes:
        return None
    return Refusal(Loss.SIZE, "size", f"{ad.w}x{ad.h}, the place takes " + ", ".join(_sizes(slot)))


def _sizes(banner: Banner) -> list[str]:
    return [f"{w}x{h}" for w, h in sorted(banner.sizes)]


def language(ad: Ad, at: Situation) -> Refusal | None:
    """The page takes the ad's language, compared by its first subtag ("en" suits "en-GB")."""
    wanted = {tag.lower().split("-")[0] for tag in at.request.wlang}
    if not wanted or not ad.language or ad.language.lower().split("-")[0] in wanted:
        return None
    return Refusal(Loss.LANGUAGE, "language", f"{ad.language}, the page takes {', '.join(sorted(wanted))}")


def attribute(ad: Ad, at: Situation) -> Refusal | None:
    """None of the ad's creative attributes is blocked."""
    slot = at.request.place.slot(ad.mtype)
    blocked = sorted(set(ad.attr) & set(slot.battr if slot else ()))
    return Refusal(Loss.ATTRIBUTE_BLOCKED, "attribute", f"attribute {blocked[0]}") if blocked else None


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
            if f".{domain.lower()}".endswith(f".{blocked.lower()}"):
                return Refusal(Loss.ADVERTISER_BLOCKED, "advertiser", f"domain {domain}")
    return None


def floor(campaign: Campaign, at: Situation) -> Refusal | None:
    """The campaign could reach the floor if every impression were clicked and converted; the auction is exact."""
    most = campaign.price * (1 if campaign.pricing == "cpm" else 1000)
    if most >= at.request.place.bidfloor:
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


CREATIVE_RULES: tuple[Callable[[Ad, Situation], Refusal | None], ...] = (audit, markup, size, language, attribute)
CAMPAIGN_RULES: tuple[Callable[[Campaign, Situation], Refusal | None], ...] = (
    flight,
    daypart,
    currency,
    category,
    advertiser,
    floor,
    sensitive_category,
    throttle,
)


def refusals(catalogue: Catalogue, at: Situation) -> list[Refusal | None]:
    """For each ad of the catalogue the first refusal, or None when it may be shown.

    Each rule runs once per distinct creative form and once per campaign, not once per ad.
    """
    first, form = catalogue.forms
    by_form = [next((no for rule in CREATIVE_RULES if (no := rule(ad, at))), None) for ad in first]
    by_campaign = {
        campaign.cid: next((no for rule in CAMPAIGN_RULES if (no := rule(campaign, at))), None)
        for campaign in catalogue.campaigns
    }
    return [by_form[number] or by_campaign[ad.cid] for number, ad in zip(form, catalogue.ads, strict=True)]
