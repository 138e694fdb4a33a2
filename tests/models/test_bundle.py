"""The container: one valid form, and nothing but BundleError for everything else."""

import io
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models.bundle import CAPS, MOST_BYTES, pack, unpack
from sottovoce.privacy.errors import BundleError

SMALL = {name: f"<{name}>".encode() for name in CAPS}


def zipped(files, compression=zipfile.ZIP_STORED):
    """What an ordinary zip program writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, compression)
    return buffer.getvalue()


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries({name: st.binary(max_size=300) for name in CAPS}))
def test_what_is_packed_comes_out_again_and_packs_to_the_same_bytes(files):
    data = pack(files)
    assert dict(unpack(data)) == files
    assert pack(dict(reversed(files.items()))) == data


def test_any_zip_program_can_open_it():
    with zipfile.ZipFile(io.BytesIO(pack(SMALL))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(CAPS)
        assert all(archive.read(name) == data for name, data in SMALL.items())
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize(
    "files",
    [
        sorted(SMALL.items())[1:],
        [*sorted(SMALL.items()), ("extra.txt", b"x")],
        [*sorted(SMALL.items()), ("../../evil", b"x")],
        [*sorted(SMALL.items()), ("/etc/passwd", b"x")],
        [*sorted(SMALL.items()), ("C:\\evil", b"x")],
        [*sorted(SMALL.items()), ("model.onnx/", b"")],
        [("../model.onnx" if name == "model.onnx" else name, data) for name, data in sorted(SMALL.items())],
        sorted(SMALL.items(), reverse=True),
        [],
    ],
    ids=["missing", "extra", "climbing", "absolute", "drive", "folder", "renamed", "reordered", "empty"],
)
def test_other_names_and_orders_are_refused(files):
    with pytest.raises(BundleError):
        unpack(zipped(files))


def test_a_duplicate_name_is_refused():
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped([*sorted(SMALL.items()), ("model.onnx", b"second")])
    with pytest.raises(BundleError):
        unpack(data)


def test_compression_is_refused_whatever_it_expands_to():
    bomb = [(name, b"\0" * 5_000_000 if name == "model.onnx" else data) for name, data in sorted(SMALL.items())]
    with pytest.raises(BundleError):
        unpack(zipped(bomb, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("name", CAPS)
def test_a_file_may_have_its_cap_and_not_one_byte_more(name):
    cap = CAPS[name]
    assert len(unpack(pack(SMALL | {name: bytes(cap)}))[name]) == cap
    with pytest.raises(BundleError, match=name):
        pack(SMALL | {name: bytes(cap + 1)})


def test_every_file_at_its_cap_is_the_longest_bundle():
    assert len(pack({name: bytes(cap) for name, cap in CAPS.items()})) == MOST_BYTES
    with pytest.raises(BundleError, match="more than"):
        unpack(bytes(MOST_BYTES + 1))


def test_a_length_that_lies_is_refused():
    data = bytearray(pack(SMALL))
    for length in (0, 1, 100, 0x7FFFFFFF, 0xFFFFFFFF):  # the last one announces zip64
        struct.pack_into("<LL", data, 18, length, length)
        with pytest.raises(BundleError):
            unpack(bytes(data))


def test_every_truncation_every_added_byte_and_every_flip_is_refused():
    data = pack(SMALL)
    for length in range(len(data)):
        with pytest.raises(BundleError):
            unpack(data[:length])
    for more in (data + b"\0", b"\0" + data, data + data):
        with pytest.raises(BundleError):
            unpack(more)
    for bit in range(8 * len(data)):
        bent = bytearray(data)
        bent[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BundleError):
            # A flip inside a file's content is caught by its checksum; the signature guards against intent.
            unpack(bytes(bent))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 600), st.integers(0, 50))
def test_random_bytes_anywhere_only_cause_bundle_errors(noise, place, length):
    for data in (noise, pack(SMALL)[:place] + noise[:length] + pack(SMALL)[place + length :]):
        if data != pack(SMALL):
            with pytest.raises(BundleError):
                unpack(data)


def test_pack_refuses_missing_and_unknown_names():
    for files in ({}, SMALL | {"more": b""}, {name: data for name, data in SMALL.items() if name != "model.sig"}):
        with pytest.raises(BundleError, match="exactly"):
            pack(files)
