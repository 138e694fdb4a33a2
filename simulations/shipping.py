"""From a finished run to a release: passport from its ledger, model from its checkpoint, requests to compare on.

What ships is tied to what was paid for: the checkpoint's digest must stand in the ledger as a committed release.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np

from sottovoce.client.scoring import requests
from sottovoce.models.bundle import Bundle
from sottovoce.models.passport import SIMULATION, PrivacyPassport
from sottovoce.models.request import Request, random_requests
from sottovoce.models.signing import PrivateKey
from sottovoce.privacy.audit import AuditReport
from sottovoce.privacy.chain import Committed
from sottovoce.privacy.errors import GateError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.gates import Gates
from sottovoce.server.release import Release, release
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.run import Trained

REAL = 1_000
"""Requests of held-out devices that the scorers are compared on."""

DRAWN = {4: 500, 16: 500, 64: 1_000, 256: 200}
"""Requests drawn at random over the whole schema, by number of candidates."""

CANDIDATES = 64
"""Most candidates of a real request."""


def passport(audit: AuditReport, plan: MechanismPlan, assumes: Sequence[str] = ()) -> PrivacyPassport:
    """What the ledger proves, in the form that travels with the model.

    Args:
        audit: of the run's ledger.
        plan: of the run whose model travels.
        assumes: what else the claims rest on, in words.

    Raises:
        GateError: the ledger does not hold, so that nothing can be said.
    """
    if not audit.ledger_ok or audit.delta is None or audit.population is None:
        raise GateError("the run's ledger does not hold", "look at `sottovoce audit`; such a run cannot be released")
    # A run that was never charged by itself is the best of a selection, which was charged as a whole.
    own = plan.digest() in {spend.plan_hash for spend in audit.releases}
    selections = "; ".join(spend.mechanism for spend in audit.releases if spend.purpose == "tuning")
    return PrivacyPassport(
        sampling=plan.sampling if plan.cohorts == "secret" else f"{plan.sampling}, not counted: cohorts are visible",
        sampling_rate=plan.sampling_rate,
        population=audit.population,
        mechanism=plan.noise if own else f"{plan.noise}, {selections}",
        noise_multiplier=plan.noise_multiplier,
        clip_norm=plan.clip_norm,
        rounds=audit.rounds if own else plan.rounds,
        releases=audit.purposes,
        accountant=audit.accountant,
        observer=audit.observer,
        max_participations=plan.max_participations,
        epsilon=audit.epsilon,
        epsilon_known_cohort=audit.epsilon_known_cohort,
        delta=audit.delta,
        ledger_head=audit.head.hash,
        ledger_length=audit.head.length,
        noise_source=audit.noise,
        label="; ".join((*audit.claims, *assumes)) if audit.guarantee else SIMULATION,
    )


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
    one_byte_scales: bool = False,
    parent: Bundle | None = None,
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
        one_byte_scales=one_byte_scales,
        parent=parent,
    )
