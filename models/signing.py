"""Signatures in the OpenSSF Model Signing v1 format, which the `model_signing` tool verifies too.

The signature file is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists the SHA-256 of every
file. Keys are ECDSA P-256, which Android Keystore, CryptoKit and WebCrypto hold as well. The format says that files are
unchanged and nothing more: version, expiry and threshold are checked in `sottovoce.models.trust`.

Source: https://github.com/secure-systems-lab/dsse (protocol), https://in-toto.io/Statement/v1,
https://model_signing/signature/v1.0 as written by `model-signing` 1.1.1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sottovoce.models.atomic import write_atomically
from sottovoce.models.dsse import holds, read_base64, signature_of, signed_message, write_base64
from sottovoce.privacy.errors import ConfigError, DigestError, SignatureError

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

PAYLOAD_TYPE: Literal["application/vnd.in-toto+json"] = "application/vnd.in-toto+json"
SIGNATURE_NAME = "model.sig"
"""Where the signature lies beside the files; never one of them."""

MOST_SIGNATURES = 8
KEEP = "keep the bundle in use"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Nothing outside the signed payload may be changed unnoticed, so unknown keys are refused."""


class _Hint(_Strict, frozen=True):
    hint: str


class _Material(_Strict, frozen=True):
    public_key: _Hint
    tlog_entries: Annotated[tuple[str, ...], msgspec.Meta(max_length=0)]


class _Signature(_Strict, frozen=True):
    sig: str
    keyid: Literal[""] = ""


class _Envelope(_Strict, frozen=True):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=MOST_SIGNATURES)]


class _Sigstore(_Strict, frozen=True):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Subject(msgspec.Struct, frozen=True):
    name: str
    digest: dict[str, str]


class _Resource(msgspec.Struct, frozen=True):
    name: str
    algorithm: Literal["sha256"]
    digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class _Serialization(msgspec.Struct, frozen=True):
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool = False
    ignore_paths: tuple[str, ...] = ()


class _Predicate(msgspec.Struct, frozen=True):
    serialization: _Serialization
    resources: tuple[_Resource, ...]


class _Statement(msgspec.Struct, frozen=True, rename={"kind": "_type", "predicate_type": "predicateType"}):
    kind: Literal["https://in-toto.io/Statement/v1"]
    subject: Annotated[tuple[_Subject, ...], msgspec.Meta(min_length=1, max_length=1)]
    predicate_type: Literal["https://model_signing/signature/v1.0"]
    predicate: _Predicate


def generate_key() -> PrivateKey:
    """A new ECDSA P-256 key, from the operating system's random numbers."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: PrivateKey) -> bytes:
    """The private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: PublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(key: PublicKey) -> str:
    """SHA-256 of the public PEM, in hexadecimal: the name of a key."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def save_private_key(key: PrivateKey, path: Path) -> None:
    """Write the private key so that only its owner can read it (mode 0600)."""
    write_atomically(path, private_pem(key), mode=0o600)


def save_public_key(key: PublicKey, path: Path) -> None:
    """Write the public key."""
    write_atomically(path, public_pem(key))


def load_private_key(path: Path) -> PrivateKey:
    """The P-256 private key of a PEM file.

    Raises:
        ConfigError: the file is missing, encrypted, or no P-256 private key.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: no usable private key: {error}", "name an unencrypted P-256 PEM file") from error
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: not a P-256 private key", "make one with `generate_key`")
    return key


