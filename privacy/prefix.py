"""A ledger as it once stood: the rows up to a given one, read from the database that has grown since."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

from sottovoce.privacy.chain import Row
from sottovoce.privacy.store import Store


class Prefix:
    """A store that ends early and cannot be written to.

    Args:
        store: all of it; stays open as long as this is used, and is closed by whoever opened it.
        length: rows that are seen, 0 or more.
    """

    writing = False

    def __init__(self, store: Store, length: int) -> None:
        self._store = store
        self._length = length

    @property
    def name(self) -> str:
        """Where the ledger is, for messages; holds no password."""
        return self._store.name

    def rows(self, after: int) -> Iterator[Row]:
        """The rows after row `after` and not beyond the end, as they are stored."""
        for row in self._store.rows(after):
            if row.seq > self._length:
                return
            yield row

    def hash_of(self, seq: int) -> str | None:
        """The stored hash of one row; None where there is no such row."""
        return self._store.hash_of(seq) if seq <= self._length else None

    def highest(self) -> int:
        """Number of the highest row ever appended, as far as it is seen."""
        return min(self._store.highest(), self._length)

    def snapshot(self) -> AbstractContextManager[None]:
        """Everything read inside is of one moment."""
        return self._store.snapshot()

    def exclusive(self) -> AbstractContextManager[None]:
        """The past is not written to.

        Raises:
            TypeError: always.
        """
        raise TypeError("a ledger as it once stood cannot be written to")

    def append(self, row: Row) -> None:  # noqa: ARG002 - a store's signature
        """As `exclusive`."""
        self.exclusive()

    def keep(self, seq: int, body: bytes) -> None:  # noqa: ARG002 - a store's signature
        """As `exclusive`."""
        self.exclusive()

    def restricted(self) -> list[tuple[int, object]]:
        """The restricted records by row, of the rows that are seen."""
        return [(seq, body) for seq, body in self._store.restricted() if seq <= self._length]

    def close(self) -> None:
        """Leaves the store open: it is not its own."""
