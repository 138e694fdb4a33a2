"""The rules of `eligibility` and `creative_rules` for a whole catalogue at once: one code for each ad.

Each step here is the rule of the same name there, asked of columns instead of one ad; the order is the same, and the
first refusal stands. The rules there say what is meant, and tests hold both to the same answers.
"""

from collections.abc import Iterable

import numpy as np

from sottovoce.client import eligibility
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.columns import Codes, Columns, Flags, Positions, suffixes
from sottovoce.client.events import micros
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Neighbour
from sottovoce.client.situation import Situation

MTYPES = (1, 2, 3, 4)
_NOBODY = np.zeros(0, np.intp)


def screened(catalogue: Catalogue, columns: Columns, at: Situation) -> Codes:
    """For each ad of the catalogue the code of the first refusal, 0 when it may be shown.

    Args:
        catalogue: all ads.
        columns: of this catalogue.
        at: the request and what surrounds it.
    """
    codes = _creatives(columns, at)[columns.forms.of]
    np.copyto(codes, _campaigns(catalogue, columns, at)[columns.campaign], where=codes == 0)
    if at.controls.muted_crids:
        muted = np.zeros(len(codes), np.bool_)
        muted[[catalogue.place[crid] for crid in at.controls.muted_crids if crid in catalogue.place]] = True
        _refuse(codes, muted, Loss.MUTED_AD)
    return codes


def _creatives(columns: Columns, at: Situation) -> Codes:
    """One code per form."""
    forms, place = columns.forms, at.request.place
    codes = np.zeros(len(forms.mtype), np.int16)
    pending = (forms.audit == 1) | (forms.audit == 5)
    _refuse(codes, pending, Loss.AUDIT_PENDING)
    _refuse(codes, ~pending & (forms.audit != 2) & (forms.audit != 3), Loss.AUDIT_REFUSED)
    asked = np.array([False, *(place.slot(mtype) is not None for mtype in MTYPES)])
    _refuse(codes, ~asked[forms.mtype], Loss.FORMAT)
    if place.banner and place.banner.sizes:
        fits = np.zeros(len(forms.sizes), np.bool_)
        fits[[forms.sizes[size] for size in place.banner.sizes if size in forms.sizes]] = True
        _refuse(codes, (forms.mtype == 1) & ~fits[forms.size], Loss.SIZE)
    if at.request.wlang:
        wanted = {"", *(tag.lower().split("-")[0] for tag in at.request.wlang)}
        suits = np.array([tag in wanted for tag in forms.languages], np.bool_)
        _refuse(codes, ~suits[forms.language], Loss.LANGUAGE)
    for mtype in MTYPES:
        slot = place.slot(mtype)
        if slot and slot.battr:
            found = _marked(len(codes), forms.attributes, [str(attribute) for attribute in slot.battr])
            _refuse(codes, found & (forms.mtype == mtype), Loss.ATTRIBUTE_BLOCKED)
    if place.secure:
        _refuse(codes, forms.secure == 0, Loss.NOT_SECURE)
    if at.rating < 3:
        _refuse(codes, (forms.mrating == 0) | (forms.mrating > at.rating), Loss.RATING)
    return codes


def _campaigns(catalogue: Catalogue, columns: Columns, at: Situation) -> Codes:
    """One code per campaign."""
    request, place, now = at.request, at.request.place, micros(at.now)
    codes = np.zeros(len(columns.price), np.int16)
    _refuse(codes, (now < columns.start) | (now >= columns.end), Loss.OUTSIDE_FLIGHT)
    if len(columns.part):
        owner, days, start, end = columns.part.T
        minute = at.now.hour * 60 + at.now.minute
        runs = columns.always.copy()
        runs[owner[(days >> at.now.weekday() & 1 == 1) & (start <= minute) & (minute < end)]] = True
        _refuse(codes, ~runs, Loss.OUTSIDE_DAYPART)
    if (request.cur and at.cur not in request.cur) or (place.bidfloor > 0 and place.bidfloorcur != at.cur):
        codes[codes == 0] = Loss.CURRENCY
    if request.bcat:
        if request.cattax != at.cattax:
            codes[codes == 0] = Loss.TAXONOMY
        _refuse(codes, _marked(len(codes), columns.by_category, request.bcat), Loss.CATEGORY_BLOCKED)
    if request.badv:
        blocked = _marked(len(codes), columns.by_suffix, [domain.lower() for domain in request.badv])
        _refuse(codes, blocked, Loss.ADVERTISER_BLOCKED)
    if place.bidfloor > 0:
        _refuse(codes, (columns.most < place.bidfloor) & (columns.most > 0), Loss.BELOW_FLOOR)
    if at.personalised:
        _refuse(codes, columns.sensitive, Loss.SENSITIVE)
    for number in columns.throttled[codes[columns.throttled] == 0]:
        if eligibility.throttle(catalogue.campaigns[number], at) is not None:
            codes[number] = Loss.THROTTLED
    if at.controls.muted_seats:
        _refuse(codes, _marked(len(codes), columns.by_seat, at.controls.muted_seats), Loss.MUTED_ADVERTISER)
    never = at.controls.never(at.cattax)
    if never:
        _refuse(codes, _marked(len(codes), columns.by_category, never), Loss.MUTED_CATEGORY)
    for other in place.ext.beside:
        _refuse(codes, _avoiding(columns, at, other), Loss.COMPETITOR_BESIDE)
    return codes


def _avoiding(columns: Columns, at: Situation, other: Neighbour) -> Flags:
    """Campaigns that will not stand beside the neighbour."""
    size = len(columns.price)
    upwards = [end for domain in other.adomain for end in suffixes(domain)]
    own = _marked(size, columns.by_domain, upwards)
    own |= _marked(size, columns.by_suffix, [domain.lower() for domain in other.adomain])
    rival = _marked(size, columns.by_rival_domain, upwards)
    names = other.cat if at.request.cattax == at.cattax or not other.cat else columns.by_rival_category
    return (rival | _marked(size, columns.by_rival_category, names)) & ~own


def _marked(size: int, where: Positions, names: Iterable[str]) -> Flags:
    """(size,) true at the positions of these names."""
    flags = np.zeros(size, np.bool_)
    for name in names:
        flags[where.get(name, _NOBODY)] = True
    return flags


def _refuse(codes: Codes, refused: Flags, reason: Loss) -> None:
    """Write the reason where there is none yet."""
    codes[refused & (codes == 0)] = reason
