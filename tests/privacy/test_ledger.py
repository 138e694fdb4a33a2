"""The ledger file cannot lie: edits, losses, crashes, full disks and foreign files."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from sottovoce.privacy.chain import Committed, Head, SpentOnCrash
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import PoissonGaussian
from sottovoce.privacy.ledger import Ledger

EVENT = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
ARTIFACT = "ab" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    with Ledger.open(path, create=True, clock=lambda: 1_700_000_000.0) as opened:
        opened.open_campaign(4.0, 1e-5, 6040)
        yield opened


def fill(ledger, rounds):
    for round in range(rounds):
        ledger.commit(ledger.reserve("run", round, EVENT, "p" * 64, "train", "secure"), ARTIFACT)


def tamper(path, *statements):
    """Change a closed ledger behind its back, triggers and all."""
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP TRIGGER entries_keep")
        raw.execute("DROP TRIGGER entries_stay")
        for statement, *values in statements:
            raw.execute(statement, values)


def snapshot(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_every_row_can_be_read_back(ledger):
    fill(ledger, 3)
    entries = list(ledger.entries())
    assert [entry.seq for entry in entries] == list(range(1, 8))
    assert [type(entry).__name__ for entry in entries] == ["Campaign"] + ["Reserved", "Committed"] * 3
    assert entries[1].event == EVENT
    assert entries[1].time == "2023-11-14T22:13:20.000+00:00"
    assert ledger.head() == ledger.verify() == Head(7, ledger.head().hash)


# Tampering


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
    with pytest.raises(LedgerError, match="row 5: was there before"):
        ledger.reserve("run", 9, EVENT, "p", "train", "secure")


# Reservations


def test_a_reservation_without_settlement_is_spent_and_marked_on_recovery(ledger, path):
    fill(ledger, 1)
    lost = ledger.reserve("run", 1, EVENT, "p", "train", "secure")
    ledger.close()
    with Ledger.open(path) as again:
        assert again.book().spent[EVENT] == 2
        assert again.recover() == (lost,)
        assert again.recover() == ()
        assert again.book().spent[EVENT] == 2
        assert isinstance(list(again.entries())[-1], SpentOnCrash)
        with pytest.raises(LedgerError, match=r"round 1 of run run \(row 4\) is not open"):
            again.commit(lost, ARTIFACT)


def test_a_void_reservation_is_given_back(ledger):
    reservation = ledger.reserve("run", 0, EVENT, "p", "train", "secure")
    ledger.void(reservation, "nobody was contacted")
    assert ledger.book().spent[EVENT] == 0
    for settle in (lambda: ledger.commit(reservation, ARTIFACT), lambda: ledger.void(reservation, "again")):
        with pytest.raises(LedgerError, match="is not open"):
            settle()


def test_a_reservation_of_another_ledger_pays_for_nothing_here(ledger, tmp_path):
    with Ledger.open(tmp_path / "other.db", create=True) as other:
        other.open_campaign(4.0, 1e-5, 10)
        foreign = other.reserve("run", 0, EVENT, "p", "train", "secure")
    ledger.reserve("run", 0, EVENT, "p", "train", "secure")
    before = ledger.head()
    with pytest.raises(LedgerError, match="is not open"):
        ledger.commit(foreign, ARTIFACT)
    assert ledger.head() == before


def test_programmer_mistakes_leave_no_trace(ledger, tmp_path):
    reservation = ledger.reserve("run", 0, EVENT, "p", "train", "secure")
    before = ledger.head()
    with pytest.raises(ValueError, match="SHA-256"):
        ledger.commit(reservation, "AB" * 32)
    with pytest.raises(ValueError, match="open already"):
        ledger.open_campaign(8.0, 1e-5, 6040)
    assert ledger.head() == before
    with Ledger.open(tmp_path / "fresh.db", create=True) as fresh, pytest.raises(ValueError, match="campaign"):
        fresh.reserve("run", 0, EVENT, "p", "train", "secure")


def test_a_failure_inside_the_lock_leaves_nothing_behind(ledger):
    before = ledger.head()

    def interrupted():
        with ledger.exclusive():
            ledger.reserve("run", 0, EVENT, "p", "train", "secure")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ledger.head() == ledger.verify() == before
    assert ledger.book().spent[EVENT] == 0
    fill(ledger, 1)
    assert ledger.verify().length == 3


def test_a_clock_that_runs_backwards_does_not_matter(path):
    ticks = iter([1e9, 5e8, 0.0, 2e9])
    with Ledger.open(path, create=True, clock=lambda: next(ticks)) as ledger:
        ledger.open_campaign(4.0, 1e-5, 6040)
        fill(ledger, 1)
        assert ledger.verify().length == 3


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


def test_a_reader_sees_what_a_writer_appends(ledger, path):
    fill(ledger, 1)
    with Ledger.open(path, readonly=True) as reader:
        assert reader.head().length == 3
        fill(ledger, 1)
        assert reader.head() == ledger.head()


def test_the_export_can_be_checked_line_by_line(ledger, tmp_path):
    fill(ledger, 2)
    ledger.export_jsonl(tmp_path / "ledger.jsonl")
    prev = "0" * 64
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        assert line["prev_hash"] == prev
        assert line["hash"] == hashlib.sha256((prev + line["body"]).encode()).hexdigest()
        assert json.loads(line["body"])["time"]
        prev = line["hash"]
    assert Head(len(lines), prev) == ledger.head()
    with pytest.raises(LedgerError, match="No such file"):
        ledger.export_jsonl(tmp_path / "missing" / "ledger.jsonl")
    assert not list(tmp_path.glob(".*partial"))


# Crashes and company

WRITER = """
import sys
from pathlib import Path
from sottovoce.privacy.events import PoissonGaussian
from sottovoce.privacy.ledger import Ledger
event = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
with Ledger.open(Path(sys.argv[1]), create=True) as ledger:
    with ledger.exclusive() as book:
        if book.campaign is None:
            ledger.open_campaign(4.0, 1e-5, 6040)
    for round in range(100_000):
        reservation = ledger.reserve(sys.argv[2], round, event, "p", "train", "secure")
        print(reservation.seq, reservation.hash, flush=True)
        ledger.commit(reservation, "ab" * 32)
        print(*ledger.head(), flush=True)
