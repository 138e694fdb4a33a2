"""A patch makes exactly the bundle it names, from exactly the one it starts from, or nothing."""

import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models import delta
from sottovoce.models.bundle import CAPS, pack
from sottovoce.models.delta import apply_patch, make_patch
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError, DigestError

HEADER = delta._HEADER


def bundle_of(model, text=b"{}"):
    return pack(dict.fromkeys(CAPS, text) | {"model.onnx": model, "model.tflite": b"head" + model})


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(0, 256, 60_000, np.uint8)


@pytest.fixture(scope="module")
def old(codes):
    return bundle_of(codes.tobytes())


@pytest.fixture(scope="module")
def patch(old, codes):
    moved = codes + np.random.default_rng(1).integers(-1, 2, codes.size).astype(np.uint8)
    return make_patch(old, bundle_of(moved.tobytes(), b'{"version":2}'))


def test_a_few_changed_rows_cost_little_more_than_themselves(old, codes):
    changed = codes.copy()
    changed[1000:1500] = 7 * np.arange(500)
    new = bundle_of(changed.tobytes(), b"{} ")
    patch = make_patch(old, new)
    assert apply_patch(old, patch) == new
    assert len(patch) < 1500


def test_codes_that_all_moved_by_one_step_at_most_cost_their_difference_once_for_both_formats(old, codes, patch):
    """Two random bits make 1.58 bits a code; the second model file repeats the first."""
    assert patch[4] == 1
    assert codes.size * 1.58 / 8 < len(patch) < codes.size * 0.27
    assert len(zstandard.compress(old, 19)) > codes.size  # nothing to gain without the old one


@pytest.mark.parametrize("size", [0, 1, 59_999, 60_001, 90_000])
def test_model_files_may_grow_shrink_and_vanish(old, codes, size):
    new = bundle_of(np.resize(codes, size).tobytes())
    assert apply_patch(old, make_patch(old, new)) == new


def test_the_patched_bundle_meets_the_same_rules_as_a_whole_one(publisher, key, now):
    old = publisher.bundle()
    publisher.version = 8
    new = publisher.bundle()
    made = apply_patch(old, make_patch(old, new))
    belief, _ = Trust((key.public_key(),), version=7).accept(made, now=now, runtimes={"litert": "2.3.0"})
    assert belief.version == 8
    with pytest.raises(BundleError, match="not above 8"):
        belief.accept(made, now=now, runtimes={"litert": "2.3.0"})


def test_a_patch_fits_one_bundle_only(old, codes, patch):
    with pytest.raises(DigestError, match="starts from"):
        apply_patch(bundle_of(codes[::-1].tobytes()), patch)


def test_what_is_no_bundle_has_no_patch(old):
    for pair in ((old, b"no bundle"), (b"no bundle", old)):
        with pytest.raises(BundleError):
            make_patch(*pair)


def test_every_bit_and_every_length_of_a_patch_is_guarded():
    old = bundle_of(b"old" * 20)
    new = bundle_of(b"new" * 20)
    patch = make_patch(old, new)
    for bit in range(8 * len(patch)):
        bent = bytearray(patch)
        bent[bit // 8] ^= 1 << bit % 8
        # A few bits of a zstd header change how the same content is described; the content is what counts.
        try:
            assert apply_patch(old, bytes(bent)) == new
        except BundleError:
            continue
    for length in range(len(patch)):
        with pytest.raises(BundleError):
            apply_patch(old, patch[:length])
    for more in (patch + b"\0", patch + patch):
        with pytest.raises(BundleError):
            apply_patch(old, more)


def bent(patch, frame=None, **fields):
    names = ["magic", "kind", "old", "new", *CAPS]
    values = dict(zip(names, HEADER.unpack_from(patch), strict=True)) | fields
    return HEADER.pack(*values.values()) + (patch[HEADER.size :] if frame is None else frame)


def test_sizes_are_capped_before_anything_is_decompressed(old, patch, monkeypatch):
    monkeypatch.setattr(delta.zstandard, "ZstdDecompressor", None)
    for name, cap in CAPS.items():
        with pytest.raises(BundleError, match=f"more than {cap}"):
            apply_patch(old, bent(patch, **{name: cap + 1}))
    bomb = zstandard.compress(bytes(40_000_000))
    with pytest.raises(BundleError, match="holds 40000000 bytes"):
        apply_patch(old, bent(patch, bomb))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1_000_000))
    with pytest.raises(BundleError, match="instead of"):
        apply_patch(old, bent(patch, unsized))
    with pytest.raises(BundleError, match="bytes, not"):
        apply_patch(old, patch + bytes(delta.MOST_PATCH))


def test_a_frame_that_lies_about_its_length_costs_no_more_than_it_claims(old, patch):
    """The claim is put into the frame of a bomb by hand: the decoder must stop there."""
    frame = bytearray(zstandard.compress(bytes(30_000_000), 1))
    assert frame[4] >> 6 == 2  # a content size of four bytes
    place = 5 if frame[4] & 0x20 else 6
    claimed = sum(HEADER.unpack_from(patch)[4:])
    struct.pack_into("<L", frame, place, claimed)
    with pytest.raises(BundleError):
        apply_patch(old, bent(patch, bytes(frame)))


def test_a_patch_that_makes_another_bundle_than_it_names_is_refused(old, patch):
    with pytest.raises(DigestError, match="does not make"):
        apply_patch(old, bent(patch, new=bytes(32)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_a_stranger_sends_only_our_own_errors_come_out(data):
    old = bundle_of(b"old" * 20)
    patch = make_patch(old, bundle_of(b"new" * 20))
    kind = data.draw(st.sampled_from(["bytes", "frame", "fields", "splice"]))
    if kind == "bytes":
        hostile = data.draw(st.binary(max_size=300))
    elif kind == "frame":
        hostile = bent(patch, b"\x28\xb5\x2f\xfd" + data.draw(st.binary(max_size=100)))
    elif kind == "fields":
        lengths = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(CAPS), max_size=len(CAPS)))
        hostile = bent(patch, kind=data.draw(st.integers(0, 255)), **dict(zip(CAPS, lengths, strict=True)))
    else:
        at, out = data.draw(st.tuples(st.integers(0, len(patch)), st.integers(0, 20)))
        hostile = patch[:at] + data.draw(st.binary(max_size=20)) + patch[at + out :]
    try:
        made = apply_patch(old, hostile)
    except BundleError:
        return
    assert made == bundle_of(b"new" * 20)


def test_the_same_patch_is_made_in_another_process(old, codes, patch):
    program = """
        import hashlib, sys
        import numpy as np
        from sottovoce.models.bundle import CAPS, pack
        from sottovoce.models.delta import make_patch
        def bundle(model, text):
            return pack(dict.fromkeys(CAPS, text) | {"model.onnx": model, "model.tflite": b"head" + model})
        codes = np.random.default_rng(0).integers(0, 256, 60_000, np.uint8)
        moved = codes + np.random.default_rng(1).integers(-1, 2, codes.size).astype(np.uint8)
        sys.stdout.buffer.write(make_patch(bundle(codes.tobytes(), b"{}"), bundle(moved.tobytes(), b'{"version":2}')))
    """
    made = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=True)
    assert made.stdout == patch
