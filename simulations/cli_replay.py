"""`replay`: decisions that were traced, picked again. Needs the device runtime only."""

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import click

from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.events import EventLog, decode_log
from sottovoce.client.replay import replay as replayed
from sottovoce.client.trace import SHORTEST_SECRET, Trace, decode_traces, encode_trace
from sottovoce.models.signing import load_public_key
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import DeviceError
from sottovoce.simulations.bundle_picker import believed
from sottovoce.simulations.cli_options import PATH, as_json, print_json

SECRET_BYTES = 32


@click.command()
@click.argument("traces", type=PATH)
@click.argument("bundle", type=PATH)
@click.option("--key", type=PATH, required=True, help="Public key of the signer, PEM.")
@click.option("--catalogue", type=PATH, required=True, help="catalogue.json")
@click.option("--log", type=PATH, help="events.jsonl as it is now; what came later is left out. [default: nothing yet]")
@click.option("--secret", type=PATH, required=True, help="The device's secret that the traces were made with.")
@click.option("--runtime", type=click.Choice(["litert", "onnxruntime"]), default="litert", show_default=True)
@click.option(
    "--now",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ"]),
    help="When the bundle must not have expired, UTC; an earlier moment asks an expired one. [default: now]",
)
@as_json
def replay(
    traces: Path,
    bundle: Path,
    key: Path,
    catalogue: Path,
    log: Path | None,
    secret: Path,
    runtime: str,
    now: datetime | None,
    json_output: bool,
) -> None:
    """Pick again what `pick --trace` wrote down, and name what differs.

    Exit code 1 when a decision is not the one of then.
    """
    written = decode_traces(_read(traces), str(traces))
    if not written:
        raise DeviceError(f"{traces}: no trace", "write one with `sottovoce pick --trace`")
    moment = now.replace(tzinfo=UTC) if now else datetime.now(UTC)
    model = believed(_read(bundle), Trust((load_public_key(key),)), moment, runtime)
    ads = decode_catalogue(_read(catalogue), str(catalogue))
    events = decode_log(_read(log), str(log)) if log else EventLog()
    picker, known = model.over(ads), read_secret(secret)
    found = [replayed(trace, ads, model.over, events, known, picker=picker) for trace in written]
    if json_output:
        print_json([{"request": trace.request.id, "replayed": one} for trace, one in zip(written, found, strict=True)])
    else:
        for trace, one in zip(written, found, strict=True):
            click.echo(f"request {trace.request.id}: {one.sentence}")
    different = sum(not one.identical for one in found)
    if different:
        raise DeviceError(
            f"{different} of {len(found)} decisions are not the ones of then",
            "replay with the bundle, catalogue and log that they were made from",
        )


def append_trace(path: Path, trace: Trace) -> None:
    """One more line in a file of traces.

    Raises:
        DeviceError: it cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(encode_trace(trace))
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name a file you may write") from error


def made_secret(path: Path) -> bytes:
    """The device's secret; a new one, readable by its owner only, where there is none.

    Raises:
        DeviceError: it can be neither read nor made, or is too short.
    """
    try:
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_secret(path)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name a file you may write") from error
    made = secrets.token_bytes(SECRET_BYTES)
    with os.fdopen(place, "wb") as file:
        file.write(made)
    return made


def read_secret(path: Path) -> bytes:
    """The device's secret.

    Raises:
        DeviceError: it cannot be read, or is too short.
    """
    known = _read(path)
    if len(known) < SHORTEST_SECRET:
        raise DeviceError(f"{path}: {len(known)} bytes are no secret", "remove the file, and a new one is made")
    return known


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name an existing file you may read") from error
