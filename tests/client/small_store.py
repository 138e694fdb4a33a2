"""A store in a folder, its key beside it, and events that are easy to tell apart."""

import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sottovoce.client.event_store import FILE, EventStore
from sottovoce.client.events import Event
from sottovoce.client.keystore import FileKeystore
from sottovoce.client.retention import Retention
from sottovoce.privacy.errors import DeviceError

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def happened(number, crid="a1", cid="c1", what="impression", **features):
    return Event(NOW + timedelta(seconds=number), what, crid, cid, {"ad_id": number, **features})


def keystore_in(folder):
    return FileKeystore(folder / "keys" / "key")


def opened(folder, now=NOW, keystore=None, wait_s=0.0, **rules):
    return EventStore(folder / "store", keystore or keystore_in(folder), now, Retention(**rules), wait_s)


def filled(folder, number=3, now=NOW):
    """A closed store with some events; returns them."""
    events = tuple(happened(n) for n in range(number))
    with closing(opened(folder, now)) as store:
        for event in events[:-1]:
            store.append(event, now, wait=False)
        assert not events or store.append(events[-1], now)
    return events


def file_in(folder):
    return folder / "store" / FILE


def files_in(folder):
    """Every byte of the store, its journals among them."""
    return b"".join(path.read_bytes() for path in sorted((folder / "store").iterdir()))


def quick_folder():
    """A folder in memory where there is one: a disk takes milliseconds for each change."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


@pytest.fixture
def in_memory():
    """A folder for one test; see `quick_folder`."""
    with quick_folder() as name:
        yield Path(name)


class Unasked:
    """A keystore that cannot be asked, as before the first unlock of a phone."""

    def load(self):
        raise DeviceError("the device is locked", "unlock it")

    def create(self):
        raise DeviceError("the device is locked", "unlock it")
