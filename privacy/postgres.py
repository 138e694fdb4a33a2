"""A ledger on a PostgreSQL server, for teams that run many coordinators.

One schema holds one ledger; `?options=-csearch_path%3DNAME` at the end of the address picks another than the first of
the role's search path. Whoever makes the ledger owns its tables. Other roles need few rights: SELECT on
`sottovoce_ledger` and `sottovoce_entries` to read; INSERT on `sottovoce_entries` and `sottovoce_restricted` besides to
write; SELECT on `sottovoce_restricted` only to see restricted records. Better than in the address, the password lies in
`~/.pgpass`; no message ever tells it.

When a transaction has ended, its rows are on the server's disk, and on that of its synchronous standbys: the session
asks for it, and a server that runs without fsync is refused. When the connection breaks while a transaction ends,
nobody can know whether it did. Then the caller must not release; the next look at the ledger tells.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from sottovoce.privacy.chain import Row, broken
from sottovoce.privacy.errors import LedgerError

APPLICATION, FORMAT = "sottovoce ledger", 1
"""What the marker table says."""

_PART, _HOST = r"[^:@/?#\s]*", r"(?:\[[0-9A-Fa-f:.]*\]|[^:/?@#,\[\]\s]*)(?::\d+)?"
_ADDRESS = re.compile(
    rf"postgres(?:ql)?://(?:(?P<user>{_PART})(?::[^@/?#\s]*)?@)?(?P<hosts>{_HOST}(?:,{_HOST})*)"
    rf"(?:/(?P<database>{_PART}))?(?:\?[^#\s]*)?"
)

_LOCK = 0x53766C64
"""Advisory locks of ours: with 0 for making ledgers in a database, else with a hash of the table's number."""

_BEGIN: LiteralString = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '60s'; "
)

_LAYOUT: tuple[LiteralString, ...] = (
    "CREATE TABLE sottovoce_ledger (application text NOT NULL, format integer NOT NULL, highest bigint NOT NULL)",
    "CREATE TABLE sottovoce_entries (seq bigint PRIMARY KEY, prev_hash text NOT NULL, hash text NOT NULL, "
    "body bytea NOT NULL)",
    "CREATE TABLE sottovoce_restricted (seq bigint PRIMARY KEY, body bytea NOT NULL)",
    # Runs with its owner's rights, so that writers need none to change the counter. The lock on the counter's row keeps
    # writers apart that do not take ours.
    "CREATE FUNCTION sottovoce_next() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = {}, pg_temp "
    "AS $$ BEGIN UPDATE sottovoce_ledger SET highest = NEW.seq WHERE highest = NEW.seq - 1; "
    "IF NOT FOUND THEN RAISE EXCEPTION 'the ledger is append-only: row % is not the next', NEW.seq; END IF; "
    "RETURN NEW; END $$",
    "CREATE FUNCTION sottovoce_keep() RETURNS trigger LANGUAGE plpgsql "
    "AS $$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
    "CREATE TRIGGER entries_next BEFORE INSERT ON sottovoce_entries FOR EACH ROW EXECUTE FUNCTION sottovoce_next()",
    "CREATE TRIGGER entries_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON sottovoce_entries "
    "FOR EACH STATEMENT EXECUTE FUNCTION sottovoce_keep()",
)

_TODO: tuple[tuple[type[psycopg.Error], str], ...] = (
    (errors.DiskFull, "free some space on the server's disk and start again; nothing was released"),
    (errors.LockNotAvailable, "wait until the other process is done, or end it"),
    (errors.InsufficientPrivilege, "grant this role the rights that docs/formats.md lists"),
    (errors.ReadOnlySqlTransaction, "write on the primary server"),
    (errors.RaiseException, "find out what else writes to this ledger, and tell the auditor"),
    (errors.UniqueViolation, "find out what else writes to this ledger, and tell the auditor"),
    (psycopg.OperationalError, "check that the server runs and can be reached, and the role, password and database"),
)


