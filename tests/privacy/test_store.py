"""An address names one database, and what may hold a password is never repeated."""

import sys
from pathlib import Path

import pytest

from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.store import is_address

SECRET = "hunter2"  # noqa: S105

MISTYPED = [
    f"postgresql://ann:{SECRET}@x@host/db",
    f"postgresql://ann:a/{SECRET}@host/db",
    f"postgresql://ann:a?{SECRET}@host/db",
    f"postgresql://ann:a#{SECRET}@host/db",
    f"postgresql://ann:1?{SECRET}=1@host/db",
    f"postgresql://ann:12/{SECRET}@host",
    f"postgresql://ann:a {SECRET}@host/db",
    f"postgresql://ann:{SECRET}@host:port/db",
    f"postgresql://ann:{SECRET}@host/db?surprise=1",
    f"postgresql://ann:{SECRET}@[::1/db",
    f"postgresql:ann:{SECRET}@host/db",
    f"postgresql+psycopg://ann:{SECRET}@host/db",
    f"PostgreSQL://ann:{SECRET}@host/db",
    f"mysql://ann:{SECRET}@host/db",
    f"host=localhost password={SECRET}",
    f"user=ann Password = '{SECRET}'",
]


@pytest.mark.parametrize("address", MISTYPED)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_mistyped_address_is_refused_without_being_repeated(address, kind):
    pytest.importorskip("psycopg", reason="ledgers on PostgreSQL are part of the [postgres] extra")
    for open_it in (Ledger.open, Ledger.open_unchecked):
        with pytest.raises(LedgerError) as caught:
            open_it(kind(address))
        error = caught.value
        while error is not None:
            assert SECRET not in f"{error} {error!r} {getattr(error, 'what', '')} {getattr(error, 'todo', '')}"
            error = error.__cause__ or error.__context__


@pytest.mark.parametrize("kind", [str, Path])
def test_a_server_that_cannot_be_reached_is_named_without_the_password(kind):
    pytest.importorskip("psycopg", reason="ledgers on PostgreSQL are part of the [postgres] extra")
    with pytest.raises(LedgerError, match=r"postgresql://ann@127\.0\.0\.1:1/db: connection failed") as caught:
        Ledger.open(kind(f"postgresql://ann:{SECRET}@127.0.0.1:1/db"))
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert "\n" not in caught.value.what
    assert "server runs" in caught.value.todo


@pytest.mark.parametrize("path", ["ledger.db", "/tmp/ledger.db", "a b/ledger.db", "C:/runs/ledger.db", "C:\\l.db"])
def test_a_path_is_no_address(path):
    assert not is_address(path)


def test_without_psycopg_a_file_still_works_and_an_address_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "sottovoce.privacy.postgres", raising=False)
    Ledger.open(tmp_path / "ledger.db", create=True).close()
    with pytest.raises(LedgerError, match="needs psycopg") as caught:
        Ledger.open("postgresql://localhost/db")
    assert "sottovoce[postgres]" in caught.value.todo
