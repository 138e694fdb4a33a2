"""`delta` and `publish`: what a device downloads when a new version is out, and the folder it comes from."""

from pathlib import Path

import click

from sottovoce.models.atomic import write_atomically
from sottovoce.models.delta import apply_patch, make_patch
from sottovoce.privacy.errors import ConfigError
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
