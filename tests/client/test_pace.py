from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_market import NOW

from sottovoce.client.events import micros
from sottovoce.client.pace import held_back
from sottovoce.client.policy import Pace, PickerPolicy, QuietHours
from sottovoce.client.reasons import NoBid

NIGHT = QuietHours(21 * 60, 6 * 60)


def shown(*ago_s):
    return sorted(micros(NOW - timedelta(seconds=ago)) for ago in ago_s)


@pytest.mark.parametrize(
    ("pace", "ago", "expected"),
    [
        (Pace(), [0] * 1000, None),
        (Pace(per_hour=2), [10], None),
        (Pace(per_hour=2), [10, 3599], NoBid.HOURLY_CAP),
        (Pace(per_hour=2), [10, 3600], None),
        (Pace(per_hour=0), [], NoBid.HOURLY_CAP),
        (Pace(per_day=2), [10, 86_399], NoBid.DAILY_CAP),
        (Pace(per_day=2), [10, 86_400], None),
        (Pace(wait_s=60), [59.999], NoBid.TOO_SOON),
        (Pace(wait_s=60), [60], None),
        (Pace(wait_s=60), [], None),
        (Pace(per_hour=1), [-86_400], NoBid.HOURLY_CAP),
    ],
)
def test_an_ad_waits_as_long_as_the_app_says_and_no_longer(pace, ago, expected):
    assert held_back(pace, shown(*ago), NOW) is expected


@pytest.mark.parametrize(
    ("hour", "minute", "quiet"), [(20, 59, False), (21, 0, True), (0, 0, True), (5, 59, True), (6, 0, False)]
)
def test_quiet_hours_run_over_midnight_in_the_time_of_the_device(hour, minute, quiet):
    zone = timezone(timedelta(hours=-7))
    now = datetime(2026, 11, 23, hour, minute, 59, tzinfo=zone)
    assert held_back(Pace(quiet=NIGHT), [], now) is (NoBid.QUIET_HOURS if quiet else None)
    assert NIGHT.hold(now.astimezone(UTC)) is (0 <= (hour + 7) % 24 < 6 or (hour + 7) % 24 >= 21)


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 1439))
def test_quiet_hours_and_the_rest_of_the_day_share_it_out(start, end, minute):
    now = datetime(2026, 11, 23, minute // 60, minute % 60, tzinfo=UTC)
    one, other = QuietHours(start, end).hold(now), QuietHours(end, start).hold(now)
    assert one != other if start != end else not (one or other)


def test_pages_are_free_and_notifications_are_not_unless_the_app_says_otherwise():
    policy = PickerPolicy()
    night = NOW.replace(hour=23)
    assert held_back(policy.pace("page"), shown(0, 1, 2), night) is None
    assert held_back(policy.pace("notification"), [], night) is NoBid.QUIET_HOURS
    assert held_back(policy.pace("notification"), shown(100, 200), NOW) is NoBid.HOURLY_CAP
    assert held_back(policy.pace("notification"), shown(59), NOW) is NoBid.TOO_SOON
