"""From a finished run to a release: model from its checkpoint, requests to compare on.

What ships is tied to what was paid for: the checkpoint's digest must stand in the ledger as a committed release.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np

from sottovoce.client.scoring import requests
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
from sottovoce.simulations.run import Trained

REAL, DRAWN = 1_000, 1_000
"""Requests that the scorers are compared on: of held-out devices, and at random over the whole schema."""

CANDIDATES = 64
"""Candidates of a drawn request, and most of a real one."""


def require_committed(ledger_at: Path | str, model: Trained) -> None:
    """Let weights pass whose checkpoint the ledger knows as released.

    Raises:
        GateError: these weights are not what was paid for.
        LedgerError: the ledger does not hold.
    """
    with Ledger.open(ledger_at, readonly=True) as ledger:
        known = {entry.artifact_sha256 for entry in ledger.entries() if isinstance(entry, Committed)}
    if model.sha256 not in known:
        raise GateError(
            f"the checkpoint of round {model.rounds} is not a release the ledger knows",
            "resume the run so that it finishes its round, or restore the checkpoint",
        )


def comparison_requests(dataset: Dataset) -> list[Request]:
    """Requests of held-out devices and drawn ones, for the parity check; none of them enters the bundle."""
    lengths = np.diff(dataset.valid.offsets)
    fit = np.flatnonzero((lengths > 1) & (lengths <= CANDIDATES))
    rng = np.random.default_rng(0)
    chosen = rng.choice(fit, min(REAL, len(fit)), replace=False)
    real = requests(dataset.schema, dataset.train, dataset.valid, np.sort(chosen))
    return [*real, *random_requests(dataset.schema, DRAWN, CANDIDATES, rng)]


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
        model_id=model_id,
        version=version,
        now=now,
        expires_days=expires_days,
        notice=notice,
        metrics=metrics,
        gates=gates,
    )
