"""Named attacks on a bundle: each refused under its own name, before a model parser runs, with the belief unchanged.

Every attack starts from one good bundle, signed by two of three trusted keys where two are needed, and changes one
thing in it. The signer is honest in the attacks on the container and the envelope; in those on the manifest it is the
signer who errs or lies.
"""

import base64
import json
import struct
import zlib
from dataclasses import replace
from datetime import timedelta

import msgspec
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

from sottovoce.client.scorer import LiteRTScorer, OnnxScorer
from sottovoce.models import bundle as bundle_module
from sottovoce.models import trust as trust_module
from sottovoce.models.bundle import CAPS, MOST_BYTES, pack
from sottovoce.models.key_set import KeySet, sign_key_set
from sottovoce.models.manifest import Runtimes
from sottovoce.models.signing import generate_key, public_pem
from sottovoce.models.trust import CLOCK_SKEW, Trust
from sottovoce.privacy.errors import (
    BundleError,
    DigestError,
    ExpiredError,
    RollbackError,
    SchemaError,
    SignatureError,
)

FIRST, SECOND, THIRD, STRANGER = (generate_key() for _ in range(4))
RUNTIMES = {"litert": "2.3.0", "onnxruntime": "1.20.0"}


def loose_zip(files, *, flags=0, method=0, made_by=20, mode=0, extra=b"", gap=b"", comment=b"", claims=None, date=33):
    """A zip writer with every freedom that `pack` lacks; without any it writes the same bytes.

    Args:
        files: pairs of name and content, in any order and number.
        mode: Unix mode of `model.onnx`.
        extra: extra field of each local header.
        gap: bytes between the entries and the directory.
        claims: length that `model.onnx` claims to have.
    """
    local, central = b"", b""
    for name, data in files:
        body = data if method == 0 else zlib.compress(data, 9, -15)
        size, long = len(body), len(data)
        if claims is not None and name == "model.onnx":
            size = long = claims
        facts = (20, flags, method, 0, date, zlib.crc32(data), size, long, len(name.encode()), len(extra))
        attributes = mode << 16 if name == "model.onnx" else 0
        plain = (*facts[:-1], 0)
        central += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", made_by, *plain, 0, 0, 0, attributes, len(local))
        central += name.encode()
        local += struct.pack("<4s5H3L2H", b"PK\x03\x04", *facts) + name.encode() + extra + body
    count = len(files)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(central), len(local + gap), len(comment))
    return local + gap + central + end + comment


def zipped(change=lambda files: files, **freedoms):
    """An attack on the container: other entries, or a freedom of zip."""
    return lambda p: loose_zip(change(sorted(p.signed().items())), **freedoms)


def renamed(old, new):
    return zipped(lambda files: [(new if name == old else name, data) for name, data in files])


