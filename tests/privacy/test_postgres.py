"""A ledger on a server: few rights suffice, nobody changes a row unseen, and a broken connection never lies."""

import contextlib
import socket
import threading

import pytest

from sottovoce.privacy.chain import Head
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import PoissonGaussian
from sottovoce.privacy.ledger import Ledger, Realised
from sottovoce.simulations.postgres_server import server

psycopg = pytest.importorskip("psycopg", reason="ledgers on PostgreSQL are part of the [postgres] extra")

EVENT = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
DRAWN = Realised(population=6040, cohort=118, answered=101, busiest=2, salt="00" * 16)


@pytest.fixture
def database(postgres):
    return postgres.new_database()


@pytest.fixture
def ledger(postgres, database):
    with Ledger.open(postgres.address(database), create=True) as opened:
        opened.open_campaign(4.0, 1e-5, 6040)
        yield opened


def reserve(ledger, round=0):
    return ledger.reserve("run", round, EVENT, "p" * 64, "train", "secure")


def fill(ledger, rounds):
    for round in range(rounds):
        ledger.commit(reserve(ledger, round), "ab" * 32, DRAWN)


def content(postgres, database):
    return [
        postgres.execute("SELECT ctid, xmin, * FROM sottovoce_ledger", database=database),
        postgres.execute("SELECT ctid, xmin, * FROM sottovoce_entries ORDER BY seq", database=database),
        postgres.execute("SELECT ctid, xmin, * FROM sottovoce_restricted ORDER BY seq", database=database),
    ]


def role(postgres, database, *grants):
    """A new role with few rights; its address."""
    name = f"role_{database}"
    postgres.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pass'")
    postgres.execute(*(f"GRANT {grant} TO {name}" for grant in grants), database=database)
    return postgres.address(database, name, "pass")


READS = ("SELECT ON sottovoce_ledger", "SELECT ON sottovoce_entries")
WRITES = (*READS, "INSERT ON sottovoce_entries", "INSERT ON sottovoce_restricted")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sottovoce_entries SET body = ''",
        "DELETE FROM sottovoce_entries",
        "TRUNCATE sottovoce_entries",
        "INSERT INTO sottovoce_entries VALUES (99, '', '', '')",
        "INSERT INTO sottovoce_entries VALUES (2, '', '', '')",
    ],
)
def test_the_server_itself_refuses_changes_through_the_front_door(postgres, database, ledger, statement):
    fill(ledger, 1)
    before = content(postgres, database)
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        postgres.execute(statement, database=database)
    assert content(postgres, database) == before


def test_a_role_that_may_only_select_reads_everything_but_restricted_records_and_changes_nothing(
    postgres, database, ledger
):
    fill(ledger, 3)
    before = content(postgres, database)
    address = role(postgres, database, *READS)
    for readonly in (True, False):
        with Ledger.open(address, readonly=readonly) as reader:
            assert reader.verify() == ledger.head()
            assert len(list(reader.entries())) == 7
            assert reader.realised(reader.book()) == {}
            with pytest.raises(LedgerError, match=r"readonly|permission denied"):
                reserve(reader)
            assert reader.verify() == ledger.head()
    with Ledger.open(postgres.address(database), readonly=True) as owner:
        assert owner.realised(owner.book()) == {3: DRAWN, 5: DRAWN, 7: DRAWN}
    assert content(postgres, database) == before


def test_a_coordinator_needs_no_right_to_update_or_delete(postgres, database, ledger):
    with Ledger.open(role(postgres, database, *WRITES)) as writer:
        fill(writer, 2)
        assert writer.head() == ledger.verify() == Head(5, ledger.head().hash)


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE TABLE cats (name text)", "is not a ledger of sottovoce"),
        ("CREATE TABLE sottovoce_ledger (application text, format integer)", "is not a ledger of sottovoce"),
        ("CREATE TABLE sottovoce_ledger (name text)", "column"),
    ],
    ids=["another database", "an empty marker", "a marker of another kind"],
)
def test_what_is_no_ledger_is_refused_and_left_alone(postgres, database, create, statement, said):
    postgres.execute(statement, database=database)
    tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    before = postgres.execute(tables, database=database)
    with pytest.raises(LedgerError, match=said) as caught:
        Ledger.open(postgres.address(database), create=create)
    assert caught.value.todo
    assert postgres.execute(tables, database=database) == before


