"""Caps, cool-downs and distance from competitors for a whole catalogue, kept up to date event by event.

`max` events lie within the window exactly when the `max`-th newest of them does. So a limit need not be counted at each
request: each has the moment at which it is free again, the time of that event plus the window. Only an event moves it,
and only forwards; a request compares one array with the clock. `caps` says what is meant.
"""

from bisect import insort
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from sottovoce.client.caps import REASONS, cap_of
from sottovoce.client.catalogue import Cap, Catalogue
from sottovoce.client.columns import Codes, Columns, Ints, Places, suffixes
from sottovoce.client.events import Event, EventLog, micros
from sottovoce.client.policy import CoolDown
from sottovoce.client.reasons import Loss

_SECOND = 1_000_000
_FREE, _NEVER = -(2**62), 2**62

Subject = tuple[str, str, str]
"""Level, name and kind of event: what a limit counts."""


class Limits:
    """The limits of one catalogue on one device.

    Args:
        catalogue: all campaigns and ads.
        columns: of this catalogue.
        cool_downs: of the app.
    """

    def __init__(self, catalogue: Catalogue, columns: Columns, cool_downs: tuple[CoolDown, ...]) -> None:
        self._catalogue, self._columns = catalogue, columns
        self._place = {campaign.cid: place for place, campaign in enumerate(catalogue.campaigns)}
        self._within = np.asarray([one.competitors.within_s for one in catalogue.campaigns], np.int64) * _SECOND
        self._apart = bool(self._within.any())
        self._caps = [(*one.caps, *map(cap_of, cool_downs)) for one in catalogue.campaigns]
        # One row per limit: caps in their order, then cool-downs, then the distance, where a campaign has that many.
        depth = max(map(len, self._caps), default=0) + 1
        self._code = np.zeros((depth, len(self._caps)), np.int16)
        self._code[-1] = Loss.COMPETITOR_BEFORE
        rows: dict[Subject, list[tuple[int, int, int, int]]] = defaultdict(list)
        for place, (campaign, caps) in enumerate(zip(catalogue.campaigns, self._caps, strict=True)):
            for row, cap in enumerate(caps):
                self._code[row, place] = REASONS[cap.level] if row < len(campaign.caps) else Loss.COOLING_DOWN
                for name in _counted(cap, campaign.cid, campaign.seat, campaign.cat):
                    rows[cap.level, name, cap.event].append((row, place, cap.max, cap.window_s * _SECOND))
        self._rows = dict(rows)
        self._arrays: dict[Subject, Ints] = {}
        self._log = EventLog()
        self._start()

    def follow(self, log: EventLog) -> None:
        """Take in what is new in the log; a log that does not go on from the last one is counted afresh."""
        if log is self._log:
            return
        known = len(self._log.events)
        if log.events[:known] != self._log.events:
            self._start()
            known = 0
        touched: set[tuple[Subject, str, int]] = set()
        for event in log.events[known:]:
            touched.update(self._count(event))
        for subject, of, place in touched:
            self._move(subject, of, place)
        self._log = log

    def codes(self, ads: Places, now: int) -> Codes:
        """For each of these ads the code of the first limit that forbids it now, 0 for none.

        Args:
            ads: positions in the catalogue.
            now: microseconds since 1970.
        """
        campaigns = self._columns.campaign[ads]
        held = np.maximum(self._campaign[:, campaigns], self._ad[:, ads]) > now
        codes = np.zeros(len(ads), np.int16)
        some = np.flatnonzero(held.any(0))
        codes[some] = self._code[held[:, some].argmax(0), campaigns[some]]
        return codes

    @property
    def shown(self) -> Sequence[int]:
        """Times of all impressions, in microseconds since 1970, ascending."""
        return self._shown

    def _start(self) -> None:
        """Nothing has happened; only caps of 0 forbid."""
        self._log = EventLog()
        self._shown: list[int] = []
        self._times: dict[Subject, list[int]] = defaultdict(list)
        self._campaign = np.full(self._code.shape, _FREE, np.int64)
        self._ad = np.full((len(self._code), len(self._catalogue.ads)), _FREE, np.int64)
        for place, caps in enumerate(self._caps):
            for row, cap in enumerate(caps):
                if cap.max == 0 and (cap.level != "category" or self._catalogue.campaigns[place].cat):
                    self._campaign[row, place] = _NEVER

    def _count(self, event: Event) -> list[tuple[Subject, str, int]]:
        """Note one event; what it counts for, with the level of the limits and the ad's position where they need it."""
        moment, kind = micros(event.ts), event.event
        place = self._place.get(event.cid)
        found: list[tuple[Subject, str, int]] = []
        ad = self._catalogue.place.get(event.crid)
        if ad is not None:
            own = self._catalogue.ads[ad].cid
            if ("creative", own, kind) in self._rows:
                found.append((("creative", event.crid, kind), own, ad))
        found.append((("campaign", event.cid, kind), event.cid, -1))
        if place is not None:
            campaign = self._catalogue.campaigns[place]
            found.append((("advertiser", campaign.seat, kind), campaign.seat, -1))
            found += [(("category", name, kind), name, -1) for name in dict.fromkeys(campaign.cat)]
        found = [one for one in found if (one[0][0], one[1], kind) in self._rows]
        for subject, _, _ in found:
            insort(self._times[subject], moment)
        if kind == "impression":
            insort(self._shown, moment)
            if place is not None and self._apart:
                self._keep_apart(place, moment)
        return found

    def _move(self, subject: Subject, of: str, ad: int) -> None:
        """Set when the limits that count this subject are free again."""
        level, _, kind = subject
        key = (level, of, kind)
        if key not in self._arrays:
            self._arrays[key] = np.asarray(self._rows[key], np.int64).T
        row, place, most, window = self._arrays[key]
        times = np.asarray(self._times[subject], np.int64)
        reached = (most > 0) & (most <= len(times))
        if not reached.any():
            return
        row, place, window = row[reached], place[reached], window[reached]
        until = times[len(times) - most[reached]] + window
        # A campaign may hold the same limit for several categories, so the later moment counts.
        if level == "creative":
            np.maximum.at(self._ad, (row, np.full_like(row, ad)), until)
        else:
            np.maximum.at(self._campaign, (row, place), until)

    def _keep_apart(self, shown: int, moment: int) -> None:
        """Hold back campaigns that name this one as a competitor's."""
        columns, campaign = self._columns, self._catalogue.campaigns[shown]
        named = [columns.by_rival_domain.get(end) for domain in campaign.adomain for end in suffixes(domain)]
        named += [columns.by_rival_category.get(category) for category in campaign.cat]
        for places in named:
            if places is not None:
                others = places[(columns.seat[places] != columns.seat[shown]) & (self._within[places] > 0)]
                until = moment + self._within[others]
                self._campaign[-1, others] = np.maximum(self._campaign[-1, others], until)


def _counted(cap: Cap, cid: str, seat: str, categories: tuple[str, ...]) -> tuple[str, ...]:
    """The names under which the limits of one cap are found; a creative's are its campaign's."""
    if cap.level in ("creative", "campaign"):
        return (cid,)
    return (seat,) if cap.level == "advertiser" else tuple(dict.fromkeys(categories))
