"""What an attacker, an accident or an old file can do to a bundle, and that a device refuses all of it."""

import contextlib
import functools
import hashlib
import io
import itertools
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace
from datetime import timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models import dsse, signing, trust
from sottovoce.models.bundle import CAPS, pack, unpack
from sottovoce.models.manifest import File, Runtimes, load_manifest
from sottovoce.models.signing import generate_key, sign
from sottovoce.models.trust import CLOCK_SKEW, Trust, check_golden
from sottovoce.privacy.errors import (
    BundleError,
    DigestError,
    ExpiredError,
    GoldenError,
    RollbackError,
    SchemaError,
    SignatureError,
    SottovoceError,
)

RUNTIMES = {"litert": "2.3.0"}


@pytest.fixture
def belief(key):
    return Trust((key.public_key(),), version=3)


def test_a_good_bundle_is_accepted_and_moves_the_version_up(publisher, belief, now):
    after, bundle = belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)
    assert (after.version, after.model_id) == (7, "line")
    assert (bundle.onnx, bundle.tflite, bundle.notice) == (b"onnx bytes", b"tflite bytes", "Apache-2.0")
    assert bundle.schema == publisher.schema
    assert bundle.passport == publisher.passport
    assert belief.version == 3  # the old belief is a value, untouched


def flips(data):
    """The data with each of its bits changed in turn, the highest byte's last bit last."""
    for bit in range(8 * len(data)):
        bent = bytearray(data)
        bent[bit // 8] ^= 1 << bit % 8
        yield bytes(bent)


def file_flips(files, names):
    """Bundles with one bit of one file changed, in a container that is made anew around it."""
    return (pack(files | {name: bent}) for name in names for bent in flips(files[name]))


def survivors(belief, now, variants):
    """How many variants there are, and those that the device accepts."""
    count, accepted = 0, []
    for data in variants:
        count += 1
        with contextlib.suppress(BundleError):
            belief.accept(data, now=now, runtimes=RUNTIMES)
            accepted.append(data)
    return count, accepted


@pytest.fixture
def quick_signatures(key, monkeypatch):
    """Each pair of signature and message is judged once: a flip in a file that is not the signature changes neither."""
    judged = functools.cache(functools.partial(dsse.holds, key.public_key()))
    monkeypatch.setattr(signing, "holds", lambda _, signature, message: judged(signature, message))


def test_every_bit_of_every_file_is_guarded(publisher, belief, now, quick_signatures):
    """The container is made anew around each flip, so that only the trust rules stand in the way."""
    files = publisher.signed()
    count, accepted = survivors(belief, now, file_flips(files, files))
    assert accepted == []
    assert count == 8 * sum(map(len, files.values())) > 30_000


def test_every_bit_of_the_container_is_guarded(publisher, belief, now):
    whole = publisher.bundle()
    assert survivors(belief, now, flips(whole)) == (8 * len(whole), [])


def test_every_truncation_and_every_added_byte_is_refused(publisher, belief, now):
    whole = publisher.bundle()
    assert survivors(belief, now, (whole[:length] for length in range(len(whole)))) == (len(whole), [])
    added = [whole + bytes([byte]) for byte in range(256)] + [bytes([byte]) + whole for byte in range(256)]
    assert survivors(belief, now, [*added, whole + whole]) == (513, [])


def test_the_flips_find_a_device_that_believes_any_digest(publisher, belief, now, monkeypatch):
    """Every single bit of both models and of the licence gets through, so the loop above does reach every one."""
    monkeypatch.setattr(signing, "_compare", lambda *_: None)
    monkeypatch.setattr(trust, "_check_digests", lambda *_: None)
    files = publisher.signed()
    for name in ("model.onnx", "model.tflite"):
        count, accepted = survivors(belief, now, file_flips(files, [name]))
        assert len(accepted) == count == 8 * len(files[name])


def test_the_flips_find_a_device_that_checks_no_signature(publisher, belief, now, monkeypatch):
    monkeypatch.setattr(trust, "verify", lambda *_: 8)
    files = publisher.signed()
    assert len(survivors(belief, now, file_flips(files, ["manifest.json"]))[1]) > 50


def test_the_flips_and_added_bytes_find_a_device_with_an_ordinary_zip_reader(publisher, belief, now, monkeypatch):
    def read(data):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return {name: archive.read(name) for name in CAPS}
        except Exception as error:
            raise BundleError("no zip") from error

    monkeypatch.setattr(trust, "unpack", read)
    whole = publisher.bundle()
    assert len(survivors(belief, now, itertools.islice(flips(whole), 8 * 30))[1]) > 50  # of the first local header
    assert len(survivors(belief, now, [b"#!" + whole, whole + b"\0"])[1]) > 0


def test_a_bundle_is_accepted_once(publisher, belief, now):
    data = publisher.bundle()
    after, _ = belief.accept(data, now=now, runtimes=RUNTIMES)
    with pytest.raises(RollbackError):
        after.accept(data, now=now, runtimes=RUNTIMES)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_or_equal_version_is_a_rollback(publisher, belief, now, version):
    publisher.version = version
    with pytest.raises(RollbackError):
        belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)


