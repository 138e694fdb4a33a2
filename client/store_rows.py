"""What the device's store holds, row by row: events, visited pages, and small state; and their bytes.

The store's own row of state says how long it has remembered, which clock it believes and what is pinned.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Id, Moment
from sottovoce.client.controls import Category
from sottovoce.client.events import Event, micros
from sottovoce.client.retention import Clock, Kept, Kind, Retention, observed, outdated
from sottovoce.client.taxonomy import sensitive
from sottovoce.privacy.errors import DeviceError

MOST_ROW = 4_096
"""Largest event or page in bytes, before sealing."""

MOST_STATE = 64 * 1024
"""Largest value of state."""

MOST_NAMES = 64
"""Most values of state."""

OWN = "store"
"""Name of the store's own state."""


class PageVisit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page that was visited: only what it was about, never which one.

    Attributes:
        ts: when, with its time zone.
        categories: of the page, each with its taxonomy.
    """

    ts: Moment
    categories: Annotated[tuple[Category, ...], Meta(max_length=64)]


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the store has remembered without a gap. It decides when a device may offer itself for training.

    Attributes:
        since: when it started anew: first use, deletion of everything, or damage.
        clock: what is believed of the clock.
        days: days of use since then, today not among them; a clock that jumps adds one at most.
        counted: the day up to which they are counted.
        deletions: how often the person deleted something since then.
        pinned: ads whose events do not age.
    """

    since: Moment
    clock: Clock
    days: int = 0
    counted: int = 0
    deletions: int = 0
    pinned: Annotated[tuple[Id, ...], Meta(max_length=1024)] = ()


class EventRow(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """An event and the day on which it came in."""

    day: int
    item: Event


class PageRow(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A visited page and the day on which it came in."""

    day: int
    item: PageVisit


class StateRow(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A value of state as JSON; `learned` ones hold what was learned from events."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    learned: bool
    value: bytes


Row = EventRow | PageRow | StateRow

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Row)


def kind(row: Row) -> Kind:
    """What a row is."""
    return "event" if isinstance(row, EventRow) else "page" if isinstance(row, PageRow) else "state"


def encode_row(row: Row) -> bytes:
    """The bytes of a row, which `decode_row` reads.

    An event that is too large loses its features and its context: caps count it all the same.

    Raises:
        DeviceError: it is no such thing, or too large.
    """
    try:
        plain = _encoder.encode(row)
        if isinstance(row, EventRow) and len(plain) > MOST_ROW:
            plain = _encoder.encode(EventRow(row.day, msgspec.structs.replace(row.item, features={}, context={})))
        _decoder.decode(plain)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DeviceError(f"this cannot be kept: {error}", "correct the caller") from error
    most = MOST_STATE if isinstance(row, StateRow) else MOST_ROW
    if len(plain) > most:
        raise DeviceError(f"{len(plain)} bytes are too many to keep, at most {most}", "keep less")
    return plain


def decode_row(plain: bytes) -> Row | None:
    """The row, or None when this version cannot read it."""
    try:
        row: Row = _decoder.decode(plain)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None
    return row


def harmless(page: PageVisit) -> PageVisit | None:
    """The visit without its sensitive categories, each judged by its own taxonomy; None when nothing is left."""
    left = tuple(one for one in page.categories if not sensitive((one[0],), one[1]))
    return PageVisit(page.ts, left) if left else None


def started(now: datetime) -> Memory:
    """The memory of a store that starts now."""
    clock = Clock(micros(now))
    return Memory(since=now.astimezone(UTC), clock=clock, counted=clock.day)


def looked(memory: Memory, now: datetime) -> Memory:
    """The memory after one more look at the clock."""
    clock = observed(memory.clock, micros(now))
    days, counted = memory.days, memory.counted
    if clock.day > counted:
        days, counted = days + 1, clock.day
    elif clock.day < counted - 31:  # the clock is believed to have been ahead
        counted = clock.day
    return msgspec.structs.replace(memory, clock=clock, days=days, counted=counted)


def worth_writing(before: Memory, after: Memory, step: timedelta = timedelta(hours=1)) -> bool:
    """Whether a look at the clock must be written down: a flash cell lasts for some ten thousand writes."""
    changed = (before.counted, before.clock.jumped) != (after.counted, after.clock.jumped)
    times = (before.clock, after.clock)
    moved = abs(times[1].seen - times[0].seen) + abs((times[1].last or 0) - (times[0].last or 0))
    return changed or moved >= step // timedelta(microseconds=1)


def overdue(
    rows: Mapping[int, Row], sizes: Mapping[int, int], memory: Memory, rules: Retention
) -> tuple[dict[int, Row], list[int]]:
    """Rows that must be dated anew, and the numbers of those that must go; see `retention.outdated`.

    A row of a day after today came in under a clock that was ahead and was believed: it counts as one of today.

    Args:
        rows: by number, in the order in which they came in.
        sizes: bytes on the disk, by number.
        memory: which day it is, and what is pinned.
        rules: how long and how much.
    """
    today, pinned = memory.clock.day, set(memory.pinned)
    ahead: dict[int, Row] = {}
    kept = []
    for number, row in rows.items():
        if isinstance(row, StateRow):
            continue
        if row.day > today:
            ahead[number] = msgspec.structs.replace(row, day=today)
        saved = isinstance(row, EventRow) and row.item.crid in pinned
        kept.append(Kept(number, kind(row), min(row.day, today), sizes[number], saved))
    return ahead, outdated(kept, today, rules)
