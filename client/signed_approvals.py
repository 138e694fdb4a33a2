"""Approvals that a device believes because enough known people signed them, not because of where they came from.

One DSSE envelope in its one spelling. The signed payload carries a version that only grows and an expiry, so that a
list from before a withdrawal cannot be handed out for ever.

Source: https://github.com/secure-systems-lab/dsse, protocol.md.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec

from sottovoce.client.approval import MAX_BYTES, Approvals
from sottovoce.models.dsse import holds, read_base64, signature_of, signed_message, write_base64
from sottovoce.models.manifest import Moment, Version
from sottovoce.models.signing import MOST_SIGNATURES, PrivateKey, PublicKey, key_id
from sottovoce.privacy.errors import BundleError, ExpiredError, RollbackError, SignatureError

APPROVALS_TYPE: Literal["application/vnd.sottovoce.approvals+json"] = "application/vnd.sottovoce.approvals+json"
KEEP = "keep the approvals in use"

_Read = TypeVar("_Read", bound=msgspec.Struct)


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed.

    Attributes:
        version: grows with every list.
        expires: when devices stop believing it.
        approvals: the list.
    """

    version: Version
    expires: Moment
    approvals: Approvals


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    payload: str
    payload_type: Literal["application/vnd.sottovoce.approvals+json"]
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=MOST_SIGNATURES)]


def sign_approvals(statement: Statement, keys: Sequence[PrivateKey]) -> bytes:
    """The signed file.

    Args:
        statement: to sign.
        keys: 1 to 8.

    Raises:
        ValueError: no key, or too many.
    """
    if not 1 <= len(keys) <= MOST_SIGNATURES:
        raise ValueError(f"needs 1 to {MOST_SIGNATURES} keys")
    payload = msgspec.json.encode(statement, order="sorted")
    message = signed_message(payload, APPROVALS_TYPE)
    signatures = tuple(_Signature(write_base64(signature_of(key, message))) for key in keys)
    return msgspec.json.encode(_Envelope(write_base64(payload), APPROVALS_TYPE, signatures), order="sorted")


def open_approvals(
    data: bytes, keys: Sequence[PublicKey], threshold: int, now: datetime, least_version: int = 1
) -> Statement:
    """The statement in a signed file; nothing of it is read before the signatures hold.

    Args:
        data: the file.
        keys: whose signatures count; one used twice counts once.
        threshold: how many of them must have signed, at least 1.
        now: with time zone.
        least_version: version of the list in use.

    Raises:
        SignatureError: too few signatures, or irregular base64.
        RollbackError: an older list.
        ExpiredError: the list has expired.
        BundleError: too large, or not in its one spelling.
        ValueError: `threshold` is below 1, or `now` has no time zone.
    """
    if threshold < 1 or now.tzinfo is None:
        raise ValueError("needs a threshold of at least 1 and a time with time zone")
    if len(data) > 2 * MAX_BYTES:
        raise BundleError(f"approvals have {len(data)} bytes, more than {2 * MAX_BYTES}", KEEP)
    envelope = _canonical(data, _Envelope)
    payload = read_base64(envelope.payload, "approvals")
    message = signed_message(payload, APPROVALS_TYPE)
    signatures = [read_base64(entry.sig, "approvals") for entry in envelope.signatures]
    signed = {key_id(key) for key in keys if any(holds(key, signature, message) for signature in signatures)}
    if len(signed) < threshold:
        raise SignatureError(f"{len(signed)} of {threshold} needed keys signed the approvals", KEEP)
    statement = _canonical(payload, Statement)
    if statement.version < least_version:
        raise RollbackError(f"approvals {statement.version} are older than {least_version}, already trusted", KEEP)
    if now >= statement.expires:
        raise ExpiredError(f"approvals {statement.version} expired {statement.expires.isoformat()}", "fetch the next")
    return statement


def _canonical(data: bytes, kind: type[_Read]) -> _Read:
    try:
        value = msgspec.json.decode(data, type=kind)
        same = msgspec.json.encode(value, order="sorted") == data
    except (msgspec.DecodeError, UnicodeError, OverflowError, RecursionError) as error:
        raise BundleError(f"approvals cannot be read: {error}", KEEP) from error
    if not same:
        raise BundleError("approvals are not in canonical form", KEEP)
    return value
