"""How long the device's store keeps what, and which clock it believes.

A row is dated by the day on which it came in, on the clock that the store believes then, not by what the event says of
itself. A clock that jumps must not cost anybody their caps: a step of more than 30 days, either way, is believed once
the clock has held to it for a day. So a clock that was in 2080 for an hour erases nothing, and a device that lay in a
drawer for a year erases its old rows a day after it was switched on.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from sottovoce.client.events import MAX_EVENTS

DAY = 86_400 * 1_000_000
"""A day in microseconds."""

STEP = 30 * DAY
"""A longer step of the clock is a jump."""

HOLD = DAY
"""How long a clock must hold to a jump."""

REACH = 366 * DAY
"""Between two looks at a clock that jumped at most so much may pass: a device may lie in a drawer again."""

SLACK = 0.95
"""What is over a bound is cut to this share of it, so that not every new row drops an old one."""

Count = Annotated[int, Meta(ge=1, le=MAX_EVENTS)]
Days = Annotated[int, Meta(ge=1, le=366)]
Kind = Literal["event", "page", "state"]


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long, and how much. A setting of the app.

    Attributes:
        event_days: days for which an event is kept; pinned ones stay longer.
        page_days: days for which a visited page's categories are kept.
        most_events: events, pinned ones among them.
        most_pages: visited pages.
        most_pinned: pinned events; of more than that the oldest count as not pinned.
        most_bytes: sealed bytes of events and pages together.
    """

    event_days: Days = 60
    page_days: Days = 30
    most_events: Count = MAX_EVENTS
    most_pages: Count = 5_000
    most_pinned: Count = 500
    most_bytes: Annotated[int, Meta(ge=4_096)] = 16 * 1024 * 1024


class Clock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the store believes of the clock; in microseconds since 1970.

    Attributes:
        seen: the time it believes.
        jumped: when the clock first showed the jump that is not believed yet; None without one.
        last: when it showed it last.
    """

    seen: int
    jumped: int | None = None
    last: int | None = None

    @property
    def day(self) -> int:
        """Days since 1970 by the believed time."""
        return self.seen // DAY


def observed(clock: Clock, now: int) -> Clock:
    """What is believed after one more look at the clock.

    ==================================  ===================================================
    the clock shows                     believed
    ==================================  ===================================================
    within 30 days of what is believed  the clock
    anything else                       what was believed, until the clock has held a day
    ==================================  ===================================================

    Args:
        clock: what was believed.
        now: what the clock shows.
    """
    if abs(now - clock.seen) <= STEP:
        return Clock(now)
    if clock.jumped is None or clock.last is None or not clock.last - STEP <= now <= clock.last + REACH:
        return Clock(clock.seen, now, now)
    start = min(clock.jumped, now)
    return Clock(now) if now - start >= HOLD else Clock(clock.seen, start, now)


class Kept(NamedTuple):
    """What the rules look at in a row."""

    number: int
    kind: Kind
    day: int
    size: int
    pinned: bool


def outdated(rows: Iterable[Kept], today: int, rules: Retention) -> list[int]:
    """Numbers of the rows that must go: those too old, then the oldest of those too many.

    Rows of state do not age and are not counted. Pinned events do not age and go last.

    Args:
        rows: in the order in which they came in.
        today: the believed day.
        rules: how long and how much.
    """
    listed = [row for row in rows if row.kind != "state"]
    pinned = {row.number for row in [row for row in listed if row.pinned][-rules.most_pinned :]}
    days = {"event": rules.event_days, "page": rules.page_days}
    gone = {row.number for row in listed if row.number not in pinned and today - row.day >= days[row.kind]}
    left = [row for row in listed if row.number not in gone]
    # Pinned ones last.
    left.sort(key=lambda row: (row.number in pinned, row.number))
    for kind, most in (("event", rules.most_events), ("page", rules.most_pages)):
        gone.update(_surplus([row for row in left if row.kind == kind], [1] * len(left), most))
    left = [row for row in left if row.number not in gone]
    gone.update(_surplus(left, [row.size for row in left], rules.most_bytes))
    return sorted(gone)


def _surplus(rows: Sequence[Kept], weights: Sequence[int], most: int) -> list[int]:
    """The first rows, so many that the rest weighs no more than the bound and some slack; none below the bound."""
    total = sum(weights[: len(rows)])
    if total <= most:
        return []
    gone = []
    for row, weight in zip(rows, weights, strict=False):
        if total <= most * SLACK:
            break
        gone.append(row.number)
        total -= weight
    return gone
