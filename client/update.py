"""Asking an update folder for a newer bundle, and putting it to use.

The folder is what `sottovoce publish` writes. Keys come first: the set after the newest that the device knows, the one
after that, and so on until the folder has no more, so that a bundle is judged by the newest keys. The index is believed
in nothing but where bytes lie: whatever was downloaded goes through `BundleStore.offer`.
"""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from sottovoce.client.bundle_store import BundleStore
from sottovoce.client.download import Web, check_address
from sottovoce.models.bundle import Bundle
from sottovoce.models.delta import apply_patch
from sottovoce.models.key_chain import MOST_LINKS
from sottovoce.models.key_rotation import follow
from sottovoce.models.key_set import MOST_BYTES as MOST_KEY_SET
from sottovoce.models.manifest import Manifest
from sottovoce.models.update_index import (
    INDEX,
    MOST_INDEX,
    Index,
    Part,
    bundle_name,
    key_set_name,
    load_index,
    patch_name,
    version_tag,
)
from sottovoce.privacy.errors import BundleError, DeviceError, RollbackError, TransferError

KEEP = "keep the bundle in use"


@dataclass(frozen=True, slots=True)
class Checked:
    """How a look for updates ended.

    Attributes:
        outcome: `current`: nothing newer is there. `installed`: `bundle` is in use from now on. `held back`: a newer
            one is there, valid, and `wanted` said no; its bytes stay on the device and are not downloaded again.
        bundle: what was installed.
        by: what was downloaded last.
        received: bytes of content that came over the network, the index included.
        key_sets: how many new key sets are followed from now on.
    """

    outcome: Literal["current", "installed", "held back"]
    bundle: Bundle | None = None
    by: Literal["patch", "whole"] | None = None
    received: int = 0
    key_sets: int = 0


def always(manifest: Manifest) -> bool:  # noqa: ARG001 - one of many rules
    """Take every version."""
    return True


def check(
    url: str,
    store: BundleStore,
    now: datetime,
    *,
    wanted: Callable[[Manifest], bool] = always,
    web: Web | None = None,
) -> Checked:
    """Follow new key sets, look for a newer bundle, and put it to use.

    Call it a few times a day, at times that the device draws at random, so that phones do not come all at once.

    Args:
        url: of the folder, https; http is for loopback only.
        store: the device's bundles.
        now: the device's time, with time zone.
        wanted: asked about a valid newer bundle before it is put to use: the place for a staged rollout, with
            `store.secret()`.
        web: how to download; None for the defaults.

    Raises:
        TransferError: the server cannot be reached, breaks off or does not keep to its index; the next call goes on
            where this one stopped.
        BundleError: or one below it; a key set, the index or the bundle is refused. The bundle in use stays. After a
            refused key set the bundle is not looked at, and the keys stay as they were.
        DeviceError: the disk cannot be written. The bundle in use stays.
    """
    web = web or Web()
    base = url.rstrip("/")
    check_address(base)
    followed = _follow_keys(base, store, now, web)
    belief, held = store.belief(), store.active()
    whole = held is not None and held[0] == belief.active
    raw = web.small(f"{base}/{INDEX}", MOST_INDEX, version_tag(held[0]) if held and whole else None)
    if raw is None:
        return Checked("current", received=web.received, key_sets=followed)
    index = load_index(raw)
    if belief.model_id is not None and index.line != belief.model_id:
        raise BundleError(f"the folder is of line {index.line!r}, this device follows {belief.model_id!r}", KEEP)
    if index.sha256 == belief.active and whole:
        return Checked("current", received=web.received, key_sets=followed)
    if index.version < belief.version or (index.version == belief.version and index.sha256 != belief.active):
        raise RollbackError(
            f"the folder's version {index.version} is not above {belief.version}, already trusted", KEEP
        )
    _make_room(store.folder, index)
    data, by = _fetch(base, index, held, store.folder, web)
    if not wanted(store.inspect(data, now).manifest):
        return Checked("held back", by=by, received=web.received, key_sets=followed)
    return Checked("installed", store.offer(data, now), by, web.received, followed)


def _follow_keys(base: str, store: BundleStore, now: datetime, web: Web) -> int:
    """Walk the chain of key sets to its end, and keep all that is new of it in one step.

    Each set is verified before the next is asked for, so a server cannot make a device download more than was signed.
    Sets on the way may have expired; the last may not.

    Source: The Update Framework 1.0, section 5.3.
    """
    trust = store.trust()
    walked: list[bytes] = []
    while len(walked) < MOST_LINKS:
        data = web.next(f"{base}/{key_set_name(trust.key_version + 1)}", MOST_KEY_SET)
        if data is None:
            break
        trust, _ = follow(trust, data)
        walked.append(data)
    if walked:
        store.rotate(walked, now)
    return len(walked)


def _fetch(
    base: str, index: Index, held: tuple[str, bytes] | None, folder: Path, web: Web
) -> tuple[bytes, Literal["patch", "whole"]]:
    """The newest bundle's bytes: by a patch where one fits, else whole."""
    complete = Part(sha256=index.sha256, length=index.length)
    if held is not None and (patch := index.patches.get(held[0])) is not None and patch.length < index.length:
        with contextlib.suppress(BundleError, TransferError):
            got = web.file(f"{base}/{patch_name(patch.sha256)}", patch, _part(folder, patch.sha256))
            made = apply_patch(held[1], got)
            if len(made) == index.length and hashlib.sha256(made).hexdigest() == index.sha256:
                return made, "patch"
    return web.file(f"{base}/{bundle_name(index.sha256)}", complete, _part(folder, index.sha256)), "whole"


def _part(folder: Path, sha256: str) -> Path:
    return folder / f"{sha256}.part"


def _make_room(folder: Path, index: Index) -> None:
    """Make the folder, and remove what was begun of other versions."""
    awaited = {index.sha256, *(part.sha256 for part in index.patches.values())}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.part"):
            if path.stem not in awaited:
                path.unlink()
    except OSError as error:
        raise DeviceError(f"{folder}: {error.strerror}", "free space; the bundle in use stays") from error
