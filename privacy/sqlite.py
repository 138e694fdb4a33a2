"""A ledger in a SQLite file: how it is made, recognised, opened, read and written, and what its failures mean.

WAL mode with synchronous=FULL: when a transaction has ended, it survives a power cut. A file that is not a ledger is
never changed, not even when it was opened for writing.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sottovoce.privacy.chain import Row, broken
from sottovoce.privacy.errors import LedgerError

APPLICATION_ID, FORMAT = 0x53766C64, 1
"""Marks a SQLite file as a ledger ("Svld") of the first format."""

_OURS, _NEW = (APPLICATION_ID, FORMAT, True), (0, 0, False)

WAIT_S = 60.0
"""How long a writer waits for another one."""

_RESTRICTED = "CREATE TABLE IF NOT EXISTS restricted (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)"

_LAYOUT = (
    "CREATE TABLE entries (seq INTEGER PRIMARY KEY AUTOINCREMENT, prev_hash TEXT NOT NULL, hash TEXT NOT NULL, "
    "body BLOB NOT NULL)",
    "CREATE TRIGGER entries_keep BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    "CREATE TRIGGER entries_stay BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)

_TODO = {
    "full": "free some space on the disk and start again; nothing was released",
    "readonly": "make the file and its folder writable, or open a copy",
    "locked": "wait until the other process is done, or end it",
    "unable to open": "check that the path is a file in a folder you may write to",
    "I/O": "check the disk; restore the ledger from a copy if it stays",
}


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn SQLite's complaints into ours."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # Python fails to decode SQLite's message when that quotes damaged bytes.
        text = str(error)
        todo = next((todo for sign, todo in _TODO.items() if sign in text), "restore the ledger from a copy")
        raise LedgerError(f"{path}: {text}", todo) from error


class SQLiteStore:
    """A `Store` in a file.

    Args:
        path: of the file.
        create: lay out a new one when there is none.
        readonly: change nothing, nor make files next to it unless a write-ahead log must be read.

    Raises:
        LedgerError: no such file, not a ledger, unreadable or unwritable.
    """

    def __init__(self, path: Path, create: bool, readonly: bool) -> None:
        self._path = path
        self._connection = connect(path, create, readonly)
        self._writing = False

    @property
    def name(self) -> str:
        """See `Store`."""
        return str(self._path)

    @property
    def writing(self) -> bool:
        """See `Store`."""
        return self._writing

    def rows(self, after: int) -> Iterator[Row]:
        """See `Store`."""
        with reported(self._path):
            cursor = self._connection.execute(
                "SELECT seq, prev_hash, hash, body FROM entries WHERE seq > ? ORDER BY seq", (after,)
            )
            for seq, prev_hash, sha256, body in cursor:
                if not (isinstance(prev_hash, bytes) and isinstance(sha256, bytes) and isinstance(body, bytes)):
                    raise broken(seq, "a column has the wrong type")
                yield Row(seq, prev_hash.decode(errors="replace"), sha256.decode(errors="replace"), body)

    def hash_of(self, seq: int) -> str | None:
        """See `Store`."""
        with reported(self._path):
            row = self._connection.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
        return row[0].decode(errors="replace") if row and isinstance(row[0], bytes) else None

    def highest(self) -> int:
        """See `Store`."""
        with reported(self._path):
            counter = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
        return counter[0] if counter else 0

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See `Store`."""
        with reported(self._path):
            inside = self._connection.in_transaction
            if not inside:
                self._connection.execute("BEGIN")
        if inside:
            yield
            return
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Store`."""
        with reported(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
        self._writing = True
        try:
            yield
            with reported(self._path):
                self._connection.execute("COMMIT")
        finally:
            self._writing = False
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def append(self, row: Row) -> None:
        """See `Store`."""
        with reported(self._path):
            self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)

    def keep(self, seq: int, body: bytes) -> None:
        """See `Store`."""
        with reported(self._path):
            self._connection.execute("INSERT INTO restricted VALUES (?, ?)", (seq, body))

    def restricted(self) -> list[tuple[int, object]]:
        """See `Store`; none in a ledger from before there were such records."""
        with reported(self._path):
            if not self._connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'restricted'").fetchone():
                return []
            return self._connection.execute("SELECT seq, body FROM restricted ORDER BY seq").fetchall()

    def close(self) -> None:
        """See `Store`."""
        self._connection.close()


def connect(path: Path, create: bool, readonly: bool) -> sqlite3.Connection:
    """Open a ledger file; see `SQLiteStore`."""
    if path.is_dir():
        raise LedgerError(f"{path} is a folder, not a ledger", "name the file, usually ledger.db")
    if not path.exists() and not create:
        raise LedgerError(f"no ledger at {path}", "check the path; a run without its ledger cannot be accounted for")
    mode = "rwc" if create else "rw"
    if readonly:
        # Without a write-ahead log nothing needs to be locked or replayed.
        wal = path.with_name(path.name + "-wal")
        mode = "ro" if wal.exists() and wal.stat().st_size else "ro&immutable=1"
    with reported(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=WAIT_S, isolation_level=None
        )
        try:
            connection.text_factory = bytes
            if not readonly:
                _prepare(connection, create)
            _recognise(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, create: bool) -> None:
    """Set the file up for durable writing, and lay out a new one."""
    mark = _mark(connection)
    if mark != _OURS and not (create and mark == _NEW):
        return
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    if _mark(connection) == _NEW:
        for statement in _LAYOUT:
            connection.execute(statement)
    # Ledgers of before there were restricted records lack this table.
    connection.execute(_RESTRICTED)
    connection.execute("COMMIT")
    # SQLite opens a file that may only be read without a word; it complains when something is to be written.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("ROLLBACK")


def _mark(connection: sqlite3.Connection) -> tuple[int, int, bool]:
    """Application id and format of a SQLite file, and whether it holds anything."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return application, version, tables > 0


def _recognise(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a SQLite file that is not a ledger of this format."""
    application, version, _ = _mark(connection)
    if application != APPLICATION_ID:
        raise LedgerError(f"{path} is not a ledger of sottovoce", "name the file that a run wrote, usually ledger.db")
    if version != FORMAT:
        raise LedgerError(f"{path} has ledger format {version}, this version reads {FORMAT}", "update sottovoce")
