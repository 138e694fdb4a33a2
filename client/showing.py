"""Ads whose parts are exchangeable, in the picker: which may take part, and which parts of the winner are shown.

An ad whose creative has combinations is shown with one of them or not at all. So it stays out of the auction where
nothing of it is approved, holds at this moment and is in a language of the page.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property

import msgspec
import numpy as np

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.columns import Codes
from sottovoce.client.combination import Showable
from sottovoce.client.combination_choice import Choice, Moment, choose
from sottovoce.client.combination_posterior import Posterior
from sottovoce.client.events import micros
from sottovoce.client.reasons import LOSSES, Loss
from sottovoce.client.request import Request
from sottovoce.client.situation import Situation
from sottovoce.client.taxonomy import sensitive


class Showing:
    """The combinations of one catalogue.

    Args:
        catalogue: all ads.
        ready: what may be shown of each creative, by `crid`; ads without an entry are shown as the catalogue has them.
        shipped: beliefs about parts that came with the catalogue: what counts where nothing personal may.
    """

    def __init__(self, catalogue: Catalogue, ready: Mapping[str, Showable], shipped: Posterior) -> None:
        self._ready = {crid: one for crid, one in ready.items() if crid in catalogue.place}
        self._shipped, self._ads = shipped, len(catalogue.ads)
        known = list(self._ready.values())
        self._places = np.asarray([catalogue.place[crid] for crid in self._ready], np.intp)
        self._loss = np.asarray([one.loss or 0 for one in known], np.int16)
        self._since = np.asarray([micros(one.since) for one in known], np.int64)
        self._until = np.asarray([micros(one.until) for one in known], np.int64)
        groups: dict[frozenset[str], int] = {}
        self._spoken = np.asarray([groups.setdefault(frozenset(one.languages), len(groups)) for one in known], np.intp)
        self._languages = tuple(groups)

    def refuse(self, codes: Codes, at: Situation) -> None:
        """Write why each ad without anything to show is out, where no reason stands yet.

        Args:
            codes: (ads,) changed in place.
            at: the request and what surrounds it.
        """
        if not len(self._places):
            return
        now = micros(at.now)
        found = np.where((self._since <= now) & (now < self._until), 0, Loss.NO_COMBINATION)
        if at.request.wlang:
            wanted = {"", *(tag.lower().split("-")[0] for tag in at.request.wlang)}
            fits = np.asarray([bool(wanted & languages) for languages in self._languages])
            found = np.where(fits[self._spoken], found, Loss.NO_COMBINATION)
        found = np.where(self._loss != 0, self._loss, found)
        own = codes[self._places]
        codes[self._places] = np.where(own == 0, found, own)

    def loss(self, place: int, at: Situation) -> Loss | None:
        """Why the ad at this position of the catalogue has nothing to show; None when it has.

        Args:
            place: of the ad.
            at: the request and what surrounds it.
        """
        codes = np.zeros(self._ads, np.int16)
        self.refuse(codes, at)
        return LOSSES[int(codes[place])] if codes[place] else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the choice of parts reads besides the request; empty where no creative has any."""
        if not self._ready:
            return ""
        told = [
            (crid, one.combinations, one.languages, one.digests, one.since, one.until, one.loss, one.epsilon)
            for crid, one in sorted(self._ready.items())
        ]
        return hashlib.sha256(msgspec.json.encode((told, self._shipped))).hexdigest()

    def chosen(self, crid: str, at: Situation, learnt: Posterior | None, draw: float) -> Choice | None:
        """The combination of an ad that won; None where it has none.

        Args:
            crid: of the ad.
            at: the request and what surrounds it.
            learnt: what this device learned about parts; not read unless personalised.
            draw: uniform in [0, 1), independent of what chose the ad.
        """
        ready = self._ready.get(crid)
        if ready is None:
            return None
        beliefs = learnt if at.personalised and learnt is not None else self._shipped
        moment = moment_of(at.request, at.now)
        return choose(ready, beliefs, moment, at.now, draw, at.request.wlang, at.request.id)


def moment_of(request: Request, now: datetime) -> Moment:
    """What the choice of parts looks at, and later learning from it: the same for the same request.

    Args:
        request: of the page.
        now: with the device's own time zone.
    """
    categories = sorted(request.publisher.categories)
    hidden = any(sensitive((category,), cattax) for category, cattax in categories)
    first = f"{categories[0][1]}:{categories[0][0]}"[:128] if categories and not hidden else ""
    return Moment(first, now.hour, now.weekday() >= 5)