def load_public_key(path: Path) -> PublicKey:
    """The P-256 public key of a PEM file.

    Raises:
        ConfigError: the file is missing or no P-256 public key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}", "name a P-256 PEM file") from error
    return read_public_key(data, str(path))


def read_public_key(data: bytes, name: str = "public key") -> PublicKey:
    """The P-256 public key of PEM bytes.

    Args:
        data: PEM.
        name: where the bytes come from, for the message.

    Raises:
        ConfigError: no P-256 public key.
    """
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{name}: no usable public key: {error}", "name a P-256 PEM file") from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{name}: not a P-256 public key", "name a P-256 PEM file")
    return key


def sign(files: Mapping[str, bytes], keys: Sequence[PrivateKey], subject: str) -> bytes:
    """The signature file over every byte of every file.

    Args:
        files: by name; all of the bundle but the signature itself.
        keys: 1 to 8; each adds a signature. `model_signing` checks the first.
        subject: name of what is signed, for people.

    Raises:
        ValueError: no key, too many, or the signature is among the files.
    """
    if not 1 <= len(keys) <= MOST_SIGNATURES or SIGNATURE_NAME in files:
        raise ValueError(f"needs 1 to {MOST_SIGNATURES} keys, and files without {SIGNATURE_NAME}")
    resources = tuple(_Resource(name, "sha256", hashlib.sha256(files[name]).hexdigest()) for name in sorted(files))
    statement = _Statement(
        "https://in-toto.io/Statement/v1",
        (_Subject(subject, {"sha256": _root(resources)}),),
        "https://model_signing/signature/v1.0",
        _Predicate(_Serialization("files", "sha256", False, (SIGNATURE_NAME,)), resources),
    )
    payload = msgspec.json.encode(statement)
    message = signed_message(payload, PAYLOAD_TYPE)
    signatures = tuple(_Signature(write_base64(signature_of(key, message))) for key in keys)
    return msgspec.json.encode(
        _Sigstore(
            "application/vnd.dev.sigstore.bundle.v0.3+json",
            _Material(_Hint(key_id(keys[0].public_key())), ()),
            _Envelope(write_base64(payload), PAYLOAD_TYPE, signatures),
        )
    )


def verify(signature: bytes, files: Mapping[str, bytes], keys: Sequence[PublicKey], threshold: int) -> int:
    """Let files pass that are exactly those signed, by enough different keys; say how many signed.

    The payload is not read before enough signatures over it hold.

    Args:
        signature: the signature file.
        files: by name, without the signature.
        keys: trusted; one listed twice counts once, and so does one that signed twice.
        threshold: how many different keys must have signed, at least 1.

    Returns:
        How many different trusted keys signed, at least `threshold`.

    Raises:
        SignatureError: the signature file is malformed or fewer than `threshold` keys signed.
        DigestError: a file is missing, added or not the one that was signed.
        ValueError: the threshold is below 1.
    """
    if threshold < 1:
        raise ValueError(f"threshold must be at least 1, got {threshold}")
    outer = _read(signature)
    payload = read_base64(outer.dsse_envelope.payload, SIGNATURE_NAME)
    signers = _signers(outer, signed_message(payload, PAYLOAD_TYPE), keys)
    if len(signers) < threshold:
        raise SignatureError(f"{len(signers)} of {threshold} needed trusted keys signed", KEEP)
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureError(f"{SIGNATURE_NAME}: signed statement cannot be read: {error}", KEEP) from error
    _compare(statement, files)
    return len(signers)


def claimed(signature: bytes) -> tuple[str, int]:
    """Who a signature file says made its first signature, as a key id, and how many it holds. Nothing is verified.

    Raises:
        SignatureError: the signature file is malformed.
    """
    outer = _read(signature)
    return outer.verification_material.public_key.hint, len(outer.dsse_envelope.signatures)


def _read(signature: bytes) -> _Sigstore:
    """The parts of a signature file."""
    try:
        return msgspec.json.decode(signature, type=_Sigstore)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SignatureError(f"{SIGNATURE_NAME} cannot be read: {error}", KEEP) from error


def _signers(outer: _Sigstore, message: bytes, keys: Sequence[PublicKey]) -> set[str]:
    """Identifiers of the trusted keys that signed `message`."""
    trusted = {key_id(key): key for key in keys}
    signers: set[str] = set()
    for place, entry in enumerate(outer.dsse_envelope.signatures):
        raw = read_base64(entry.sig, SIGNATURE_NAME)
        for name, key in trusted.items():
            if not holds(key, raw, message):
                continue
            if place == 0 and outer.verification_material.public_key.hint != name:
                raise SignatureError(f"{SIGNATURE_NAME}: its key hint names another key than the one that signed", KEEP)
            signers.add(name)
    return signers


def _compare(statement: _Statement, files: Mapping[str, bytes]) -> None:
    """Refuse files that are not exactly those of the statement."""
    resources = statement.predicate.resources
    if statement.subject[0].digest.get("sha256") != _root(resources):
        raise SignatureError(f"{SIGNATURE_NAME}: its digests do not add up to the signed whole", KEEP)
    listed = [resource.name for resource in resources]
    if sorted(listed) != sorted(files):
        odd = sorted(set(listed) ^ set(files)) or listed
        raise DigestError(f"signed and present files differ: {odd}", KEEP)
    for resource in resources:
        if hashlib.sha256(files[resource.name]).hexdigest() != resource.digest:
            raise DigestError(f"{resource.name} is not the file that was signed", KEEP)


def _root(resources: Sequence[_Resource]) -> str:
    """SHA-256 over the files' raw digests, in the order listed."""
    return hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in resources)).hexdigest()