def flipped(name):
    """One bit of one file, in a container that is made anew around it."""

    def attack(p):
        files = p.signed()
        data = bytearray(files[name])
        data[len(data) // 2] ^= 1
        return pack(files | {name: bytes(data)})

    return attack


def mixed(*names):
    """These files from the release before, the others from this one."""

    def attack(p):
        p.version, p.files = 6, p.files | {"model.onnx": b"old onnx", "model.tflite": b"old tflite"}
        p.files["passport.json"] = msgspec.structs.replace(p.passport, rounds=100).canonical()
        old = p.signed()
        p.version, p.files = 7, p.files | {"model.onnx": b"new onnx", "model.tflite": b"new tflite"}
        p.files["passport.json"] = p.passport.canonical()
        return pack(p.signed() | {name: old[name] for name in names})

    return attack


def swapped(p):
    files = p.signed()
    return pack(files | {"model.onnx": files["model.tflite"], "model.tflite": files["model.onnx"]})


def bent(**fields):
    """A publisher that was bent, and signs what comes of it."""

    def attack(p):
        for name, value in fields.items():
            setattr(p, name, value)
        return p.bundle()

    return attack


def content(**files):
    """Other contents, rightly listed and signed; the names' dots are written as underscores."""

    def attack(p):
        p.files |= {name.replace("_", "."): data for name, data in files.items()}
        return p.bundle()

    return attack


def claims(change):
    """A signed manifest with other claims than the files bear out."""
    return lambda p: p.bundle(change(p.manifest()).canonical())


def listed(change):
    return claims(lambda m: msgspec.structs.replace(m, files=change(dict(m.files))))


def spelled(old, new):
    """A signed manifest with other text; what is replaced must be there."""

    def attack(p):
        text = p.manifest().canonical()
        if old not in text:
            raise ValueError(f"{old!r} is not in the manifest")
        return p.bundle(text.replace(old, new, 1))

    return attack


def envelope(change):
    """The signature file with one thing changed."""

    def attack(p):
        files = p.signed()
        outer = json.loads(files["model.sig"])
        change(outer)
        return pack(files | {"model.sig": json.dumps(outer).encode()})

    return attack


def signatures(change):
    return envelope(lambda o: o["dsseEnvelope"].update(signatures=change(o["dsseEnvelope"]["signatures"])))


def first_text(change):
    """The base64 of the first signature, spelled differently."""
    return signatures(lambda both: [{"sig": change(both[0]["sig"]), "keyid": ""}, both[1]])


def loosened(text):
    """Base64 with a spare bit set: the same bytes to a careless reader."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bare = text.rstrip("=")
    if bare == text:
        return text + "===="  # no spare bits in this one
    return bare[:-1] + letters[letters.index(bare[-1]) ^ 1] + "=" * (len(text) - len(bare))


def signature_of_a_key_set(p):
    pem = public_pem(FIRST.public_key()).decode()
    made = sign_key_set(
        KeySet(model_id="line", version=2, threshold=1, keys=(pem,), expires=p.expires), [FIRST, SECOND]
    )
    return pack(p.signed() | {"model.sig": made})


def payload_of_a_key_set(p):
    """The envelope of a bundle around what both keys really signed, as something else."""
    files, other = p.signed(), json.loads(signature_file(signature_of_a_key_set(p)))
    outer = json.loads(files["model.sig"])
    inner = [{"sig": entry["sig"], "keyid": ""} for entry in other["signatures"]]
    outer["dsseEnvelope"].update(payload=other["payload"], signatures=inner)
    return pack(files | {"model.sig": json.dumps(outer).encode()})


def signature_file(data):
    return bundle_module.unpack(data)["model.sig"]


def one_signer_cut_off(p):
    """Three trusted keys signed and had to; a device that alone would be content with two misses the third."""
    p.keys, p.key_threshold = [FIRST, SECOND, THIRD], 3
    return signatures(lambda all_three: all_three[:2])(p)


def another_schema(p):
    p.schema = msgspec.structs.replace(p.schema, history_length=5)
    p.files["schema.json"], p.schema_digest = p.schema.canonical(), p.schema.digest()
    return p.bundle()


CONTAINER = {
    "a file is missing": (zipped(lambda files: files[1:]), BundleError),
    "a file is added at the end": (zipped(lambda files: [*files, ("zz.txt", b"x")]), BundleError),
    "a file is added at the start": (zipped(lambda files: [("AA.txt", b"x"), *files]), BundleError),
    "a file has another name": (renamed("model.onnx", "model.ONNX"), BundleError),
    "a name is there twice": (zipped(lambda files: [*files, ("model.onnx", b"second")]), BundleError),
    "a name is there twice, side by side": (zipped(lambda files: [*files[:4], files[3], *files[4:]]), BundleError),
    "the files are in another order": (zipped(lambda files: files[::-1]), BundleError),
    "a name climbs out of its folder": (renamed("model.onnx", "../model.onnx"), BundleError),
    "a name of the same length climbs out": (renamed("model.onnx", "../../onnx"), BundleError),
    "a name is absolute": (renamed("model.onnx", "/etc/passwd"), BundleError),
    "a name starts with a drive": (renamed("model.onnx", "C:\\el.onnx"), BundleError),
    "a name ends with a null byte": (renamed("model.onnx", "model.onn\0"), BundleError),
    "a name is a folder": (zipped(lambda files: [*files, ("model.onnx/", b"")]), BundleError),
    "a name is in capitals beside the real one": (zipped(lambda files: [*files, ("MODEL.ONNX", b"x")]), BundleError),
    "a file is a symbolic link": (zipped(mode=0o120777, made_by=0x0314), BundleError),
    "a file may be executed": (zipped(mode=0o100755, made_by=0x0314), BundleError),
    "the link's bits are set without Unix": (zipped(mode=0o120777), BundleError),
    "the entries are compressed": (zipped(method=8), BundleError),
    "a compressed entry grows a thousandfold": (
        zipped(lambda files: [(n, b"\0" * 4_000_000 if n == "model.onnx" else d) for n, d in files], method=8),
        BundleError,
    ),
    "the entries are marked as encrypted": (zipped(flags=1), BundleError),
    "the lengths are put off until after the data": (zipped(flags=8), BundleError),
    "the names are marked as UTF-8": (zipped(flags=0x800), BundleError),
    "a length claims nothing": (zipped(claims=0), BundleError),
    "a length is one too many": (zipped(claims=len(b"onnx bytes") + 1), BundleError),
    "a length claims two gigabytes": (zipped(claims=2**31 - 1), BundleError),
    "a length points to zip64": (zipped(claims=2**32 - 1), BundleError),
    "the date is another": (zipped(date=34), BundleError),
    "a local header has an extra field": (zipped(extra=b"\x99\x99\x00\x00"), BundleError),
    "bytes hide before the directory": (zipped(gap=b"#!/bin/sh\n"), BundleError),
    "a second zip hides before the directory": (zipped(gap=loose_zip([("model.onnx", b"x")])), BundleError),
    "there is a comment": (zipped(comment=b"harmless"), BundleError),
    "a byte follows": (lambda p: p.bundle() + b"\0", BundleError),
    "a second bundle follows": (lambda p: p.bundle() * 2, BundleError),
    "a script precedes": (lambda p: b"#!/bin/sh\n" + p.bundle(), BundleError),
    "the last byte is missing": (lambda p: p.bundle()[:-1], BundleError),
    "the file is empty": (lambda p: b"", BundleError),
    "the file is only the end of a zip": (zipped(lambda files: []), BundleError),
    "the file is larger than any bundle": (lambda p: bytes(MOST_BYTES + 1), BundleError),
    "a bit flips on the way and the checksum stays": (
        lambda p: p.bundle().replace(b"onnx bytes", b"onnx byteS"),
        BundleError,
    ),
    "the manifest is a byte above its cap": (
        zipped(lambda files: [(n, d.ljust(CAPS[n] + 1) if n == "manifest.json" else d) for n, d in files]),
        BundleError,
    ),
}

SIGNATURE = {
    "a stranger signs": (bent(keys=[STRANGER]), SignatureError),
    "one key too few signs": (bent(keys=[FIRST]), SignatureError),
    "one key signs twice": (bent(keys=[FIRST, FIRST]), SignatureError),
    "a stranger signs as the second": (bent(keys=[FIRST, STRANGER]), SignatureError),
    "one signature is listed twice": (signatures(lambda both: [both[0], both[0]]), SignatureError),
    "a signature is cut off": (signatures(lambda both: both[:1]), SignatureError),
    "all signatures are cut off": (signatures(lambda _: []), SignatureError),
    "nine signatures are listed": (signatures(lambda both: both[:1] * 9), SignatureError),
    "two of three keys that had to sign are trusted here": (
        bent(keys=[FIRST, SECOND, STRANGER], key_threshold=3),
        SignatureError,
    ),
    "one of three signatures that had to be there is cut off": (one_signer_cut_off, SignatureError),
    "the hint names another trusted key": (signatures(lambda both: both[::-1]), SignatureError),
    "the hint names nobody": (
        envelope(lambda o: o["verificationMaterial"]["publicKey"].update(hint="0" * 64)),
        SignatureError,
    ),
    "the signature is of an earlier release": (mixed("model.sig"), DigestError),
    "the signature is of a key set": (signature_of_a_key_set, SignatureError),
    "the signed statement is a key set": (payload_of_a_key_set, SignatureError),
    "the statement is exchanged under the signatures": (
        envelope(lambda o: o["dsseEnvelope"].update(payload=base64.b64encode(b"{}").decode())),
        SignatureError,
    ),
    "the statement is declared to be of another type": (
        envelope(lambda o: o["dsseEnvelope"].update(payloadType="text/plain")),
        SignatureError,
    ),
    "the envelope has an unknown field": (envelope(lambda o: o.update(extra=1)), SignatureError),
    "the envelope names a transparency log": (
        envelope(lambda o: o["verificationMaterial"].update(tlogEntries=["x"])),
        SignatureError,
    ),
    "a signature carries a key id": (
        signatures(lambda both: [both[0] | {"keyid": "first"}, both[1]]),
        SignatureError,
    ),
    "the base64 has a line break": (first_text(lambda text: text + "\n"), SignatureError),
    "the base64 has spare bits set": (first_text(loosened), SignatureError),
    "the base64 has padding too much": (first_text(lambda text: text + "="), SignatureError),
    "the base64 has a space inside": (first_text(lambda text: text[:8] + " " + text[8:]), SignatureError),
    "the base64 uses the alphabet of addresses": (first_text(lambda text: "_" + text[1:]), SignatureError),
    "the base64 is not ASCII": (first_text(lambda text: "\u0391" + text[1:]), SignatureError),
    "the envelope is nested deeply": (lambda p: pack(p.signed() | {"model.sig": b"[" * 60_000}), SignatureError),
    "the envelope is empty": (lambda p: pack(p.signed() | {"model.sig": b""}), SignatureError),
}

MIXED = {
    f"one bit of {name} is changed": (flipped(name), DigestError) for name in sorted(set(CAPS) - {"model.sig"})
} | {
    "one bit of model.sig is changed": (flipped("model.sig"), SignatureError),
    "the two models change places": (swapped, DigestError),
    "one model is of an earlier release": (mixed("model.onnx"), DigestError),
    "both models are of an earlier release": (mixed("model.onnx", "model.tflite"), DigestError),
    "the passport is of an earlier release": (mixed("passport.json"), DigestError),
    "the manifest is of an earlier release": (mixed("manifest.json"), DigestError),
    "everything but the manifest is of an earlier release": (
        mixed("model.onnx", "model.tflite", "passport.json", "model.sig"),
        DigestError,
    ),
}

MANIFEST = {
    "the release in use is replayed": (bent(version=3), RollbackError),
    "an older release is replayed": (bent(version=2), RollbackError),
    "the first release is replayed": (bent(version=1), RollbackError),
    "the version is zero": (spelled(b'"version":7', b'"version":0'), BundleError),
    "the version is below zero": (spelled(b'"version":7', b'"version":-7'), BundleError),
    "the version is beyond what JSON readers keep": (
        spelled(b'"version":7', b'"version":9007199254740993'),
        BundleError,
    ),
    "the version has fifty thousand digits": (spelled(b'"version":7', b'"version":' + b"7" * 50_000), BundleError),
    "the version is a fraction": (spelled(b'"version":7', b'"version":7.0'), BundleError),
    "the version is text": (spelled(b'"version":7', b'"version":"7"'), BundleError),
    "the version is there twice": (spelled(b'"version":7', b'"version":2,"version":7'), BundleError),
    "the parent comes after the child": (spelled(b'"parent_version":null', b'"parent_version":7'), BundleError),
    "it expired a year ago": (
        lambda p: bent(created=p.created - timedelta(days=400), expires=p.created - timedelta(days=365))(p),
        ExpiredError,
    ),
    "it expires at this moment": (
        lambda p: bent(created=p.created - timedelta(days=9), expires=p.created)(p),
        ExpiredError,
    ),
    "it was made in the future": (
        lambda p: bent(created=p.created + CLOCK_SKEW + timedelta(seconds=1))(p),
        BundleError,
    ),
    "it expires before it was made": (spelled(b'"expires":"2026', b'"expires":"2016'), BundleError),
    "its times are local": (spelled(b"12:00:00Z", b"13:00:00+01:00"), BundleError),
    "its times have no zone": (spelled(b"12:00:00Z", b"12:00:00"), BundleError),
    "it is of another line": (bent(model_id="other"), BundleError),
    "it is of a line that looks alike": (bent(model_id="l\u0456ne"), BundleError),
    "it is of a line without a name": (spelled(b'"model_id":"line"', b'"model_id":""'), BundleError),
    "its schema is not the one it names": (bent(schema_digest="0" * 64), SchemaError),
    "its schema is one that the app cannot fill": (another_schema, SchemaError),
    "its schema has another spelling": (
        lambda p: content(schema_json=msgspec.json.format(p.schema.canonical()))(p),
        SchemaError,
    ),
    "its schema is of a later format": (content(schema_json=b'{"features":[],"future":1}'), SchemaError),
    "its schema is nested deeply": (content(schema_json=b"[" * 60_000), SchemaError),
    "its heads are not those of the schema": (bent(heads=("click",)), SchemaError),
    "its heads are in another order": (bent(heads=("conversion", "click")), SchemaError),
    "it needs a later LiteRT": (bent(min_runtime=Runtimes(litert="2.3.1", onnxruntime="1.15.0")), BundleError),
    "it needs a later ONNX Runtime": (bent(min_runtime=Runtimes(litert="1.2.0", onnxruntime="1.100")), BundleError),
    "its runtime is no number": (spelled(b'"litert":"1.2.0"', b'"litert":"any"'), BundleError),
    "it lists a file that is not there": (listed(lambda f: f | {"../evil": f["LICENSE.txt"]}), DigestError),
    "it leaves out a file that is there": (
        listed(lambda f: {n: c for n, c in f.items() if n != "model.onnx"}),
        DigestError,
    ),
    "it lists no files": (listed(lambda _: {}), DigestError),
    "it lies about a length": (
        listed(lambda f: f | {"model.onnx": msgspec.structs.replace(f["model.onnx"], length=11)}),
        DigestError,
    ),
    "it lies about a digest": (
        listed(lambda f: f | {"model.onnx": msgspec.structs.replace(f["model.onnx"], sha256="0" * 64)}),
        DigestError,
    ),
    "it gives each model the digest of the other": (
        listed(lambda f: f | {"model.onnx": f["model.tflite"], "model.tflite": f["model.onnx"]}),
        DigestError,
    ),
    "it writes a digest one digit too long": (spelled(b'"sha256":"', b'"sha256":"a'), BundleError),
    "it names another passport": (
        claims(lambda m: msgspec.structs.replace(m, passport_digest="0" * 64)),
        DigestError,
    ),
    "it asks for no key": (spelled(b'"key_threshold":1', b'"key_threshold":0'), BundleError),
    "it asks for nine keys": (spelled(b'"key_threshold":1', b'"key_threshold":9'), BundleError),
    "it does not say how many keys": (spelled(b'"key_threshold":1,', b""), BundleError),
    "it is rolled out to more than all": (spelled(b'"percent":100.0', b'"percent":100.5'), BundleError),
    "it is rolled out to fewer than none": (spelled(b'"percent":100.0', b'"percent":-1.0'), BundleError),
    "its rollout has no salt": (spelled(b'"salt":"line 7"', b'"salt":""'), BundleError),
    "its rollout is missing": (spelled(b'"rollout":{"percent":100.0,"salt":"line 7"},', b""), BundleError),
    "it has an unknown field": (spelled(b'"version":7', b'"version":7,"zone":1'), BundleError),
    "it has spaces": (spelled(b'"version":7', b'"version": 7'), BundleError),
    "it ends with a line break": (lambda p: p.bundle(p.manifest().canonical() + b"\n"), BundleError),
    "it starts with a byte order mark": (lambda p: p.bundle(b"\xef\xbb\xbf" + p.manifest().canonical()), BundleError),
    "its keys are in another order": (
        lambda p: p.bundle(msgspec.json.encode(dict(reversed(json.loads(p.manifest().canonical()).items())))),
        BundleError,
    ),
    "it escapes a letter": (spelled(b'"line"', b'"l\\u0069ne"'), BundleError),
    "it is not UTF-8": (spelled(b'"line"', b'"l\xffne"'), BundleError),
    "it is nested deeply": (lambda p: p.bundle(b'{"files":' * 6_000), BundleError),
    "it is a list": (lambda p: p.bundle(b"[]"), BundleError),
    "it is empty": (lambda p: p.bundle(b""), BundleError),
    "its passport is no passport": (content(passport_json=b"{}"), BundleError),
    "its passport promises more than its noise": (
        lambda p: content(passport_json=p.passport.canonical().replace(b'"secure"', b'"seeded"'))(p),
        BundleError,
    ),
    "its golden requests are none": (content(golden_json=b"[]"), BundleError),
    "its golden requests are nested deeply": (content(golden_json=b"[" * 60_000), BundleError),
    "its licence is not text": (content(LICENSE_txt=b"\xff\xfe"), BundleError),
}

ATTACKS = CONTAINER | SIGNATURE | MIXED | MANIFEST


@pytest.fixture
def pair(publisher):
    """The publisher whom the attacks start from: two keys sign."""
    publisher.keys = [FIRST, SECOND]
    return publisher


@pytest.fixture
def belief():
    return Trust(tuple(key.public_key() for key in (FIRST, SECOND, THIRD)), threshold=2, version=3, model_id="line")


@pytest.fixture
def no_model_parser(monkeypatch):
    def parsed(*_, **__):
        pytest.fail("a model parser ran")

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", parsed)
    monkeypatch.setattr(Interpreter, "__init__", parsed)


@pytest.fixture
def ask(belief, pair, now):
    """What the device says to the bytes of a bundle."""
    schemas = {pair.schema.digest()}
    return lambda data: belief.accept(data, now=now, runtimes=RUNTIMES, schemas=schemas)


@pytest.mark.parametrize(("attack", "error"), ATTACKS.values(), ids=ATTACKS)
def test_refused_when(attack, error, pair, belief, ask, now, no_model_parser):
    before, good, data = replace(belief), pair.bundle(), attack(pair)
    with pytest.raises(BundleError) as caught:
        ask(data)
    assert type(caught.value) is error
    assert belief == before
    assert ask(good)[0].version == 7


def test_there_are_more_attacks_than_the_update_framework_lists():
    assert len(ATTACKS) == sum(map(len, (CONTAINER, SIGNATURE, MIXED, MANIFEST)))  # no name is used twice
    assert len(ATTACKS) >= 36


def test_the_loose_zip_is_the_bundle_until_a_freedom_is_taken(pair, ask):
    """So that each attack on the container is refused for the one thing it changes."""
    files = pair.signed()
    assert loose_zip(sorted(files.items())) == pack(files)
    ask(zipped()(pair))


def test_the_trap_for_model_parsers_springs(no_model_parser):
    for load in (OnnxScorer, LiteRTScorer):
        with pytest.raises(pytest.fail.Exception, match="parser ran"):
            load(b"model")


def passes(*_, **__):
    return 2


@pytest.mark.parametrize(
    ("guard", "name"),
    [
        ((trust_module, "verify", passes), "a stranger signs"),
        ((trust_module, "verify", passes), "one key signs twice"),
        ((trust_module, "verify", passes), "one signature is listed twice"),
        ((trust_module, "verify", lambda *_: 8), "two of three keys that had to sign are trusted here"),
        ((trust_module, "_check_digests", passes), "it lies about a digest"),
        ((trust_module, "_check_digests", passes), "it names another passport"),
        ((Trust, "_check_version", passes), "an older release is replayed"),
        ((Trust, "_check_version", passes), "it is of another line"),
        ((trust_module, "_check_times", passes), "it expired a year ago"),
        ((trust_module, "_check_times", passes), "it was made in the future"),
        ((trust_module, "_check_runtimes", passes), "it needs a later LiteRT"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"without {value[1].strip('_')}",
)
def test_the_table_notices_when_a_guard_is_gone(guard, name, pair, ask, monkeypatch):
    monkeypatch.setattr(*guard)
    ask(ATTACKS[name][0](pair))  # accepted, so `test_refused_when` would fail
