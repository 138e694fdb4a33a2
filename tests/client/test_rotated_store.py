"""Rotated keys on the device's disk, after a restart, a crash, a theft, damage and an update of the app."""

import hashlib
import os
import shutil
from datetime import timedelta

import msgspec
import pytest
from bundle_line import KEY, NOW, RUNTIMES, key_set, scorer_of, store_in, version
from failing_disk import FailingDisk, PowerCut, full_disk

from sottovoce.client.belief import BELIEF, KEYS
from sottovoce.client.bundle_store import BundleStore
from sottovoce.models.key_chain import MOST_CHAIN
from sottovoce.models.signing import generate_key, key_id
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError, DeviceError, ExpiredError, RollbackError, SignatureError

SECOND, THIRD, THIEF = (generate_key() for _ in range(3))
LATER = NOW + timedelta(days=1)


TWO = key_set(2, [SECOND], [KEY, SECOND])
THREE = key_set(3, [THIRD], [SECOND, THIRD])


def shipped(folder, key, key_version, **more):
    """The store of an app that came with that key."""
    return BundleStore(folder, Trust((key.public_key(),), key_version=key_version, **more), RUNTIMES, scorer_of)


def serving(folder, now=LATER):
    found = store_in(folder).load(now)
    return None if found is None else found.manifest.version


def ids(trust):
    return [key_id(key) for key in trust.keys], trust.key_version


def only(key, number):
    return [key_id(key.public_key())], number


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """The test's own disk may take its time; which steps are forced to it is counted elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A device that took bundle 1, went to the second key, then to the third, and was switched off."""
    folder = tmp_path_factory.mktemp("kept")
    store_in(folder).offer(version(1), NOW)
    store_in(folder).rotate([TWO], NOW)
    store_in(folder).rotate([THREE], NOW)
    return folder


