"""Key rotation: a device goes from one set of trusted keys to the next, without an update of the app.

A key set is signed by a threshold of the set before it, which hands over, and by a threshold of its own keys, which
shows that their owners hold them. Versions go up by exactly one, so every device walks the same chain and none can be
led around a link. The rules, in this order; each key set meets all of them or is refused by name, and the belief stays
as it was:

1. the file is within its size cap, and one DSSE envelope in its one spelling;
2. enough different keys of the old set signed it;
3. it is a key set in canonical form, with different P-256 keys, at least as many as its threshold;
4. enough different keys of the new set signed it;
5. it is of the same line, and its version is the old one plus one;
6. it has not expired; of a chain, only the last set need not have.

Nothing of the key set is read before rule 2 holds.

Source: The Update Framework 1.0, section 5.3 (root rotation). Unlike there, the version of what the keys sign is not
forgotten after a rotation: the signers say which version was their last, see `KeySet.last_version`.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from sottovoce.models.dsse import holds, read_base64, signature_of, signed_message, write_base64
from sottovoce.models.manifest import Moment, Name, Version
from sottovoce.models.signing import PrivateKey, PublicKey, key_id, public_pem, read_public_key
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError, ConfigError, ExpiredError, RollbackError, SignatureError

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
    signatures = tuple(_Signature(write_base64(signature_of(key, message))) for key in keys)
    return msgspec.json.encode(_Envelope(write_base64(payload), KEY_SET_TYPE, signatures), order="sorted")


def rotate(trust: Trust, data: bytes, now: datetime) -> Trust:
    """The belief that follows the next key set, when every rule holds.

    Args:
        trust: the device's belief; a value, it stays as it is.
        data: a file from `sign_key_set`.
        now: the device's time, with time zone; the caller passes the latest it has ever seen.

    Raises:
        SignatureError: too few keys of the old set or of the new one signed.
        RollbackError: its version is not above that of the keys in use.
        ExpiredError: the key set expired.
        BundleError: too long, malformed, of another line, or versions are left out in between.
        ValueError: `now` has no time zone.
    """
    return rotate_along(trust, [data], now)


def rotate_along(trust: Trust, chain: Sequence[bytes], now: datetime) -> Trust:
    """The belief at the end of a chain of key sets; sets on the way may have expired while the device was off.

    Args:
        trust: as for `rotate`.
        chain: files in the order of their versions, at least one.
        now: as for `rotate`.

    Raises:
        SignatureError, RollbackError, ExpiredError, BundleError: as for `rotate`; one refused set refuses the chain.
        ValueError: `now` has no time zone, or the chain is empty.
    """
    if now.tzinfo is None or not chain:
        raise ValueError("needs a time with time zone and at least one key set")
    for data in chain:
        trust, expires = _step(trust, data)
    if now >= expires:
        raise ExpiredError(f"key set {trust.key_version} expired {expires.isoformat()}", "fetch the next one")
    return trust


def _step(trust: Trust, data: bytes) -> tuple[Trust, datetime]:
    """The belief after one link and its expiry, which is not judged here."""
    if len(data) > MOST_BYTES:
        raise BundleError(f"key set has {len(data)} bytes, more than {MOST_BYTES}", KEEP)
    envelope = _open(data)
    payload = read_base64(envelope.payload, "key set")
    message = signed_message(payload, KEY_SET_TYPE)
    signatures = [read_base64(entry.sig, "key set") for entry in envelope.signatures]
    _require(trust.keys, trust.threshold, signatures, message, "old")
    key_set = _read(payload)
    keys = key_set.public_keys()
    _require(keys, key_set.threshold, signatures, message, "new")
    if trust.model_id is not None and key_set.model_id != trust.model_id:
        raise BundleError(f"key set is of line {key_set.model_id!r}, this device follows {trust.model_id!r}", KEEP)
    if key_set.version <= trust.key_version:
        raise RollbackError(f"key set {key_set.version} is not above {trust.key_version}, already trusted", KEEP)
    if key_set.version > trust.key_version + 1:
        raise BundleError(f"key set {key_set.version} does not follow {trust.key_version}", "fetch those in between")
    version = trust.version if key_set.last_version is None else min(trust.version, key_set.last_version)
    after = replace(
        trust,
        keys=keys,
        threshold=key_set.threshold,
        version=version,
        model_id=key_set.model_id,
        key_version=key_set.version,
        keys_expire=key_set.expires,
    )
    return after, key_set.expires


def _open(data: bytes) -> _Envelope:
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        canonical = msgspec.json.encode(envelope, order="sorted")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BundleError(f"key set cannot be read: {error}", KEEP) from error
    if canonical != data:
        raise BundleError("key set is not in canonical form", KEEP)
    return envelope


def _read(payload: bytes) -> KeySet:
    try:
        key_set = msgspec.json.decode(payload, type=KeySet)
        canonical = key_set.canonical()
    except (msgspec.DecodeError, UnicodeError, OverflowError, RecursionError) as error:
        raise BundleError(f"signed key set cannot be read: {error}", KEEP) from error
    if canonical != payload:
        raise BundleError("signed key set is not in canonical form", KEEP)
    return key_set


def _require(
    keys: Sequence[PublicKey], threshold: int, signatures: Sequence[bytes], message: bytes, which: str
) -> None:
    """Count keys, not signatures: one listed or used twice counts once."""
    signed = {key_id(key) for key in keys if any(holds(key, signature, message) for signature in signatures)}
    if len(signed) < threshold:
        raise SignatureError(f"{len(signed)} of {threshold} needed keys of the {which} set signed the key set", KEEP)
