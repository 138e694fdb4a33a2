"""`keys`: make signing keys, and the key sets by which devices go from old keys to new ones.

Keys are held by different people: one makes the set and signs it, the file goes round, and each of the others adds a
signature on a machine of their own. Private keys never travel.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from sottovoce.models.atomic import write_atomically
from sottovoce.models.key_set import MOST_KEYS, KeySet, add_signatures, claimed, sign_key_set
from sottovoce.models.signing import (
    PrivateKey,
    generate_key,
    key_id,
    load_private_key,
    load_public_key,
    public_pem,
    save_private_key,
    save_public_key,
)
from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.cli_options import PATH, as_json, model_line, print_json
from sottovoce.simulations.key_facts import key_facts, lines

after_option = click.option("--after", type=PATH, help="The signed key set before it.")
sign_option = click.option(
    "--sign", "signing", type=PATH, multiple=True, required=True, help="Private key that signs, PEM; repeatable."
)


@click.group()
def keys() -> None:
    """Make signing keys, and key sets that take devices from old keys to new ones."""


@keys.command()
@click.argument("private", metavar="PRIVATE", type=PATH)
@as_json
def new(private: Path, json_output: bool) -> None:
    """Make a key pair: PRIVATE, which only you can read, and the public one beside it, as NAME.pub.pem.

    The private key is not encrypted. Nothing is ever overwritten.
    """
    public = private.with_name(f"{private.name.removesuffix('.pem')}.pub.pem")
    for path in (private, public):
        _require_free(path)
    key = generate_key()
    try:
        save_private_key(key, private)
        save_public_key(key.public_key(), public)
    except OSError as error:
        raise ConfigError(f"{private}: {error.strerror}", "name a file in a folder that you may write") from error
    name = key_id(key.public_key())
    if json_output:
        print_json({"private": str(private), "public": str(public), "key_id": name})
        return
    click.echo(f"private key: {private}  keep it to yourself")
    click.echo(f"public key:  {public}")
    click.echo(f"key id:      {name}")


@keys.command(name="set")
@click.option("--out", type=PATH, required=True, help="Where the key set goes; never overwritten.")
@after_option
@click.option("--line", callback=model_line, help="The line of models. [default: that of --after]")
@click.option("--version", type=click.IntRange(1, 2**53 - 1), help="[default: one above --after]")
@click.option(
    "--key", "listed", type=PATH, multiple=True, help="Public key, PEM; repeatable. [default: those of --after]"
)
@click.option(
    "--threshold",
    type=click.IntRange(1, MOST_KEYS),
    help="Keys that must sign a bundle and the next set. [default: that of --after]",
)
@click.option("--expires-days", type=click.IntRange(1, 3650), default=365, show_default=True)
@click.option(
    "--last-version",
    type=click.IntRange(1, 2**53 - 1),
    help="Last bundle that you released before this set: after a theft, devices go back to it from any later one.",
)
@sign_option
@as_json
def set_(
    out: Path,
    after: Path | None,
    line: str | None,
    version: int | None,
    listed: Sequence[Path],
    threshold: int | None,
    expires_days: int,
    last_version: int | None,
    signing: Sequence[Path],
    json_output: bool,
) -> None:
    """Make the next key set and sign it.

    A threshold of the keys before it and a threshold of its own must sign, here or later with `keys sign`. Set 1 is the
    record of the keys that the app ships with; devices never fetch it.
    """
    _require_free(out)
    before = None if after is None else _read(after)
    expires = (datetime.now(UTC) + timedelta(days=expires_days)).replace(microsecond=0)
    old, pems = None if before is None else claimed(before), [_public(path) for path in listed]
    made = _next(old, line, version, pems, threshold, expires, last_version)
    data = sign_key_set(made, _signers(signing, made, before))
    claimed(data)
    _write(out, data)
    _tell(data, before, out, json_output)


@keys.command()
@click.argument("file", metavar="KEYSET", type=PATH)
@after_option
@sign_option
@click.option("--out", type=PATH, help="Where the key set with the new signatures goes. [default: KEYSET itself]")
@as_json
def sign(file: Path, after: Path | None, signing: Sequence[Path], out: Path | None, json_output: bool) -> None:
    """Add your signature to a key set that someone else made. Look at it first, with `keys show`."""
    data, before = _read(file), None if after is None else _read(after)
    if out is not None:
        _require_free(out)
    try:
        signed = add_signatures(data, _signers(signing, claimed(data), before))
    except ValueError as error:
        raise ConfigError(f"{file}: {error}", "start again from a key set with fewer signatures") from error
    _write(out or file, signed)
    _tell(signed, before, out or file, json_output)


@keys.command()
@click.argument("file", metavar="KEYSET", type=PATH)
@after_option
@as_json
def show(file: Path, after: Path | None, json_output: bool) -> None:
    """What a key set says, who signed it, and whether a device with the set --after would follow it."""
    facts = key_facts(_read(file), None if after is None else _read(after), datetime.now(UTC))
    if json_output:
        print_json(facts)
        return
    for told in lines(facts):
        click.echo(told)


def _next(
    old: KeySet | None,
    line: str | None,
    version: int | None,
    listed: Sequence[str],
    threshold: int | None,
    expires: datetime,
    last_version: int | None,
) -> KeySet:
    """The key set that was asked for; what was not said is taken from the set before."""
    if old is not None:
        if (line or old.model_id) != old.model_id or (version or old.version + 1) != old.version + 1:
            raise ConfigError(
                f"--after is key set {old.version} of line {old.model_id}: the next is {old.version + 1} of that line",
                "leave out --line and --version, or name another --after",
            )
        line, version = old.model_id, old.version + 1
        listed, threshold = listed or old.keys, threshold or old.threshold
    if line is None or version is None or not listed:
        raise click.UsageError("without --after a key set needs --line, --version and --key")
    if len(listed) > MOST_KEYS:
        raise ConfigError(f"{len(listed)} keys, a set holds at most {MOST_KEYS}", "name fewer keys")
    try:
        return KeySet(
            model_id=line,
            version=version,
            threshold=threshold or 1,
            keys=tuple(listed),
            expires=expires,
            last_version=last_version,
        )
    except ValueError as error:
        raise ConfigError(str(error), "name more keys with --key, or a lower --threshold") from error


def _signers(paths: Sequence[Path], key_set: KeySet, before: bytes | None) -> list[PrivateKey]:
    """The private keys, each once; one that belongs to neither set would sign for nobody.

    Raises:
        ConfigError: a key cannot be read, or with the set before it at hand, belongs to neither.
    """
    found = {}
    counted = None if before is None else {*key_set.keys, *claimed(before).keys}
    for path in paths:
        key = load_private_key(path)
        pem = public_pem(key.public_key()).decode()
        if counted is not None and pem not in counted:
            raise ConfigError(f"{path}: neither set lists this key", "sign with a key of the old set or of the new one")
        found[pem] = key
    if len(found) > 2 * MOST_KEYS:
        raise ConfigError(f"{len(found)} keys sign, a key set holds {2 * MOST_KEYS} signatures", "sign with fewer")
    return list(found.values())


def _public(path: Path) -> str:
    return public_pem(load_public_key(path)).decode()


def _tell(data: bytes, before: bytes | None, path: Path, json_output: bool) -> None:
    facts = key_facts(data, before, datetime.now(UTC))
    if json_output:
        print_json(facts)
        return
    for told in lines(facts):
        click.echo(told)
    click.echo(f"written: {path}")


def _require_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path}: is there already and is not overwritten", "name another file, or move that one")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "name an existing key set you may read") from error


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "name a file in a folder that you may write") from error
