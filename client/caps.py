"""Frequency caps, cool-downs and distance from competitors: what the event log forbids, written to be read.

A cap: at most so many events in a rolling window, for a creative, campaign, advertiser or category. A cool-down of the
app is the same, for every campaign. An ad keeps its distance from the impressions of competitors that it names.
`limits` answers for a whole catalogue at once, and never otherwise.

There is one count for every path, taken from the event log alone, so that caps hold across restarts and formats.
Only the named event counts. An event exactly `window_s` ago no longer counts. An event later than now (the clock was
set back) does count, because forgetting it would show an ad too often.

An advertiser or a category is known for the campaigns of the catalogue: events of a campaign that left it count for
the creative and the campaign only.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from sottovoce.client.catalogue import Ad, Campaign, Cap, Catalogue, EventName, Level
from sottovoce.client.eligibility import below
from sottovoce.client.events import EventLog, micros
from sottovoce.client.policy import CoolDown
from sottovoce.client.reasons import Loss
from sottovoce.client.situation import Refusal

_SECOND = 1_000_000

REASONS: dict[Level, Loss] = {
    "creative": Loss.CAPPED_CREATIVE,
    "campaign": Loss.CAPPED_CAMPAIGN,
    "advertiser": Loss.CAPPED_ADVERTISER,
    "category": Loss.CAPPED_CATEGORY,
}

_MANY = {"impression": "impressions", "click": "clicks", "conversion": "conversions", "dismiss": "dismissals"}


class Counts:
    """How often each event happened, at the levels and as far back as the catalogue's caps look.

    Args:
        log: events of this device.
        catalogue: names campaigns, advertisers and categories, and the caps that will be asked about.
        now: the moment to count back from.
        cool_downs: of the app.
    """

    def __init__(
        self, log: EventLog, catalogue: Catalogue, now: datetime, cool_downs: tuple[CoolDown, ...] = ()
    ) -> None:
        self._now = micros(now)
        self._cool_downs = tuple(cap_of(one) for one in cool_downs)
        self._shown = tuple(
            (moment, catalogue.campaign[event.cid])
            for event, moment in zip(log.events, log.micros, strict=True)
            if event.event == "impression" and event.cid in catalogue.campaign
        )
        wanted: dict[EventName, set[Level]] = defaultdict(set)
        longest = 0
        for campaign in catalogue.campaigns:
            for cap in (*campaign.caps, *self._cool_downs):
                wanted[cap.event].add(cap.level)
                longest = max(longest, cap.window_s)
        since = self._now - longest * _SECOND
        times: dict[tuple[Level, str, EventName], list[int]] = defaultdict(list)
        for event, moment in zip(log.events, log.micros, strict=True):
            if moment <= since or event.event not in wanted:
                continue
            known = catalogue.campaign.get(event.cid)
            for level in wanted[event.event]:
                for name in _names(level, event.crid, event.cid, known):
                    times[level, name, event.event].append(moment)
        for moments in times.values():
            moments.sort()
        self._times = dict(times)

    def within(self, cap: Cap, name: str) -> int:
        """How many events of the cap's kind and level `name` had within its window."""
        moments = self._times.get((cap.level, name, cap.event), [])
        return len(moments) - bisect_right(moments, self._now - cap.window_s * _SECOND)

    def refusals(self, ad: Ad, campaign: Campaign) -> Iterator[Refusal]:
        """All that forbids one more impression of the ad: caps, then cool-downs, then competitors.

        A cap at category level holds for each of the campaign's categories.
        """
        for cap in campaign.caps:
            if found := self._reached(cap, ad, campaign):
                yield Refusal(REASONS[cap.level], "cap", found)
        for cap in self._cool_downs:
            if found := self._reached(cap, ad, campaign):
                yield Refusal(Loss.COOLING_DOWN, "cool_down", found)
        for _, seat in self._rivals(campaign):
            yield Refusal(Loss.COMPETITOR_BEFORE, "distance", f"{seat} within {campaign.competitors.within_s} s")
            break

    def refusal(self, ad: Ad, campaign: Campaign) -> Refusal | None:
        """The first of `refusals`, or None."""
        return next(self.refusals(ad, campaign), None)

    def ends(self, ad: Ad, campaign: Campaign) -> set[int]:
        """When the limits that forbid the ad now no longer do, each by itself, in microseconds since 1970.

        A limit of 0 never ends and has no moment here.
        """
        found = {moment + campaign.competitors.within_s * _SECOND for moment, _ in self._rivals(campaign)}
        for cap in (*campaign.caps, *self._cool_downs):
            for name in _names(cap.level, ad.crid, campaign.cid, campaign):
                if cap.max and self.within(cap, name) >= cap.max:
                    found.add(self._times[cap.level, name, cap.event][-cap.max] + cap.window_s * _SECOND)
        return found

    def _rivals(self, campaign: Campaign) -> Iterator[tuple[int, str]]:
        """When competitors that it names were shown, as far back as it minds, and who they were."""
        avoided = campaign.competitors
        for moment, other in self._shown:
            if other.seat == campaign.seat or moment <= self._now - avoided.within_s * _SECOND or not avoided.within_s:
                continue
            near = any(below(domain, rival) for domain in other.adomain for rival in avoided.adomain)
            if near or set(other.cat) & set(avoided.cat):
                yield moment, other.seat

    def _reached(self, cap: Cap, ad: Ad, campaign: Campaign) -> str:
        """What the cap counts where it is reached, else the empty string."""
        for name in _names(cap.level, ad.crid, campaign.cid, campaign):
            count = self.within(cap, name)
            if count >= cap.max:
                return f"{cap.level} {name}: {count} of at most {cap.max} {_MANY[cap.event]} in {cap.window_s} s"
        return ""


def cap_of(cool_down: CoolDown) -> Cap:
    """The cap that a cool-down amounts to."""
    return Cap(cool_down.level, cool_down.after, cool_down.times, cool_down.window_s)


def _names(level: Level, crid: str, cid: str, campaign: Campaign | None) -> tuple[str, ...]:
    """What an event of this ad counts for at this level."""
    if level == "creative":
        return (crid,)
    if level == "campaign":
        return (cid,)
    if campaign is None:
        return ()
    return (campaign.seat,) if level == "advertiser" else tuple(dict.fromkeys(campaign.cat))