def test_a_bundle_of_another_line_is_refused(publisher, belief, now):
    publisher.model_id = "other"
    with pytest.raises(BundleError, match="line"):
        replace(belief, model_id="line").accept(publisher.bundle(), now=now, runtimes=RUNTIMES)


def test_a_bundle_expires_at_its_moment_and_not_before(publisher, belief, now):
    data = publisher.bundle()
    belief.accept(data, now=publisher.expires - timedelta(microseconds=1), runtimes=RUNTIMES)
    with pytest.raises(ExpiredError):
        belief.accept(data, now=publisher.expires, runtimes=RUNTIMES)


def test_a_bundle_from_the_future_is_refused_beyond_the_skew_of_clocks(publisher, belief, now):
    data = publisher.bundle()
    belief.accept(data, now=now - CLOCK_SKEW, runtimes=RUNTIMES)
    with pytest.raises(BundleError, match="future"):
        belief.accept(data, now=now - CLOCK_SKEW - timedelta(seconds=1), runtimes=RUNTIMES)


@pytest.mark.parametrize(
    ("signers", "trusted", "threshold", "accepted"),
    [
        ("a", "a", 1, True),
        ("a", "b", 1, False),
        ("a", "ab", 1, True),
        ("b", "ab", 1, True),
        ("a", "ab", 2, False),
        ("ab", "ab", 2, True),
        ("ba", "ab", 2, True),
        ("aa", "ab", 2, False),  # the same key signing twice
        ("a", "aa", 2, False),  # the same key trusted twice
        ("aa", "aa", 2, False),
        ("ac", "ab", 2, False),
        ("cab", "ab", 2, True),  # an unknown signer beside two trusted ones, as during a key rotation
        ("c", "ab", 1, False),
        ("abc", "abc", 3, True),
        ("ab", "abc", 3, False),
    ],
)
def test_enough_different_trusted_keys_must_sign(publisher, now, signers, trusted, threshold, accepted):
    keys = {name: generate_key() for name in "abc"}
    publisher.keys = [keys[name] for name in signers]
    belief = Trust(tuple(keys[name].public_key() for name in trusted), threshold)
    if accepted:
        belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)
    else:
        with pytest.raises(SignatureError):
            belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)


@pytest.mark.parametrize(
    ("signers", "asked", "threshold", "accepted"),
    [
        ("a", 1, 1, True),
        ("a", 2, 1, False),
        ("ab", 2, 1, True),
        ("ab", 1, 2, True),
        ("a", 1, 2, False),  # the manifest asks for less than the device: the device's own threshold stands
        ("aa", 2, 1, False),
        ("ac", 2, 1, False),  # signed by two, of whom one is trusted
        ("abc", 3, 2, False),
        ("abc", 2, 2, True),
        ("ab", 8, 2, False),
    ],
)
def test_the_manifest_can_ask_for_more_signatures_and_never_for_fewer(
    publisher, now, signers, asked, threshold, accepted
):
    keys = {name: generate_key() for name in "abc"}
    publisher.keys, publisher.key_threshold = [keys[name] for name in signers], asked
    belief = Trust((keys["a"].public_key(), keys["b"].public_key()), threshold)
    if accepted:
        belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)
    else:
        with pytest.raises(SignatureError):
            belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)


