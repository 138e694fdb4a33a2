"""A ledger file cannot lie: edits, losses, full disks and foreign files are refused or found and named."""

import contextlib
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from sottovoce.privacy.chain import Head
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import PoissonGaussian
from sottovoce.privacy.ledger import Ledger, Realised

EVENT = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
ARTIFACT = "ab" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    with Ledger.open(path, create=True) as opened:
        opened.open_campaign(4.0, 1e-5, 6040)
        yield opened


def fill(ledger, rounds):
    for round in range(rounds):
        ledger.commit(ledger.reserve("run", round, EVENT, "p" * 64, "train", "secure"), ARTIFACT)


def snapshot(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def foreign_database(path):
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE cats (name TEXT)")


def newer_ledger(path):
    Ledger.open(path, create=True).close()
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(np.random.default_rng(1).bytes(5000)), "not a database"),
        (lambda path: path.write_text('{"seq": 1}\n' * 100), "not a database"),
        (foreign_database, "is not a ledger of sottovoce"),
        (newer_ledger, "has ledger format 2, this version reads 1"),
    ],
    ids=["folder", "garbage", "text", "another database", "newer"],
)
def test_what_is_no_ledger_is_refused_and_left_alone(path, tmp_path, make, said, create, readonly):
    make(path)
    before = snapshot(tmp_path) if path.is_file() else None
    with pytest.raises(LedgerError, match=said) as caught:
        Ledger.open(path, create=create, readonly=readonly)
    assert caught.value.todo
    assert "\n" not in caught.value.what
    if before is not None:
        assert snapshot(tmp_path) == before


def test_a_missing_or_empty_file_is_a_ledger_only_when_asked_to_make_one(path, tmp_path):
    for _ in range(2):
        with pytest.raises(LedgerError):
            Ledger.open(path)
        with pytest.raises(LedgerError):
            Ledger.open(path, readonly=True)
        path.touch()
    assert path.read_bytes() == b""
    Ledger.open(path, create=True).close()
    with Ledger.open(path) as opened:
        assert opened.head() == Head(0, "0" * 64)
    with pytest.raises(LedgerError, match="unable to open"):
        Ledger.open(tmp_path / "no" / "such" / "folder.db", create=True)


def test_every_truncation_of_the_file_is_refused_or_found(ledger, path, tmp_path):
    fill(ledger, 30)
    pinned = ledger.head()
    ledger.close()
    data = path.read_bytes()
    assert len(data) > 3 * 4096
    for length in sorted({0, 1, 15, 16, 99, 100, *range(4096, len(data), 4096), *range(1000, len(data), 1777)}):
        cut = tmp_path / "cut.db"
        cut.write_bytes(data[:length])
        with pytest.raises(LedgerError), Ledger.open(cut) as opened:
            opened.verify(pinned)


def test_no_damaged_byte_escapes_as_anything_but_a_ledger_error(ledger, path, tmp_path):
    fill(ledger, 10)
    whole = list(ledger.entries())
    ledger.close()
    data = path.read_bytes()
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(300):
        bent = bytearray(data)
        place = int(rng.integers(len(data)))
        bent[place] ^= 1 << int(rng.integers(8))
        broken = tmp_path / "broken.db"
        broken.write_bytes(bent)
        try:
            with Ledger.open(broken, readonly=True) as opened:
                opened.verify()
                # A byte that no row uses: then nothing may have changed.
                assert list(opened.entries()) == whole
        except LedgerError:
            found += 1
    assert found > 50


def test_a_full_disk_is_reported_and_loses_nothing(ledger, path):
    fill(ledger, 5)
    before = ledger.head()
    (pages,) = ledger._store._connection.execute("PRAGMA page_count").fetchone()
    ledger._store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match="full") as caught:
        fill(ledger, 200)
    assert "free some space" in caught.value.todo
    ledger._store._connection.execute("PRAGMA max_page_count = 1000000")
    kept = ledger.verify().length
    assert kept >= before.length
    fill(ledger, 1)
    assert ledger.verify().length == kept + 2


LIMITED = """
import resource, signal, sys
from pathlib import Path
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import PoissonGaussian
from sottovoce.privacy.ledger import Ledger
event = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger.open(Path(sys.argv[1]), create=True)
ledger.open_campaign(4.0, 1e-5, 6040)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
done = 0
try:
    while True:
        ledger.reserve("run", done, event, "p", "train", "secure")
        done += 1
except LedgerError as error:
    print(done, error.what)
"""


def test_a_file_that_may_not_grow_is_reported_and_loses_nothing(path):
    run = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    done, what = run.stdout.split(" ", 1)
    assert "ledger.db:" in what
    with Ledger.open(path) as opened:
        assert opened.book().spent[EVENT] == int(done) > 10


