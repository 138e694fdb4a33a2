"""The ledger file: an append-only, hash-chained record of everything that was ever released.

When `reserve` returns, its row survives a power cut. Rows are only appended: triggers refuse changes, and the hash
chain shows those made behind SQLite's back. What no file can show by itself is that the whole of it was replaced by an
older copy, or rewritten with new hashes: checkpoints and bundles therefore carry the ledger's `head`, and `verify`
refuses a ledger that does not contain it. After a crash the newest rows may lie in the file `<name>-wal` next to the
ledger: move or copy both.

Several processes may write to one ledger. Reading it never changes it.
"""

import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import (
    Campaign,
    Committed,
    Entry,
    Head,
    Planned,
    Reserved,
    Row,
    SpentOnCrash,
    Void,
    broken,
    digest,
    seal,
)
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import Event, NoiseKind, Purpose
from sottovoce.privacy.planned import Cohorts, Settings
from sottovoce.privacy.store import connect, reported

Unit = Literal["device", "record"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """Permission for exactly one release, paid for in advance.

    Attributes:
        seq: row of the ledger that paid.
        hash: of that row.
        run_id: which run.
        round: which round of it.
        plan_hash: of the plan it pays for.
    """

    seq: int
    hash: str
    run_id: str
    round: int
    plan_hash: str

    def covering(self, run_id: str, round: int, plan_hash: str) -> "Reservation":
        """Permission for one round of a run that this reservation paid for as a whole."""
        return Reservation(self.seq, self.hash, run_id, round, plan_hash)


class Realised(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What really happened in a round. Restricted: cohort sizes are secret while an epsilon rests on secret cohorts.

    Attributes:
        population: devices enrolled.
        cohort: devices drawn.
        answered: devices whose contribution is in the sum.
        busiest: most rounds of this run that any one device was asked for so far.
        salt: random, so that the digest in the chain cannot be guessed back.
    """

    population: int
    cohort: int
    answered: int
    busiest: int
    salt: str


class Ledger:
    """An open ledger. Use `Ledger.open`, and close it or use it as a context manager.

    Args:
        connection: to a SQLite file that is known to be a ledger.
        path: of that file, for messages.
        clock: seconds since 1970, for the time column only.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._path = path
        self._clock = clock
        self._book = Book()

    @classmethod
    def open(
        cls, path: Path | str, create: bool = False, clock: Callable[[], float] = time.time, readonly: bool = False
    ) -> Self:
        """Open a ledger and check every row of it.

        Args:
            path: of the ledger.
            create: make a new ledger when there is none; an empty file counts as none.
            clock: seconds since 1970, for the time column only.
            readonly: never change anything, nor wait for writers.

        Raises:
            LedgerError: no such file, not a ledger, unreadable, unwritable, or a row was changed.
        """
        path = Path(path)
        ledger = cls(connect(path, create, readonly), path, clock)
        try:
            ledger.replay(ledger._book)
        except LedgerError:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open_unchecked(cls, path: Path | str) -> Self:
        """Open a ledger for reading without looking at its rows: for auditors, who then call `replay`.

        Raises:
            LedgerError: no such file, not a ledger, or unreadable.
        """
        path = Path(path)
        return cls(connect(path, create=False, readonly=True), path, time.time)

    def close(self) -> None:
        """Close the file; the ledger cannot be used afterwards."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Reading

    def rows(self, after: int = 0) -> Iterator[Row]:
        """The stored rows after row `after`, unchecked, in order.

        Raises:
            LedgerError: the file is damaged, or a row is not even a row.
        """
        with reported(self._path):
            cursor = self._connection.execute(
                "SELECT seq, prev_hash, hash, body FROM entries WHERE seq > ? ORDER BY seq", (after,)
            )
            for seq, prev_hash, sha256, body in cursor:
                if not (isinstance(prev_hash, bytes) and isinstance(sha256, bytes) and isinstance(body, bytes)):
                    raise broken(seq, "a column has the wrong type")
                yield Row(seq, prev_hash.decode(errors="replace"), sha256.decode(errors="replace"), body)

    def book(self) -> Book:
        """What the ledger says now, including rows that other processes appended since the last look.

        Raises:
            LedgerError: a row was changed, or rows known before are gone.
        """
        known = self._book.head
        if known.length:
            with reported(self._path):
                row = self._connection.execute("SELECT hash FROM entries WHERE seq = ?", (known.length,)).fetchone()
            if row is None or row[0] != known.hash.encode():
                raise broken(known.length, "was there before and is now gone or changed")
        for row in self.rows(known.length):
            self._book.add(row)
        return self._book

    def replay(self, book: Book, pinned: Head | None = None) -> None:
        """Add every row to `book` from the start, then check that nothing is missing at the end.

        Args:
            book: new; on failure it holds the rows before the bad one.
            pinned: a head taken from a checkpoint or a bundle, which this ledger must contain.

        Raises:
            LedgerError: names the first bad row.
        """
        with reported(self._path):
            self._connection.execute("BEGIN")
        try:
            for row in self.rows():
                book.add(row)
                if pinned is not None and row.seq == pinned.length and row.hash != pinned.hash:
                    raise broken(row.seq, "is another one than the checkpoint or bundle saw: the ledger was rewritten")
            with reported(self._path):
                counter = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        if (counter[0] if counter else 0) != book.head.length:
            raise broken(book.head.length + 1, "missing: rows were cut off at the end")
        if pinned is not None and book.head.length < pinned.length:
            raise broken(book.head.length + 1, f"missing: a checkpoint or bundle saw {pinned.length} rows: rolled back")

    def verify(self, pinned: Head | None = None) -> Head:
        """Read everything from the file again and check the chain; the head on success, see `replay`."""
        book = Book()
        self.replay(book, pinned)
        return book.head

    def head(self) -> Head:
        """Number of rows, and the hash of the last."""
        return self.book().head

    def entries(self) -> Iterator[Entry]:
        """Every entry in order, each checked before it is handed out."""
        book = Book()
        for row in self.rows():
            yield book.add(row)

    def export_jsonl(self, file: Path) -> None:
        """Write one JSON line per row: `body` (the entry as JSON text), `hash`, `prev_hash`; whole or not at all.

        To check a line: hash == sha256(prev_hash + body), and prev_hash is the hash of the line before, 64 zeros first.

        Raises:
            LedgerError: a row was changed, or the file cannot be written.
        """
        file = Path(file)
        partial = file.with_name(f".{file.name}.partial")
        book = Book()
        try:
            with partial.open("wb") as out:
                for row in self.rows():
                    book.add(row)
                    line = {"body": row.body.decode(), "hash": row.hash, "prev_hash": row.prev_hash}
                    out.write(msgspec.json.encode(line) + b"\n")
                out.flush()
                os.fsync(out.fileno())
            partial.replace(file)
        except OSError as error:
            raise LedgerError(f"{file}: {error.strerror}", "choose a folder you may write to") from error
        finally:
            partial.unlink(missing_ok=True)

    # Writing

    @contextmanager
    def exclusive(self) -> Iterator[Book]:
        """Keep other writers out while looking and appending; all of it is on disk afterwards, or none.

        Raises:
            LedgerError: the ledger was changed, is read-only, locked for longer than a minute, or the disk is full.
        """
        if self._connection.in_transaction:
            yield self._book
            return
        with reported(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
        before = None
        try:
            before = self.book().head
            yield self._book
            with reported(self._path):
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if self._book.head != before:
                # It has taken in rows that are not on disk: read everything again when next asked.
                self._book = Book()
            raise

    def open_campaign(
        self,
        epsilon: float | None,
        delta: float,
        population: int,
        *,
        unit: Unit = "device",
        filter_order: float | None = None,
        shares: Mapping[str, int] | None = None,
    ) -> None:
        """Append the first row, which every later one draws on; `Campaign` says what its fields mean.

        Raises:
            ValueError: the campaign is open already.
            LedgerError: see `exclusive`.
        """
        with self.exclusive() as book:
            if book.campaign is not None:
                raise ValueError("the campaign is open already")
            self._append(
                Campaign(
                    seq=self._next(),
                    time=self._time(),
                    epsilon=epsilon,
                    delta=delta,
                    population=population,
                    unit=unit,
                    adjacency="zero_out" if unit == "device" else "add_remove",
                    filter_order=filter_order,
                    shares=dict(shares or {}),
                )
            )

    def plan(
        self,
        settings: Settings,
        event: Event,
        rounds: int,
        cohorts: Cohorts = "secret",
        max_participations: int | None = None,
    ) -> None:
        """Write a plan down, unless it stands there already; `Planned` says what its fields mean.

        Raises:
            ValueError: no campaign is open.
            LedgerError: see `exclusive`.
        """
        plan_hash = digest(settings)
        with self.exclusive() as book:
            if book.campaign is None:
                raise ValueError("open the campaign first")
            if plan_hash in book.plans:
                return
            self._append(
                Planned(
                    seq=self._next(),
                    time=self._time(),
                    plan_hash=plan_hash,
                    plan=settings,
                    event=event,
                    rounds=rounds,
                    cohorts=cohorts,
                    max_participations=max_participations,
                    software=f"sottovoce {version('sottovoce')}",
                )
            )

    def reserve(
        self,
        run_id: str,
        round: int,
        event: Event,
        plan_hash: str,
        purpose: Purpose,
        noise_kind: NoiseKind,
        querier: str = "",
    ) -> Reservation:
        """Debit one release; on return it is on disk. `Budget.reserve` checks first that it may happen.

        Raises:
            ValueError: no campaign is open.
            LedgerError: see `exclusive`.
        """
        with self.exclusive() as book:
            if book.campaign is None:
                raise ValueError("open the campaign first")
            row = self._append(
                Reserved(
                    seq=self._next(),
                    time=self._time(),
                    run_id=run_id,
                    round=round,
                    purpose=purpose,
                    noise=noise_kind,
                    event=event,
                    plan_hash=plan_hash,
                    querier=querier,
                )
            )
        return Reservation(row.seq, row.hash, run_id, round, plan_hash)

    def commit(self, reservation: Reservation, artifact_sha256: str, realised: Realised | None = None) -> None:
        """Record that the release happened, and what it was (SHA-256 in hexadecimal).

        `realised` is kept beside the chain, which holds only its salted digest.

        Raises:
            ValueError: not a SHA-256.
            LedgerError: no such open reservation in this ledger; or see `exclusive`.
        """
        if not re.fullmatch("[0-9a-f]{64}", artifact_sha256):
            raise ValueError(f"not a SHA-256 in hexadecimal: {artifact_sha256!r}")
        with self._settling(reservation):
            body = None if realised is None else msgspec.json.encode(realised, order="sorted")
            row = self._append(
                Committed(
                    seq=self._next(),
                    time=self._time(),
                    reservation=reservation.seq,
                    artifact_sha256=artifact_sha256,
                    realised_sha256=None if body is None else hashlib.sha256(body).hexdigest(),
                )
            )
            if body is not None:
                with reported(self._path):
                    self._connection.execute("INSERT INTO restricted VALUES (?, ?)", (row.seq, body))

    def void(self, reservation: Reservation, reason: str) -> None:
        """Give a reservation back. Only when nothing was released and no device was contacted.

        Raises:
            LedgerError: no such open reservation in this ledger; or see `exclusive`.
        """
        with self._settling(reservation):
            self._append(Void(seq=self._next(), time=self._time(), reservation=reservation.seq, reason=reason))

    def reservation(self, seq: int, sha256: str) -> Reservation | None:
        """The open reservation in row `seq` with hash `sha256`, if it is one."""
        reserved, found = self.book().open.get(seq, (None, ""))
        if reserved is None or found != sha256:
            return None
        return Reservation(seq, found, reserved.run_id, reserved.round, reserved.plan_hash)

    def realised(self, book: Book) -> dict[int, Realised]:
        """The restricted records that are kept beside the chain, by the row that committed, each held against it.

        Args:
            book: of this ledger.

        Raises:
            LedgerError: one was changed, or belongs to no row.
        """
        promised = book.realised
        found: dict[int, Realised] = {}
        with reported(self._path):
            rows = self._connection.execute("SELECT seq, body FROM restricted ORDER BY seq").fetchall()
        for seq, body in rows:
            if seq not in promised or hashlib.sha256(body).hexdigest() != promised[seq][1]:
                raise broken(seq, "its restricted record is not what was hashed")
            found[seq] = msgspec.json.decode(body, type=Realised)
        return found

    def recover(self, run_id: str | None = None) -> tuple[Reservation, ...]:
        """Mark unsettled reservations SPENT_ON_CRASH; called when a coordinator starts.

        Args:
            run_id: only those of this run, where others may be at work on the same ledger; None for all.

        Returns:
            What was marked. A coordinator that still runs on the same ledger can then no longer settle them: they count
            as spent either way.
        """
        with self.exclusive() as book:
            dangling = tuple(
                Reservation(seq, h, r.run_id, r.round, r.plan_hash)
                for seq, (r, h) in sorted(book.open.items())
                if run_id in (None, r.run_id)
            )
            for reservation in dangling:
                self._append(SpentOnCrash(seq=self._next(), time=self._time(), reservation=reservation.seq))
        return dangling

    @contextmanager
    def _settling(self, reservation: Reservation) -> Iterator[None]:
        with self.exclusive() as book:
            _, sha256 = book.open.get(reservation.seq, (None, None))
            if sha256 != reservation.hash:
                raise LedgerError(
                    f"{self._path}: reservation of round {reservation.round} of run {reservation.run_id} (row "
                    f"{reservation.seq}) is not open in this ledger",
                    "it was settled before, or by a coordinator started later; do not release",
                )
            yield

    def _next(self) -> int:
        return self._book.head.length + 1

    def _time(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")

    def _append(self, entry: Entry) -> Row:
        row = seal(entry, self._book.head.hash)
        with reported(self._path):
            self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
        self._book.add(row)
        return row
