"""A set of keys as its owners sign it: what it says, its one file, and signatures of several people on it.

The file is a DSSE envelope in its one spelling. Nothing here decides whether a device takes it: that is
`sottovoce.models.key_rotation`.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from sottovoce.models.dsse import holds, read_base64, signature_of, signed_message, write_base64
from sottovoce.models.manifest import Moment, Name, Version
from sottovoce.models.signing import PrivateKey, PublicKey, key_id, public_pem, read_public_key
from sottovoce.privacy.errors import BundleError, ConfigError

KEY_SET_TYPE: Literal["application/vnd.sottovoce.keys+json"] = "application/vnd.sottovoce.keys+json"
MOST_KEYS = 8
MOST_BYTES = 16 * 1024
"""A file longer than this is refused before it is parsed; 8 keys with 16 signatures take 5 KiB."""

KEEP = "keep the keys in use"


class KeySet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose signatures count for a line of models.

    Attributes:
        model_id: the line.
        version: one above that of the set before; the set that an app ships with is 1.
        threshold: how many different of these keys must sign a bundle, and the next key set.
        keys: public keys as PEM, as `sottovoce.models.signing.public_pem` writes them; each once.
        expires: when devices stop accepting bundles by these keys, in UTC.
        last_version: last bundle that the owners released before this set. A device that trusts a higher version, made
            with stolen keys so that no honest release could follow, goes back to it. None leaves versions alone.
    """

    model_id: Name
    version: Version
    threshold: Annotated[int, msgspec.Meta(ge=1, le=MOST_KEYS)]
    keys: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MOST_KEYS)]
    expires: Moment
    last_version: Version | None = None

    def __post_init__(self) -> None:
        """Refuse a set that nobody could sign for."""
        if self.threshold > len(self.keys):
            raise ValueError(f"threshold is {self.threshold}, above the number of keys, {len(self.keys)}")
        if self.expires.utcoffset():
            raise ValueError("expires must be in UTC")

    def canonical(self) -> bytes:
        """The key set as JSON with sorted keys and no spaces."""
        return msgspec.json.encode(self, order="sorted")

    def public_keys(self) -> tuple[PublicKey, ...]:
        """The keys, in the order listed.

        Raises:
            BundleError: one is no P-256 public key, is spelled differently, or is listed twice.
        """
        try:
            keys = tuple(read_public_key(pem.encode()) for pem in self.keys)
        except (ConfigError, UnicodeEncodeError) as error:
            raise BundleError(f"key set {self.version} holds something else than P-256 public keys", KEEP) from error
        if any(public_pem(key) != pem.encode() for key, pem in zip(keys, self.keys, strict=True)):
            raise BundleError(f"key set {self.version} spells a key in an irregular form", KEEP)
        if len(set(self.keys)) < len(keys):
            raise BundleError(f"key set {self.version} lists a key twice", KEEP)
        return keys


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    payload: str
    payload_type: Literal["application/vnd.sottovoce.keys+json"]
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=2 * MOST_KEYS)]


def sign_key_set(key_set: KeySet, keys: Sequence[PrivateKey]) -> bytes:
    """The signed file of a key set.

    Args:
        key_set: the next one.
        keys: a threshold of the old set and a threshold of the new one; a key in both signs once for both.

    Raises:
        BundleError: a key of the set is no P-256 public key, is spelled differently, or is listed twice.
        ValueError: no key, or more than 16.
    """
    if not 1 <= len(keys) <= 2 * MOST_KEYS:
        raise ValueError(f"needs 1 to {2 * MOST_KEYS} keys, got {len(keys)}")
    key_set.public_keys()
    payload = key_set.canonical()
    message = signed_message(payload, KEY_SET_TYPE)
    return _file(payload, [signature_of(key, message) for key in keys])


def add_signatures(data: bytes, keys: Sequence[PrivateKey]) -> bytes:
    """The same key set with the signatures of more owners, so that no two private keys ever meet on one machine.

    Args:
        data: a file from `sign_key_set` or from here.
        keys: of those who sign now; one that has signed already adds nothing.

    Raises:
        BundleError: not a key set in canonical form.
        SignatureError: its base64 is broken.
        ValueError: more than 16 signatures.
    """
    payload, signatures = split(data)
    read_key_set(payload)
    message = signed_message(payload, KEY_SET_TYPE)
    new = [key for key in keys if not any(holds(key.public_key(), one, message) for one in signatures)]
    made = {key_id(key.public_key()): signature_of(key, message) for key in new}
    every = [*signatures, *made.values()]
    if len(every) > 2 * MOST_KEYS:
        raise ValueError(f"a key set holds at most {2 * MOST_KEYS} signatures, this would be {len(every)}")
    return _file(payload, every)


def split(data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """The signed bytes of a file and the signatures on them. Nothing is verified, and nothing signed is read.

    Raises:
        BundleError: too long, or no envelope in canonical form.
        SignatureError: its base64 is broken.
    """
    if len(data) > MOST_BYTES:
        raise BundleError(f"key set has {len(data)} bytes, more than {MOST_BYTES}", KEEP)
    envelope = _open(data)
    payload = read_base64(envelope.payload, "key set")
    return payload, tuple(read_base64(entry.sig, "key set") for entry in envelope.signatures)


def claimed(data: bytes) -> KeySet:
    """What a file says. Nothing is verified.

    Raises:
        BundleError, SignatureError: the file is malformed.
    """
    return read_key_set(split(data)[0])


def signers(data: bytes, keys: Sequence[PublicKey]) -> set[str]:
    """Identifiers of those of `keys` that signed the file.

    Raises:
        BundleError, SignatureError: the file is malformed.
    """
    payload, signatures = split(data)
    return signed_by(keys, signatures, signed_message(payload, KEY_SET_TYPE))


def signed_by(keys: Sequence[PublicKey], signatures: Sequence[bytes], message: bytes) -> set[str]:
    """Identifiers of the keys that made one of the signatures: keys are counted, one listed or used twice once."""
    return {key_id(key) for key in keys if any(holds(key, signature, message) for signature in signatures)}


def read_key_set(payload: bytes) -> KeySet:
    """The key set in signed bytes.

    Raises:
        BundleError: malformed, or not in canonical form.
    """
    try:
        key_set = msgspec.json.decode(payload, type=KeySet)
        canonical = key_set.canonical()
    except (msgspec.DecodeError, UnicodeError, OverflowError, RecursionError) as error:
        raise BundleError(f"signed key set cannot be read: {error}", KEEP) from error
    if canonical != payload:
        raise BundleError("signed key set is not in canonical form", KEEP)
    return key_set


def _file(payload: bytes, signatures: Sequence[bytes]) -> bytes:
    entries = tuple(_Signature(write_base64(one)) for one in signatures)
    return msgspec.json.encode(_Envelope(write_base64(payload), KEY_SET_TYPE, entries), order="sorted")


def _open(data: bytes) -> _Envelope:
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        canonical = msgspec.json.encode(envelope, order="sorted")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BundleError(f"key set cannot be read: {error}", KEEP) from error
    if canonical != data:
        raise BundleError("key set is not in canonical form", KEEP)
    return envelope
