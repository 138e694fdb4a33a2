"""What is in the file is unreadable without the key, and cannot be moved, copied or put back."""

import shutil
import sqlite3
from contextlib import closing, contextmanager

import pytest
from small_store import in_memory

from sottovoce.client.sealed_file import PAD, SealedFile, read_copy, remove, sealed_size

tmp_path = in_memory
KEY = bytes(range(32))


@contextmanager
def raw(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection.execute


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "f.db"
    with closing(SealedFile(path, KEY)) as file:
        file.change({1: b"one", 2: b"two", 3: b"three\x00\x80\x00"})
    return path


def rows(path, key=KEY):
    with closing(SealedFile(path, key)) as file:
        reading = file.read()
    return dict(reading.rows), reading.broken


def test_rows_come_back_as_they_were_whatever_they_end_with(path):
    assert rows(path) == ({1: b"one", 2: b"two", 3: b"three\x00\x80\x00"}, ())


def test_another_key_opens_nothing(path):
    assert rows(path, bytes(32)) == ({}, (1, 2, 3))


def test_swapped_rows_do_not_open(path):
    with raw(path) as run:
        (one,), (two,) = run("SELECT body FROM rows WHERE number < 3").fetchall()
        run("UPDATE rows SET body = ? WHERE number = 1", (two,))
        run("UPDATE rows SET body = ? WHERE number = 2", (one,))
    assert rows(path) == ({3: b"three\x00\x80\x00"}, (1, 2))


def test_a_row_replayed_under_a_new_number_does_not_open(path):
    with raw(path) as run:
        run("INSERT INTO rows SELECT 9, body FROM rows WHERE number = 1")
    assert rows(path)[1] == (9,)


def test_a_row_of_another_file_under_the_same_key_does_not_open(path, tmp_path):
    with closing(SealedFile(tmp_path / "other.db", KEY)) as file:
        file.change({1: b"another"})
    with raw(tmp_path / "other.db") as run:
        (body,) = run("SELECT body FROM rows").fetchone()
    with raw(path) as run:
        run("UPDATE rows SET body = ? WHERE number = 1", (body,))
    assert rows(path)[1] == (1,)


def test_a_deleted_row_cannot_be_put_back_after_a_rewrite(path):
    with raw(path) as run:
        (body,) = run("SELECT body FROM rows WHERE number = 1").fetchone()
    with closing(SealedFile(path, KEY)) as file:
        file.rewrite({2: b"two"})
    with raw(path) as run:
        run("INSERT INTO rows VALUES (1, ?)", (body,))
    assert rows(path) == ({2: b"two"}, (1,))


def test_removing_a_row_is_not_noticed_as_the_guide_says(path):
    with raw(path) as run:
        run("DELETE FROM rows WHERE number = 2")
    assert rows(path) == ({1: b"one", 3: b"three\x00\x80\x00"}, ())


def test_every_row_has_its_own_nonce_and_padded_lengths_hide_small_differences(path):
    with raw(path) as run:
        bodies = [body for (body,) in run("SELECT body FROM rows")]
    assert len({body[:12] for body in bodies}) == 3
    assert {len(body) for body in bodies} == {sealed_size(b"one")}
    assert sealed_size(bytes(PAD)) == sealed_size(b"") + PAD


def test_nothing_of_a_removed_row_stays_in_the_file_or_its_log(path):
    with closing(SealedFile(path, KEY)) as file:
        file.change({4: b"four"})  # in the log; the others are in the file
        bodies = [body for (body,) in file._connection.execute("SELECT body FROM rows WHERE number IN (1, 4)")]
        file.change({}, [1, 4])
        file.clean()
        found = b"".join(one.read_bytes() for one in path.parent.iterdir())
    assert len(bodies) == 2
    assert not any(body[12:44] in found for body in bodies)


def test_what_fails_halfway_has_not_happened(path):
    with closing(SealedFile(path, KEY)) as file:
        with pytest.raises(sqlite3.IntegrityError):
            file.change({8: b"eight", 3: b"again"}, [1])
        assert list(file.read().rows) == [1, 2, 3]


def test_a_trigger_slipped_into_the_file_never_runs(path):
    with raw(path) as run:
        run("CREATE TRIGGER spy AFTER INSERT ON rows BEGIN DELETE FROM rows; END")
    with pytest.raises(sqlite3.DatabaseError, match="layout"):
        SealedFile(path, KEY)


def test_a_change_survives_without_a_close(path, tmp_path):
    file = SealedFile(path, KEY)
    file.change({4: b"four"})
    (tmp_path / "after").mkdir()
    for one in list(tmp_path.glob("f.db*")):
        shutil.copy(one, tmp_path / "after" / one.name)
    file.close()
    assert rows(tmp_path / "after" / "f.db")[0][4] == b"four"


def test_a_copy_is_read_while_the_file_is_in_use(path):
    with closing(SealedFile(path, KEY)) as file:
        file.change({4: b"four"})
        assert set(read_copy(path, KEY).rows) == {1, 2, 3, 4}


def test_removing_takes_the_journals_along_and_overwrites_first(path, tmp_path):
    shutil.copy(path, tmp_path / "f.db-wal")
    other_name = tmp_path / "same bytes"
    other_name.hardlink_to(path)
    remove(path)
    assert [one.name for one in tmp_path.iterdir()] == ["same bytes"]
    assert not any(other_name.read_bytes())
