"""Signatures: ours against ours, and against the `model_signing` tool where it is installed."""

import base64
import json
import os
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from sottovoce.models.dsse import signature_of, signed_message
from sottovoce.models.signing import (
    PAYLOAD_TYPE,
    generate_key,
    key_id,
    load_private_key,
    load_public_key,
    private_pem,
    public_pem,
    read_public_key,
    save_private_key,
    save_public_key,
    sign,
    verify,
)
from sottovoce.privacy.errors import ConfigError, DigestError, SignatureError

FILES = {"manifest.json": b"{}", "model.onnx": bytes(range(256))}


def test_a_signature_holds_for_exactly_the_files_signed(key):
    signature, keys = sign(FILES, [key], "line"), [key.public_key()]
    assert verify(signature, FILES, keys, 1) == 1
    for files in (FILES | {"model.onnx": b"other"}, FILES | {"more": b""}, {"manifest.json": b"{}"}, {}):
        with pytest.raises(DigestError):
            verify(signature, files, keys, 1)


def test_names_cannot_be_swapped_between_files(key):
    files = {"a": b"1", "b": b"2"}
    with pytest.raises(DigestError):
        verify(sign(files, [key], "line"), {"a": b"2", "b": b"1"}, [key.public_key()], 1)


def test_the_envelope_is_a_dsse_envelope_over_an_in_toto_statement(key):
    outer = json.loads(sign(FILES, [key], "line"))
    assert outer["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert outer["verificationMaterial"] == {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []}
    statement = json.loads(base64.b64decode(outer["dsseEnvelope"]["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert [entry["name"] for entry in statement["predicate"]["resources"]] == sorted(FILES)


def bent(signature, change):
    outer = json.loads(signature)
    change(outer)
    return json.dumps(outer).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o.update(extra=1),
        lambda o: o.pop("mediaType"),
        lambda o: o["verificationMaterial"]["publicKey"].update(hint="0" * 64),
        lambda o: o["verificationMaterial"].update(tlogEntries=["x"]),
        lambda o: o["dsseEnvelope"].update(payloadType="text/plain"),
        lambda o: o["dsseEnvelope"].update(signatures=[]),
        lambda o: o["dsseEnvelope"].update(signatures=o["dsseEnvelope"]["signatures"] * 9),
        lambda o: o["dsseEnvelope"]["signatures"][0].update(sig=""),
        lambda o: o["dsseEnvelope"]["signatures"][0].update(sig="*"),
        lambda o: o["dsseEnvelope"]["signatures"][0].update(sig=o["dsseEnvelope"]["signatures"][0]["sig"] + "\n"),
        lambda o: o["dsseEnvelope"].update(payload=base64.b64encode(b"{}").decode()),
        lambda o: o["dsseEnvelope"].update(payload="ü"),
    ],
)
def test_an_envelope_with_anything_changed_is_refused(key, change):
    with pytest.raises(SignatureError):
        verify(bent(sign(FILES, [key], "line"), change), FILES, [key.public_key()], 1)


@pytest.mark.parametrize(
    "statement",
    [b"", b"{}", b"[]", b"\xff", b'{"_type":"https://in-toto.io/Statement/v0.1"}', b"[" * 5000, b'{"a":' * 5000],
)
def test_a_signed_statement_of_another_kind_is_refused(key, statement):
    raw = signature_of(key, signed_message(statement, PAYLOAD_TYPE))
    outer = bent(
        sign(FILES, [key], "line"),
        lambda o: o["dsseEnvelope"].update(
            payload=base64.b64encode(statement).decode(),
            signatures=[{"sig": base64.b64encode(raw).decode(), "keyid": ""}],
        ),
    )
    with pytest.raises(SignatureError):
        verify(outer, FILES, [key.public_key()], 1)


def test_keys_come_back_from_their_files_and_only_the_owner_reads_the_private_one(tmp_path, key):
    private, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    save_private_key(key, private)
    save_public_key(key.public_key(), public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private_pem(load_private_key(private)) == private_pem(key)
    assert key_id(load_public_key(public)) == key_id(key.public_key())


def test_other_kinds_of_keys_are_refused_by_name(tmp_path, key):
    other = tmp_path / "other.pem"
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    wrong = ec.generate_private_key(ec.SECP384R1())
    for data in (
        b"",
        b"nonsense",
        public_pem(key.public_key()),
        ed25519.Ed25519PrivateKey.generate().private_bytes(*plain, serialization.NoEncryption()),
        wrong.private_bytes(*plain, serialization.NoEncryption()),
        key.private_bytes(*plain, serialization.BestAvailableEncryption(b"secret")),
    ):
        other.write_bytes(data)
        with pytest.raises(ConfigError, match=r"other\.pem"):
            load_private_key(other)
    for data in (b"", b"nonsense", private_pem(key), public_pem(wrong.public_key())):
        with pytest.raises(ConfigError):
            read_public_key(data)
    for load in (load_private_key, load_public_key):
        with pytest.raises(ConfigError, match="missing"):
            load(tmp_path / "missing.pem")


def test_a_wrong_call_is_the_programmers_mistake(key):
    for files, keys in ((FILES, []), (FILES, [key] * 9), (FILES | {"model.sig": b""}, [key])):
        with pytest.raises(ValueError, match="keys"):
            sign(files, keys, "line")
    with pytest.raises(ValueError, match="threshold"):
        verify(sign(FILES, [key], "line"), FILES, [key.public_key()], 0)


TOOL = os.environ.get("SOTTOVOCE_MODEL_SIGNING") or shutil.which("model_signing")
"""Where it is; a place that was named and holds no such tool is a failure, not a reason to skip."""


@pytest.mark.skipif(TOOL is None, reason="the model_signing tool is not installed; make model-signing does that")
def test_the_model_signing_tool_and_we_accept_each_other(tmp_path, key):
    folder, private, public = tmp_path / "model", tmp_path / "key.pem", tmp_path / "pub.pem"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    save_private_key(generate_key(), private)
    own = load_private_key(private)
    save_public_key(own.public_key(), public)
    signature = folder / "model.sig"
    signature.write_bytes(sign(FILES, [own, key], "line"))
    check = [TOOL, "verify", "key", str(folder), "--signature", str(signature), "--public_key", str(public)]
    assert subprocess.run(check, check=False).returncode == 0
    (folder / "model.onnx").write_bytes(b"other")
    assert subprocess.run(check, check=False).returncode != 0
    (folder / "model.onnx").write_bytes(FILES["model.onnx"])
    subprocess.run(
        [TOOL, "sign", "key", str(folder), "--signature", str(signature), "--private_key", str(private)],
        check=True,
    )
    verify(signature.read_bytes(), FILES, [own.public_key()], 1)
