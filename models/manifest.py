"""The manifest: what a bundle claims to be, in exactly one byte sequence.

It adds what the signature format lacks: a version that only grows, an expiry, the oldest runtimes that may load the
model, the digest of the feature schema, how many keys had to sign, and which share of devices takes it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from sottovoce.models.rollout import Rollout
from sottovoce.models.signing import MOST_SIGNATURES
from sottovoce.privacy.errors import BundleError

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Release = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){0,3}$")]
Version = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
"""Largest whole number that every JSON reader keeps exactly."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the bundle.

    Attributes:
        sha256: of its bytes, hexadecimal.
        length: in bytes.
    """

    sha256: Digest
    length: Annotated[int, msgspec.Meta(ge=0)]


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One input or output of the model.

    Attributes:
        name: as in the model file.
        shape: -1 is the number of candidates.
        dtype: of its elements.
    """

    name: Name
    shape: tuple[int, ...]
    dtype: Literal["int32", "float32"]


class Runtimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Oldest runtime that may load each model file.

    Attributes:
        litert: for `model.tflite`.
        onnxruntime: for `model.onnx`.
    """

    litert: Release
    onnxruntime: Release


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle claims; read only after its signature held.

    Attributes:
        model_id: the line of models that versions count along.
        version: grows by at least one with each release of the line.
        created: when it was signed, in UTC.
        expires: when devices stop accepting it, in UTC; after `created`.
        min_runtime: oldest runtimes.
        schema_digest: SHA-256 of `schema.json`.
        passport_digest: SHA-256 of `passport.json`.
        checkpoint_digest: SHA-256 of the checkpoint whose weights these are, as the ledger committed it.
        heads: what the columns of the output mean.
        files: every file of the bundle but the manifest and the signature.
        parent_version: the version it was trained on from, if any; below `version`.
        quantization: how weights are stored, in words.
        personal_variance: variance among people of the offset that a device fits on its own impressions and adds to
            the click logit; 0 for none. What it comes to is never known outside the device.
        inputs: of the model, in order.
        outputs: of the model, in order.
        key_threshold: how many different keys had to sign, 1 to 8. A device asks for at least its own threshold and for
            at least this one, both from keys it trusts: a signature that was cut off is missed.
        rollout: which share of devices takes it.
    """

    model_id: Name
    version: Version
    created: Moment
    expires: Moment
    min_runtime: Runtimes
    schema_digest: Digest
    passport_digest: Digest
    checkpoint_digest: Digest
    heads: tuple[str, ...]
    files: Mapping[str, File]
    parent_version: Version | None = None
    quantization: str
    personal_variance: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    key_threshold: Annotated[int, msgspec.Meta(ge=1, le=MOST_SIGNATURES)]
    rollout: Rollout

    def __post_init__(self) -> None:
        """Refuse times and versions in the wrong order."""
        if self.created.utcoffset() or self.expires.utcoffset():
            raise ValueError("created and expires must be in UTC")
        if self.expires <= self.created:
            raise ValueError("expires must be after created")
        if self.parent_version is not None and self.parent_version >= self.version:
            raise ValueError("parent_version must be below version")

    def canonical(self) -> bytes:
        """The manifest as JSON with sorted keys and no spaces."""
        return msgspec.json.encode(self, order="sorted")


def load_manifest(data: bytes) -> Manifest:
    """The manifest written by `Manifest.canonical`.

    Raises:
        BundleError: not JSON, unknown, missing or impossible values, or not in canonical form.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
        canonical = manifest.canonical()
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError) as error:
        raise BundleError(f"manifest.json cannot be read: {error}", "keep the bundle in use") from error
    if canonical != data:
        raise BundleError("manifest.json is not in canonical form", "keep the bundle in use")
    return manifest


def newer_or_same(have: str, least: str) -> bool:
    """Whether runtime version `have` is at least `least`; what follows the numbers (`2.3.0.dev1`) is not compared.

    Args:
        have: as the runtime reports it.
        least: numbers and dots.

    Raises:
        ValueError: `have` does not start with a number.
    """
    return _numbers(have) >= _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers, padded to four."""
    found: list[int] = []
    for part in version.split(".")[:4]:
        if not (part.isascii() and part.isdigit()):
            break
        found.append(int(part))
    if not found:
        raise ValueError(f"version {version!r} does not start with a number")
    return tuple(found + [0] * (4 - len(found)))