def test_an_empty_database_is_a_ledger_only_when_asked_to_make_one(postgres, database):
    for create, readonly in ((False, False), (False, True), (True, True)):
        with pytest.raises(LedgerError, match="is not a ledger"):
            Ledger.open(postgres.address(database), create=create, readonly=readonly)
    assert postgres.execute("SELECT count(*) FROM pg_class WHERE relname ~ 'sotto'", database=database) == [(0,)]


def test_a_ledger_of_a_later_format_is_refused(postgres, database, ledger):
    postgres.execute("UPDATE sottovoce_ledger SET format = 2", database=database)
    with pytest.raises(LedgerError, match="has ledger format 2, this version reads 1"):
        Ledger.open(postgres.address(database))


def test_one_database_holds_a_ledger_per_schema(postgres, database):
    postgres.execute("CREATE SCHEMA one", "CREATE SCHEMA two", database=database)
    heads = set()
    for schema in ("one", "two"):
        address = f"{postgres.address(database)}&options=-csearch_path%3D{schema}"
        with Ledger.open(address, create=True) as ledger:
            ledger.open_campaign(4.0, 1e-5, 6040 if schema == "one" else 10)
            fill(ledger, 1)
            heads.add(ledger.verify())
    assert len(heads) == 2


def test_a_server_that_does_not_wait_for_its_disk_is_refused_for_writing():
    with server(fsync=False) as careless, pytest.raises(LedgerError, match="fsync = off"):
        Ledger.open(careless.address(), create=True)


def test_a_role_that_asks_for_lazy_commits_is_overruled(postgres, database, ledger):
    with Ledger.open(postgres.address(database)) as writer:
        writer._store._db.execute("SET synchronous_commit = off")
        with writer.exclusive():
            assert writer._store._db.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_the_password_is_in_no_message_and_no_row(postgres, database, ledger):
    fill(ledger, 1)
    told = [repr(ledger), ledger.name, repr(ledger._store)]
    for broken in (postgres.address("no_such_database"), postgres.address(user="nobody"), postgres.address(database)):
        try:
            with Ledger.open(broken) as opened:
                reserve(opened)
                postgres.execute("UPDATE sottovoce_ledger SET highest = 99", database=database)
                opened.verify()
        except LedgerError as error:
            told += [str(error), repr(error), error.what, error.todo, repr(error.__cause__)]
    assert len(told) == 18
    assert all(postgres.password not in text for text in told)
    assert all(postgres.password.encode() not in row.body for row in ledger.rows())


# Broken connections


def test_a_connection_that_broke_between_releases_is_made_anew(postgres, database, ledger):
    fill(ledger, 1)
    cut(postgres, database)
    fill(ledger, 1)
    cut(postgres, database)
    assert ledger.head().length == ledger.verify().length == 5


def cut(postgres, database):
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sottovoce' AND datname = "
    assert postgres.execute(f"{end} '{database}'") == [(True,)]


def test_a_connection_that_breaks_inside_a_transaction_ends_it_whole(postgres, database, ledger):
    before = ledger.head()

    def interrupted():
        with ledger.exclusive():
            reserve(ledger)
            cut(postgres, database)
            reserve(ledger)

    with pytest.raises(LedgerError, match="terminating connection"):
        interrupted()
    assert ledger.head() == ledger.verify() == before
    assert ledger.book().spent[EVENT] == 0