"""


def writer(path, name):
    return subprocess.Popen([sys.executable, "-c", WRITER, path, name], stdout=subprocess.PIPE)


def test_twenty_kills_lose_no_acknowledged_row(path):
    rng = np.random.default_rng(20)
    acknowledged = {}
    for kill in range(20):
        child = writer(path, f"run-{kill}")
        first = child.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.08))
        os.kill(child.pid, signal.SIGKILL)
        lines = [first, *child.stdout.read().splitlines(keepends=True)]
        child.stdout.close()
        child.wait()
        # The last line may have been cut short by the kill.
        for line in (line for line in lines if line.endswith(b"\n")):
            seq, sha256 = line.split()
            acknowledged[int(seq)] = sha256.decode()
    with Ledger.open(path) as ledger:
        stored = {row.seq: row.hash for row in ledger.rows()}
        assert len(acknowledged) > 40
        assert acknowledged.items() <= stored.items()
        released = sum(isinstance(entry, Committed) for entry in ledger.entries())
        dangling = ledger.recover()
        assert len(dangling) <= 20
        assert ledger.book().spent[EVENT] == released + len(dangling)
        ledger.verify()


def test_writers_that_start_together_share_one_unbroken_chain(path):
    children = [writer(path, f"run-{n}") for n in range(4)]
    for child in children:
        for _ in range(10):
            assert child.stdout.readline()
    for child in children:
        child.kill()
        child.stdout.close()
        child.wait()
    with Ledger.open(path) as ledger:
        ledger.verify()
        runs = {entry.run_id for entry in ledger.entries() if hasattr(entry, "run_id")}
        assert runs == {f"run-{n}" for n in range(4)}
