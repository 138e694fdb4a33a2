"""The catalogue as columns of numbers, built once: what every ad is asked in one step instead of one by one.

Ads that agree in everything the rules about creatives look at share one form. Names (domains, categories, advertisers,
attributes) lead to the positions of their campaigns or forms, so that a block list costs as much as it is long.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sottovoce.client.auction import PRICINGS, millionths
from sottovoce.client.catalogue import Ad, Campaign, Catalogue
from sottovoce.client.events import micros
from sottovoce.client.taxonomy import sensitive

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int16]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]
Positions = Mapping[str, Places]
"""Where each name occurs."""


def suffixes(domain: str) -> tuple[str, ...]:
    """The domain and every domain that it is below, in lower case."""
    labels = domain.lower().split(".")
    return tuple(".".join(labels[start:]) for start in range(len(labels)))


def positions(named: Iterable[Iterable[str]]) -> Positions:
    """For each name the positions of the rows that carry it."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, names in enumerate(named):
        for name in dict.fromkeys(names):
            found[name].append(place)
    return {name: np.asarray(places, np.intp) for name, places in found.items()}


@dataclass(frozen=True, slots=True)
class Forms:
    """Distinct creative forms.

    Attributes:
        of: (ads,) form of each ad.
        audit, mtype, secure, mrating: (forms,) as in the catalogue.
        size: (forms,) position in `sizes`.
        sizes: position of each width and height.
        language: (forms,) position in `languages`.
        languages: position of each first subtag in lower case; the empty one suits every page.
        attributes: forms with each creative attribute.
    """

    of: Places
    audit: Ints
    mtype: Ints
    secure: Ints
    mrating: Ints
    size: Ints
    sizes: Mapping[tuple[int, int], int]
    language: Ints
    languages: Mapping[str, int]
    attributes: Positions


@dataclass(frozen=True, slots=True)
class Columns:
    """One catalogue.

    Attributes:
        forms: of the creatives.
        campaign: (ads,) position of each ad's campaign.
        order: (ads,) rank of each `crid`; ties fall to the smaller.
        seat: (campaigns,) number of the advertiser.
        price: (campaigns,) micro-units.
        pricing: (campaigns,) position in `PRICINGS`.
        start, end: (campaigns,) microseconds since 1970.
        most: (campaigns,) largest value per thousand that the price allows, as the floor rule reckons it.
        sensitive: (campaigns,) whether a category is.
        throttled: positions of the campaigns that take part in a share of requests only.
        part: (parts, 4) each day-part's campaign, days as bits, first minute and end.
        always: (campaigns,) without day-parts.
        by_seat, by_category: campaigns of an advertiser or a category.
        by_domain: campaigns with exactly this domain; by_suffix: with one that is this one or below it.
        by_rival_domain, by_rival_category: campaigns that name it as a competitor's.
    """

    forms: Forms
    campaign: Places
    order: Ints
    seat: Ints
    price: Ints
    pricing: Ints
    start: Ints
    end: Ints
    most: npt.NDArray[np.float64]
    sensitive: Flags
    throttled: Places
    part: Ints
    always: Flags
    by_seat: Positions
    by_category: Positions
    by_domain: Positions
    by_suffix: Positions
    by_rival_domain: Positions
    by_rival_category: Positions


def columns(catalogue: Catalogue) -> Columns:
    """The columns of a catalogue."""
    campaigns = catalogue.campaigns
    place = {campaign.cid: number for number, campaign in enumerate(campaigns)}
    seats = {seat: number for number, seat in enumerate(dict.fromkeys(one.seat for one in campaigns))}
    order = np.empty(len(catalogue.ads), np.int64)
    order[sorted(range(len(catalogue.ads)), key=lambda ad: catalogue.ads[ad].crid)] = np.arange(len(catalogue.ads))
    return Columns(
        forms=_forms(catalogue),
        campaign=np.asarray([place[ad.cid] for ad in catalogue.ads], np.intp),
        order=order,
        seat=_ints(seats[one.seat] for one in campaigns),
        price=_ints(millionths(one.price) for one in campaigns),
        pricing=_ints(PRICINGS.index(one.pricing) for one in campaigns),
        start=_ints(micros(one.start) for one in campaigns),
        end=_ints(micros(one.end) for one in campaigns),
        most=np.asarray([one.price * (1 if one.pricing == "cpm" else 1000) for one in campaigns], np.float64),
        sensitive=np.asarray([sensitive(one.cat, catalogue.cattax) != "" for one in campaigns], np.bool_),
        throttled=np.asarray([number for number, one in enumerate(campaigns) if one.throttle < 1], np.intp),
        part=_parts(campaigns),
        always=np.asarray([not one.dayparts for one in campaigns], np.bool_),
        by_seat=positions([one.seat] for one in campaigns),
        by_category=positions(one.cat for one in campaigns),
        by_domain=positions([domain.lower() for domain in one.adomain] for one in campaigns),
        by_suffix=positions([end for domain in one.adomain for end in suffixes(domain)] for one in campaigns),
        by_rival_domain=positions([name.lower() for name in one.competitors.adomain] for one in campaigns),
        by_rival_category=positions(one.competitors.cat for one in campaigns),
    )


def _forms(catalogue: Catalogue) -> Forms:
    numbers: dict[tuple[object, ...], int] = {}
    ads: list[Ad] = []
    of: list[int] = []
    for ad in catalogue.ads:
        key = (ad.audit, ad.mtype, ad.secure, ad.mrating, ad.w, ad.h, ad.language, ad.attr)
        if key not in numbers:
            numbers[key] = len(ads)
            ads.append(ad)
        of.append(numbers[key])
    sizes = {size: number for number, size in enumerate(dict.fromkeys((ad.w, ad.h) for ad in ads))}
    tags = [ad.language.lower().split("-")[0] for ad in ads]
    languages = {tag: number for number, tag in enumerate(dict.fromkeys(tags))}
    return Forms(
        of=np.asarray(of, np.intp),
        audit=_ints(ad.audit for ad in ads),
        mtype=_ints(ad.mtype for ad in ads),
        secure=_ints(ad.secure for ad in ads),
        mrating=_ints(ad.mrating for ad in ads),
        size=_ints(sizes[ad.w, ad.h] for ad in ads),
        sizes=sizes,
        language=_ints(languages[tag] for tag in tags),
        languages=languages,
        attributes=positions([str(attribute) for attribute in ad.attr] for ad in ads),
    )


def _parts(campaigns: tuple[Campaign, ...]) -> Ints:
    rows = [
        (number, sum(1 << day for day in set(part.dow)), part.start_minute, part.end_minute)
        for number, campaign in enumerate(campaigns)
        for part in campaign.dayparts
    ]
    return np.asarray(rows, np.int64).reshape(len(rows), 4)


def _ints(numbers: Iterable[int]) -> Ints:
    return np.fromiter(numbers, np.int64)