def test_a_row_that_was_refused_ends_the_transaction_even_if_nobody_minded(postgres, database, ledger):
    before = ledger.head()

    def careless():
        with ledger.exclusive():
            reserve(ledger)
            with contextlib.suppress(LedgerError):
                ledger._store.append(next(ledger.rows()))

    with pytest.raises(LedgerError, match="nothing was written"):
        careless()
    assert ledger.head() == ledger.verify() == before
    fill(ledger, 1)
    assert ledger.verify().length == 3


class Cable:
    """Between a client and the server; breaks when a transaction ends, before or after the server hears of it."""

    def __init__(self, folder, server_folder):
        self.breaks = None
        self._target = str(server_folder / ".s.PGSQL.5432")
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(folder / ".s.PGSQL.5432"))
        self._door.listen()
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._door.accept()
                self._threads.append(threading.Thread(target=self._carry, args=(client,)))
                self._threads[-1].start()

    def _carry(self, client):
        with client, socket.socket(socket.AF_UNIX) as far:
            far.connect(self._target)
            while data := client.recv(65536):
                ending = b"COMMIT\0" in data and self.breaks
                if ending == "before":
                    return
                far.sendall(data)
                if not self._answer(client, far, ending):
                    return

    def _answer(self, client, far, ending):
        """Carry the server's answer back until it is ready for more; swallow it when the cable breaks here."""
        while True:
            data = far.recv(65536)
            if not data or ending:
                return False
            client.sendall(data)
            # Ready for the next statement, or asking for a password.
            if data[-6:-1] == b"Z\0\0\0\5" or b"R\0\0\0" in data[:5]:
                return True

    def close(self):
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def cable(postgres, tmp_path):
    made = Cable(tmp_path, postgres.folder)
    yield made
    made.close()


@pytest.mark.parametrize(("breaks", "arrived"), [("before", False), ("after", True)])
def test_when_the_connection_breaks_while_a_row_is_written_the_next_look_tells_whether_it_is_there(
    postgres, database, ledger, cable, tmp_path, breaks, arrived
):
    fill(ledger, 1)
    before = ledger.head()
    address = postgres.address(database).replace(str(postgres.folder), str(tmp_path))
    with Ledger.open(address) as far:
        cable.breaks = breaks
        with pytest.raises(LedgerError, match="they are there or not") as caught:
            reserve(far, 1)
        assert "do not release" in caught.value.todo
        cable.breaks = None
        # The book had taken the row in already: it must not be believed.
        assert far.book().spent[EVENT] == ledger.book().spent[EVENT] == 1 + arrived
        assert far.head() == ledger.verify() == (ledger.head() if arrived else before)
        assert len(far.recover()) == arrived
        fill(far, 1)
        assert far.verify() == ledger.verify()


def test_a_ledger_rolled_back_behind_a_broken_connection_is_refused(postgres, database, ledger, cable, tmp_path):
    fill(ledger, 2)
    with Ledger.open(postgres.address(database).replace(str(postgres.folder), str(tmp_path))) as far:
        cable.breaks = "before"
        with pytest.raises(LedgerError):
            reserve(far, 1)
        cable.breaks = None
        postgres.execute(
            "ALTER TABLE sottovoce_entries DISABLE TRIGGER ALL",
            "DELETE FROM sottovoce_entries WHERE seq > 3",
            "UPDATE sottovoce_ledger SET highest = 3",
            database=database,
        )
        for _ in range(2):
            with pytest.raises(LedgerError, match=r"row 4: missing.*rolled back"):
                reserve(far, 1)


def test_rows_acknowledged_before_the_server_crashed_are_there_when_it_is_back():
    with server() as first, Ledger.open(first.address(), create=True) as ledger:
        ledger.open_campaign(4.0, 1e-5, 6040)
        paid = [reserve(ledger, round) for round in range(50)]
        first.stop()
        with pytest.raises(LedgerError):
            reserve(ledger, 50)
        first.start()
        stored = {row.seq: row.hash for row in ledger.rows()}
        assert {one.seq: one.hash for one in paid}.items() <= stored.items()
        assert ledger.verify().length == 51
