"""The device's store: what happened on it, sealed on its disk and served from memory.

Opening never fails for damage (see `durable_rows`). `complete` is False when earlier events may be missing: frequency
caps cannot be relied on then.

Deleting is real: the bytes are overwritten and the write-ahead log is emptied; deleting everything replaces the key.
It gives no privacy budget back, because the device's ledger and its participation lie elsewhere.
"""

import contextlib
import threading
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from sottovoce.client.durable_rows import DurableRows
from sottovoce.client.events import Event, EventLog
from sottovoce.client.keystore import Keystore
from sottovoce.client.retention import Retention
from sottovoce.client.store_rows import (
    MOST_NAMES,
    OWN,
    EventRow,
    Memory,
    PageRow,
    PageVisit,
    StateRow,
    harmless,
    kind,
    looked,
    overdue,
    started,
    worth_writing,
)
from sottovoce.privacy.errors import DeviceError

FILE = "events.db"
T = TypeVar("T")


class EventStore:
    """One store in a folder of its own. Opening it raises nothing, whatever lies there; one process at a time writes.

    Its methods may be called from several threads.

    Args:
        folder: made when missing; nothing else may write there.
        keystore: holds the key; not in the same folder.
        now: the device's time, with time zone.
        rules: how long and how much is kept.
        wait_s: how long to wait for another process.

    Attributes:
        log: every event, in the order in which they came in; a new object for every change.
    """

    def __init__(
        self, folder: Path, keystore: Keystore, now: datetime, rules: Retention | None = None, wait_s: float = 0.0
    ) -> None:
        self.log = EventLog()
        self._rules = rules or Retention()
        self._lock = threading.RLock()
        self._disk = DurableRows(folder / FILE, keystore, wait_s)
        self._states = {row.name: number for number, row in self._disk.rows.items() if isinstance(row, StateRow)}
        known = self.get(OWN, Memory)
        self.memory = known or started(now)
        if known and not self._disk.complete:
            self.memory = msgspec.structs.replace(known, since=started(now).since, days=0)
        self._tally()
        if known is None or self.memory != known:
            self._put(StateRow(OWN, False, msgspec.json.encode(self.memory)))
        self._look(now)

    @property
    def pages(self) -> tuple[PageVisit, ...]:
        """Visited pages, in the order in which they came in."""
        return tuple(row.item for row in self._disk.rows.values() if isinstance(row, PageRow))

    @property
    def fault(self) -> str:
        """Why nothing is written now; empty while all is well. See `DurableRows`."""
        return self._disk.fault

    @property
    def complete(self) -> bool:
        """False when earlier events may be missing."""
        return self._disk.complete

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong so far, and what was done about it."""
        return tuple(self._disk.notes)

    def append(self, event: Event, now: datetime, wait: bool = True) -> bool:
        """Keep an event. The log has it on return, whatever the disk says.

        Args:
            event: what happened.
            now: the device's time, with time zone.
            wait: for the disk. Otherwise the event is lost in a crash before the next `flush`, append that waits, or
                `close`: for a caller that must answer first and flushes right after it, from any thread.

        Returns:
            Whether it is on the disk and survives a power cut. If not, it goes there with the next change that can.

        Raises:
            DeviceError: it is no event; nothing happened.
        """
        with self._lock:
            self._look(now)
            return self._add(EventRow(self.memory.clock.day, event), wait)

    def flush(self) -> bool:
        """Write what is not on the disk yet; whether everything is on it now."""
        with self._lock:
            return self._disk.change([])[1]

    def visit(self, page: PageVisit, now: datetime) -> bool:
        """Keep what a page was about, without its sensitive categories; see `append`."""
        with self._lock:
            self._look(now)
            kept = harmless(page)
            return kept is None or self._add(PageRow(self.memory.clock.day, kept), wait=True)

    def pin(self, crids: Collection[str]) -> bool:
        """Events of these ads, and of no others, do not age: ads that the person saved.

        Returns:
            Whether that is on the disk.

        Raises:
            DeviceError: too many, or no ids.
        """
        with self._lock:
            memory = msgspec.structs.replace(self.memory, pinned=tuple(sorted(set(crids))))
            try:
                data = msgspec.json.encode(memory)
                self.memory = msgspec.json.decode(data, type=Memory)
            except (msgspec.MsgspecError, TypeError, ValueError) as error:
                raise DeviceError(f"these cannot be pinned: {error}", "name at most 1024 ids") from error
            return self._put(StateRow(OWN, False, data))

    def get(self, name: str, kind: type[T]) -> T | None:
        """The value under that name, or None when there is none of that type."""
        row = self._disk.rows.get(self._states.get(name, 0))
        if not isinstance(row, StateRow):
            return None
        try:
            return msgspec.json.decode(row.value, type=kind)
        except (msgspec.MsgspecError, ValueError, DeviceError):
            self._disk.note(f"the value {name!r} has another type")
            return None

    def put(self, name: str, value: object, learned: bool = False, wait: bool = True) -> bool:
        """Keep a small value under a name, in place of the one before.

        Args:
            name: of the value, not `store`.
            value: what `msgspec` writes as JSON and reads back: a struct, a number, a list.
            learned: it holds what was learned from events, so that every deletion removes it.
            wait: for the disk; see `append`.

        Returns:
            Whether it is on the disk.

        Raises:
            DeviceError: it cannot be written, is too large, or there are too many values.
        """
        with self._lock:
            if name == OWN or (name not in self._states and len(self._states) >= MOST_NAMES):
                raise DeviceError(f"no place for a value {name!r}", f"keep at most {MOST_NAMES}, under other names")
            try:
                data = msgspec.json.encode(value)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                raise DeviceError(f"the value {name!r} cannot be kept: {error}", "correct the caller") from error
            return self._put(StateRow(name, learned, data), wait)

    def states(self) -> dict[str, tuple[msgspec.Raw, bool]]:
        """Every value as JSON, and whether it was learned, by name."""
        rows = (self._disk.rows[number] for number in self._states.values())
        return {row.name: (msgspec.Raw(row.value), row.learned) for row in rows if isinstance(row, StateRow)}

    def delete(self, events: Callable[[Event], bool], pages: Callable[[PageVisit], bool], now: datetime) -> int:
        """Delete those events and pages, and every learned value: what was learned cannot be unlearned in part.

        Args:
            events: whether an event goes.
            pages: whether a visited page goes.
            now: the device's time, with time zone.

        Returns:
            How many events and pages went.

        Raises:
            DeviceError: they are gone from memory, but not from the disk; delete again.
        """
        with self._lock:
            self._look(now)
            gone = {
                number: row
                for number, row in self._disk.rows.items()
                if (isinstance(row, EventRow) and events(row.item))
                or (isinstance(row, PageRow) and pages(row.item))
                or (isinstance(row, StateRow) and (row.learned or row.name == OWN))
            }
            self.memory = msgspec.structs.replace(self.memory, deletions=self.memory.deletions + 1)
            own = StateRow(OWN, False, msgspec.json.encode(self.memory))
            try:
                self._disk.rewrite([own], gone)
            finally:
                self._tally()
            return sum(not isinstance(row, StateRow) for row in gone.values())

    def delete_all(self, now: datetime) -> None:
        """Delete everything, values too, destroy the key and start anew.

        Raises:
            DeviceError: memory is empty, but the key or the file is still there; delete again.
        """
        with self._lock:
            self.memory = started(now)
            self._disk.rows.clear()
            self._disk.sizes.clear()
            self._tally()
            self._disk.anew()
            self._disk.notes.clear()
            self._disk.complete = True
            self._put(StateRow(OWN, False, msgspec.json.encode(self.memory)))

    def close(self) -> None:
        """Write what is not written yet, as far as possible, and give the file back."""
        with self._lock:
            self._disk.close()

    def _add(self, row: EventRow | PageRow, wait: bool) -> bool:
        (number,), durable = self._disk.change([row], wait=wait)
        kept = self._disk.rows[number]
        if isinstance(kept, EventRow):
            self.log = self.log.appended(kept.item)
        self._bytes += self._disk.sizes[number]
        self._counts[kind(kept)] += 1
        counts, rules = self._counts, self._rules
        full = counts["event"] > rules.most_events or counts["page"] > rules.most_pages
        if full or self._bytes > rules.most_bytes:
            durable = self._retain() and durable
        return durable

    def _put(self, row: StateRow, wait: bool = True) -> bool:
        old = self._states.get(row.name)
        (number,), durable = self._disk.change([row], () if old is None else (old,), wait=wait)
        self._states[row.name] = number
        return durable

    def _look(self, now: datetime) -> None:
        """Look at the clock; with a new day, let go of what is too old."""
        before, self.memory = self.memory, looked(self.memory, now)
        if worth_writing(before, self.memory):
            self._put(StateRow(OWN, False, msgspec.json.encode(self.memory)))
        if before.clock.day != self.memory.clock.day:
            self._retain()

    def _retain(self) -> bool:
        """Let go of what is too old or too much; whether the disk did, too."""
        ahead, gone = overdue(self._disk.rows, self._disk.sizes, self.memory, self._rules)
        if ahead:
            self._disk.rows.update(ahead)
            with contextlib.suppress(DeviceError):  # they are dated anew the next time
                self._disk.rewrite([], ())
        if not gone:
            return True
        _, durable = self._disk.change([], gone, clean=True)
        self._tally()
        return durable

    def _tally(self) -> None:
        """Work out anew what follows from the rows."""
        rows = self._disk.rows
        self.log = EventLog(tuple(row.item for row in rows.values() if isinstance(row, EventRow)))
        self._states = {row.name: number for number, row in rows.items() if isinstance(row, StateRow)}
        self._counts = {"event": len(self.log.events), "page": sum(isinstance(row, PageRow) for row in rows.values())}
        self._bytes = sum(self._disk.sizes[n] for n, row in rows.items() if not isinstance(row, StateRow))
