"""A SQLite file of sealed rows: numbers in the clear, everything else under AES-256-GCM.

One table, `rows(number, body)`. A body is a fresh 96-bit nonce, then ciphertext and tag. The associated data are the
format, the id of the file (16 random bytes) and the row's number: a row moved to another number or another file does
not open. Before sealing, a row is padded to a multiple of 256 bytes. What a row is (event, page, state) is inside.

WAL with synchronous=FULL: a change that was acknowledged survives a power cut. `secure_delete` overwrites what is
deleted. One process has the file to itself (exclusive locking), so there is no shared-memory file.

Source: NIST SP 800-38D, section 8.2.2 (random nonces: at most 2^32 rows under one key).
"""

import errno
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = b"sottovoce store 1"
NONCE_BYTES = 12
ID_BYTES = 16
PAD = 256

FAULTS = (sqlite3.Error, OSError, UnicodeDecodeError)
"""What a disk or a damaged file raises; Python fails to decode SQLite's message when that quotes damaged bytes."""

_LAYOUT = (
    "CREATE TABLE file (id BLOB NOT NULL)",
    "CREATE TABLE rows (number INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL)",
)
_SCHEMA = {*(text.encode() for text in _LAYOUT), b"CREATE TABLE sqlite_sequence(name,seq)"}

_ORDERS = ("ASC", "DESC")

_SYSTEM = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "read-only"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "full"),
}


@dataclass(frozen=True)
class Reading:
    """What a file held.

    Attributes:
        rows: contents by number, rising; every one of them genuine.
        broken: numbers of rows that do not open.
        torn: the file itself is damaged, and more rows may have been lost.
        highest: the highest number ever used, as far as is known.
    """

    rows: Mapping[int, bytes]
    broken: tuple[int, ...] = ()
    torn: bool = False
    highest: int = 0


def fault(error: BaseException) -> str:
    """What it means: `locked`, `read-only`, `full`, `disk` or `damaged`."""
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", None) or ""
        kinds = {"BUSY": "locked", "LOCKED": "locked", "READONLY": "read-only", "PERM": "read-only", "FULL": "full"}
        kinds |= {"CANTOPEN": "read-only", "IOERR": "disk"}
        # A file that was cut reads short.
        cut = name == "SQLITE_IOERR_SHORT_READ"
        return "damaged" if cut else next((kind for sign, kind in kinds.items() if f"_{sign}" in name), "damaged")
    if isinstance(error, OSError):
        return _SYSTEM.get(error.errno or 0, "disk")
    return "damaged"


class SealedFile:
    """One open file. Every method may raise one of `FAULTS`; what was asked for has not happened then.

    Args:
        path: of the file; an empty or missing one is laid out anew, readable by its owner only.
        key: 32 bytes.
        wait_s: how long to wait for another process.
    """

    def __init__(self, path: Path, key: bytes, wait_s: float = 0.0) -> None:
        self._cipher = AESGCM(key)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        try:
            self._id = self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> bytes:
        run = self._connection.execute
        self._connection.text_factory = bytes
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "secure_delete = ON",
        ):
            run(f"PRAGMA {pragma}")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("BEGIN IMMEDIATE")
        found = {sql for (sql,) in run("SELECT sql FROM sqlite_schema")}
        if not found:
            for statement in _LAYOUT:
                run(statement)
            run("INSERT INTO file VALUES (?)", (secrets.token_bytes(ID_BYTES),))
        elif found != _SCHEMA:
            raise sqlite3.DatabaseError("the file has another layout")
        # SQLite opens a file that may only be read without a word; it complains when something is to be written.
        run("UPDATE file SET id = id")
        run("COMMIT")
        ids = run("SELECT id FROM file").fetchall()
        if len(ids) != 1 or not isinstance(ids[0][0], bytes):
            raise sqlite3.DatabaseError("the file has no id")
        return ids[0][0]

    def read(self) -> Reading:
        """Everything that opens. Of a damaged file, what can be reached from either end."""
        rows: dict[int, bytes] = {}
        broken: set[int] = set()
        torn = self._connection.execute("PRAGMA quick_check(1)").fetchone() != (b"ok",)
        highest = 0
        for order in _ORDERS:
            try:
                for number, body in self._connection.execute(f"SELECT number, body FROM rows ORDER BY number {order}"):  # noqa: S608
                    plain = self._opened(number, body)
                    highest = max(highest, number)
                    if plain is None:
                        broken.add(number)
                    else:
                        rows[number] = plain
                break
            except (sqlite3.Error, UnicodeDecodeError) as error:
                if fault(error) != "damaged":
                    raise
                torn = True
        if not torn:
            used = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'rows'").fetchone()
            highest = max(highest, used[0] if used and isinstance(used[0], int) else 0)
        return Reading(dict(sorted(rows.items())), tuple(sorted(broken)), torn, highest)

    def change(self, new: Mapping[int, bytes], gone: Iterable[int] = ()) -> None:
        """Add rows and remove others, in one step; on return it is on the disk.

        Args:
            new: contents by number.
            gone: numbers.
        """
        run = self._connection.execute
        try:
            run("BEGIN IMMEDIATE")
            for number, plain in new.items():
                run("INSERT INTO rows VALUES (?, ?)", (number, self._sealed(number, plain)))
            self._connection.executemany("DELETE FROM rows WHERE number = ?", [(number,) for number in gone])
            run("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def rewrite(self, rows: Mapping[int, bytes]) -> None:
        """These rows and no others, sealed under a new id, so that no deleted row can be put back; in one step."""
        run = self._connection.execute
        before = self._id
        try:
            self._id = secrets.token_bytes(ID_BYTES)
            run("BEGIN IMMEDIATE")
            run("DELETE FROM rows")
            run("UPDATE file SET id = ?", (self._id,))
            for number, plain in rows.items():
                run("INSERT INTO rows VALUES (?, ?)", (number, self._sealed(number, plain)))
            run("COMMIT")
        except BaseException:
            self._id = before
            self._roll_back()
            raise
        self.clean()

    def clean(self) -> None:
        """Bring the write-ahead log into the file and cut it to nothing: no deleted row is left in it."""
        busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise sqlite3.OperationalError("the write-ahead log could not be emptied")

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _bound(self, number: int) -> bytes:
        return FORMAT + self._id + number.to_bytes(8, "big", signed=True)

    def _sealed(self, number: int, plain: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        padded = plain + b"\x80" + bytes(-(len(plain) + 1) % PAD)
        return nonce + self._cipher.encrypt(nonce, padded, self._bound(number))

    def _opened(self, number: int, body: object) -> bytes | None:
        if not isinstance(body, bytes) or len(body) < NONCE_BYTES:
            return None
        try:
            padded = self._cipher.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], self._bound(number))
        except InvalidTag:
            return None
        return padded.rstrip(b"\0")[:-1]


def sealed_size(plain: bytes) -> int:
    """Bytes of a row's body on the disk."""
    return NONCE_BYTES + (len(plain) // PAD + 1) * PAD + 16


def read_copy(path: Path, key: bytes) -> Reading:
    """What a file holds that may only be read or is in use: a copy of its sealed bytes is opened elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
        file = SealedFile(copy, key)
        try:
            return file.read()
        finally:
            file.close()


def remove(path: Path) -> None:
    """Overwrite and remove the file and its journals.

    Raises:
        OSError: one of them is still there.
    """
    for suffix in ("-wal", "-shm", "-journal", ""):
        one = path.with_name(path.name + suffix)
        if one.is_file() and not one.is_symlink():
            with one.open("r+b") as file:
                file.write(bytes(one.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
        one.unlink(missing_ok=True)
