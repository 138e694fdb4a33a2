"""Whatever happens to the file, the key or the disk: opening works, events are genuine or gone, and it is said."""

import contextlib
import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from small_store import NOW, Unasked, file_in, filled, happened, in_memory, keystore_in, opened, quick_folder

from sottovoce.client import sealed_file
from sottovoce.privacy.errors import DeviceError

tmp_path = in_memory


def limit(store, pages):
    """A disk on which the file may have so many pages."""
    store._disk._file._connection.execute(f"PRAGMA max_page_count = {pages}")


def reopened(folder, **how):
    with closing(opened(folder, **how)) as store:
        return store


def test_a_lost_key_takes_everything_along_and_the_store_starts_anew(tmp_path):
    filled(tmp_path)
    old = file_in(tmp_path).read_bytes()
    (tmp_path / "keys" / "key").unlink()
    with closing(opened(tmp_path)) as store:
        assert (store.log.events, store.complete, store.fault) == ((), False, "")
        assert "key is lost" in store.notes[0]
        assert store.append(happened(9), NOW)
    assert old[4096:] not in file_in(tmp_path).read_bytes()
    after = reopened(tmp_path)
    assert (after.log.events, after.complete) == ((happened(9),), True)


def test_under_another_key_nothing_is_read_and_the_key_is_replaced(tmp_path):
    filled(tmp_path)
    wrong = keystore_in(tmp_path).create()
    store = reopened(tmp_path)
    assert (store.log.events, store.complete, store.fault) == ((), False, "")
    assert keystore_in(tmp_path).load() != wrong


def test_a_key_that_cannot_be_asked_now_costs_nothing_that_is_on_disk(tmp_path):
    events = filled(tmp_path)
    with closing(opened(tmp_path, keystore=Unasked())) as store:
        assert (store.log.events, store.complete, store.fault) == ((), False, "key")
        assert not store.append(happened(9), NOW)
        assert store.log.events == (happened(9),)
    assert reopened(tmp_path).log.events == events


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"", b"SQLite format 3\x00" + bytes(9000)])
def test_a_file_that_is_no_store_is_started_anew(tmp_path, content):
    filled(tmp_path)
    file_in(tmp_path).write_bytes(content)
    store = reopened(tmp_path)
    assert (store.log.events, store.complete, store.fault) == ((), False, "")
    assert reopened(tmp_path).complete


def test_another_database_in_its_place_is_started_anew(tmp_path):
    filled(tmp_path)
    file_in(tmp_path).unlink()
    with closing(sqlite3.connect(file_in(tmp_path))) as other:
        other.execute("CREATE TABLE t (a)")
    assert not reopened(tmp_path).complete
    assert reopened(tmp_path).complete


def test_a_damaged_row_is_dropped_and_the_others_stay(tmp_path):
    events = filled(tmp_path, 5)
    with closing(sqlite3.connect(file_in(tmp_path), isolation_level=None)) as raw:
        raw.execute("UPDATE rows SET body = zeroblob(300) WHERE number = 4")
    store = reopened(tmp_path)
    assert store.log.events == events[:2] + events[3:]
    assert not store.complete
    assert reopened(tmp_path).complete


def test_of_a_damaged_page_the_rest_is_saved_under_a_new_key(tmp_path):
    events = filled(tmp_path, 200)
    data = bytearray(file_in(tmp_path).read_bytes())
    middle = len(data) // 8192 * 4096
    data[middle : middle + 4096] = os.urandom(4096)
    file_in(tmp_path).write_bytes(data)
    key = keystore_in(tmp_path).load()
    store = reopened(tmp_path)
    assert 100 < len(store.log.events) < 200
    assert set(store.log.events[0].features.items()) == {("ad_id", 0)}
    assert all(event in events for event in store.log.events)
    assert (store.complete, store.memory.days) == (False, 0)
    assert keystore_in(tmp_path).load() != key
    assert reopened(tmp_path).log == store.log


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_of_a_file_cut_off_what_is_left_is_saved(tmp_path, share):
    events = filled(tmp_path, 200)
    data = file_in(tmp_path).read_bytes()
    file_in(tmp_path).write_bytes(data[: int(len(data) * share)])
    store = reopened(tmp_path)
    assert not store.complete
    assert set(map(repr, store.log.events)) <= set(map(repr, events))
    assert reopened(tmp_path).log == store.log


