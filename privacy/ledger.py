"""The ledger: an append-only, hash-chained record of everything that was ever released.

When `reserve` returns, its row survives a power cut. Rows are only appended: triggers refuse changes, and the hash
chain shows those made behind the database's back. What no database can show by itself is that the whole of it was
replaced by an older copy, or rewritten with new hashes: checkpoints and bundles therefore carry the ledger's `head`,
and `verify` refuses a ledger that does not contain it.

A ledger is a SQLite file, or lies on a PostgreSQL server where many coordinators share it. After a crash the newest
rows of a file may lie in `<name>-wal` next to it: move or copy both. Several processes may write to one ledger. Reading
it never changes it.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

import msgspec

from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import Campaign, Committed, Entry, Planned, Reserved, Row, SpentOnCrash, Void, digest, seal
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import Event, NoiseKind, Purpose
from sottovoce.privacy.planned import Cohorts, Settings
from sottovoce.privacy.reading import Reader, Realised, Reservation
from sottovoce.privacy.store import Store, open_store

__all__ = ["Ledger", "Realised", "Reservation", "Unit"]

Unit = Literal["device", "record"]


class Ledger(Reader):
    """An open ledger. Use `Ledger.open`, and close it or use it as a context manager.

    Args:
        store: known to hold a ledger.
        clock: seconds since 1970, for the time column only.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        super().__init__(store)
        self._clock = clock

    @classmethod
    def open(
        cls, path: Path | str, create: bool = False, clock: Callable[[], float] = time.time, readonly: bool = False
    ) -> Self:
        """Open a ledger and check every row of it.

        Args:
            path: of the file; or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
            create: make a new ledger when there is none; an empty file, or an empty schema of a server, counts as none.
            clock: seconds since 1970, for the time column only.
            readonly: never change anything, nor wait for writers.

        Raises:
            LedgerError: no such ledger, not a ledger, unreadable, unwritable, or a row was changed.
        """
        ledger = cls(open_store(path, create, readonly), clock)
        try:
            ledger.replay(ledger._book)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @contextmanager
    def exclusive(self) -> Iterator[Book]:
        """Keep other writers out while looking and appending; all of it is on disk afterwards, or none.

        Many rows written inside one `exclusive` wait for the disk once.

        Raises:
            LedgerError: the ledger was changed, is read-only, locked for longer than a minute, or the disk is full.
        """
        if self._store.writing:
            yield self._book
            return
        certain = self._doubt or self._book.head
        try:
            with self._store.exclusive():
                book = self.book()
                certain = book.head
                yield book
        except BaseException:
            if self._book.head != certain:
                # It has taken in rows that may not be on disk: read everything again when next asked.
                self._doubt = certain
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
        with self.exclusive():
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
                self._store.keep(row.seq, body)

    def void(self, reservation: Reservation, reason: str) -> None:
        """Give a reservation back. Only when nothing was released and no device was contacted.

        Raises:
            LedgerError: no such open reservation in this ledger; or see `exclusive`.
        """
        with self._settling(reservation):
            self._append(Void(seq=self._next(), time=self._time(), reservation=reservation.seq, reason=reason))

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
                    f"{self.name}: reservation of round {reservation.round} of run {reservation.run_id} (row "
                    f"{reservation.seq}) is not open in this ledger",
                    "it was settled before, or by a coordinator started later; do not release",
                )
            yield

    def _next(self) -> int:
        return self._book.head.length + 1

    def _time(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")

    def _append(self, entry: Entry) -> Row:
        if self._book.campaign is None and not isinstance(entry, Campaign):
            raise ValueError("open the campaign first")
        row = seal(entry, self._book.head.hash)
        self._store.append(row)
        self._book.add(row)
        return row
