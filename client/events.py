"""What happened on this device: impressions, clicks, conversions, dismissals. It never leaves the device.

One JSON object a line, in the order in which things happened. Times are what the clock said then; they need not
increase, because clocks are set back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import msgspec

from sottovoce.client.catalogue import EventName, FeatureValue, Id, Moment
from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 16 * 1024 * 1024
"""Largest log that is read."""

MAX_EVENTS = 10_000
"""Most events a log may hold."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event of one ad.

    Attributes:
        ts: when, with its time zone.
        event: what.
        crid: creative id.
        cid: campaign id.
        features: the ad's model features as they were then; an ad may have left the catalogue since.
        context: model features of the page or moment as they were then, of an impression; the app leaves out those of a
            sensitive page. Only the personal layer reads them.
    """

    ts: Moment
    event: EventName
    crid: Id
    cid: Id
    features: dict[str, FeatureValue] = {}
    context: dict[str, FeatureValue] = {}


def micros(moment: datetime) -> int:
    """Microseconds since 1970, exact.

    Raises:
        ValueError: the moment has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return (moment - _EPOCH) // _MICROSECOND


@dataclass(frozen=True)
class EventLog:
    """Events in the order in which they happened.

    Attributes:
        events: oldest first.
    """

    events: tuple[Event, ...] = ()

    @cached_property
    def micros(self) -> tuple[int, ...]:
        """Time of each event, in microseconds since 1970."""
        return tuple(micros(event.ts) for event in self.events)

    def appended(self, *events: Event) -> "EventLog":
        """This log with newer events behind it."""
        return EventLog(self.events + events)

    def since(self, moment: datetime | None) -> "EventLog":
        """The events from then on; all of them for None."""
        return self if moment is None else EventLog(tuple(event for event in self.events if event.ts >= moment))


_decoder = msgspec.json.Decoder(Event)


def decode_log(data: bytes, name: str = "events.jsonl") -> EventLog:
    """The log in `data`, one JSON object a line; empty lines are skipped.

    Args:
        data: JSON lines.
        name: of the file, for messages.

    Raises:
        DeviceError: too large, too many events, or a line that is no event; the message names the line.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "drop the oldest lines")
    events: list[Event] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(events) == MAX_EVENTS:
            raise DeviceError(f"{name}: more than {MAX_EVENTS} events", "drop the oldest lines")
        try:
            events.append(_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DeviceError(f"{name}, line {number}: {error}", "correct or remove that line") from error
    return EventLog(tuple(events))


def encode_log(events: Iterable[Event]) -> bytes:
    """The events as JSON lines, each ended by a newline: what `decode_log` reads."""
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)
