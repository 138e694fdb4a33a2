"""A ledger keeps what it acknowledged, on either database, through mistakes, crashes and company."""

import hashlib
import json
import subprocess
import sys

import pytest

from sottovoce.privacy.chain import Head, SpentOnCrash
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import PoissonGaussian
from sottovoce.privacy.ledger import Ledger, Realised

EVENT = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
ARTIFACT = "ab" * 32


@pytest.fixture
def ledger(address):
    with Ledger.open(address, create=True, clock=lambda: 1_700_000_000.0) as opened:
        opened.open_campaign(4.0, 1e-5, 6040)
        yield opened


def fill(ledger, rounds):
    for round in range(rounds):
        ledger.commit(ledger.reserve("run", round, EVENT, "p" * 64, "train", "secure"), ARTIFACT)


def fail_after(ledger, rounds):
    """Write, then fail before the lock is given back."""

    def failing():
        with ledger.exclusive():
            fill(ledger, rounds)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()


def test_every_row_can_be_read_back(ledger):
    fill(ledger, 3)
    entries = list(ledger.entries())
    assert [entry.seq for entry in entries] == list(range(1, 8))
    assert [type(entry).__name__ for entry in entries] == ["Campaign"] + ["Reserved", "Committed"] * 3
    assert entries[1].event == EVENT
    assert entries[1].time == "2023-11-14T22:13:20.000+00:00"
    assert ledger.head() == ledger.verify() == Head(7, ledger.head().hash)


# Reservations


def test_a_reservation_without_settlement_is_spent_and_marked_on_recovery(ledger, address):
    fill(ledger, 1)
    lost = ledger.reserve("run", 1, EVENT, "p", "train", "secure")
    ledger.close()
    with Ledger.open(address) as again:
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


def test_rows_of_one_lock_are_all_there_or_none(ledger):
    with ledger.exclusive():
        fill(ledger, 20)
    assert ledger.verify().length == 41
    before = ledger.head()
    fail_after(ledger, 20)
    assert ledger.verify() == before


def test_what_was_known_before_a_failure_is_still_known_after_it(ledger, address):
    fill(ledger, 2)
    fail_after(ledger, 1)
    with Ledger.open(address) as other:
        fill(other, 1)
    assert ledger.head() == ledger.verify()
    assert ledger.book().spent[EVENT] == 3


def test_what_really_happened_is_kept_beside_the_chain_and_out_of_the_export(ledger, tmp_path):
    drawn = Realised(population=6040, cohort=118, answered=101, busiest=2, salt="5a" * 16)
    ledger.commit(ledger.reserve("run", 0, EVENT, "p" * 64, "train", "secure"), ARTIFACT, drawn)
    fill(ledger, 1)
    assert ledger.realised(ledger.book()) == {3: drawn}
    ledger.export_jsonl(tmp_path / "public.jsonl")
    ledger.export_restricted(tmp_path / "restricted.jsonl")
    public = (tmp_path / "public.jsonl").read_text()
    assert not any(secret in public for secret in ("118", "101", "cohort\\", "5a5a", "busiest"))
    (line,) = map(json.loads, (tmp_path / "restricted.jsonl").read_text().splitlines())
    body = json.dumps(line["record"], sort_keys=True, separators=(",", ":")).encode()
    assert line["row"] == 3
    assert f'realised_sha256\\":\\"{hashlib.sha256(body).hexdigest()}' in public
    assert (tmp_path / "restricted.jsonl").stat().st_mode & 0o077 == 0


def test_a_closed_ledger_cannot_be_used(address):
    ledger = Ledger.open(address, create=True)
    ledger.close()
    for use in (ledger.head, ledger.verify, lambda: list(ledger.rows()), lambda: ledger.open_campaign(1.0, 1e-5, 10)):
        with pytest.raises(LedgerError):
            use()


def test_a_clock_that_runs_backwards_does_not_matter(address):
    ticks = iter([1e9, 5e8, 0.0, 2e9])
    with Ledger.open(address, create=True, clock=lambda: next(ticks)) as ledger:
        ledger.open_campaign(4.0, 1e-5, 6040)
        fill(ledger, 1)
        assert ledger.verify().length == 3


# Reading


def test_a_reader_sees_what_a_writer_appends(ledger, address):
    fill(ledger, 1)
    with Ledger.open(address, readonly=True) as reader:
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
from sottovoce.privacy.events import PoissonGaussian
from sottovoce.privacy.ledger import Ledger
event = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
with Ledger.open(sys.argv[1], create=True) as ledger:
    with ledger.exclusive() as book:
        if book.campaign is None:
            ledger.open_campaign(4.0, 1e-5, 6040)
    for round in range(100_000):
        reservation = ledger.reserve(sys.argv[2], round, event, "p", "train", "secure")
        print(reservation.seq, reservation.hash, flush=True)
        ledger.commit(reservation, "ab" * 32)
        print(*ledger.head(), flush=True)
"""


def writer(address, name):
    return subprocess.Popen([sys.executable, "-c", WRITER, address, name], stdout=subprocess.PIPE)


def test_writers_that_start_together_share_one_unbroken_chain(address):
    children = [writer(address, f"run-{n}") for n in range(4)]
    for child in children:
        for _ in range(10):
            assert child.stdout.readline()
    for child in children:
        child.kill()
        child.stdout.close()
        child.wait()
    with Ledger.open(address) as ledger:
        ledger.verify()
        runs = {entry.run_id for entry in ledger.entries() if hasattr(entry, "run_id")}
        assert runs == {f"run-{n}" for n in range(4)}
