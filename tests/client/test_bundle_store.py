"""What is on the device's disk works, whatever breaks off whenever."""

import hashlib
import shutil
import stat
from dataclasses import replace
from datetime import timedelta

import pytest
from bundle_line import KEY, NOW, RUNTIMES, onnx_model, scorer_of, store_in, version
from failing_disk import FailingDisk, PowerCut, full_disk

from sottovoce.client.belief import BELIEF
from sottovoce.client.bundle_store import BundleStore, onnxruntime
from sottovoce.models.signing import generate_key
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError, DeviceError, ExpiredError, GoldenError, RollbackError

LATER = NOW + timedelta(days=1)


def file_of(data):
    return f"{hashlib.sha256(data).hexdigest()}.svb"


def serving(folder, now=LATER):
    found = store_in(folder).load(now)
    return None if found is None else found.manifest.version


def test_an_offered_bundle_serves_and_the_last_one_stays_beside_it(tmp_path):
    store = store_in(tmp_path / "made" / "here")
    assert store.load(NOW) is None
    for number in (1, 2, 3):
        assert store.offer(version(number), NOW).manifest.version == number
        assert serving(store.folder) == number
    names = {path.name for path in store.folder.iterdir()}
    assert names == {BELIEF, file_of(version(2)), file_of(version(3))}


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "removed", "a folder"])
def test_a_damaged_bundle_gives_way_to_the_last_good_one_and_two_to_none(tmp_path, damage):
    def spoil(path):
        data = path.read_bytes()
        path.unlink()
        if damage == "a folder":
            path.mkdir()
        elif damage != "removed":
            bent = {"cut": data[:-1], "flipped": data[:99] + bytes([data[99] ^ 1]) + data[100:], "emptied": b""}
            path.write_bytes(bent[damage])

    store = store_in(tmp_path)
    store.offer(version(1), NOW)
    store.offer(version(2), NOW)
    spoil(tmp_path / file_of(version(2)))
    assert serving(tmp_path) == 1
    with pytest.raises(RollbackError):
        store.offer(version(1), NOW)
    spoil(tmp_path / file_of(version(1)))
    assert serving(tmp_path) is None
    with pytest.raises(RollbackError):
        store.offer(version(1), NOW)


def test_the_very_bundle_in_use_repairs_its_lost_file_and_is_a_replay_otherwise(tmp_path):
    store = store_in(tmp_path)
    store.offer(version(1), NOW)
    store.offer(version(2), NOW)
    with pytest.raises(RollbackError):
        store.offer(version(2), NOW)
    (tmp_path / file_of(version(2))).unlink()
    store.offer(version(2), NOW)
    assert serving(tmp_path) == 2
    assert store.belief().previous == hashlib.sha256(version(1)).hexdigest()


def test_a_damaged_bundle_in_use_is_not_kept_as_the_last_good_one(tmp_path):
    store = store_in(tmp_path)
    for number in (1, 2):
        store.offer(version(number), NOW)
    (tmp_path / file_of(version(2))).write_bytes(b"damaged")
    store.offer(version(3), NOW)
    (tmp_path / file_of(version(3))).write_bytes(b"damaged")
    assert serving(tmp_path) == 1


@pytest.mark.parametrize("content", [None, b"", b"{}x", b"\xff", b'{"version":-1}', b'{"version":0,"more":1}'])
def test_a_lost_belief_is_recovered_from_the_signed_bundles(tmp_path, content):
    store = store_in(tmp_path)
    for number in (4, 5):
        store.offer(version(number), NOW)
    (tmp_path / BELIEF).unlink()
    if content is not None:
        (tmp_path / BELIEF).write_bytes(content)
    (tmp_path / f"{hashlib.sha256(b'no bundle').hexdigest()}.svb").write_bytes(b"no bundle")
    assert serving(tmp_path) == 5
    with pytest.raises(RollbackError):
        store.offer(version(5), NOW)
    (tmp_path / file_of(version(5))).write_bytes(b"damaged")
    assert serving(tmp_path) == 4


def test_a_model_that_scores_otherwise_here_is_not_put_to_use(tmp_path):
    store_in(tmp_path).offer(version(1), NOW)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(GoldenError):
        store_in(tmp_path, scorer=lambda bundle: scorer_of(bundle, off=0.01)).offer(version(2), NOW)

    def broken(bundle):
        raise DeviceError("no operator LOOKUP in this runtime")

    with pytest.raises(GoldenError, match="LOOKUP"):
        store_in(tmp_path, scorer=broken).offer(version(2), NOW)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert store_in(tmp_path, scorer=broken).load(NOW) is None


