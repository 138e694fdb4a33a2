"""Whether any ad at all may appear now: quiet hours, ads per hour and day, least wait. Every impression counts.

An impression later than now (the clock was set back) counts too, as for frequency caps.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sottovoce.client.events import micros
from sottovoce.client.policy import HOUR_S, Pace
from sottovoce.client.reasons import NoBid

_SECOND = 1_000_000


def held_back(pace: Pace, shown: Sequence[int], now: datetime) -> NoBid | None:
    """Why no ad may appear now, or None.

    Args:
        pace: for this kind of place.
        shown: times of all impressions, microseconds since 1970, ascending.
        now: with its time zone, the device's own: quiet hours are read in it.
    """
    if pace.quiet is not None and pace.quiet.hold(now):
        return NoBid.QUIET_HOURS
    moment = micros(now)
    if _reached(1 if pace.wait_s else None, pace.wait_s, shown, moment):
        return NoBid.TOO_SOON
    if _reached(pace.per_hour, HOUR_S, shown, moment):
        return NoBid.HOURLY_CAP
    if _reached(pace.per_day, 24 * HOUR_S, shown, moment):
        return NoBid.DAILY_CAP
    return None


def _reached(most: int | None, window_s: int, shown: Sequence[int], now: int) -> bool:
    """Whether `most` of them lie within the window: whether the `most`-th newest does."""
    if most is None or len(shown) < most:
        return False
    return most == 0 or shown[-most] > now - window_s * _SECOND


def ends(pace: Pace, shown: Sequence[int], now: datetime) -> set[int]:
    """When the limits that forbid an ad now no longer do, each by itself, in microseconds since 1970.

    A limit of 0 never ends and has no moment here.

    Args:
        pace: for this kind of place.
        shown: times of all impressions, microseconds since 1970, ascending.
        now: with its time zone, the device's own.
    """
    moment, found = micros(now), set[int]()
    if pace.quiet is not None and pace.quiet.hold(now):
        left = (pace.quiet.end_minute - now.hour * 60 - now.minute) % (24 * 60)
        found.add(micros(now.replace(second=0, microsecond=0) + timedelta(minutes=left)))
    counts = ((1 if pace.wait_s else None, pace.wait_s), (pace.per_hour, HOUR_S), (pace.per_day, 24 * HOUR_S))
    for most, window_s in counts:
        if most and _reached(most, window_s, shown, moment):
            found.add(shown[-most] + window_s * _SECOND)
    return found
