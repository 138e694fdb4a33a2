"""Where the rows of a ledger are kept: all that a ledger asks of a database, and which database an address names.

A store knows nothing of what rows mean. It hands them out as they lie there, unchecked, appends them under one lock,
and remembers the highest row it ever held, so that rows cut off at the end are missed.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sottovoce.privacy.chain import Row
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.sqlite import SQLiteStore


class Store(Protocol):
    """A database with a ledger in it. Every failure of the database is a `LedgerError`."""

    @property
    def name(self) -> str:
        """Where it is, for messages; holds no password."""

    @property
    def writing(self) -> bool:
        """Whether an `exclusive` transaction is under way."""

    def rows(self, after: int) -> Iterator[Row]:
        """The rows after row `after`, in order, as they are stored."""

    def hash_of(self, seq: int) -> str | None:
        """The stored hash of one row; None where there is no such row."""

    def highest(self) -> int:
        """Number of the highest row ever appended, 0 before the first."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Everything read inside is of one moment; does nothing inside a transaction."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Write with all other writers kept out: on disk at the end, or nothing of it.

        When the end itself fails, what was written may be there or not: who goes on must read.
        """

    def append(self, row: Row) -> None:
        """Add one row, inside `exclusive` only."""

    def keep(self, seq: int, body: bytes) -> None:
        """Put a restricted record beside row `seq`, inside `exclusive` only."""

    def restricted(self) -> list[tuple[int, object]]:
        """The restricted records by row, as stored; none where this reader may not see them."""

    def close(self) -> None:
        """Let go of the database; the store cannot be used afterwards."""


def is_address(text: str) -> bool:
    """Whether `text` is the address of a database server rather than the path of a file."""
    # Whatever looks like an address is kept away from messages about files: it may hold a password.
    return bool(re.match(r"(?i)(postgres[a-z0-9+.-]*:|[a-z][a-z0-9+.-]+:/)|.*\bpassword\s*=", text))


def tells_password(text: str) -> bool:
    """Whether an address holds a password, so that it must not be written down."""
    return is_address(text) and bool(re.search(r"(?i)://[^@]*:[^@]*@|password\s*=", text))


def open_store(address: Path | str, create: bool, readonly: bool) -> Store:
    """The store at an address.

    Args:
        address: path of a SQLite file, or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
        create: lay out a new one when there is none.
        readonly: change nothing; writing is then refused.

    Raises:
        LedgerError: there is none, it is no ledger, or it cannot be read or written.
    """
    text = str(address)
    if not is_address(text):
        return SQLiteStore(Path(address), create, readonly)
    if isinstance(address, Path):
        # A path joins the slashes of an address.
        text = text.replace(":/", "://", 1)
    try:
        from sottovoce.privacy.postgres import PostgresStore
    except ModuleNotFoundError as error:
        raise LedgerError(
            "a ledger on a PostgreSQL server needs psycopg, which is not installed",
            'install it with: pip install "sottovoce[postgres]"',
        ) from error
    return PostgresStore(text, create, readonly)