def test_a_bundle_serves_in_the_real_runtime_and_a_model_that_it_cannot_load_is_refused(tmp_path):
    store = BundleStore(tmp_path, Trust((KEY.public_key(),)), {"onnxruntime": "1.32.0"}, onnxruntime)
    store.offer(version(1, onnx=onnx_model(1)), NOW)
    assert store.load(NOW).manifest.version == 1
    with pytest.raises(GoldenError, match="golden"):
        store.offer(version(2, onnx=onnx_model(2, step=-1)), NOW)
    with pytest.raises(GoldenError, match="cannot be loaded"):
        store.offer(version(2), NOW)
    assert BundleStore(tmp_path, Trust((KEY.public_key(),)), RUNTIMES).load(NOW) is None  # its TFLite file is no model


def test_a_bundle_of_a_stranger_is_refused_and_one_laid_in_the_folder_is_not_served(tmp_path):
    stranger = version(9, key=generate_key())
    store = store_in(tmp_path)
    store.offer(version(1), NOW)
    with pytest.raises(BundleError):
        store.offer(stranger, NOW)
    (tmp_path / file_of(stranger)).write_bytes(stranger)
    (tmp_path / BELIEF).unlink()
    assert serving(tmp_path) == 1


def test_a_clock_that_was_set_back_does_not_revive_an_expired_bundle(tmp_path):
    store = store_in(tmp_path)
    store.offer(version(1), NOW)
    last = NOW + timedelta(days=30)
    assert serving(tmp_path, last - timedelta(minutes=1)) == 1
    assert serving(tmp_path, last) is None
    assert store.belief().seen == last - timedelta(minutes=1)
    store.offer(version(2, created=NOW + timedelta(days=5)), last)
    with pytest.raises(ExpiredError):
        store.offer(version(3), NOW)  # its 30 days are over by the latest time that was seen


def test_a_clock_that_was_once_years_ahead_locks_nobody_out(tmp_path):
    store = store_in(tmp_path)
    store.offer(version(1), NOW)
    assert store.load(NOW + timedelta(days=9_000)) is None
    with pytest.raises(ExpiredError):
        store.offer(version(2), NOW + timedelta(days=9_000))
    assert serving(tmp_path) == 1
    store.offer(version(2), LATER)


def test_the_version_and_line_an_app_was_shipped_with_are_a_floor(tmp_path):
    store = store_in(tmp_path)
    floor = BundleStore(tmp_path, replace(store._trust, version=5), RUNTIMES, scorer_of)
    with pytest.raises(RollbackError):
        floor.offer(version(5), NOW)
    other = BundleStore(tmp_path, replace(store._trust, model_id="another"), RUNTIMES, scorer_of)
    with pytest.raises(BundleError, match="another"):
        other.offer(version(6), NOW)


def test_the_secret_is_made_once_kept_private_and_survives_updates(tmp_path):
    store = store_in(tmp_path)
    made = store.secret()
    store.offer(version(1), NOW)
    assert store_in(tmp_path).secret() == made
    assert len(made) == 16
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    (tmp_path / "secret").write_bytes(made[:7])
    assert len(store.secret()) == 16 != len(made[:7])


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("kind", ["power cut", "disk full"])
def test_a_failure_at_every_step_on_the_disk_leaves_one_that_works_and_the_next_offer_heals(tmp_path, before, kind):
    new, kept = version(before + 1), tmp_path / "kept"
    for number in range(1, before + 1):
        store_in(kept).offer(version(number), NOW)

    def prepared(name):
        return shutil.copytree(kept, tmp_path / name) if before else tmp_path / name

    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(patch)
        folder = prepared("counted")
        disk.steps.clear()
        store_in(folder).offer(new, NOW)
        steps = list(disk.steps)
    assert steps.count("replace") == 2
    assert steps.count("fsync") == 4
    assert ("unlink" in steps) == (before >= 2)

    outcomes = set()
    for at in range(1, len(steps) + 1):
        folder = prepared(str(at))
        with pytest.MonkeyPatch.context() as patch:
            FailingDisk(patch, at, PowerCut if kind == "power cut" else full_disk())
            try:
                store_in(folder).offer(new, NOW)
            except (PowerCut, DeviceError):
                assert kind == "power cut" or steps[at - 1] != "unlink"
        found = serving(folder)
        assert found in (before or None, before + 1), (at, steps[at - 1])
        outcomes.add(found)
        assert store_in(folder).belief().version == (found or 0)
        if found == before + 1:
            with pytest.raises(RollbackError):
                store_in(folder).offer(new, NOW)
        else:
            store_in(folder).offer(new, NOW)
        assert serving(folder) == before + 1
        store_in(folder).offer(version(before + 2), NOW)
        assert serving(folder) == before + 2
        assert len(list(folder.iterdir())) == 3  # belief and two bundles: no half file stays
    assert outcomes == {before or None, before + 1}  # the cut came on both sides of the step that counts


def test_a_folder_that_cannot_be_written_or_read_is_an_error_of_ours_or_none(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = store_in(tmp_path / "file")
    assert store.load(NOW) is None
    with pytest.raises(DeviceError, match="cannot be written"):
        store.offer(version(1), NOW)
    with pytest.raises(DeviceError, match="cannot be written"):
        store.secret()
