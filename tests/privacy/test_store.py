"""What is no ledger is refused and left alone; what is damaged or does not fit on the disk is reported."""

import contextlib
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from sottovoce.privacy.chain import Head
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import PoissonGaussian
from sottovoce.privacy.ledger import Ledger

EVENT = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)


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
        ledger.commit(ledger.reserve("run", round, EVENT, "p" * 64, "train", "secure"), "ab" * 32)


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


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write to read-only files")
def test_a_read_only_file_is_refused_for_writing(ledger, path):
    ledger.close()
    path.chmod(0o444)
    with pytest.raises(LedgerError, match="readonly"):
        Ledger.open(path)


def test_a_full_disk_is_reported_and_loses_nothing(ledger, path):
    fill(ledger, 5)
    before = ledger.head()
    (pages,) = ledger._connection.execute("PRAGMA page_count").fetchone()
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match="full") as caught:
        fill(ledger, 200)
    assert "free some space" in caught.value.todo
    ledger._connection.execute("PRAGMA max_page_count = 1000000")
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
