"""Whatever somebody with full power over the database does to a ledger is found, and the row named."""

from functools import partial

import pytest

from sottovoce.privacy.chain import Campaign, Committed, Planned, Reserved, SpentOnCrash, Void
from sottovoce.privacy.ledger import Ledger
from sottovoce.simulations.tampering import every_kind, overwrite_database, overwrite_file, tried


def test_the_ledger_that_is_lied_about_has_every_kind_of_row(tmp_path):
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        every_kind(ledger)
        kinds = [type(entry) for entry in ledger.entries()]
        assert set(kinds) == {Campaign, Planned, Reserved, Committed, Void, SpentOnCrash}
        assert kinds.count(Planned) == 2
        assert len(ledger.realised(ledger.book())) == 2
        assert len(ledger.book().open) == 1


def test_all_tampering_with_a_file_is_found_and_the_row_named(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger.open(path, create=True) as ledger:
        every_kind(ledger)
    count, missed = tried(path, partial(overwrite_file, path))
    assert missed == []
    assert count > 300


def test_all_tampering_by_a_superuser_of_the_server_is_found_and_the_row_named(postgres):
    psycopg = pytest.importorskip("psycopg", reason="ledgers on PostgreSQL are part of the [postgres] extra")
    address = postgres.address(postgres.new_database())
    with Ledger.open(address, create=True) as ledger:
        every_kind(ledger)
    with psycopg.connect(address) as superuser:
        # All of them are tried by `sottovoce bench ledger`.
        count, missed = tried(address, partial(overwrite_database, superuser), step=4)
    assert missed == []
    assert count > 80


def without_pin(replay):
    return lambda ledger, book, pinned=None: replay(ledger, book)


@pytest.mark.parametrize(
    ("blinded", "blind", "unseen"),
    [
        ("replay", without_pin(Ledger.replay), {"rolled back", "rewritten"}),
        ("realised", lambda ledger, book: {}, {"restricted record"}),
    ],
)
def test_a_ledger_that_does_not_look_misses_just_what_it_does_not_look_at(
    tmp_path, monkeypatch, blinded, blind, unseen
):
    path = tmp_path / "ledger.db"
    with Ledger.open(path, create=True) as ledger:
        every_kind(ledger)
    monkeypatch.setattr(Ledger, blinded, blind)
    _, missed = tried(path, partial(overwrite_file, path))
    assert all(any(what in one for one in missed) for what in unseen)
    assert [one for one in missed if not any(what in one for what in unseen) and "and hash" not in one] == []