@pytest.fixture
def rotated(kept, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(kept, tmp_path / "phone")


def test_after_a_restart_the_newest_keys_count_and_the_bundle_in_use_goes_on_serving(rotated):
    assert ids(store_in(rotated).trust()) == only(THIRD, 3)
    assert serving(rotated) == 1
    for old in (KEY, SECOND, THIEF):
        with pytest.raises(SignatureError):
            store_in(rotated).offer(version(2, key=old), NOW)
        with pytest.raises(SignatureError):
            store_in(rotated).inspect(version(2, key=old), NOW)
    store_in(rotated).offer(version(2, key=THIRD), NOW)
    assert serving(rotated) == 2
    (rotated / f"{hashlib.sha256(version(2, key=THIRD)).hexdigest()}.svb").write_bytes(b"damaged")
    assert serving(rotated) == 1  # the last good one, of keys that are gone


def test_a_threshold_and_an_expiry_are_kept_too(tmp_path):
    store_in(tmp_path).rotate([key_set(2, [SECOND, THIRD], [KEY, SECOND, THIRD], threshold=2, days=9)], NOW)
    kept = store_in(tmp_path).trust()
    assert (kept.threshold, kept.keys_expire, kept.model_id) == (2, NOW + timedelta(days=9), "line")
    with pytest.raises(SignatureError, match="1 of 2"):
        store_in(tmp_path).offer(version(1, key=SECOND), NOW)


def test_a_chain_is_followed_whole_or_not_at_all(tmp_path):
    store = store_in(tmp_path)
    for chain, error in (
        ([THREE], SignatureError),
        ([TWO, TWO], RollbackError),
        ([TWO, THREE, key_set(4, [THIEF], [THIEF])], SignatureError),
        ([TWO, key_set(4, [THIRD], [SECOND, THIRD])], BundleError),
        ([TWO, key_set(3, [THIRD], [SECOND, THIRD], line="another")], BundleError),
        ([TWO, key_set(3, [THIRD], [SECOND, THIRD], days=-1)], ExpiredError),
    ):
        with pytest.raises(error):
            store.rotate(chain, NOW)
        assert ids(store.trust()) == only(KEY, 1)
    assert not list(tmp_path.iterdir())
    expired_on_the_way = key_set(2, [SECOND], [KEY, SECOND], days=-1)
    assert ids(store.rotate([expired_on_the_way, THREE], NOW)) == only(THIRD, 3)
    with pytest.raises(BundleError):
        store.rotate([THREE], NOW)


def test_a_line_that_was_fixed_by_a_bundle_binds_the_keys_and_the_other_way_round(tmp_path):
    store_in(tmp_path / "a").offer(version(1), NOW)
    with pytest.raises(BundleError, match="another"):
        store_in(tmp_path / "a").rotate([key_set(2, [SECOND], [KEY, SECOND], line="another")], NOW)
    store_in(tmp_path / "b").rotate([key_set(2, [SECOND], [KEY, SECOND], line="another")], NOW)
    with pytest.raises(BundleError, match="another"):
        store_in(tmp_path / "b").offer(version(1, key=SECOND), NOW)


def test_expired_keys_take_no_bundle_and_the_bundle_in_use_serves_until_the_next_set(tmp_path):
    store_in(tmp_path).rotate([key_set(2, [SECOND], [KEY, SECOND], days=5)], NOW)
    store_in(tmp_path).offer(version(1, key=SECOND), NOW)
    over = NOW + timedelta(days=5)
    with pytest.raises(ExpiredError, match="keys"):
        store_in(tmp_path).offer(version(2, key=SECOND), over)
    assert serving(tmp_path, over) == 1
    with pytest.raises(ExpiredError, match="keys"):
        store_in(tmp_path).offer(version(2, key=SECOND), NOW)  # the clock was set back
    store_in(tmp_path).rotate([key_set(3, [SECOND], [SECOND])], over)
    store_in(tmp_path).offer(version(2, key=SECOND), over)


def test_a_lost_file_of_the_bundle_in_use_is_repaired_by_its_very_bytes_though_its_keys_are_gone(rotated):
    next(rotated.glob("*.svb")).unlink()
    assert serving(rotated) is None
    with pytest.raises(SignatureError):
        store_in(rotated).offer(version(1, size=4002), NOW)
    store_in(rotated).offer(version(1), NOW)
    assert serving(rotated) == 1


@pytest.mark.parametrize("lost", [BELIEF, KEYS])
def test_each_file_alone_is_enough_to_refuse_the_old_keys(rotated, lost):
    store_in(rotated).offer(version(2, key=THIRD), NOW)
    (rotated / lost).unlink()
    for old in (KEY, SECOND, THIEF):
        with pytest.raises(BundleError):
            store_in(rotated).offer(version(9, key=old), NOW)
    with pytest.raises(RollbackError):
        store_in(rotated).offer(version(2, key=THIRD), NOW)
    assert serving(rotated) == (2 if lost == BELIEF else 1)  # without the chain, what the app's own keys signed
    if lost == KEYS:
        store_in(rotated).rotate([TWO, THREE], NOW)
    assert serving(rotated) == 2
    store_in(rotated).offer(version(3, key=THIRD), NOW)


def lines(*sets):
    return b"".join(one + b"\n" for one in sets)


FORGED = {
    "rolled back by one set": lines(TWO),
    "rolled back to nothing": b"",
    "a hole": lines(THREE),
    "the wrong order": lines(THREE, TWO),
    "a set twice": lines(TWO, TWO, THREE),
    "a set of another line": lines(key_set(2, [SECOND], [KEY, SECOND], line="another")),
    "a set of another line at the end": lines(TWO, key_set(3, [THIEF], [SECOND, THIEF], line="another")),
    "a thief's set, signed by himself": lines(key_set(2, [THIEF], [THIEF])),
    "a thief's set at the end": lines(TWO, THREE, key_set(4, [THIEF], [THIEF])),
    "a thief's set by a key that was rotated out": lines(TWO, THREE, key_set(4, [THIEF], [KEY, SECOND, THIEF])),
    "a thief's branch by a key that was rotated out": lines(key_set(2, [THIEF], [KEY, THIEF])),
    "the last line cut": lines(TWO, THREE)[:-1],
    "half of it": lines(TWO, THREE)[: len(lines(TWO, THREE)) // 2],
    "a flipped bit": lines(TWO, bytes([THREE[0] ^ 1]) + THREE[1:]),
    "an empty line": lines(TWO, b"", THREE),
    "no key set": b"\xff\n",
    "too long": lines(TWO) + bytes(MOST_CHAIN),
    "a folder": None,
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_file_of_keys_opens_the_door_to_nobody_and_the_chain_can_be_walked_again(rotated, forged):
    (rotated / KEYS).unlink()
    if forged is None:
        (rotated / KEYS).mkdir()
    else:
        (rotated / KEYS).write_bytes(forged)
    store = store_in(rotated)
    for key in (KEY, SECOND, THIEF):
        with pytest.raises(BundleError):
            store.offer(version(2, key=key), NOW)
    assert serving(rotated) == 1
    if forged is None:
        (rotated / KEYS).rmdir()
    assert ids(store_in(rotated).rotate([TWO, THREE], NOW)) == only(THIRD, 3)
    store_in(rotated).offer(version(2, key=THIRD), NOW)
    assert serving(rotated) == 2


@pytest.mark.parametrize("length", [1, 2, 4])
def test_with_a_damaged_file_a_key_of_the_past_cannot_grow_a_branch_of_its_own(rotated, length):
    branch = [
        key_set(2, [THIEF], [KEY, THIEF]),
        *(key_set(number, [THIEF], [THIEF]) for number in range(3, 2 + length)),
    ]
    (rotated / KEYS).write_bytes(b"damaged")
    with pytest.raises(RollbackError, match="set 3"):
        store_in(rotated).rotate(branch, NOW)
    (rotated / KEYS).write_bytes(lines(*branch))
    with pytest.raises(BundleError):
        store_in(rotated).offer(version(2, key=THIEF), NOW)
    store_in(rotated).rotate([TWO, THREE], NOW)
    store_in(rotated).offer(version(2, key=THIRD), NOW)


def test_with_both_files_lost_the_device_is_where_its_app_began_and_walks_again(rotated):
    for name in (BELIEF, KEYS):
        (rotated / name).unlink()
    assert ids(store_in(rotated).trust()) == only(KEY, 1)
    with pytest.raises(SignatureError):
        store_in(rotated).offer(version(2, key=THIEF), NOW)
    store_in(rotated).rotate([TWO, THREE], NOW)
    with pytest.raises(SignatureError):
        store_in(rotated).offer(version(2), NOW)


def test_an_expired_set_on_the_disk_is_still_the_newest(tmp_path):
    """To fall back to the set before it would bring back the keys that it took away."""
    store_in(tmp_path).rotate([key_set(2, [SECOND], [KEY, SECOND], days=1)], NOW)
    for key in (KEY, SECOND):
        with pytest.raises(ExpiredError):
            store_in(tmp_path).offer(version(1, key=key), NOW + timedelta(days=2))


def stolen(folder, last):
    """A thief signed version 99 with the first key; the owners answer with a set of their own."""
    store_in(folder).offer(version(7), NOW)
    store_in(folder).offer(version(8), NOW)
    store_in(folder).offer(version(99), NOW)
    assert store_in(folder).belief().version == 99
    return key_set(2, [SECOND], [KEY, SECOND], last=last)


def test_a_thiefs_bundle_goes_out_of_use_with_his_key_and_the_last_honest_one_serves(tmp_path):
    cure = stolen(tmp_path, 8)
    assert serving(tmp_path) == 99
    store_in(tmp_path).rotate([cure], NOW)
    assert serving(tmp_path) == 8
    belief = store_in(tmp_path).belief()
    assert (belief.version, belief.active) == (8, hashlib.sha256(version(8)).hexdigest())
    assert not (tmp_path / f"{hashlib.sha256(version(99)).hexdigest()}.svb").exists()
    for replay in (version(99), version(8), version(8, key=SECOND)):
        with pytest.raises(BundleError):
            store_in(tmp_path).offer(replay, NOW)
    store_in(tmp_path).offer(version(9, key=SECOND), NOW)
    assert serving(tmp_path) == 9


def test_without_a_last_version_the_bundle_and_the_version_stay(tmp_path):
    store_in(tmp_path).rotate([stolen(tmp_path, None)], NOW)
    assert (serving(tmp_path), store_in(tmp_path).belief().version) == (99, 99)


def test_a_last_version_counts_once_so_a_chain_walked_again_opens_no_way_back(tmp_path):
    cure = stolen(tmp_path, 8)
    store_in(tmp_path).rotate([cure], NOW)
    for number in (9, 12):
        store_in(tmp_path).offer(version(number, key=SECOND), NOW)
    (tmp_path / KEYS).write_bytes(b"damaged")
    store_in(tmp_path).rotate([cure], NOW)
    assert store_in(tmp_path).belief().version == 12
    for replay in (9, 11, 12):
        with pytest.raises(RollbackError):
            store_in(tmp_path).offer(version(replay, key=SECOND), NOW)


def test_a_later_set_does_not_repeat_what_an_earlier_one_took_back(tmp_path):
    store_in(tmp_path).rotate([key_set(2, [SECOND], [KEY, SECOND], last=8)], NOW)
    store_in(tmp_path).offer(version(12, key=SECOND), NOW)
    assert store_in(tmp_path).rotate([THREE], NOW).version == 12


def test_a_thiefs_bundle_is_not_recovered_when_the_belief_is_lost(tmp_path):
    cure = stolen(tmp_path, 8)
    top = tmp_path / f"{hashlib.sha256(version(99)).hexdigest()}.svb"
    store_in(tmp_path).rotate([cure], NOW)
    top.write_bytes(version(99))
    (tmp_path / BELIEF).unlink()
    assert serving(tmp_path) == 8
    assert store_in(tmp_path).belief().version == 8


def test_newer_keys_of_the_app_win_over_older_sets_on_disk(rotated):
    fresh = shipped(rotated, THIEF, 4)  # here just another key of the owners
    assert ids(fresh.trust()) == only(THIEF, 4)
    with pytest.raises(SignatureError):
        fresh.offer(version(2, key=THIRD), NOW)
    fresh.offer(version(2, key=THIEF), NOW)
    assert fresh.load(LATER).manifest.version == 2
    five = key_set(5, [SECOND], [THIEF, SECOND])
    assert ids(fresh.rotate([five], NOW)) == only(SECOND, 5)
    assert ids(shipped(rotated, THIEF, 4).trust()) == only(SECOND, 5)


def test_an_app_that_ships_a_set_of_the_chain_goes_on_from_there(rotated):
    middle = shipped(rotated, SECOND, 2)
    assert ids(middle.trust()) == only(THIRD, 3)
    middle.offer(version(2, key=THIRD), NOW)
    assert middle.load(LATER).manifest.version == 2


def test_an_update_of_the_app_ends_the_chain_of_a_thief_however_long_it_is(tmp_path):
    chain = [key_set(2, [THIEF], [KEY, THIEF]), *(key_set(number, [THIEF], [THIEF]) for number in range(3, 7))]
    store_in(tmp_path).rotate(chain, NOW)
    store_in(tmp_path).offer(version(99, key=THIEF), NOW)
    saved = shipped(tmp_path, SECOND, 2)
    assert ids(saved.trust()) == only(SECOND, 2)
    assert saved.load(LATER) is None
    with pytest.raises(SignatureError):
        saved.offer(version(100, key=THIEF), NOW)
    saved.rotate([key_set(3, [THIRD], [SECOND, THIRD], last=8)], NOW)
    saved.offer(version(9, key=THIRD), NOW)
    assert shipped(tmp_path, SECOND, 2).load(LATER).manifest.version == 9


def test_the_floor_of_the_app_holds_against_a_last_version_below_it(tmp_path):
    floor = shipped(tmp_path, KEY, 1, version=50)
    assert floor.rotate([key_set(2, [SECOND], [KEY, SECOND], last=8)], NOW).version == 50


def test_a_belief_from_before_there_were_key_sets_is_read(tmp_path):
    store_in(tmp_path).offer(version(1), NOW)
    old = msgspec.json.decode((tmp_path / BELIEF).read_bytes())
    (tmp_path / BELIEF).write_bytes(msgspec.json.encode({k: old[k] for k in old if k not in ("root", "key_version")}))
    assert serving(tmp_path) == 1
    store_in(tmp_path).rotate([TWO], NOW)
    assert (serving(tmp_path), ids(store_in(tmp_path).trust())) == (1, only(SECOND, 2))


@pytest.mark.parametrize("kind", ["power cut", "disk full"])
def test_a_failure_at_every_step_on_the_disk_leaves_the_old_keys_or_the_new_ones(tmp_path, kind):
    kept = tmp_path / "kept"
    cure = stolen(kept, 8)
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(patch)
        folder = shutil.copytree(kept, tmp_path / "counted")
        disk.steps.clear()
        store_in(folder).rotate([cure], NOW)
        steps = list(disk.steps)
    assert steps.count("replace") == 2
    outcomes = set()
    for at in range(1, len(steps) + 1):
        folder = shutil.copytree(kept, tmp_path / str(at))
        with pytest.MonkeyPatch.context() as patch:
            FailingDisk(patch, at, PowerCut if kind == "power cut" else full_disk())
            try:
                told = store_in(folder).rotate([cure], NOW)
            except (PowerCut, DeviceError):
                told = None
        store = store_in(folder)
        trust, belief = store.trust(), store.belief()
        assert (ids(trust), belief.version, serving(folder)) in (
            (only(KEY, 1), 99, 99),
            (only(SECOND, 2), 8, 8),
        ), (at, steps[at - 1])
        assert told is None or told.key_version == trust.key_version
        outcomes.add(trust.key_version)
        if trust.key_version == 1:
            store.rotate([cure], NOW)
        with pytest.raises(BundleError):
            store_in(folder).offer(version(9), NOW)
        store_in(folder).offer(version(9, key=SECOND), NOW)
        assert serving(folder) == 9
        assert {path.name for path in folder.iterdir()} == {
            BELIEF,
            KEYS,
            *(f"{hashlib.sha256(one).hexdigest()}.svb" for one in (version(8), version(9, key=SECOND))),
        }
    assert outcomes == {1, 2}


def test_a_wrong_call_is_the_programmers_mistake(tmp_path):
    store = store_in(tmp_path)
    for chain, now in (([], NOW), ([TWO], NOW.replace(tzinfo=None))):
        with pytest.raises((ValueError, TypeError)):
            store.rotate(chain, now)
