"""A folder that any web server can serve, and that is a whole update server.

    bundles/<sha256>.svb     versions, under the digest of their bytes
    patches/<sha256>.svd     from the last few versions to the newest
    keys/<version>.json      signed key sets, see `sottovoce.server.key_folder`
    latest.json              which is the newest: written last, in one step

Files under a digest never change, so a phone in the middle of a download is not disturbed by the next version, and
caches may keep them for ever. Nothing is removed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sottovoce.models.atomic import write_atomically
from sottovoce.models.bundle import MOST_BYTES, unpack
from sottovoce.models.delta import make_patch
from sottovoce.models.key_set import claimed
from sottovoce.models.manifest import Manifest, load_manifest
from sottovoce.models.update_index import INDEX, Index, Part, bundle_name, load_index, patch_name
from sottovoce.privacy.errors import BundleError, RollbackError
from sottovoce.server.key_folder import published_key_sets

PATCHES = 4
"""Patches from so many older versions; a phone that is further behind downloads the whole."""

WORTH = 0.9
"""A patch that is larger than this part of the bundle is not kept."""


@dataclass(frozen=True, slots=True)
class _Version:
    manifest: Manifest
    data: bytes
    sha256: str


def publish(bundles: Sequence[bytes], folder: Path, patches: int = PATCHES) -> Index:
    """Make the newest of `bundles` the folder's newest version; the older ones are what patches start from.

    Bundles that were published here before need not be passed again. The same call twice changes nothing. Signatures
    are not checked: that is for devices to do.

    Args:
        bundles: at least one, bytes of `.svb` files.
        folder: made when missing.
        patches: from how many older versions, 0 to 64.

    Returns:
        What `latest.json` now holds.

    Raises:
        RollbackError: the folder has a newer version, or the same version with other bytes.
        BundleError: no bundle, of several lines, of another line than the folder's keys, or a damaged index.
        OSError: the folder cannot be written; `latest.json` is as it was.
    """
    given = [_version(data) for data in bundles]
    newest = max(given, key=lambda one: one.manifest.version)
    known = {one.sha256: one for one in (*_published(folder), *given)}
    _check_line(newest, list(known.values()))
    for key_set in map(claimed, published_key_sets(folder)):
        if key_set.model_id != newest.manifest.model_id:
            raise BundleError(f"the folder's keys are of line {key_set.model_id!r}", "give each line its own folder")
    before = _index(folder)
    if before is not None:
        _check_newer(newest, before)
    for one in given:
        _put(folder, bundle_name(one.sha256), one.data)
    older = sorted(
        (one for one in known.values() if one.manifest.version < newest.manifest.version),
        key=lambda one: one.manifest.version,
        reverse=True,
    )
    made = {}
    for old in older[:patches]:
        part = _kept(folder, before, old, newest) or _patched(folder, old, newest)
        if part is not None:
            made[old.sha256] = part
    index = Index(
        line=newest.manifest.model_id,
        version=newest.manifest.version,
        sha256=newest.sha256,
        length=len(newest.data),
        patches=made,
    )
    _put(folder, INDEX, index.canonical())
    return index


def _version(data: bytes) -> _Version:
    return _Version(load_manifest(unpack(data)["manifest.json"]), data, hashlib.sha256(data).hexdigest())


def _published(folder: Path) -> list[_Version]:
    """Whole bundles that lie in the folder."""
    found = []
    for path in sorted((folder / "bundles").glob("*.svb")):
        if path.stat().st_size > MOST_BYTES:
            raise BundleError(f"{path}: no bundle is that long", "remove it from the folder")
        data = path.read_bytes()
        if bundle_name(hashlib.sha256(data).hexdigest()) != f"bundles/{path.name}":
            raise BundleError(f"{path}: its name is not the digest of its bytes", "publish that version again, whole")
        found.append(_version(data))
    return found


def _index(folder: Path) -> Index | None:
    try:
        return load_index((folder / INDEX).read_bytes())
    except FileNotFoundError:
        return None


def _check_line(newest: _Version, versions: Sequence[_Version]) -> None:
    seen: dict[int, str] = {}
    for one in versions:
        manifest = one.manifest
        if manifest.model_id != newest.manifest.model_id:
            raise BundleError(
                f"line {manifest.model_id!r} and line {newest.manifest.model_id!r}", "give each line its own folder"
            )
        if seen.setdefault(manifest.version, one.sha256) != one.sha256:
            raise RollbackError(f"version {manifest.version} was published with other bytes", "release a new version")


def _check_newer(newest: _Version, before: Index) -> None:
    version = newest.manifest.version
    if newest.manifest.model_id != before.line:
        raise BundleError(f"the folder is of line {before.line!r}", "give each line its own folder")
    if version < before.version or (version == before.version and newest.sha256 != before.sha256):
        raise RollbackError(
            f"version {version} is not above {before.version}, already published", "release a newer version"
        )


def _kept(folder: Path, before: Index | None, old: _Version, new: _Version) -> Part | None:
    """The patch that is there already, if its bytes are: another version of zstd would make another one."""
    if before is None or before.sha256 != new.sha256 or (part := before.patches.get(old.sha256)) is None:
        return None
    try:
        data = (folder / patch_name(part.sha256)).read_bytes()
    except FileNotFoundError:
        return None
    return part if hashlib.sha256(data).hexdigest() == part.sha256 else None


def _patched(folder: Path, old: _Version, new: _Version) -> Part | None:
    patch = make_patch(old.data, new.data)
    if len(patch) > WORTH * len(new.data):
        return None
    part = Part(sha256=hashlib.sha256(patch).hexdigest(), length=len(patch))
    _put(folder, patch_name(part.sha256), patch)
    return part


def _put(folder: Path, name: str, data: bytes) -> None:
    """Write a file that is not there yet with these bytes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)
