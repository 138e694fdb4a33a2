"""The person's rights: everything can be read, whatever is deleted is gone, and no budget comes back by it."""

import shutil
from contextlib import closing
from datetime import timedelta

import msgspec
import pytest
from small_market import market
from small_store import DAY, NOW, file_in, files_in, filled, happened, in_memory, keystore_in, opened

from sottovoce.client.controls import Controls, mute
from sottovoce.client.device_ledger import DeviceLedger
from sottovoce.client.personal_data import (
    delete_ad,
    delete_advertiser,
    delete_category,
    delete_since,
    export,
    trusted,
)
from sottovoce.client.sealed_file import SealedFile
from sottovoce.client.store_rows import PageVisit
from sottovoce.privacy.errors import DeviceError
from sottovoce.privacy.record import RecordPlan

tmp_path = in_memory
ADS = market(3)
CATEGORY = ADS.campaigns[1].cat[0]
CONTROLS = mute(Controls(), "crids", "a1")


@pytest.fixture
def store(tmp_path):
    with closing(opened(tmp_path)) as store:
        for number in range(6):
            store.append(happened(number, f"a{number % 3}", f"c{number % 3}"), NOW, wait=False)
        store.append(happened(6, "old", "gone"), NOW)
        store.visit(PageVisit(NOW, (("483", 7), (CATEGORY, 8))), NOW)
        store.put("controls", CONTROLS)
        store.put("posterior", [1.0, 2.0], learned=True)
        yield store


def crids(store):
    return [event.crid for event in store.log.events]


def test_the_export_holds_everything_and_says_what_it_is(store):
    document = msgspec.json.decode(export(store, NOW))
    assert [event["crid"] for event in document["events"]] == crids(store)
    assert document["pages"][0]["categories"] == [["483", 7], [CATEGORY, 8]]
    assert document["values"] == {"controls": msgspec.json.decode(msgspec.json.encode(CONTROLS))}
    assert document["learned"] == {"posterior": [1.0, 2.0]}
    assert document["memory"]["since"] == "2026-11-23T12:00:00Z"
    assert set(document["about"]) - {"elsewhere"} <= set(document)
    assert b"\n  " in export(store, NOW)


def test_an_empty_store_can_be_exported_too(tmp_path):
    with closing(opened(tmp_path)) as store:
        assert msgspec.json.decode(export(store, NOW))["events"] == []


def test_one_ad_an_advertiser_a_category_or_everything_since_can_be_deleted(store):
    assert delete_ad(store, "a0", NOW) == 2
    assert crids(store) == ["a1", "a2", "a1", "a2", "old"]
    assert delete_advertiser(store, "advertiser-c2", ADS, NOW) == 3  # and the one whose campaign is gone
    assert crids(store) == ["a1", "a1"]
    assert delete_since(store, NOW + timedelta(seconds=2), NOW) == 1
    assert crids(store) == ["a1"]
    assert delete_category(store, CATEGORY, 7, ADS, NOW) == 0
    assert delete_category(store, CATEGORY, 8, ADS, NOW) == 2
    assert (store.log.events, store.pages) == ((), ())
    assert store.memory.deletions == 5


def test_what_was_learned_goes_with_any_deletion_and_controls_stay(store):
    delete_ad(store, "a0", NOW)
    assert store.get("posterior", list[float]) is None
    assert store.get("controls", Controls) == CONTROLS


def test_what_was_deleted_is_not_on_the_disk_and_does_not_come_back(store, tmp_path):
    key = keystore_in(tmp_path).load()
    delete_ad(store, "a1", NOW)
    left = store.log
    store.close()
    with closing(SealedFile(file_in(tmp_path), key)) as file:
        plain = b"".join(file.read().rows.values())
    assert b"a0" in plain
    assert b"a1" not in plain.replace(b'"muted_crids":["a1"]', b"")
    with closing(opened(tmp_path)) as again:
        assert again.log == left


def test_deleting_everything_leaves_nothing_and_destroys_the_key(store, tmp_path):
    old, key = files_in(tmp_path)[-300:], keystore_in(tmp_path).load()
    assert any(old)
    store.delete_all(NOW + DAY)
    assert (store.log.events, store.pages, list(store.states())) == ((), (), ["store"])
    assert (store.memory.since, store.memory.days, store.complete) == (NOW + DAY, 0, True)
    assert keystore_in(tmp_path).load() != key
    assert old not in files_in(tmp_path)
    assert store.append(happened(9), NOW + DAY)
    store.close()
    with closing(opened(tmp_path, now=NOW + DAY)) as again:
        assert again.log.events == (happened(9),)


def test_a_copy_of_the_file_from_before_is_worthless_after_deleting_everything(tmp_path):
    filled(tmp_path)
    shutil.copy(file_in(tmp_path), tmp_path / "copy")
    with closing(opened(tmp_path)) as store:
        store.delete_all(NOW)
    shutil.copy(tmp_path / "copy", file_in(tmp_path))
    with closing(opened(tmp_path)) as store:
        assert (store.log.events, store.complete) == ((), False)


def test_a_crash_between_the_key_and_the_file_deletes_all_the_same(tmp_path):
    filled(tmp_path)
    keystore_in(tmp_path).create()
    with closing(opened(tmp_path)) as store:
        assert store.log.events == ()


def test_a_deletion_that_fails_says_so_and_works_the_second_time(tmp_path):
    filled(tmp_path, 200)
    with closing(opened(tmp_path)) as store:
        run = store._disk._file._connection.execute
        run("PRAGMA query_only = ON")
        with pytest.raises(DeviceError, match="disk could not be written") as caught:
            delete_ad(store, "a1", NOW)
        assert "delete again" in caught.value.todo
        assert store.log.events == ()
        run("PRAGMA query_only = OFF")
        delete_ad(store, "a1", NOW)
    with closing(opened(tmp_path)) as store:
        assert store.log.events == ()


def test_no_deletion_refills_a_spent_budget(store, tmp_path):
    ledger = DeviceLedger(tmp_path / "ledger.db", epsilon=4.0, delta=1e-4, records=500)
    ledger.enrol()
    plan = RecordPlan(
        records=500, sampling_rate=0.02, clip_norm=1.0, noise_multiplier=1.0, steps=2, participations=3, delta=1e-4
    )
    assert ledger.reserve(plan, "run", 1)
    spent, times = ledger.spent(), ledger.participations()
    delete_ad(store, "a0", NOW)
    store.delete_all(NOW)
    assert (ledger.spent(), ledger.participations()) == (spent, times)


def test_after_a_wipe_a_device_is_not_trusted_until_it_was_in_use_for_some_days(tmp_path):
    moments = [NOW + n * DAY for n in range(4)]
    for moment in moments:
        with closing(opened(tmp_path, now=moment)) as store:
            assert trusted(store.memory, 3) == (moment == moments[-1])
    with closing(opened(tmp_path, now=moments[-1])) as store:
        store.delete_all(moments[-1])
        assert not trusted(store.memory, 3)
    with closing(opened(tmp_path, now=moments[-1] + 300 * DAY)) as store:
        assert not trusted(store.memory, 3)
        assert trusted(store.memory, 0)


def test_a_deletion_of_some_events_does_not_cost_the_trust(tmp_path):
    filled(tmp_path)
    with closing(opened(tmp_path, now=NOW + DAY)) as store:
        delete_ad(store, "a1", NOW + DAY)
        assert trusted(store.memory, 1)
