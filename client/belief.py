"""What a device believes about bundles, as it lies on disk, and how it is told from the bundles when that is lost."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from sottovoce.models.key_chain import MOST_CHAIN, KeyChain, read_chain
from sottovoce.models.manifest import Digest, Manifest, Moment, Name
from sottovoce.models.signing import key_id
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError, RollbackError

BELIEF = "belief.json"
KEYS = "keys.jsonl"
MOST_BELIEF = 4096

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


class Belief(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device believes, as it lies on disk.

    Attributes:
        version: the highest accepted so far.
        model_id: the line; None before the first bundle or key set.
        seen: the latest time at which a bundle was found valid. It never passes the expiry of a genuine bundle, so a
            clock that was once years ahead locks nobody out.
        active: SHA-256 of the bundle in use.
        previous: SHA-256 of the last good one before it.
        key_version: the newest key set ever trusted; with an older one no bundle is accepted.
        key_set: digest of that set, `sottovoce.models.key_chain.Link.sha256`; None for the app's own keys.
        root: digest of the app's keys that `key_version` was reached from; None before there were key sets on disk.
    """

    version: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] = 0
    model_id: Name | None = None
    seen: Moment = _FIRST
    active: Digest | None = None
    previous: Digest | None = None
    key_version: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] = 1
    key_set: Digest | None = None
    root: Digest | None = None


def read_belief(folder: Path) -> Belief | None:
    """The belief as written down; None when it is missing or damaged."""
    try:
        with (folder / BELIEF).open("rb") as file:
            return msgspec.json.decode(file.read(MOST_BELIEF), type=Belief)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def recovered(bundles: Iterable[tuple[str, bytes]], chain: KeyChain) -> Belief:
    """Belief from the signed bundles that lie in the folder; the two newest come first.

    Args:
        bundles: SHA-256 and bytes.
        chain: whose signatures count.
    """
    found: list[tuple[Manifest, str]] = []
    for digest, data in bundles:
        with contextlib.suppress(BundleError):
            _, manifest = chain.vouching(data)
            if chain.newest.model_id in (None, manifest.model_id):
                found.append((manifest, digest))
    reached = chain.newest.key_version
    if not found:
        return Belief(key_version=reached)
    found.sort(key=lambda one: one[0].version, reverse=True)
    newest, active = found[0]
    return Belief(
        version=newest.version,
        model_id=newest.model_id,
        # Signed, so at least this much time has passed.
        seen=newest.created,
        active=active,
        previous=found[1][1] if len(found) > 1 else None,
        key_version=reached,
    )


def read_keys(folder: Path, root: Trust, found: Belief | None) -> KeyChain:
    """The key sets that lie in the folder; the app's keys alone when the file is missing, damaged or not the newest.

    Args:
        folder: of the bundles.
        root: the app's keys, with the line that the device follows.
        found: the belief as written down, which knows the newest set; None when it is lost, too.
    """
    try:
        with (folder / KEYS).open("rb") as file:
            chain = read_chain(root, file.read(MOST_CHAIN + 1))
    except (OSError, BundleError):
        return KeyChain(root)
    return chain if found is None or chain.passes(*_known(found, root)) else KeyChain(root)


def settled(found: Belief, chain: KeyChain, read: Callable[[str], bytes | None]) -> Belief:
    """A belief as the key sets leave it that came after it was written down.

    Key sets are written before the belief, so a crash in between is made good here, by whoever reads next.

    Args:
        found: as written down.
        chain: from the app's keys of today.
        read: the bytes of a bundle by its SHA-256, None when they are lost.
    """
    known, key_set = _known(found, chain.root)
    reached = chain.newest.key_version
    if reached >= known:
        key_set = chain.links[-1].sha256 if chain.links else None
    version, used = found.version, [found.active, found.previous]
    if reached > known:
        version = chain.version_after(version, known)
        used = [one for one in used if one is not None and not _disowned(read(one), chain)]
    active, previous, *_ = [*used, None, None]
    return msgspec.structs.replace(
        found,
        version=max(version, chain.root.version),
        model_id=found.model_id or chain.newest.model_id,
        active=active,
        previous=previous,
        key_version=max(known, reached),
        key_set=key_set,
        root=_digest(chain.root),
    )


def _known(found: Belief, root: Trust) -> tuple[int, Digest | None]:
    """The newest key set that was ever trusted: its version and its digest.

    Sets reached from the keys of another app say nothing: today's may be there to end a thief's chain.
    """
    return (found.key_version, found.key_set) if found.root in (None, _digest(root)) else (root.key_version, None)


def _disowned(data: bytes | None, chain: KeyChain) -> bool:
    """Whether the owners said that they never signed that bundle."""
    try:
        if data is not None:
            chain.vouching(data)
    except RollbackError:
        return True
    except BundleError:
        return False
    return False


def _digest(root: Trust) -> str:
    """Tells one app's keys from another's, whatever their order."""
    names = sorted({key_id(key) for key in root.keys})
    return hashlib.sha256(" ".join([str(root.key_version), str(root.threshold), *names]).encode()).hexdigest()