def test_while_another_process_has_it_a_store_serves_what_is_known_and_says_so(tmp_path):
    events = filled(tmp_path)
    hold = (
        "import sys; from pathlib import Path; from sottovoce.client.sealed_file import SealedFile; "
        "f = SealedFile(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])); print('held', flush=True); sys.stdin.read()"
    )
    key = keystore_in(tmp_path).load().hex()
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(file_in(tmp_path)), key], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with closing(opened(tmp_path)) as store:
            assert (store.log.events, store.complete, store.fault) == (events, True, "locked")
            assert not store.append(happened(9), NOW)
            assert store.log.events[-1] == happened(9)
    finally:
        other.communicate()
    assert reopened(tmp_path).log.events == events


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


@pytest.mark.parametrize("readonly", ["file", "folder"])
def test_where_writing_is_not_allowed_it_serves_what_is_known_and_says_so(readonly):
    # Not in pytest's folders, which are closed to other users.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with as_ordinary_user() if os.geteuid() else contextlib.nullcontext():
            events = filled(folder)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o444 if path.suffix == ".db" and readonly == "file" else 0o666)
        (folder / "store").chmod(0o777 if readonly == "file" else 0o555)
        (folder / "keys").chmod(0o555)
        before = file_in(folder).read_bytes()
        with as_ordinary_user(), closing(opened(folder)) as store:
            assert (store.log.events, store.complete, store.fault) == (events, True, "read-only")
            assert not store.append(happened(9), NOW)
            assert len(store.log.events) == 4
            with pytest.raises(DeviceError, match="forgotten, but"):
                store.delete(lambda event: True, lambda page: True, NOW)
            assert store.log.events == ()
            with pytest.raises(DeviceError):
                store.delete_all(NOW)
        assert file_in(folder).read_bytes() == before
        (folder / "store").chmod(0o700)


def test_a_header_that_forbids_writing_is_damage_not_a_disk_that_may_only_be_read(tmp_path):
    events = filled(tmp_path)
    data = bytearray(file_in(tmp_path).read_bytes())
    data[18] = 9  # SQLite: write version
    file_in(tmp_path).write_bytes(data)
    store = reopened(tmp_path)
    assert (store.fault, store.complete) == ("", False)
    assert set(map(repr, store.log.events)) <= set(map(repr, events))


@pytest.mark.parametrize("which", ["folder", "file", "key"])
def test_where_no_file_can_be_made_it_serves_from_memory(tmp_path, which):
    at = {"folder": tmp_path / "store", "file": file_in(tmp_path), "key": tmp_path / "keys" / "key"}[which]
    if which == "folder":
        at.write_bytes(b"")
    else:
        at.mkdir(parents=True)
        (at / "something").touch()
    with closing(opened(tmp_path)) as store:
        assert store.fault
        assert store.notes
        assert not store.append(happened(1), NOW)
        assert store.log.events == (happened(1),)


def test_a_full_disk_loses_no_event_and_is_written_once_there_is_space(tmp_path):
    with closing(opened(tmp_path)) as store:
        limit(store, 1)
        kept = [store.append(happened(n), NOW) for n in range(40)]
        assert not all(kept)
        assert store.fault == "full"
        assert len(store.log.events) == 40
        assert len(store.notes) == 1
        limit(store, 10_000)
        assert store.append(happened(40), NOW)
        assert store.fault == ""
    assert reopened(tmp_path).log.events == tuple(happened(n) for n in range(41))


