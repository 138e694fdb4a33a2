"""`replay`: decisions that were traced, picked again. Needs the device runtime only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from sottovoce.client.catalogue import Catalogue, decode_catalogue
from sottovoce.client.device import STORE
from sottovoce.client.device_learning import NOTHING, Learnt
from sottovoce.client.events import EventLog, decode_log
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.replay import replay as replayed
from sottovoce.client.trace import Trace, decode_traces
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.signing import load_public_key
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import ConfigError, DeviceError
from sottovoce.simulations.bundle_picker import believed
from sottovoce.simulations.cli_device import opened
from sottovoce.simulations.cli_options import PATH, as_json, print_json
from sottovoce.simulations.settings_file import read_settings
from sottovoce.simulations.trace_file import read_secret, secret_of


@dataclass(frozen=True, slots=True)
class _Now:
    """What there is to pick with, and what was learnt by each trace."""

    build: Callable[[Catalogue], Picker]
    catalogue: Catalogue
    log: EventLog
    learnt: tuple[Learnt, ...]


@click.command()
@click.argument("traces", type=PATH)
@click.argument("bundle", type=PATH, required=False)
@click.option("--device", "folder", type=PATH, help="DIR of `sottovoce device`: its models, catalogue and events.")
@click.option("--key", type=PATH, help="Public key of the signer of BUNDLE, PEM.")
@click.option("--catalogue", type=PATH, help="catalogue.json")
@click.option("--log", type=PATH, help="events.jsonl as it is now; what came later is left out. [default: nothing yet]")
@click.option("--policy", type=PATH, help="Settings of the app, JSON or TOML. [default: the built-in ones]")
@click.option("--secret", type=PATH, help="The device's secret that the traces were made with. [default: beside them]")
@click.option("--runtime", type=click.Choice(["litert", "onnxruntime"]), default="litert", show_default=True)
@click.option(
    "--now",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ"]),
    help="When no model must have expired, UTC; an earlier moment asks an expired one. [default: now]",
)
@as_json
def replay(
    traces: Path,
    bundle: Path | None,
    folder: Path | None,
    key: Path | None,
    catalogue: Path | None,
    log: Path | None,
    policy: Path | None,
    secret: Path | None,
    runtime: str,
    now: datetime | None,
    json_output: bool,
) -> None:
    """Pick again what `pick --trace` or `device --trace` wrote down, and name what differs.

    With BUNDLE, its key and a catalogue, or with the folder of a device. Exit code 1 when a decision is not the one of
    then.
    """
    written = decode_traces(_read(traces), str(traces))
    if not written:
        raise DeviceError(f"{traces}: no trace", "write one with `sottovoce pick --trace`")
    moment = now.replace(tzinfo=UTC) if now else datetime.now(UTC)
    settings = read_settings(policy, PickerPolicy) if policy else PickerPolicy()
    known = read_secret(secret_of(traces, secret))
    if folder is not None and bundle is None and key is None and catalogue is None and log is None:
        given = _of_device(folder, policy, moment, written)
    elif folder is None and bundle is not None and key is not None and catalogue is not None:
        model = believed(_read(bundle), Trust((load_public_key(key),)), moment, runtime, settings)
        events = decode_log(_read(log), str(log)) if log else EventLog()
        given = _Now(model.over, decode_catalogue(_read(catalogue), str(catalogue)), events, (NOTHING,) * len(written))
    else:
        raise ConfigError(
            "it is not said what to replay with", "name BUNDLE, --key and --catalogue, or nothing but --device DIR"
        )
    with quiet_stderr():  # LiteRT announces itself when a model is first run
        picker = given.build(given.catalogue)
        held = given.catalogue, given.build, given.log, known, settings, picker
        found = [replayed(trace, *held, *learnt) for trace, learnt in zip(written, given.learnt, strict=True)]
    if json_output:
        told = zip(written, found, strict=True)
        print_json([{"request": trace.request.id, "replayed": one} for trace, one in told])
    else:
        for trace, one in zip(written, found, strict=True):
            click.echo(f"request {trace.request.id}: {one.sentence}")
    different = sum(not one.identical for one in found)
    if different:
        raise DeviceError(
            f"{different} of {len(found)} decisions are not the ones of then",
            "replay with the model, catalogue, policy and log that they were made from",
        )


def _of_device(folder: Path, policy: Path | None, now: datetime, written: Sequence[Trace]) -> _Now:
    """What a device picks with now, and what it had learnt by then; its folder is left as it was, but for repairs."""
    # Opening anything else would make a new phone there, which remembers nothing to replay from.
    if not (folder / STORE).is_dir():
        raise DeviceError(f"no phone has decided anything in {folder}", "name the DIR of `sottovoce device`")
    device = opened(folder, None, policy, 0, now)
    try:
        learnt = tuple(
            device.learnt(EventLog(device.log.events[: one.log.events]), one.controls, one.consent, one.now)
            for one in written
        )
        return _Now(device.build, device.catalogue, device.log, learnt)
    finally:
        device.close()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name an existing file you may read") from error
