"""The key sets of an update folder: the whole chain, which devices walk from wherever they are.

    keys/<version>.json     signed key sets; never changed, never removed

A set that devices would refuse ends their updates at that point, so what can be checked without the app's own keys is
checked before anything is written.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sottovoce.models.atomic import write_atomically
from sottovoce.models.key_rotation import follow, trust_of
from sottovoce.models.key_set import MOST_BYTES, KeySet, claimed, signers
from sottovoce.models.update_index import INDEX, key_set_name, load_index
from sottovoce.privacy.errors import BundleError, ExpiredError, RollbackError, SignatureError


def publish_key_sets(files: Sequence[bytes], folder: Path, now: datetime) -> list[KeySet]:
    """Add key sets to a folder, each of which follows the one before it.

    The first set that a folder ever gets is checked against its own keys only: who signed before it is known to the
    devices, not here, unless it is set 1, the record of the keys that the app ships with.

    Args:
        files: signed key sets, in any order; those that lie there already change nothing.
        folder: made when missing.
        now: time of publishing, with time zone.

    Returns:
        All key sets of the folder, oldest first; the newest is written last.

    Raises:
        SignatureError: too few keys of the set itself, or of the one before it, signed.
        RollbackError: a version was published with other bytes.
        ExpiredError: the newest has expired: no device would follow it.
        BundleError: malformed, of several lines, or a version is missing in between.
        OSError: the folder cannot be written.
    """
    chain = {claimed(data).version: data for data in published_key_sets(folder)}
    new = {}
    for data in files:
        version = claimed(data).version
        if chain.setdefault(version, data) != data:
            raise RollbackError(f"key set {version} was published with other bytes", "make the next version of it")
        new[version] = data
    ordered = [chain[version] for version in sorted(chain)]
    _check(ordered, now)
    _check_line(folder, claimed(ordered[0]).model_id if ordered else None)
    for version in sorted(new):
        path = folder / key_set_name(version)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            write_atomically(path, new[version])
    return [claimed(data) for data in ordered]


def published_key_sets(folder: Path) -> list[bytes]:
    """The files of the folder, oldest first.

    Raises:
        BundleError: a file is damaged, or lies under another version than its own.
    """
    found = {}
    for path in (folder / "keys").glob("*.json"):
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        version = claimed(data).version
        if key_set_name(version) != f"keys/{path.name}":
            raise BundleError(f"{path}: it is key set {version}", "put the file back that was published there")
        found[version] = data
    return [found[version] for version in sorted(found)]


def _check_line(folder: Path, line: str | None) -> None:
    try:
        index = load_index((folder / INDEX).read_bytes())
    except FileNotFoundError:
        return
    if line not in (None, index.line):
        raise BundleError(f"keys of line {line!r}, the folder is of {index.line!r}", "give each line its own folder")


def _check(ordered: Sequence[bytes], now: datetime) -> None:
    if not ordered:
        return
    first = claimed(ordered[0])
    signed = len(signers(ordered[0], first.public_keys()))
    if signed < first.threshold:
        raise SignatureError(
            f"{signed} of {first.threshold} needed keys of key set {first.version} signed it", "have it signed by more"
        )
    key_set = first
    for data in ordered[1:]:
        _, key_set = follow(trust_of(key_set), data)
    if now >= key_set.expires:
        raise ExpiredError(f"key set {key_set.version} expired {key_set.expires.isoformat()}", "make the next version")