def test_parts_of_two_good_bundles_do_not_mix(publisher, belief, now):
    first = publisher.signed()
    publisher.version, publisher.files = 8, publisher.files | {"model.onnx": b"next onnx", "LICENSE.txt": b"MIT"}
    second = publisher.signed()
    for name in CAPS:
        if first[name] != second[name]:
            with pytest.raises((DigestError, SignatureError)):
                belief.accept(pack(first | {name: second[name]}), now=now, runtimes=RUNTIMES)


def test_a_signer_cannot_swap_a_file_behind_the_manifest(publisher, belief, now):
    manifest = publisher.manifest().canonical()
    publisher.files["model.tflite"] = b"tflite other"
    with pytest.raises(DigestError, match="tflite"):
        belief.accept(publisher.bundle(manifest), now=now, runtimes=RUNTIMES)


def test_a_manifest_that_lists_other_files_is_refused(publisher, belief, now):
    plain = publisher.manifest()
    fewer = {name: file for name, file in plain.files.items() if name != "LICENSE.txt"}
    more = dict(plain.files) | {"../evil": plain.files["LICENSE.txt"]}
    for files in (fewer, more):
        with pytest.raises(DigestError):
            belief.accept(
                publisher.bundle(msgspec.structs.replace(plain, files=files).canonical()), now=now, runtimes=RUNTIMES
            )


def test_a_manifest_that_names_another_passport_is_refused(publisher, belief, now):
    manifest = msgspec.structs.replace(publisher.manifest(), passport_digest="0" * 64)
    with pytest.raises(DigestError, match="passport"):
        belief.accept(publisher.bundle(manifest.canonical()), now=now, runtimes=RUNTIMES)


def test_a_manifest_in_another_spelling_is_refused(publisher, belief, now):
    spaced = msgspec.json.format(publisher.manifest().canonical())
    with pytest.raises(BundleError, match="canonical"):
        belief.accept(publisher.bundle(spaced), now=now, runtimes=RUNTIMES)


def test_a_schema_that_is_not_the_one_named_is_refused(publisher, belief, now):
    publisher.schema_digest = "0" * 64
    with pytest.raises(SchemaError):
        belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)


def test_a_schema_that_this_code_cannot_encode_is_refused(publisher, belief, now):
    publisher.files["schema.json"] = b'{"features":[],"future":1}'
    with pytest.raises(SchemaError):
        belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)


def test_a_schema_that_the_app_cannot_fill_is_refused(publisher, belief, now):
    data = publisher.bundle()
    belief.accept(data, now=now, runtimes=RUNTIMES, schemas={publisher.schema.digest()})
    with pytest.raises(SchemaError, match="app"):
        belief.accept(data, now=now, runtimes=RUNTIMES, schemas={"0" * 64})


def test_heads_must_be_those_of_the_schema(publisher, belief, now):
    publisher.heads = ("click",)
    with pytest.raises(SchemaError, match="heads"):
        belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)


@pytest.mark.parametrize(
    ("have", "accepted"),
    [("2.3.0", True), ("2.3", True), ("2.10.0", True), ("2.3.0.dev1", True), ("2.2.9", False), ("1.9", False)],
)
def test_a_runtime_that_is_too_old_is_refused(publisher, belief, now, have, accepted):
    publisher.min_runtime = Runtimes(litert="2.3.0", onnxruntime="9.0")
    if accepted:
        belief.accept(publisher.bundle(), now=now, runtimes={"litert": have})
    else:
        with pytest.raises(BundleError, match="older"):
            belief.accept(publisher.bundle(), now=now, runtimes={"litert": have})
    with pytest.raises(BundleError, match="onnxruntime"):
        belief.accept(publisher.bundle(), now=now, runtimes={"litert": "3.0", "onnxruntime": "1.32.0"})


