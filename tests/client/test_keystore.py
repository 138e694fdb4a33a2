import os
import stat

import pytest

from sottovoce.client.keystore import KEY_BYTES, FileKeystore
from sottovoce.privacy.errors import DeviceError


def test_a_key_is_made_once_and_read_again(tmp_path):
    keystore = FileKeystore(tmp_path / "deep" / "key")
    assert keystore.load() is None
    key = keystore.create()
    assert len(key) == KEY_BYTES
    assert FileKeystore(tmp_path / "deep" / "key").load() == key


def test_only_its_owner_may_read_it_even_under_a_wide_umask(tmp_path):
    before = os.umask(0)
    try:
        FileKeystore(tmp_path / "key").create()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_new_key_destroys_the_old_one_where_it_lay(tmp_path):
    path = tmp_path / "key"
    keystore = FileKeystore(path)
    old = keystore.create()
    os.link(path, tmp_path / "same bytes")
    assert keystore.create() != old
    assert (tmp_path / "same bytes").read_bytes() == bytes(KEY_BYTES)
    assert old not in b"".join(one.read_bytes() for one in tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"x" * (KEY_BYTES - 1), b"x" * (KEY_BYTES + 1)])
def test_a_file_of_another_length_holds_no_key(tmp_path, data):
    (tmp_path / "key").write_bytes(data)
    assert FileKeystore(tmp_path / "key").load() is None


def test_a_key_that_cannot_be_read_is_not_taken_for_a_lost_one(tmp_path):
    (tmp_path / "key").mkdir()
    with pytest.raises(DeviceError, match="cannot be read"):
        FileKeystore(tmp_path / "key").load()
    with pytest.raises(DeviceError, match="cannot be written"):
        FileKeystore(tmp_path / "key").create()
