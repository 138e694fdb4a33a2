"""`delta`, `publish` and `update`: what a device downloads for a new version, where from, and how it takes it."""

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from sottovoce.client.bundle_store import BundleStore
from sottovoce.client.runtimes import required
from sottovoce.client.update import check
from sottovoce.models.atomic import write_atomically
from sottovoce.models.delta import apply_patch, make_patch
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.rollout import takes_part
from sottovoce.models.signing import load_public_key
from sottovoce.models.trust import Trust
from sottovoce.models.update_index import INDEX, MOST_PATCHES, bundle_name, key_set_name
from sottovoce.privacy.errors import ConfigError
from sottovoce.server.key_folder import publish_key_sets
from sottovoce.server.publishing import PATCHES
from sottovoce.server.publishing import publish as write_folder
from sottovoce.simulations.cli_options import PATH, as_json, print_json


@click.command()
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option("--out", type=PATH, required=True, help="Where the patch goes.")
@as_json
def delta(old: Path, new: Path, out: Path, json_output: bool) -> None:
    """Write what turns one bundle into another, and say what a device saves.

    The patch is applied once before it is written. Signatures are not looked at: the device does that.
    """
    before, after = _read(old), _read(new)
    patch = make_patch(before, after)
    apply_patch(before, patch)
    _write(out, patch)
    ratio = len(patch) / len(after)
    if json_output:
        print_json({"old": len(before), "new": len(after), "patch": len(patch), "ratio": ratio})
        return
    click.echo(f"old:   {len(before):>10,} bytes  {old}")
    click.echo(f"new:   {len(after):>10,} bytes  {new}")
    click.echo(f"patch: {len(patch):>10,} bytes  {out}, {ratio:.1%} of the new bundle")


@click.command()
@click.argument("bundles", type=PATH, nargs=-1, metavar="[BUNDLE...]")
@click.option("--to", "folder", type=PATH, required=True, help="Folder for a web server to serve; made when missing.")
@click.option(
    "--patches",
    type=click.IntRange(0, MOST_PATCHES),
    default=PATCHES,
    show_default=True,
    help="Patches from so many older versions.",
)
@click.option("--keys", "key_sets", type=PATH, multiple=True, help="Signed key set to add; repeatable.")
@as_json
def publish(
    bundles: tuple[Path, ...], folder: Path, patches: int, key_sets: tuple[Path, ...], json_output: bool
) -> None:
    """Write a static folder that is a complete update server.

    The newest BUNDLE becomes the folder's newest version. Patches start from the older ones, and from what was
    published there before. The same command twice changes nothing; an older version is refused.
    Key sets are written before bundles: a device follows them first. The folder keeps them all.
    """
    if not bundles and not key_sets:
        raise click.UsageError("name a BUNDLE, or a key set with --keys")
    index = None
    try:
        chain = publish_key_sets([_read(path) for path in key_sets], folder, datetime.now(UTC)) if key_sets else []
        if bundles:
            index = write_folder([_read(path) for path in bundles], folder, patches)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}", "name a folder that you may write; publish again") from error
    if json_output:
        told = {} if index is None else msgspec.to_builtins(index)
        print_json(told | ({"key_sets": [one.version for one in chain]} if chain else {}))
        return
    for one in chain:
        click.echo(f"key set {one.version}, expires {one.expires:%Y-%m-%d}: {folder / key_set_name(one.version)}")
    if index is None:
        return
    click.echo(f"{index.line} version {index.version}: {index.length:,} bytes  {folder / bundle_name(index.sha256)}")
    for old, part in index.patches.items():
        click.echo(f"  patch from {old[:12]}: {part.length:>10,} bytes, {part.length / index.length:.1%}")
    click.echo(f"index: {folder / INDEX}")


@click.command()
@click.argument("address")
@click.option("--store", "folder", type=PATH, required=True, help="The device's folder of bundles; made when missing.")
@click.option(
    "--key", "keys", type=PATH, required=True, multiple=True, help="Public key of a signer, PEM; may be repeated."
)
@click.option(
    "--threshold", type=click.IntRange(1, 8), default=1, show_default=True, help="Keys that must have signed."
)
@click.option(
    "--key-version",
    type=click.IntRange(1, 2**53 - 1),
    default=1,
    show_default=True,
    help="Which key set these keys are; above 1 when a newer app ships newer keys.",
)
@as_json
def update(
    address: str, folder: Path, keys: tuple[Path, ...], threshold: int, key_version: int, json_output: bool
) -> None:
    """Follow new key sets at ADDRESS, then look for a newer bundle, check it, and put it to use.

    ADDRESS is where what `publish` wrote is served: https, or http on this machine. The keys are those that the app
    ships with; key sets are followed from there and kept in the store. A device outside the share that a staged rollout
    names keeps what it has.
    """
    trust = Trust(tuple(load_public_key(key) for key in keys), threshold, key_version=key_version)
    store = BundleStore(folder, trust, required("litert"))
    with quiet_stderr():  # LiteRT announces itself when a model is first run
        found = check(
            address, store, datetime.now(UTC), wanted=lambda manifest: takes_part(manifest.rollout, store.secret())
        )
    version = found.bundle.manifest.version if found.bundle else store.belief().version
    if json_output:
        told = {"outcome": found.outcome, "version": version, "by": found.by, "received": found.received}
        print_json(told | {"key_version": store.trust().key_version, "key_sets": found.key_sets})
        return
    if found.key_sets:
        sets = "key set" if found.key_sets == 1 else "key sets"
        click.echo(f"keys: {found.key_sets} new {sets} followed, to version {store.trust().key_version}")
    by = f" by {found.by}" if found.by else ""
    click.echo(f"{found.outcome}{by}: version {version or 'none yet'}, {found.received:,} bytes received")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "name an existing bundle you may read") from error


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "name a file in a folder that you may write") from error