@pytest.mark.parametrize(
    "golden",
    [b"[]", b"{}", b"[{}]", b"\xff"],
)
def test_malformed_golden_requests_are_refused(publisher, belief, now, golden):
    publisher.files["golden.json"] = golden
    with pytest.raises(BundleError, match="golden"):
        belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)


def test_nothing_is_read_before_the_signature_holds(publisher, now, monkeypatch):
    """A stranger's bundle reaches neither the manifest's parser nor any other."""
    data = publisher.bundle()
    for name in ("load_manifest", "load_schema", "load_passport", "load_golden"):
        monkeypatch.setattr(trust, name, lambda *_: pytest.fail("parsed before the signature held"))
    monkeypatch.setattr(signing, "_Statement", None)
    with pytest.raises(SignatureError):
        Trust((generate_key().public_key(),)).accept(data, now=now, runtimes=RUNTIMES)


def test_a_wrong_call_is_the_programmers_mistake(publisher, belief, key, now):
    with pytest.raises(ValueError, match="zone"):
        belief.accept(publisher.bundle(), now=now.replace(tzinfo=None), runtimes=RUNTIMES)
    for runtimes in ({}, {"tensorrt": "1.0"}, {"litert": "new"}):
        with pytest.raises(ValueError, match=r"runtimes|version"):
            belief.accept(publisher.bundle(), now=now, runtimes=runtimes)
    for bad in ({"keys": ()}, {"threshold": 0}, {"version": -1}):
        with pytest.raises(ValueError, match="needs"):
            Trust(**({"keys": (key.public_key(),)} | bad))


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(set(CAPS) - {"model.sig"})), content=st.binary(max_size=200))
def test_a_signer_who_writes_nonsense_only_causes_reported_errors(good_files, key, now, name, content):
    files = {other: data for other, data in good_files.items() if other != "model.sig"} | {name: content}
    if name != "manifest.json":  # so that the nonsense reaches its own parser and not only the digest check
        manifest = load_manifest(files["manifest.json"])
        entry = File(sha256=hashlib.sha256(content).hexdigest(), length=len(content))
        named = {"passport_digest": entry.sha256} if name == "passport.json" else {}
        claims = msgspec.structs.replace(manifest, files=dict(manifest.files) | {name: entry}, **named)
        files["manifest.json"] = claims.canonical()
    files["model.sig"] = sign(files, [key], "line")
    with contextlib.suppress(SottovoceError):  # opaque files may hold anything once their digests are right
        Trust((key.public_key(),)).accept(pack(files), now=now, runtimes=RUNTIMES)


def test_golden_requests_pass_on_the_model_that_made_them_and_on_no_other(publisher, belief, now, scorer):
    _, bundle = belief.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)
    check_golden(bundle, scorer)
    check_golden(bundle, lambda request: scorer(request) + np.float32(5e-6))
    for wrong in (
        lambda request: scorer(request) + np.float32(3e-5),
        lambda request: scorer(request) * np.nan,
        lambda request: scorer(request)[:, :1],
        lambda request: np.zeros((0, 2), np.float32),
    ):
        with pytest.raises(GoldenError):
            check_golden(bundle, wrong)


def test_a_device_needs_no_training_library_to_trust():
    program = """
        import sys
        for name in ("torch", "flwr", "opacus", "jax", "onnx", "litert_torch", "dp_accounting", "pyarrow"):
            sys.modules[name] = None
        import sottovoce.models.bundle, sottovoce.models.trust, sottovoce.models.signing, sottovoce.models.golden
        import sottovoce.models.manifest, sottovoce.models.passport, sottovoce.models.request, sottovoce.models.atomic
        import sottovoce.models.rollout, sottovoce.models.key_rotation
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_unpack_hands_out_exactly_what_was_signed(publisher):
    files = publisher.signed()
    assert dict(unpack(pack(files))) == files
