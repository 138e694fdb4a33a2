"""`delta`, `publish` and `update`: what a device downloads for a new version, where from, and how it takes it."""

from datetime import UTC, datetime
from pathlib import Path

import click

from sottovoce.client.bundle_store import BundleStore
from sottovoce.client.runtimes import required
from sottovoce.client.update import check
from sottovoce.models.atomic import write_atomically
from sottovoce.models.delta import apply_patch, make_patch
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.rollout import takes_part
from sottovoce.models.signing import load_public_key
from sottovoce.models.trust import Trust
from sottovoce.models.update_index import INDEX, MOST_PATCHES, bundle_name
from sottovoce.privacy.errors import ConfigError
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
@click.argument("bundles", type=PATH, nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--to", "folder", type=PATH, required=True, help="Folder for a web server to serve; made when missing.")
@click.option(
    "--patches",
    type=click.IntRange(0, MOST_PATCHES),
    default=PATCHES,
    show_default=True,
    help="Patches from so many older versions.",
)
@as_json
def publish(bundles: tuple[Path, ...], folder: Path, patches: int, json_output: bool) -> None:
    """Write a static folder that is a complete update server.

    The newest BUNDLE becomes the folder's newest version. Patches start from the older ones, and from what was
    published there before. The same command twice changes nothing; an older version is refused.
    """
    try:
        index = write_folder([_read(path) for path in bundles], folder, patches)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}", "name a folder that you may write; publish again") from error
    if json_output:
        print_json(index)
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
@as_json
def update(address: str, folder: Path, keys: tuple[Path, ...], threshold: int, json_output: bool) -> None:
    """Look for a newer bundle at ADDRESS, check it, and put it to use.

    ADDRESS is where what `publish` wrote is served: https, or http on this machine. A device outside the share that a
    staged rollout names keeps what it has.
    """
    trust = Trust(tuple(load_public_key(key) for key in keys), threshold)
    store = BundleStore(folder, trust, required("litert"))
    with quiet_stderr():  # LiteRT announces itself when a model is first run
        found = check(
            address, store, datetime.now(UTC), wanted=lambda manifest: takes_part(manifest.rollout, store.secret())
        )
    version = found.bundle.manifest.version if found.bundle else store.belief().version
    if json_output:
        print_json({"outcome": found.outcome, "version": version, "by": found.by, "received": found.received})
        return
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
