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

from sottovoce.models.dsse import signed_message
from sottovoce.models.key_set import KEEP, KEY_SET_TYPE, KeySet, read_key_set, signed_by, split
from sottovoce.models.signing import PublicKey
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError, ExpiredError, RollbackError, SignatureError


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
        trust, key_set = follow(trust, data)
    if now >= key_set.expires:
        raise ExpiredError(f"key set {trust.key_version} expired {key_set.expires.isoformat()}", "fetch the next one")
    return trust


def follow(trust: Trust, data: bytes) -> tuple[Trust, KeySet]:
    """The belief after one link, whose expiry is not judged here, and what the link says.

    Args:
        trust: as for `rotate`.
        data: as for `rotate`.

    Raises:
        SignatureError, RollbackError, BundleError: as for `rotate`.
    """
    payload, signatures = split(data)
    message = signed_message(payload, KEY_SET_TYPE)
    _require(trust.keys, trust.threshold, signatures, message, "old")
    key_set = read_key_set(payload)
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
    return after, key_set


def trust_of(key_set: KeySet) -> Trust:
    """The belief of a device that follows a key set and has no bundle yet: what the next set is judged by.

    Args:
        key_set: believed already; its expiry and its `last_version` are left out.

    Raises:
        BundleError: as for `KeySet.public_keys`.
    """
    return Trust(key_set.public_keys(), key_set.threshold, model_id=key_set.model_id, key_version=key_set.version)


def _require(
    keys: Sequence[PublicKey], threshold: int, signatures: Sequence[bytes], message: bytes, which: str
) -> None:
    signed = signed_by(keys, signatures, message)
    if len(signed) < threshold:
        raise SignatureError(f"{len(signed)} of {threshold} needed keys of the {which} set signed the key set", KEEP)
