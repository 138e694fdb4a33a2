"""What `publish` takes as key sets: nothing that would end the updates of every device."""

import pytest
from bundle_line import KEY, NOW, key_set, version

from sottovoce.models.signing import generate_key
from sottovoce.privacy.errors import BundleError, ExpiredError, RollbackError, SignatureError
from sottovoce.server.key_folder import publish_key_sets, published_key_sets
from sottovoce.server.publishing import publish

SECOND, THIEF = generate_key(), generate_key()
ONE = key_set(1, [KEY], [KEY])
TWO = key_set(2, [SECOND], [KEY, SECOND])
THREE = key_set(3, [SECOND], [SECOND])


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_the_folder_keeps_the_whole_chain_and_twice_is_once(tmp_path):
    assert [one.version for one in publish_key_sets([THREE, TWO], tmp_path, NOW)] == [2, 3]
    before = files(tmp_path)
    assert [one.version for one in publish_key_sets([TWO], tmp_path, NOW)] == [2, 3]
    assert files(tmp_path) == before
    publish_key_sets([ONE, key_set(4, [KEY], [KEY, SECOND])], tmp_path, NOW)
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["1.json", "2.json", "3.json", "4.json"]
    assert published_key_sets(tmp_path)[:3] == [ONE, TWO, THREE]


REFUSED = {
    "the set before did not sign": (key_set(4, [THIEF], [THIEF]), SignatureError),
    "its own keys did not sign": (key_set(4, [THIEF], [SECOND]), SignatureError),
    "a version is left out": (key_set(5, [SECOND], [SECOND]), BundleError),
    "another line": (key_set(4, [SECOND], [SECOND], line="another"), BundleError),
    "the same version with other bytes": (key_set(3, [SECOND], [SECOND], days=9), RollbackError),
    "it has expired": (key_set(4, [SECOND], [SECOND], days=-1), ExpiredError),
    "a first set that does not lead to the second": (key_set(1, [THIEF], [THIEF]), SignatureError),
    "no key set": (b"{}", BundleError),
    "a bundle": (version(1), BundleError),
}


@pytest.mark.parametrize(("bad", "error"), REFUSED.values(), ids=REFUSED)
def test_a_set_that_devices_would_refuse_is_not_published_nor_what_comes_with_it(tmp_path, bad, error):
    publish_key_sets([TWO, THREE], tmp_path, NOW)
    before = files(tmp_path)
    for given in ([bad], [key_set(4, [KEY], [SECOND, KEY], days=8), bad]):
        with pytest.raises(BundleError) as caught:
            publish_key_sets(given, tmp_path, NOW)
        assert type(caught.value) is error or len(given) == 2
        assert files(tmp_path) == before


def test_a_first_set_is_signed_by_its_own_keys_at_least(tmp_path):
    with pytest.raises(SignatureError):
        publish_key_sets([key_set(2, [SECOND], [KEY])], tmp_path, NOW)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"", TWO])
def test_a_damaged_folder_is_named_and_left_alone(tmp_path, damage):
    publish_key_sets([TWO, THREE], tmp_path, NOW)
    (tmp_path / "keys" / "3.json").write_bytes(damage)
    with pytest.raises(BundleError):
        publish_key_sets([key_set(4, [SECOND], [SECOND])], tmp_path, NOW)
    assert not (tmp_path / "keys" / "4.json").exists()


def test_bundles_and_keys_of_one_folder_are_of_one_line(tmp_path):
    publish_key_sets([TWO], tmp_path, NOW)
    with pytest.raises(BundleError, match="line"):
        publish([version(1, model_id="another")], tmp_path)
    publish([version(1)], tmp_path)
    other = tmp_path / "other"
    publish([version(1, model_id="another")], other)
    with pytest.raises(BundleError, match="line"):
        publish_key_sets([TWO], other, NOW)