# Tampering


def tamper(path, *statements):
    """Change a closed ledger behind its back, triggers and all."""
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP TRIGGER entries_keep")
        raw.execute("DROP TRIGGER entries_stay")
        for statement, *values in statements:
            raw.execute(statement, values)


def test_sqlite_itself_refuses_changes_through_the_front_door(ledger, path):
    fill(ledger, 1)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        for statement in ("UPDATE entries SET body = x'00'", "DELETE FROM entries"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


EDIT = {
    "prev_hash": "UPDATE entries SET prev_hash = replace(prev_hash, substr(prev_hash, 9, 1), 'x') WHERE seq = ?",
    "hash": "UPDATE entries SET hash = replace(hash, substr(hash, 9, 1), 'x') WHERE seq = ?",
    "body": "UPDATE entries SET body = CAST(replace(body, '0', '1') AS BLOB) WHERE seq = ?",
}


@pytest.mark.parametrize("row", range(1, 8))
@pytest.mark.parametrize("column", EDIT)
def test_an_edited_row_is_found_and_named(ledger, path, row, column):
    fill(ledger, 3)
    ledger.close()
    tamper(path, (EDIT[column], row))
    with pytest.raises(LedgerError, match=f"row {row}:"):
        Ledger.open(path)


@pytest.mark.parametrize("value", [None, 7, 0.5, "text", b"\xff"])
def test_a_body_of_the_wrong_type_is_found_and_named(ledger, path, value):
    fill(ledger, 2)
    ledger.close()
    loose = "UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '') WHERE name = 'entries'"
    tamper(path, ("PRAGMA writable_schema = ON",), (loose,))
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE entries SET body = ? WHERE seq = 3", [value])
    with pytest.raises(LedgerError, match="row 3:"):
        Ledger.open(path)


@pytest.mark.parametrize("row", range(1, 8))
def test_a_deleted_row_is_found_and_named(ledger, path, row):
    fill(ledger, 3)
    ledger.close()
    tamper(path, ("DELETE FROM entries WHERE seq = ?", row))
    with Ledger.open_unchecked(path) as opened, pytest.raises(LedgerError, match=f"row {row}: missing"):
        opened.verify()


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(range(1, 6), 2)))
def test_two_swapped_rows_are_found_and_the_first_named(ledger, path, one, two):
    fill(ledger, 2)
    ledger.close()
    move = "UPDATE entries SET seq = ? WHERE seq = ?"
    tamper(path, (move, -1, one), (move, one, two), (move, two, -1))
    with pytest.raises(LedgerError, match=f"row {one}:"):
        Ledger.open(path)


@pytest.mark.parametrize("kept", range(7))
def test_rows_cut_off_at_the_end_are_found_and_the_first_missing_named(ledger, path, kept):
    fill(ledger, 3)
    ledger.close()
    tamper(path, ("DELETE FROM entries WHERE seq > ?", kept))
    with Ledger.open_unchecked(path) as opened, pytest.raises(LedgerError, match=f"row {kept + 1}: missing"):
        opened.verify()
    with pytest.raises(LedgerError, match=f"row {kept + 1}: missing"):
        Ledger.open(path)


def test_yesterdays_copy_is_found_by_the_head_a_checkpoint_carries(ledger, path, tmp_path):
    fill(ledger, 2)
    ledger.close()
    shutil.copy(path, tmp_path / "yesterday.db")
    with Ledger.open(path) as opened:
        fill(opened, 1)
        pinned = opened.head()
        assert opened.verify(pinned) == pinned
        fill(opened, 1)
        opened.verify(pinned)  # a longer ledger contains it
    with Ledger.open(tmp_path / "yesterday.db") as old:
        old.verify()  # by itself it looks whole
        with pytest.raises(LedgerError, match=r"row 6: missing.*rolled back"):
            old.verify(pinned)
        old.reserve("another run", 0, EVENT, "p", "train", "secure")
        old.recover()
        with pytest.raises(LedgerError, match="row 7: is another one"):
            old.verify(pinned)


def test_a_ledger_rolled_back_under_a_running_coordinator_is_refused(ledger, path):
    fill(ledger, 2)
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP TRIGGER entries_stay")
        raw.execute("DELETE FROM entries WHERE seq > 3")
    for _ in range(2):
        with pytest.raises(LedgerError, match="row 5: was there before"):
            ledger.reserve("run", 9, EVENT, "p", "train", "secure")


