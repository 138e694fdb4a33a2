"""`device`: one phone in a terminal. Nothing but the device runtime is needed, and nothing is sent."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec

from sottovoce.client.bundle_store import BundleStore
from sottovoce.client.decision import Decision
from sottovoce.client.device import BUNDLES, CONSENT, STORE, Device
from sottovoce.client.device_picker import CATALOGUE
from sottovoce.client.events import decode_log
from sottovoce.client.keystore import FileKeystore
from sottovoce.client.occasion import Occasion
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.runtimes import required
from sottovoce.client.trace import traced
from sottovoce.models.atomic import write_atomically
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.signing import PublicKey, generate_key, load_public_key
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import DeviceError, SottovoceError
from sottovoce.simulations.bundle_facts import printable
from sottovoce.simulations.cli_options import PATH, as_json
from sottovoce.simulations.device_session import Session
from sottovoce.simulations.settings_file import read_settings
from sottovoce.simulations.trace_file import append_trace, made_secret, secret_of

PROMPT = "sottovoce> "
SIGNER, APPROVER, KEY, LOG = "signer.pub.pem", "approver.pub.pem", "key", "events.jsonl"
_MOST_LOG = 16 * 1024 * 1024


@click.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--bundle", type=PATH, help="Model to install first.")
@click.option("--key", type=PATH, help="Public key of its signer, PEM; remembered in DIR.")
@click.option("--approver", type=PATH, help="Public key of who approves creatives, PEM; remembered in DIR.")
@click.option("--catalogue", type=PATH, help="Catalogue to install first. [default: DIR/catalogue.json]")
@click.option("--consent", type=PATH, help="Consent keys to take first. [default: DIR/consent.json]")
@click.option(
    "--log",
    type=PATH,
    help="What happened before, for an empty device. [default: DIR/events.jsonl, which is sealed and removed]",
)
@click.option("--policy", type=PATH, help="Settings of the app, JSON or TOML.")
@click.option("--now", type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ"]), help="Time to start from, UTC. [default: now]")
@click.option("--seed", type=int, help="Of the random numbers, so that a session can be repeated.")
@click.option("--trace", type=PATH, help="File that gets a line for each decision, from which `replay` can pick again.")
@click.option("--secret", type=PATH, help="Secret of the device for traces. [default: beside them, made when missing]")
@as_json
def device(
    folder: Path,
    bundle: Path | None,
    key: Path | None,
    approver: Path | None,
    catalogue: Path | None,
    consent: Path | None,
    log: Path | None,
    policy: Path | None,
    now: datetime | None,
    seed: int | None,
    trace: Path | None,
    secret: Path | None,
    json_output: bool,
) -> int:
    """Be one phone: open pages, see its ads, ask why, and change what it may know.

    DIR keeps the phone from one session to the next; `sottovoce data device --out DIR` fills one. Commands come from
    the terminal or, a line each, from standard input. With --json every answer is one line of JSON.
    """
    started = datetime.now(UTC)
    ahead = now.replace(tzinfo=UTC) - started if now else timedelta(0)

    def clock() -> datetime:
        return datetime.now(UTC) + ahead

    if not any((bundle, catalogue, consent, log)):
        # A name that was mistyped would otherwise be a new phone, which knows no ad.
        _require_phone(folder)
    written = _writer(trace, secret) if trace else None
    phone = opened(folder, key, policy, seed, clock(), approver)
    try:
        with quiet_stderr():  # LiteRT announces itself when a model is first run
            if bundle:
                _install(phone, _read(bundle), clock())
        if catalogue:
            phone.take_catalogue(_read(catalogue), clock())
        if consent:
            phone.allow(_read(consent))
        _remember(phone, folder / LOG if log is None else log, clock(), moved=log is None)
        return _talk(Session(phone, clock, written), json_output)
    finally:
        phone.close()


def _writer(path: Path, secret: Path | None) -> Callable[[Occasion, Decision], None]:
    """Writes each decision into the file of traces."""
    known = made_secret(secret_of(path, secret))
    return lambda occasion, decision: append_trace(path, traced(occasion, decision, known))


def opened(
    folder: Path, key: Path | None, policy: Path | None, seed: int | None, now: datetime, approver: Path | None = None
) -> Device:
    """The device in a folder.

    Args:
        folder: made when missing.
        key: of the signer of its models; None for the one that is remembered there.
        policy: settings of the app; None for the built-in ones.
        seed: of the random numbers; None for the system's.
        now: the device's time.
        approver: whose key must have signed the approvals of creatives; None for the one that is remembered there.

    Raises:
        DeviceError: the folder cannot be used.
        ConfigError: no such settings.
    """
    settings = read_settings(policy, PickerPolicy) if policy else PickerPolicy()
    for given, name in ((key, SIGNER), (approver, APPROVER)):
        if given:
            _believe(folder, given, name)
    if folder.exists() and not folder.is_dir():
        raise DeviceError(f"{folder} is a file", "name a folder")
    # Without a key nobody's models are trusted: a key that nothing was ever signed with says just that.
    signers = _believed(folder / SIGNER) or (generate_key().public_key(),)
    bundles = BundleStore(folder / BUNDLES, Trust(signers), required("litert"))
    uniform = random.Random(seed).random if seed is not None else random.SystemRandom().random  # noqa: S311 - a choice
    with quiet_stderr():
        return Device(
            folder,
            bundles,
            FileKeystore(folder / KEY),
            now,
            uniform,
            settings,
            ticks=time.monotonic_ns,
            approvers=_believed(folder / APPROVER),
        )


def _require_phone(folder: Path) -> None:
    """Refuse a folder that holds nothing of a phone, so that none is made by mistake."""
    if not any((folder / name).exists() for name in (STORE, BUNDLES, CATALOGUE, CONSENT, LOG)):
        raise DeviceError(
            f"there is no phone in {folder}",
            f"make one with `sottovoce data device --out {folder}`, or name --catalogue",
        )


def _believe(folder: Path, key: Path, name: str) -> None:
    """Remember a public key in the folder."""
    load_public_key(key)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder / name, _read(key))
    except OSError as error:
        raise DeviceError(f"{folder}: {error.strerror or error}", "choose a folder you may write to") from error


def _believed(path: Path) -> tuple[PublicKey, ...]:
    """The key that is remembered there, if any."""
    return (load_public_key(path),) if path.exists() else ()


def _install(opened: Device, data: bytes, now: datetime) -> None:
    """Install a bundle; the one that is in use already is no roll-back."""
    active = opened.active_bundle()
    if active != data:
        opened.take_bundle(data, now)


def _remember(opened: Device, path: Path, now: datetime, moved: bool) -> None:
    """Take over an earlier log into a store that is empty.

    A log in the device's own folder is moved, not copied: it would lie there readable, and come back after everything
    was deleted.
    """
    if moved and not path.is_file():
        return
    if not opened.log.events:
        for event in decode_log(_read(path), str(path)).events:
            opened.store.append(event, now, wait=False)
    if opened.store.flush() and moved:
        try:
            path.unlink()
        except OSError as error:
            raise DeviceError(f"{path}: {error.strerror or error}", "remove it: it is not sealed") from error


def _talk(session: Session, json_output: bool) -> int:
    """Lines in, answers out; 1 when a piped line could not be followed."""
    terminal = sys.stdin.isatty()
    failed = False
    if terminal and not json_output:
        click.echo(_plain(session.greeting()))
    for line in _lines(terminal):
        try:
            answer = session.say(line)
        except SottovoceError as error:
            failed = True
            if json_output:
                _print_line({"error": error.what, "todo": error.todo})
            else:
                click.echo(_plain(f"error: {error.what}" + (f"; {error.todo}" if error.todo else "")))
            continue
        if answer is None:
            continue
        if answer.done:
            break
        if json_output:
            _print_line(answer.data)
        else:
            click.echo(_plain(answer.text))
    return 1 if failed and not terminal else 0


def _lines(terminal: bool) -> Iterator[str]:
    """Lines of a person, asked for by a prompt, or of a script; both may end at any time."""
    if not terminal:
        yield from (line.decode("utf-8", "replace") for line in sys.stdin.buffer)
        return
    while True:
        try:
            yield input(PROMPT)
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        except UnicodeDecodeError:
            click.echo("error: this line is not UTF-8; type it again")


def _print_line(value: object) -> None:
    click.echo(msgspec.json.encode(value).decode())


def _plain(text: str) -> str:
    """What a terminal may be shown: texts of a catalogue could hold control characters."""
    return "\n".join(map(printable, text.split("\n")))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2 * _MOST_LOG + 1)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror or error}", "name a file you may read") from error