class PostgresStore:
    """A `Store` on a server.

    Args:
        address: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
        create: lay out a new ledger where the schema is empty.
        readonly: change nothing.

    Raises:
        LedgerError: no such server or database, not a ledger, or no right to read it.
    """

    def __init__(self, address: str, create: bool, readonly: bool) -> None:
        self._name, self._settings = _parsed(address)
        self._readonly = readonly
        self._writing = self._inside = self._closed = False
        with self._reported():
            self._db = self._connect()
            try:
                if create and not readonly:
                    self._prepare()
                self._recognise()
            except BaseException:
                self._db.close()
                raise

    @property
    def name(self) -> str:
        """See `Store`."""
        return self._name

    @property
    def writing(self) -> bool:
        """See `Store`."""
        return self._writing

    def rows(self, after: int, batch: int = 5000) -> Iterator[Row]:
        """See `Store`; asks for `batch` rows at a time."""
        while True:
            found = self._ask(
                "SELECT seq, prev_hash, hash, body FROM sottovoce_entries WHERE seq > %s ORDER BY seq LIMIT %s",
                (after, batch),
            ).fetchall()
            for seq, prev_hash, sha256, body in found:
                if not (isinstance(prev_hash, str) and isinstance(sha256, str) and isinstance(body, bytes)):
                    raise broken(seq, "a column has the wrong type")
                yield Row(seq, prev_hash, sha256, body)
            if len(found) < batch:
                return
            after = found[-1][0]

    def hash_of(self, seq: int) -> str | None:
        """See `Store`."""
        row = self._ask("SELECT hash FROM sottovoce_entries WHERE seq = %s", (seq,)).fetchone()
        return row[0] if row else None

    def highest(self) -> int:
        """See `Store`."""
        row = self._ask("SELECT max(highest) FROM sottovoce_ledger").fetchone()
        return row[0] if row and row[0] is not None else 0

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See `Store`."""
        if self._inside:
            yield
            return
        self._ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self._inside = True
        try:
            yield
        finally:
            self._abandon()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Store`."""
        if self._readonly:
            raise LedgerError(f"{self.name} was opened readonly", "open it for writing")
        self._ask(_BEGIN)
        self._inside = self._writing = True
        try:
            self._ask("SELECT pg_advisory_xact_lock(%s, hashtext('sottovoce_entries'::regclass::oid::text))", (_LOCK,))
            yield
            self._commit()
        finally:
            self._abandon()

    def append(self, row: Row) -> None:
        """See `Store`."""
        self._ask("INSERT INTO sottovoce_entries VALUES (%s, %s, %s, %s)", row)

    def keep(self, seq: int, body: bytes) -> None:
        """See `Store`."""
        self._ask("INSERT INTO sottovoce_restricted VALUES (%s, %s)", (seq, body))

    def restricted(self) -> list[tuple[int, object]]:
        """See `Store`."""
        may = self._ask("SELECT has_table_privilege(to_regclass('sottovoce_restricted'), 'SELECT')").fetchone()
        if not may or not may[0]:
            return []
        return self._ask("SELECT seq, body FROM sottovoce_restricted ORDER BY seq").fetchall()

    def close(self) -> None:
        """See `Store`."""
        self._closed = True
        self._db.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn the server's complaints into ours, one line each."""
        try:
            yield
        except (psycopg.Error, UnicodeDecodeError) as error:
            said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
            todo = next((todo for kind, todo in _TODO if isinstance(error, kind)), "restore the ledger from a copy")
            raise LedgerError(f"{self.name}: {' '.join((said or str(error)).split())}", todo) from error

    def _ask(self, question: LiteralString, values: tuple[Any, ...] | None = None) -> psycopg.Cursor[Any]:
        """One round trip. A connection that broke while nothing was under way is made anew, once."""
        with self._reported():
            try:
                return self._db.execute(question, values)
            except psycopg.OperationalError:
                if self._inside or self._closed or not self._db.closed:
                    raise
            self._db = self._connect()
            self._recognise()
            return self._db.execute(question, values)

    def _connect(self) -> psycopg.Connection[Any]:
        found = psycopg.connect(autocommit=True, prepare_threshold=None, **self._settings)
        if not self._readonly:
            row = found.execute("SELECT current_setting('fsync')").fetchone()
            if row != ("on",):
                found.close()
                raise LedgerError(
                    f"{self.name}: the server runs with fsync = off, so that no row is safe from a power cut",
                    "set fsync = on there",
                )
        return found

    def _commit(self) -> None:
        if self._db.info.transaction_status is not TransactionStatus.INTRANS and not self._db.closed:
            raise LedgerError(f"{self.name}: a row was refused: nothing was written", "see the error before this one")
        try:
            with self._reported():
                self._db.execute("COMMIT")
        except LedgerError as error:
            if not self._db.closed:
                raise
            raise LedgerError(
                f"{self.name}: the connection broke while rows were being written: they are there or not",
                "do not release; start again: a reservation that is found then counts as spent",
            ) from error

    def _abandon(self) -> None:
        """Leave a transaction that is still open, if the connection is."""
        self._inside = self._writing = False
        if not self._db.closed and self._db.info.transaction_status is not TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                self._db.execute("ROLLBACK")

    def _prepare(self) -> None:
        """Lay out a new ledger in an empty schema."""
        self._db.execute(_BEGIN)
        self._inside = True
        try:
            self._db.execute("SELECT pg_advisory_xact_lock(%s, 0)", (_LOCK,))
            # What an extension brought with it, such as statistics, is nobody's data.
            row = self._db.execute(
                "SELECT current_schema(), count(c.oid) FROM (SELECT) one LEFT JOIN pg_class c ON c.relnamespace = "
                "(SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND NOT EXISTS (SELECT FROM pg_depend "
                "d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')"
            ).fetchone()
            if row and row[0] is not None and row[1] == 0:
                for statement in _LAYOUT:
                    self._db.execute(sql.SQL(statement).format(sql.Identifier(row[0])))
                self._db.execute("INSERT INTO sottovoce_ledger VALUES (%s, %s, 0)", (APPLICATION, FORMAT))
                self._db.execute("COMMIT")
        finally:
            self._abandon()

    def _recognise(self) -> None:
        """Refuse a schema that holds no ledger of this format."""
        row = self._db.execute("SELECT to_regclass('sottovoce_ledger')::text").fetchone()
        if row is not None and row[0] is not None:
            row = self._db.execute("SELECT application, format FROM sottovoce_ledger").fetchone()
        if row is None or row[0] != APPLICATION:
            raise LedgerError(
                f"{self.name} is not a ledger of sottovoce",
                "check database and search path; a new ledger needs an empty schema of its own",
            )
        if row[1] != FORMAT:
            raise LedgerError(
                f"{self.name} has ledger format {row[1]}, this version reads {FORMAT}", "update sottovoce"
            )


def _parsed(address: str) -> tuple[str, dict[str, Any]]:
    """What to call the server in messages, and how to reach it.

    Raises:
        LedgerError: not an address. It is not repeated: any part of it may be a piece of the password.
    """
    match = _ADDRESS.fullmatch(address)
    try:
        found = conninfo_to_dict(address) if match else None
    except psycopg.Error:
        found = None
    if match is None or found is None:
        raise LedgerError(
            "that is no address of a PostgreSQL ledger",
            "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40, %3A, %2F, %3F, %23 for @ : / ? # in a name",
        )
    user, host = found.get("user"), match["hosts"] or found.get("host") or "local"
    name = f"postgresql://{f'{user}@' if user else ''}{host}/{found.get('dbname') or ''}"
    usual = {"connect_timeout": 10, "tcp_user_timeout": 60_000, "fallback_application_name": "sottovoce"}
    # The hashes are ASCII; a server without an encoding would else hand out bytes.
    return name, usual | found | {"client_encoding": "utf8"}