def test_damage_found_while_writing_moves_everything_in_memory_to_a_new_file(tmp_path):
    events = filled(tmp_path, 200)
    with closing(opened(tmp_path)) as store:
        real = store._disk._file.change

        def damaged(*what):
            raise sqlite3.DatabaseError("database disk image is malformed")

        store._disk._file.change = damaged
        assert store.append(happened(999), NOW)
        assert store._disk._file.change != real
        assert store.complete
    assert reopened(tmp_path).log.events == (*events, happened(999))


def test_an_acknowledged_event_survives_a_power_cut(tmp_path):
    with closing(opened(tmp_path)) as store:
        for number in range(5):
            assert store.append(happened(number), NOW)
            frozen = tmp_path / f"cut-{number}"
            shutil.copytree(tmp_path / "store", frozen / "store")
            shutil.copytree(tmp_path / "keys", frozen / "keys")
    for number in range(5):
        assert len(reopened(tmp_path / f"cut-{number}").log.events) == number + 1


def test_power_cut_promises_rest_on_full_synchronisation(tmp_path):
    with closing(opened(tmp_path)) as store:
        run = store._disk._file._connection.execute
        assert run("PRAGMA synchronous").fetchone() == (2,)
        assert run("PRAGMA journal_mode").fetchone() == (b"wal",)
        assert run("PRAGMA secure_delete").fetchone() == (1,)


def test_flipped_bytes_never_raise_and_never_change_an_event():
    chance = random.Random(7)  # noqa: S311 - damage, no secret
    with quick_folder() as name:
        folder = Path(name)
        events = filled(folder, 30)
        genuine = {repr(event) for event in events}
        with closing(opened(folder)) as store:  # an event that lies in the write-ahead log only
            store.append(happened(30), NOW)
            whole = {path: path.read_bytes() for path in (folder / "store").iterdir()}
        genuine.add(repr(happened(30)))
        key = (folder / "keys" / "key").read_bytes()
        lost = 0
        for turn in range(300):
            shutil.rmtree(folder / "store")
            (folder / "store").mkdir()
            (folder / "keys" / "key").write_bytes(key)
            for path, content in whole.items():
                data = bytearray(content)
                for _ in range(1 + turn % 8):
                    # Every third turn aims at the header and the tree, where SQLite itself believes what it reads.
                    end = 200 if turn % 3 == 0 else len(data)
                    data[chance.randrange(end)] ^= 1 << chance.randrange(8)
                path.write_bytes(data[: chance.randrange(len(data))] if turn % 10 == 9 else data)
            with closing(opened(folder)) as store:
                found = [repr(event) for event in store.log.events]
                assert set(found) <= genuine
                assert len(set(found)) == len(found)
                assert store.append(happened(77), NOW)
                assert store.log.events[-1] == happened(77)
                lost += len(found) < 31
            with closing(opened(folder)) as store:
                assert [repr(event) for event in store.log.events] == [*found, repr(happened(77))]
        assert lost > 100


def test_the_real_causes_have_their_names():
    with quick_folder() as name, closing(sqlite3.connect(Path(name) / "x.db", isolation_level=None)) as raw:
        raw.execute("CREATE TABLE t (a)")
        raw.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.Error) as full:
            raw.execute("INSERT INTO t VALUES (zeroblob(99999))")
        raw.execute("PRAGMA query_only = ON")
        with pytest.raises(sqlite3.Error) as readonly:
            raw.execute("INSERT INTO t VALUES (1)")
    assert sealed_file.fault(full.value) == "full"
    assert sealed_file.fault(readonly.value) == "read-only"
    assert sealed_file.fault(OSError()) == "disk"
    assert sealed_file.fault(OSError(errno.ENOSPC, "")) == "full"
    assert sealed_file.fault(sqlite3.DatabaseError("?")) == "damaged"