def test_a_ledger_rolled_back_after_a_failure_is_refused_however_often_it_is_asked(ledger, path):
    fill(ledger, 2)

    def failing():
        with ledger.exclusive():
            fill(ledger, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    tamper(path, ("DELETE FROM entries WHERE seq > 3",), ("UPDATE sqlite_sequence SET seq = 3",))
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"row 4: missing.*rolled back"):
            ledger.reserve("run", 9, EVENT, "p", "train", "secure")


# Older ledgers, full disks, missing rights


def old_ledger(path):
    """A ledger as it was laid out before there were restricted records."""
    with Ledger.open(path, create=True) as ledger:
        ledger.open_campaign(4.0, 1e-5, 6040)
        fill(ledger, 1)
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP TABLE restricted")


def test_a_ledger_from_before_restricted_records_is_read_without_any_and_left_alone(path, tmp_path):
    old_ledger(path)
    before = snapshot(tmp_path)
    with Ledger.open(path, readonly=True) as reader:
        assert reader.realised(reader.book()) == {}
        assert reader.verify().length == 3
    assert snapshot(tmp_path) == before


def test_a_ledger_from_before_restricted_records_can_be_written_to(path):
    old_ledger(path)
    drawn = Realised(population=6040, cohort=118, answered=101, busiest=2, salt="00")
    with Ledger.open(path) as ledger:
        ledger.commit(ledger.reserve("run", 1, EVENT, "p" * 64, "train", "secure"), ARTIFACT, drawn)
        assert ledger.realised(ledger.book()) == {5: drawn}


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 400 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_loses_no_acknowledged_row_and_goes_on_when_there_is_space(small_disk):
    path, ballast = small_disk / "ledger.db", small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    with Ledger.open(path, create=True) as ledger:
        ledger.open_campaign(4.0, 1e-5, 6040)
        paid = []

        def spend():
            while len(paid) < 10_000:
                paid.append(ledger.reserve("run", len(paid), EVENT, "p", "train", "secure"))

        with pytest.raises(LedgerError) as caught:
            spend()
        assert "ledger.db:" in caught.value.what
        assert caught.value.todo
        assert len(paid) > 10
        ballast.unlink()
        stored = {row.seq: row.hash for row in ledger.rows()}
        assert {one.seq: one.hash for one in paid}.items() <= stored.items()
        kept = ledger.verify().length
        assert ledger.book().spent[EVENT] == kept - 1 >= len(paid)
        fill(ledger, 1)
        assert ledger.verify().length == kept + 2


@contextlib.contextmanager
def as_ordinary_user():
    """The superuser may write everywhere; whoever else runs the tests may not."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


@pytest.mark.parametrize("locked", ["file", "folder"])
def test_where_writing_is_not_allowed_the_ledger_can_be_read_and_stays_as_it_is(ledger, path, locked):
    fill(ledger, 1)
    ledger.close()
    # Not in pytest's folders, which are closed to other users.
    with tempfile.TemporaryDirectory() as made:
        place = Path(shutil.copy(path, made))
        place.chmod(0o444 if locked == "file" else 0o666)
        place.parent.chmod(0o777 if locked == "file" else 0o555)
        before = snapshot(place.parent)["ledger.db"]
        with as_ordinary_user():
            with Ledger.open(place, readonly=True) as reader:
                assert reader.verify().length == 3
            with pytest.raises(LedgerError, match=r"readonly|unable to open") as caught:
                Ledger.open(place)
        assert "writable" in caught.value.todo or "may write to" in caught.value.todo
        assert snapshot(place.parent)["ledger.db"] == before
        place.parent.chmod(0o700)


# Reading


def test_reading_changes_no_byte_and_makes_no_file(ledger, path, tmp_path):
    fill(ledger, 3)
    ledger.close()
    before = snapshot(tmp_path)
    assert set(before) == {"ledger.db"}
    with Ledger.open(path, readonly=True) as reader:
        reader.verify()
        assert len(list(reader.entries())) == 7
        with pytest.raises(LedgerError, match="readonly"):
            reader.reserve("run", 9, EVENT, "p", "train", "secure")
    assert snapshot(tmp_path) == before


def test_rows_still_in_the_write_ahead_log_are_read_and_left_there(ledger, path, tmp_path):
    fill(ledger, 3)
    copy = tmp_path / "crashed"
    copy.mkdir()
    for name in ("ledger.db", "ledger.db-wal"):
        shutil.copy(path.with_name(name), copy / name)
    before = snapshot(copy)
    with Ledger.open(copy / "ledger.db", readonly=True) as reader:
        assert reader.verify().length == 7
    after = snapshot(copy)
    assert {name: after[name] for name in before} == before
