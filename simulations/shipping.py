"""From a finished run to a release: model from its checkpoint, requests to compare on.

What ships is tied to what was paid for: the checkpoint's digest must stand in the ledger as a committed release.
"""

from collections.abc import Mapping
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np

from sottovoce.client.scoring import requests, score
from sottovoce.models.bundle import Bundle
from sottovoce.models.calibration import Calibration
from sottovoce.models.passport import PrivacyPassport
from sottovoce.models.request import Request, random_requests
from sottovoce.models.signing import PrivateKey
from sottovoce.privacy.chain import Committed
from sottovoce.privacy.errors import GateError
from sottovoce.privacy.ledger import Ledger
from sottovoce.server.gates import Gates
from sottovoce.server.release import Release, release
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.run import Trained
from sottovoce.simulations.slices import gap, slice_of

REAL = 1_000
"""Requests of held-out devices that the scorers are compared on."""

DRAWN = {4: 500, 16: 500, 64: 1_000, 256: 200}
"""Requests drawn at random over the whole schema, by number of candidates."""

CANDIDATES = 64
"""Most candidates of a real request."""


def require_committed(ledger_at: Path | str, model: Trained) -> str:
    """Let weights pass whose checkpoint the ledger knows as released; when it was, as the newest such row says.

    Raises:
        GateError: these weights are not what was paid for.
        LedgerError: the ledger does not hold.
    """
    with Ledger.open(ledger_at, readonly=True) as ledger:
        known = {entry.artifact_sha256: entry.time for entry in ledger.entries() if isinstance(entry, Committed)}
    if model.sha256 not in known:
        raise GateError(
            f"the checkpoint of round {model.rounds} is not a release the ledger knows",
            "resume the run so that it finishes its round, or restore the checkpoint",
        )
    return known[model.sha256]


def asked_figures(
    judged: Metrics,
    gates: Gates,
    experiment: Experiment,
    dataset: Dataset,
    model: Trained,
    committed: str,
    now: datetime,
) -> dict[str, float]:
    """What the gates ask for and only a run can tell, by name; what cannot be measured is left out, and so fails.

    Args:
        judged: the model on held-out impressions.
        gates: what is asked for.
        experiment: of the run.
        dataset: of the run.
        model: that ships, calibrated.
        committed: when the ledger says that it was released, ISO 8601; data sets carry no times of their own.
        now: time of signing.

    Raises:
        ConfigError: the gap is asked for by a feature that the model does not have.
    """
    found = {"auc": judged.auc, "calibration_error": judged.calibration_error}
    if gates.fairness_feature is not None:
        valid = dataset.valid
        slices = slice_of(valid, dataset.schema, gates.fairness_feature)
        chances = score(model.parameters, dataset.schema, experiment.model, dataset.train, valid)[:, 0]
        apart = gap(chances, valid.labels[:, 0], slices, gates.fairness_figure)
        if apart is not None:
            found["fairness_gap"] = apart
    if (age := age_days(committed, now)) is not None:
        found["age_days"] = age
    return found


def age_days(committed: str, now: datetime) -> float | None:
    """Days from a time in a ledger to `now`; None for no time, one without a zone, or one that is still to come."""
    try:
        age = now - datetime.fromisoformat(committed)
    except (ValueError, TypeError):
        return None
    return age.total_seconds() / 86_400 if age.total_seconds() >= 0 else None


def comparison_requests(dataset: Dataset) -> list[Request]:
    """Requests of held-out devices and drawn ones, for the parity check; none of them enters the bundle."""
    lengths = np.diff(dataset.valid.offsets)
    fit = np.flatnonzero((lengths > 1) & (lengths <= CANDIDATES))
    rng = np.random.default_rng(0)
    chosen = rng.choice(fit, min(REAL, len(fit)), replace=False)
    real = requests(dataset.schema, dataset.train, dataset.valid, np.sort(chosen))
    drawn = (random_requests(dataset.schema, count, size, rng) for size, count in DRAWN.items())
    return [*real, *chain.from_iterable(drawn)]


def ship(
    experiment: Experiment,
    dataset: Dataset,
    model: Trained,
    proof: PrivacyPassport,
    keys: list[PrivateKey],
    gates: Gates,
    metrics: Mapping[str, float],
    *,
    model_id: str,
    version: int,
    expires_days: int,
    now: datetime,
    key_threshold: int | None = None,
    one_byte_scales: bool = False,
    parent: Bundle | None = None,
    rollout_percent: float = 100.0,
    rollout_salt: str | None = None,
    calibration: Calibration | None = None,
) -> Release:
    """The signed bundle of a run, once every gate passed; nothing is written.

    Raises:
        GateError: which gate, and by how much.
    """
    notice = (
        f"Model trained by sottovoce (Apache-2.0) on {dataset.name}.\nData: {dataset.licence}\n{dataset.citation}\n"
        "The weights were learned from this data; whether they are an adaptation of it is not settled, so its terms\n"
        "are passed on.\n"
    )
    return release(
        model.parameters,
        dataset.schema,
        experiment.model,
        proof,
        comparison_requests(dataset),
        keys,
        checkpoint_digest=model.sha256,
        model_id=model_id,
        version=version,
        now=now,
        expires_days=expires_days,
        notice=notice,
        key_threshold=key_threshold,
        metrics=metrics,
        gates=gates,
        one_byte_scales=one_byte_scales,
        parent=parent,
        rollout_percent=rollout_percent,
        rollout_salt=rollout_salt,
        calibration=calibration,
    )
