"""Which calibration ships with a run: the one its ledger paid for, of exactly these weights, or none.

A measurement is believed only as the ledger committed it. One that is not what was committed, or whose fit makes no
sense under its noise, stops the release rather than being passed over: whoever asked for it should know.
"""

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from sottovoce.models.calibration import Calibration, HeadCalibration, PaidMeasurement, identity
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.chain import Committed, Reserved
from sottovoce.privacy.errors import GateError, LedgerError
from sottovoce.privacy.ledger import Ledger
from sottovoce.server.estimates import DROWNED, Figure, Platt
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.run import Trained

WITHOUT = "ship without it: --calibration none"


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a kept calibration says; see `measure.Measured`."""

    number: int
    run_id: str
    model_round: int
    ledger_row: int
    ledger_hash: str
    noise_std: float
    figures: Platt | None


def calibration_of(
    folder: RunFolder, ledger_at: Path | str, run_id: str, model: Trained, schema: FeatureSchema
) -> tuple[Calibration, str]:
    """The newest calibration that was measured of exactly these weights, else one that changes nothing.

    It was fitted to clicks, without the personal layer: the first head gets it, the others stay as they were trained.

    Args:
        folder: of the run.
        ledger_at: where its ledger is.
        run_id: of the run, as its checkpoint says.
        model: that ships; its checkpoint stands in the ledger.
        schema: whose heads are calibrated.

    Returns:
        The calibration, and a line that says where it comes from.

    Raises:
        GateError: a kept measurement is not what the ledger committed, or its fit makes no sense.
        LedgerError: the ledger does not hold.
    """
    plain = identity(schema.heads)
    files = _newest_first(folder.measurements)
    if not files:
        return plain, "calibration: none was measured in this run; chances ship as trained"
    with Ledger.open(ledger_at, readonly=True) as ledger:
        entries, hashes = list(ledger.entries()), {row.seq: row.hash for row in ledger.rows()}
    paid = {entry.seq: entry for entry in entries if isinstance(entry, Reserved)}
    released = {entry.artifact_sha256: entry for entry in entries if isinstance(entry, Committed)}
    since = released[model.sha256].seq if model.sha256 in released else 0
    for path in files:
        kept, digest = _read(path)
        row = released.get(digest)
        bill = None if row is None else paid[row.reservation]
        if row is None or bill is None or bill.purpose != "calibration" or bill.run_id != run_id:
            raise GateError(
                f"{path} is not a calibration that the ledger committed for this run",
                f"restore the file, or measure again so that it is committed; or {WITHOUT}",
            )
        if (kept.ledger_row, kept.ledger_hash, kept.run_id) != (bill.seq, hashes[bill.seq], bill.run_id):
            raise GateError(f"{path} names another row of the ledger than paid for it", WITHOUT)
        # A round that was trained anew after its checkpoint was lost has the same number and other weights.
        if kept.model_round == model.rounds and bill.seq > since:
            first = _fitted(schema.heads[0], kept, digest, path)
            said = f"calibration: as {path.name} measured it, committed in row {row.seq} of the ledger"
            return Calibration(heads=(first, *plain.heads[1:])), said
    return plain, f"calibration: none was measured of round {model.rounds}; chances ship as trained"


def _newest_first(folder: Path) -> list[Path]:
    numbered = {
        int(path.stem.removeprefix("calibration-")): path
        for path in (folder.glob("calibration-*.json") if folder.is_dir() else ())
        if path.stem.removeprefix("calibration-").isdecimal()
    }
    return [numbered[number] for number in sorted(numbered, reverse=True)]


def _read(path: Path) -> tuple[_Kept, str]:
    try:
        data = path.read_bytes()
        return msgspec.json.decode(data, type=_Kept), hashlib.sha256(data).hexdigest()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LedgerError(f"{path}: cannot be read: {error}", f"restore it from a copy, or {WITHOUT}") from None


def _fitted(head: str, kept: _Kept, digest: str, path: Path) -> HeadCalibration:
    """The calibration of one head, in the float32 that its graph computes with."""
    fit = kept.figures
    if fit is None:
        raise GateError(f"{path}: the noise has drowned the fit", WITHOUT)
    slope, intercept = fit.slope, fit.intercept
    try:
        if slope.value < DROWNED * slope.error:
            raise ValueError(f"the slope is {_told(slope)}, too close to 0 for its noise")
        return HeadCalibration(
            head=head,
            slope=float(np.float32(slope.value)),
            intercept=float(np.float32(intercept.value)),
            source=PaidMeasurement(
                run_id=kept.run_id,
                number=kept.number,
                model_round=kept.model_round,
                ledger_row=kept.ledger_row,
                ledger_hash=kept.ledger_hash,
                artifact_sha256=digest,
                noise_std=kept.noise_std,
            ),
        )
    except ValueError as error:
        raise GateError(
            f"{path}: slope {_told(slope)}, intercept {_told(intercept)}: {error}",
            f"plan measurements with less noise next time; {WITHOUT}",
        ) from None


def _told(figure: Figure) -> str:
    return f"{figure.value:.3g} +- {figure.error:.2g}"
