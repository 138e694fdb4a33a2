"""Frequency caps: at most so many events in a rolling window, for a creative, campaign, advertiser or category.

There is one count for every path, taken from the event log alone, so that caps hold across restarts and formats.
Only the named event counts. An event exactly `window_s` ago no longer counts. An event later than now (the clock was
set back) does count, because forgetting it would show an ad too often.

An advertiser or a category is known for the campaigns of the catalogue: events of a campaign that left it count for
the creative and the campaign only.
"""

from bisect import bisect_right
from collections import defaultdict
from datetime import datetime

from sottovoce.client.catalogue import Ad, Campaign, Cap, Catalogue, EventName, Level
from sottovoce.client.eligibility import Refusal
from sottovoce.client.events import EventLog, micros
from sottovoce.client.reasons import Loss

_SECOND = 1_000_000

_REASON = {
    "creative": Loss.CAPPED_CREATIVE,
    "campaign": Loss.CAPPED_CAMPAIGN,
    "advertiser": Loss.CAPPED_ADVERTISER,
    "category": Loss.CAPPED_CATEGORY,
}


class Counts:
    """How often each event happened, at the levels and as far back as the catalogue's caps look.

    Args:
        log: events of this device.
        catalogue: names campaigns, advertisers and categories, and the caps that will be asked about.
        now: the moment to count back from.
    """

    def __init__(self, log: EventLog, catalogue: Catalogue, now: datetime) -> None:
        self._now = micros(now)
        wanted: dict[EventName, set[Level]] = defaultdict(set)
        longest = 0
        for campaign in catalogue.campaigns:
            for cap in campaign.caps:
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

    def refusal(self, ad: Ad, campaign: Campaign) -> Refusal | None:
        """The first cap of the campaign that one more impression of the ad would break, or None.

        A cap at category level holds for each of the campaign's categories.
        """
        for cap in campaign.caps:
            for name in _names(cap.level, ad.crid, campaign.cid, campaign):
                count = self.within(cap, name)
                if count >= cap.max:
                    return Refusal(
                        _REASON[cap.level],
                        "cap",
                        f"{cap.level} {name}: {count} of at most {cap.max} {cap.event}s in {cap.window_s} s",
                    )
        return None


def _names(level: Level, crid: str, cid: str, campaign: Campaign | None) -> tuple[str, ...]:
    """What an event of this ad counts for at this level."""
    if level == "creative":
        return (crid,)
    if level == "campaign":
        return (cid,)
    if campaign is None:
        return ()
    return (campaign.seat,) if level == "advertiser" else tuple(dict.fromkeys(campaign.cat))
