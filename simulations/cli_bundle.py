"""`bundle`: what a file says of itself, whether a device would take it, and whether its ledger agrees.

`show`, and `verify` without a ledger, need the device runtime only.
"""

import hashlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sottovoce.client.runtimes import installed
from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, Scorer, request_scorer
from sottovoce.models.bundle import Bundle
from sottovoce.models.passport import releasable
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.signing import key_id, load_public_key
from sottovoce.models.trust import Trust, check_golden
from sottovoce.privacy.errors import BundleError, DeviceError
from sottovoce.simulations.bundle_facts import bundle_facts, calibration_lines, lines, passport_lines, printable
from sottovoce.simulations.cli_options import PATH, as_json, ledger_place, print_json

if TYPE_CHECKING:
    from sottovoce.simulations.bundle_check import LedgerCheck

HOLDS = (
    "container, signatures, digests, version, times, schema and runtimes",
    "golden requests on {runtimes}",
    "the passport states a real guarantee",
)
"""What a bundle that passed was checked for."""


@click.group()
def bundle() -> None:
    """Show what a bundle says of itself, and hold it against the ledger."""


@bundle.command()
@click.argument("file", metavar="BUNDLE", type=PATH)
@click.option("--key", "keys", type=PATH, multiple=True, help="Public key, PEM, that must have signed; repeatable.")
@as_json
def show(file: Path, keys: Sequence[Path], json_output: bool) -> None:
    """What is in a bundle: model, files, runtimes, signer, and the privacy passport in plain words.

    Without a key nothing of it is verified, which is said first. An expired bundle is shown too.
    """
    facts = bundle_facts(_read(file), [load_public_key(key) for key in keys], datetime.now(UTC))
    if json_output:
        print_json(facts)
        return
    for line in lines(facts):
        click.echo(line)


@bundle.command()
@click.argument("file", metavar="BUNDLE", type=PATH)
@click.option("--key", "keys", type=PATH, multiple=True, required=True, help="Public key, PEM, that must have signed.")
@click.option(
    "--ledger",
    "place",
    metavar="LEDGER",
    callback=ledger_place,
    help="Run folder, ledger file or postgresql:// address; its later rows are all right.",
)
@click.option("--checkpoint", type=PATH, help="Checkpoint that it was made from: its weights are quantized again.")
@as_json
def verify(
    file: Path, keys: Sequence[Path], place: Path | str | None, checkpoint: Path | None, json_output: bool
) -> None:
    """Take a bundle as a device would, then recompute what it says of itself from the ledger.

    Ends with 0 only when every rule holds and every field agrees; each field that does not is named with both values.
    """
    data = _read(file)
    trusted = tuple(load_public_key(key) for key in keys)
    names = sorted({key_id(key) for key in trusted})
    runtimes = installed()
    _, accepted = Trust(trusted, threshold=len(names)).accept(data, now=datetime.now(UTC), runtimes=runtimes)
    for name in runtimes:
        _score_golden(accepted, name)
    releasable(accepted.passport)
    checked = None if place is None else _against(accepted, place)
    held = [line.format(runtimes=" and ".join(runtimes)) for line in HOLDS]
    if checkpoint is not None:
        held.append(_made_from(accepted, checkpoint))
    manifest = accepted.manifest
    if json_output:
        print_json(
            {
                "agrees": checked is None or not checked.mismatches,
                "bundle_sha256": hashlib.sha256(data).hexdigest(),
                "model_id": manifest.model_id,
                "version": manifest.version,
                "signed_by": names,
                "held": held,
                "ledger": checked,
                "passport": accepted.passport,
                "calibration": accepted.calibration,
            }
        )
    else:
        for name in names:
            click.echo(f"verified: signed by key {name}")
        click.echo(printable(f"model: {manifest.model_id} version {manifest.version}"))
        for line in held:
            click.echo(f"holds: {line}")
        for line in (*calibration_lines(accepted.calibration), *passport_lines(accepted.passport)):
            click.echo(printable(line))
        if checkpoint is None:
            click.echo("not checked: that the files hold the weights of the checkpoint they name, which was not given")
        _show_ledger(checked)
    if checked is not None and checked.mismatches:
        sys.stdout.flush()
        wrong = ", ".join(one.field for one in checked.mismatches)
        raise BundleError(
            f"bundle and ledger do not agree on: {wrong}", "do not put this bundle to use; ask who signed it"
        )


def _against(accepted: Bundle, place: Path | str) -> "LedgerCheck":
    from sottovoce.privacy.ledger import Ledger
    from sottovoce.simulations.bundle_check import check_ledger  # accounting, not part of the device runtime

    with Ledger.open_unchecked(place) as ledger:
        return check_ledger(accepted.passport, accepted.manifest.checkpoint_digest, ledger, accepted.calibration)


def _made_from(accepted: Bundle, checkpoint: Path) -> str:
    """What holds of a bundle that was made from this checkpoint, in words."""
    from sottovoce.simulations.checkpoint_tables import require_made_from  # quantizing needs torch

    tables = require_made_from(accepted, _read(checkpoint), checkpoint.name)
    return f"{tables} tables are what the weights of {checkpoint.name} quantize to, and LiteRT scores as they do"


def _show_ledger(checked: "LedgerCheck | None") -> None:
    if checked is None:
        click.echo("not checked: the passport's figures and who paid for the weights, no ledger was given")
        return
    for mismatch in checked.mismatches:
        click.echo(printable(f"DIFFERS: {mismatch}"))
    for line in checked.not_checked:
        click.echo(printable(f"not checked: {line}"))
    later = f"; {checked.later_rows:,} rows were appended later" if checked.later_rows else ""
    if checked.paid_row is not None:
        click.echo(f"ledger: row {checked.paid_row:,} committed the checkpoint of these weights as a paid release")
    click.echo(
        f"ledger: {len(checked.agreed)} fields of the passport are what its first {checked.rows:,} rows come to{later}"
    )


def _score_golden(accepted: Bundle, runtime: str) -> None:
    """Score the golden requests as a device with that runtime does."""
    with quiet_stderr():  # LiteRT announces itself when a model is first run
        scorer: Scorer = LiteRTScorer(accepted.tflite) if runtime == "litert" else OnnxScorer(accepted.onnx)
        check_golden(accepted, request_scorer(scorer))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name an existing file you may read") from error
