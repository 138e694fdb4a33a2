"""Whether any ad at all may appear now: quiet hours, ads per hour and day, least wait. Every impression counts.

An impression later than now (the clock was set back) counts too, as for frequency caps.
"""

from collections.abc import Sequence
from datetime import datetime

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
