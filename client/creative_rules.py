"""Which creatives may be shown here: one small rule per reason, about the creative alone."""

from collections.abc import Callable

from sottovoce.client.catalogue import Ad
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Banner
from sottovoce.client.situation import Refusal, Situation


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


def secure(ad: Ad, at: Situation) -> Refusal | None:
    """Where only secure markup is taken, the ad is known to be secure."""
    if ad.secure or not at.request.place.secure:
        return None
    return Refusal(Loss.NOT_SECURE, "secure", "not known to be secure")


def rating(ad: Ad, at: Situation) -> Refusal | None:
    """Its media rating is not above the content's nor the app's; where there is a limit, an ad must have a rating."""
    if at.rating == 3 or 0 < ad.mrating <= at.rating:
        return None
    rated = f"media rating {ad.mrating}" if ad.mrating else "not rated"
    return Refusal(Loss.RATING, "rating", f"{rated}, at most {at.rating} here")


CREATIVE_RULES: tuple[Callable[[Ad, Situation], Refusal | None], ...] = (
    audit,
    markup,
    size,
    language,
    attribute,
    secure,
    rating,
)
