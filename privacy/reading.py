"""Reading a ledger: rows are believed only after they were held against the chain. Nothing here ever changes one."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from sottovoce.privacy import export
from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import Entry, Head, Row, broken
from sottovoce.privacy.prefix import Prefix
from sottovoce.privacy.store import Store, open_store


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


class Reader:
    """What can be read from a ledger; `Ledger` adds writing.

    Args:
        store: where its rows are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._book = Book()
        self._doubt: Head | None = None
        """The last head that is certainly stored, while nobody knows what became of what was written after it."""

    @classmethod
    def open_unchecked(cls, path: Path | str) -> Self:
        """Open a ledger for reading without looking at its rows: for auditors, who then call `replay`.

        Args:
            path: see `Ledger.open`.

        Raises:
            LedgerError: no such ledger, not a ledger, or unreadable.
        """
        return cls(open_store(path, create=False, readonly=True))

    @property
    def name(self) -> str:
        """Where the ledger is, for messages; holds no password."""
        return self._store.name

    def close(self) -> None:
        """Close the database; the ledger cannot be used afterwards."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def rows(self, after: int = 0) -> Iterator[Row]:
        """The stored rows after row `after`, unchecked, in order.

        Raises:
            LedgerError: the database is damaged, or a row is not even a row.
        """
        return self._store.rows(after)

    def up_to(self, length: int) -> "Reader":
        """The same ledger as it stood when it had `length` rows, over the same database: close only this one."""
        return Reader(Prefix(self._store, length))

    def book(self) -> Book:
        """What the ledger says now, including rows that other processes appended since the last look.

        Raises:
            LedgerError: a row was changed, or rows known before are gone.
        """
        if self._doubt is not None:
            found = Book()
            self.replay(found, self._doubt)
            self._book, self._doubt = found, None
            return found
        known = self._book.head
        if known.length and self._store.hash_of(known.length) != known.hash:
            raise broken(known.length, "was there before and is now gone or changed")
        for row in self._store.rows(known.length):
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
        with self._store.snapshot():
            for row in self._store.rows(0):
                book.add(row)
                if pinned is not None and row.seq == pinned.length and row.hash != pinned.hash:
                    raise broken(row.seq, "is another one than the checkpoint or bundle saw: the ledger was rewritten")
            highest = self._store.highest()
        if highest != book.head.length:
            raise broken(book.head.length + 1, "missing: rows were cut off at the end")
        if pinned is not None and book.head.length < pinned.length:
            raise broken(book.head.length + 1, f"missing: a checkpoint or bundle saw {pinned.length} rows: rolled back")

    def verify(self, pinned: Head | None = None) -> Head:
        """Read everything again and check the chain; the head on success, see `replay`."""
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
        for seq, body in self._store.restricted():
            kept = body if isinstance(body, bytes) and seq in promised else None
            if kept is None or hashlib.sha256(kept).hexdigest() != promised[seq][1]:
                raise broken(seq, "its restricted record is not what was hashed")
            found[seq] = msgspec.json.decode(kept, type=Realised)
        return found

    def export_jsonl(self, file: Path) -> None:
        """Write the rows, checked, as JSON lines; see `export.rows`. Restricted records are no part of it.

        Raises:
            LedgerError: a row was changed or is missing, or the file cannot be written; nothing is left behind.
        """
        with self._store.snapshot():
            self.verify()
            export.rows(self.rows(), Path(file))

    def export_restricted(self, file: Path) -> None:
        """Write the restricted records, checked; see `export.restricted`.

        Raises:
            LedgerError: see `export_jsonl`; or a record was changed.
        """
        with self._store.snapshot():
            book = Book()
            self.replay(book)
            export.restricted(self.realised(book), Path(file))
