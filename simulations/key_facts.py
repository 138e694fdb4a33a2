"""What a file of a key set says, who signed it, and who still has to, in plain words. Needs the device runtime only."""

from datetime import datetime

import msgspec

from sottovoce.models.key_rotation import follow, trust_of
from sottovoce.models.key_set import KeySet, claimed, signers, split
from sottovoce.models.signing import key_id
from sottovoce.privacy.errors import BundleError
from sottovoce.simulations.bundle_facts import printable


class KeyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A key set, for people.

    Attributes:
        line: of models.
        version: of the set.
        threshold: how many of its keys must sign.
        keys: their ids.
        expires: when they stop counting, UTC.
        expired: at the time given.
        last_version: of bundles before this set, if it says one.
        signatures: how many the file holds.
        signed_by: ids of its own keys that signed it.
        old_threshold: how many keys of the set before it must sign; None when that set was not given.
        old_keys: ids of that set's keys.
        old_signed_by: those that signed.
        refusal: why a device with the set before it would not follow it; None when it would.
    """

    line: str
    version: int
    threshold: int
    keys: tuple[str, ...]
    expires: datetime
    expired: bool
    last_version: int | None
    signatures: int
    signed_by: tuple[str, ...]
    old_threshold: int | None
    old_keys: tuple[str, ...]
    old_signed_by: tuple[str, ...]
    refusal: str | None


def key_facts(data: bytes, after: bytes | None, now: datetime) -> KeyFacts:
    """What is in a key set, and whether a device would follow it.

    Args:
        data: the signed file, whoever has signed it so far.
        after: file of the set before it; None to judge by its own keys only. It is believed as it stands.
        now: with time zone, for the expiry.

    Raises:
        BundleError, SignatureError: one of the files is malformed.
    """
    found = claimed(data)
    old = None if after is None else claimed(after)
    old_keys = () if old is None else old.public_keys()
    signed, old_signed = signers(data, found.public_keys()), signers(data, old_keys)
    expired = now >= found.expires
    return KeyFacts(
        line=found.model_id,
        version=found.version,
        threshold=found.threshold,
        keys=tuple(key_id(key) for key in found.public_keys()),
        expires=found.expires,
        expired=expired,
        last_version=found.last_version,
        signatures=len(split(data)[1]),
        signed_by=tuple(sorted(signed)),
        old_threshold=None if old is None else old.threshold,
        old_keys=tuple(key_id(key) for key in old_keys),
        old_signed_by=tuple(sorted(old_signed)),
        refusal="it has expired" if expired else _refusal(data, found, len(signed), old),
    )


def lines(facts: KeyFacts) -> list[str]:
    """The facts, one a line, safe to print."""
    told = [
        f"key set {facts.version} of line {facts.line}",
        f"expires: {facts.expires:%Y-%m-%d %H:%M} UTC{', which is over' if facts.expired else ''}",
        *(["last bundle before it: version " + str(facts.last_version)] if facts.last_version is not None else []),
        f"keys, of which {facts.threshold} must sign a bundle and the next key set:",
        *(f"  {name}{'  signed this' if name in facts.signed_by else ''}" for name in facts.keys),
        f"signed by {len(facts.signed_by)} of {facts.threshold} needed keys of its own",
    ]
    if facts.old_threshold is not None:
        told.append(f"signed by {len(facts.old_signed_by)} of {facts.old_threshold} needed keys of the set before it")
    elif facts.version > 1:
        told.append("not checked: the keys of the set before it, name that set with --after")
    if facts.refusal is not None:
        told.append(f"no device would follow it: {facts.refusal}")
    elif facts.old_threshold is not None:
        told.append("complete: a device with the set before it follows it")
    return [printable(line) for line in told]


def _refusal(data: bytes, found: KeySet, signed: int, old: KeySet | None) -> str | None:
    if old is None:
        short = signed < found.threshold
        return f"{signed} of {found.threshold} needed keys of the new set signed the key set" if short else None
    try:
        follow(trust_of(old), data)
    except BundleError as error:
        return error.what
    return None
