"""What a run comes to: final figures next to the baselines, the report page, and the release made from it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from sottovoce.client.own_model import OwnModel
from sottovoce.client.scoring import score
from sottovoce.models.atomic import write_atomically
from sottovoce.models.bundle import Bundle, unpack
from sottovoce.models.calibration import identity
from sottovoce.models.passport import releasable
from sottovoce.models.ranker import calibrated
from sottovoce.models.request import random_requests
from sottovoce.models.signing import PrivateKey
from sottovoce.privacy.audit import AuditReport
from sottovoce.privacy.errors import CheckpointError, ConfigError, GateError, SottovoceError
from sottovoce.server import checkpoint
from sottovoce.server.gates import Gates
from sottovoce.server.release import ReleaseReport
from sottovoce.simulations import report
from sottovoce.simulations.baselines import Popularity, random_scores
from sottovoce.simulations.calibrating import calibration_of
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.factorization import fit
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.issuing import passport
from sottovoce.simulations.latency import SIZES, measure
from sottovoce.simulations.loading import load
from sottovoce.simulations.metrics import Metrics, calibration_curve, evaluate
from sottovoce.simulations.planning import entropy_of, plan_of, record_plan
from sottovoce.simulations.run import Trained, model_of, trained
from sottovoce.simulations.run import measure as judge
from sottovoce.simulations.runtimes import callers
from sottovoce.simulations.shipping import asked_figures, require_committed, ship
from sottovoce.simulations.tuning_folder import assumptions


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Final figures of a run, as kept in `results.json`.

    Attributes:
        data: name of the data set.
        devices: enrolled.
        rows: training rows.
        licence: of the data.
        rounds: in the model.
        notes: what the user must know about the run.
        metrics: of the averaged model on the held-out rows.
        baselines: on the same rows.
        calibration: mean predicted, observed, rows, by tenth.
        audit: what the ledger says.
        record_claim: what a device's own noise hides of one record, with its conversion to the device; None without it.
        release: of the newest release made from this run.
        latency_us: median microseconds per decision's scores, by runtime and number of candidates.
    """

    data: str
    devices: int
    rows: int
    licence: str
    rounds: int
    notes: tuple[str, ...]
    metrics: Metrics
    baselines: dict[str, Metrics]
    calibration: list[tuple[float, float, int]]
    audit: AuditReport
    record_claim: str | None = None
    release: ReleaseReport | None = None
    latency_us: dict[str, dict[str, float]] = {}

    def brief(self) -> dict[str, Any]:
        """For `--json`: what scripts ask for."""
        return {
            "data": self.data,
            "rounds": self.rounds,
            "epsilon": self.audit.epsilon,
            "delta": self.audit.delta,
            "guarantee": self.audit.guarantee,
            "metrics": self.metrics,
            "baselines": self.baselines,
            "notes": self.notes,
        }

    def show(self, console: Console) -> None:
        """Figures next to the baselines, then the claims."""
        table = Table(box=None, pad_edge=False)
        table.add_column("on held-out rows")
        for title in ("AUC", "GAUC", "nDCG@5", "primary", "log loss", "calibration"):
            table.add_column(title, justify="right")
        for name, figures in {**self.baselines, "this model": self.metrics}.items():
            ranking = (figures.auc, figures.gauc, figures.ndcg_at_5, figures.primary)
            # Random scores are no probabilities: their log loss says nothing.
            odds = ("", "") if name == "random" else (f"{figures.log_loss:.4f}", f"{figures.calibration_error:.4f}")
            style = "bold" if name == "this model" else None
            table.add_row(name, *(f"{value:.4f}" for value in ranking), *odds, style=style)
        console.print(table)
        for claim in self.audit.claims:
            console.print(claim, markup=False, soft_wrap=True)
        if self.record_claim:
            console.print(f"record level, on the device: {self.record_claim}", markup=False, soft_wrap=True)
        for finding in self.audit.findings:
            console.print(f"finding: {finding}", style="yellow", markup=False, soft_wrap=True)


def finish(
    experiment: Experiment,
    dataset: Dataset,
    folder: RunFolder,
    model: Trained,
    found: AuditReport,
    with_baselines: bool,
    created: datetime | None = None,
    own: OwnModel | None = None,
) -> Results:
    """Judge the model, write `results.json` and the report; a release made from the very same ledger stays in both.

    `created` is the time that the report states, by default now; `own` is what was trained in place of the ranker.
    """
    valid = dataset.valid
    chances = score(model.parameters, dataset.schema, model_of(experiment, own), dataset.train, valid)[:, 0]
    labels, owners = valid.labels[:, 0], valid.owners
    results = Results(
        data=dataset.name,
        devices=dataset.train.devices,
        rows=dataset.train.rows,
        licence=dataset.licence,
        rounds=model.rounds,
        notes=(*model.notes, *assumptions(folder), *_own(folder)),
        metrics=evaluate(chances, labels, owners),
        baselines=baselines(dataset) if with_baselines else {},
        calibration=calibration_curve(chances, labels),
        audit=found,
        record_claim=_record_claim(experiment, dataset, folder),
    )
    try:
        earlier = read_results(folder)
    except ConfigError:
        earlier = None  # the first time, or the file is damaged and made anew here
    if earlier is not None and earlier.audit.head == found.head and earlier.rounds == model.rounds:
        results = msgspec.structs.replace(results, release=earlier.release, latency_us=earlier.latency_us)
    _keep(folder, results, created)
    return results


def _own(folder: RunFolder) -> tuple[str, ...]:
    """That the model is not the ranker, where it is not."""
    found = folder.module()
    return (f"trains {found.name}, a module of its user's own, {found.values:,} weights",) if found else ()


def _record_claim(experiment: Experiment, dataset: Dataset, folder: RunFolder) -> str | None:
    """The record-level guarantee in words: another unit than the ledger's of the run, and never part of its figures."""
    own = record_plan(experiment, plan_of(folder, experiment, dataset))
    return None if own is None else str(own.claim(noise_kind=entropy_of(experiment).kind))


def baselines(dataset: Dataset) -> dict[str, Metrics]:
    """Chance, popularity and a centralised factorization machine on the same rows; the truth where it is known."""
    train, valid = dataset.train, dataset.valid
    scores = {
        "random": random_scores(valid.rows, seed=0),
        "popularity": Popularity.fit(train).score(valid),
        "central FM, k=16": fit(train, valid, dataset.schema.rows).score(valid),
    }
    if dataset.truth is not None:
        scores["true probabilities"] = dataset.truth[:, 0]
    return {name: evaluate(values, valid.labels[:, 0], valid.owners) for name, values in scores.items()}


class Made(msgspec.Struct, frozen=True):
    """A release, where it lies, and a line on where its calibration comes from."""

    report: ReleaseReport
    path: Path
    calibration: str


def release_run(
    run: Path,
    data_dir: Path | None,
    keys: Sequence[PrivateKey],
    keep_key: Callable[[], None],
    gates: Gates,
    *,
    model_id: str | None,
    version: int,
    expires_days: int,
    now: datetime,
    out: Path | None,
    key_threshold: int | None = None,
    one_byte_scales: bool = False,
    parent: Bundle | None = None,
    rollout_percent: float = 100.0,
    rollout_salt: str | None = None,
    calibrate: bool = True,
) -> Made:
    """Release a finished run: bundle, figures and report; when anything refuses nothing is written.

    Args:
        run: folder of the run.
        data_dir: where the public data sets lie.
        keys: that sign, each once.
        keep_key: called once everything passed, before the bundle is written.
        gates: limits.
        model_id: the line of models; None for the data set's name.
        version: above every earlier one of the line.
        expires_days: days until devices stop accepting it.
        now: time of signing.
        out: where the bundle goes; None for its place in the folder.
        key_threshold: how many of them a device must trust; None for all.
        one_byte_scales: whether the scale of a row of embeddings takes one byte instead of four.
        rollout_percent: of devices that take it, 0 to 100.
        rollout_salt: to widen an earlier rollout, its salt; None draws devices anew.
        parent: an earlier release whose scales are kept where they fit, so that devices which have it download less.
        calibrate: whether the newest calibration that was paid for and measured of these weights ships with them.

    Raises:
        GateError: which gate, and by how much; or why this run cannot be released at all.
        SottovoceError: not a finished run, or the folder cannot be written.
    """
    folder = RunFolder(run)
    experiment = folder.experiment()
    if (own := folder.module()) is not None:
        raise GateError(
            f"{run} trains {own.name}, a module of its user's own: only the built-in ranker can be exported",
            "release a run of the built-in ranker; these weights are in the run's checkpoints, as safetensors",
        )
    results = read_results(folder)
    path = out or folder.bundle_file
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path}: cannot be a file there", "name a file in a folder that exists")
    dataset = load(experiment.data, data_dir, None)
    found, _ = folder.audit()
    plan = plan_of(folder, experiment, dataset)
    proof = passport(found, plan, assumptions(folder))
    releasable(proof)
    model = trained(experiment, dataset, folder)
    committed = require_committed(folder.ledger, model)
    if model.rounds != results.rounds:
        raise CheckpointError(
            f"{run}: the newest readable checkpoint is of round {model.rounds}, round {results.rounds} was evaluated",
            f"restore the checkpoint, or evaluate this one with: sottovoce simulate --resume {run}",
        )
    calibration, told = identity(dataset.schema.heads), "calibration: none, as asked; chances ship as trained"
    if calibrate:
        run_id = checkpoint.newest(folder.checkpoints).facts.run_id
        calibration, told = calibration_of(folder, folder.ledger, run_id, model, dataset.schema)
    shipped = replace(model, parameters=calibrated(model.parameters, calibration))
    judged = results.metrics if calibration.identity else judge(experiment, dataset, shipped.parameters)
    made = ship(
        experiment,
        dataset,
        model,
        proof,
        list(keys),
        gates,
        asked_figures(judged, gates, experiment, dataset, shipped, committed, now),
        model_id=model_id or dataset.name,
        version=version,
        expires_days=expires_days,
        now=now,
        key_threshold=key_threshold,
        one_byte_scales=one_byte_scales,
        parent=parent,
        rollout_percent=rollout_percent,
        rollout_salt=rollout_salt,
        calibration=calibration,
    )
    files = unpack(made.bundle)
    rng = np.random.default_rng(0)
    asked = {size: random_requests(dataset.schema, 1, size, rng)[0] for size in SIZES}
    speed = measure(callers(files["model.tflite"], files["model.onnx"], asked), 200, rng)
    try:
        keep_key()
        write_atomically(path, made.bundle)
    except OSError as error:
        raise SottovoceError(f"{path}: {error.strerror}", "choose a folder you may write to") from error
    _keep(folder, msgspec.structs.replace(results, audit=found, release=made.report, latency_us=speed.p50_us))
    return Made(made.report, path, told)


def read_results(folder: RunFolder) -> Results:
    """The figures of a finished run.

    Raises:
        ConfigError: the run is not finished, or the file is damaged.
    """
    try:
        return msgspec.json.decode(folder.results_file.read_bytes(), type=Results)
    except FileNotFoundError:
        raise ConfigError(
            f"{folder.path}: the run is not finished", f"finish it with: sottovoce simulate --resume {folder.path}"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{folder.results_file}: {error}", f"make it anew with: sottovoce simulate --resume {folder.path}"
        ) from None


def _keep(folder: RunFolder, results: Results, created: datetime | None = None) -> None:
    try:
        write_atomically(folder.results_file, msgspec.json.format(msgspec.json.encode(results), indent=2))
        write_atomically(
            folder.report_file, report.render(_summary(folder, results, created or datetime.now(UTC))).encode()
        )
    except OSError as error:
        raise SottovoceError(f"{folder.path}: {error.strerror}", "free space, then run the command again") from error


def _summary(folder: RunFolder, results: Results, created: datetime) -> report.RunSummary:
    """The run in the words of the report."""
    found = results.audit
    head = {"ledger": "whole" if found.ledger_ok else "BROKEN", "rows": str(found.head.length), "head": found.head.hash}
    facts = {
        **head,
        "releases": str(found.rounds),
        "noise": found.noise,
        "population": f"{found.population:,}" if found.population else "none",
        **{f"epsilon by {name}": f"{value:.4f}" for name, value in found.cross_check.items() if value is not None},
        **({"record level, on the device": results.record_claim} if results.record_claim else {}),
        **{f"finding {number}": text for number, text in enumerate(found.findings, 1)},
        **{f"note {number}": text for number, text in enumerate(results.notes, 1)},
    }
    return report.RunSummary(
        title=f"{results.data}, {results.rounds} rounds",
        created=created.strftime("%Y-%m-%d %H:%M UTC"),
        dataset=report.DatasetFacts(results.data, results.devices, results.rows, results.licence),
        experiment=folder.experiment_file.read_text(encoding="utf-8"),
        rounds=[
            report.RoundRow(
                round=point.record.round,
                log_loss=point.metrics.log_loss if point.metrics else None,
                epsilon=math.inf if point.epsilon is None else point.epsilon,
                cohort=point.record.cohort,
                replies=point.record.answered,
                seconds=point.record.seconds,
                primary=point.metrics.primary if point.metrics else None,
                auc=point.metrics.auc if point.metrics else None,
            )
            for point in folder.points()
        ],
        metrics=results.metrics,
        baselines=results.baselines,
        calibration=results.calibration,
        privacy=report.PrivacyFacts(list(found.claims), facts, found.budget_epsilon, found.delta, found.epsilon),
        release=_release(results.release, results.latency_us) if results.release else None,
        guarantee=found.guarantee,
    )


def _release(made: ReleaseReport, latency_us: Mapping[str, Mapping[str, float]]) -> report.ReleaseFacts:
    parity = msgspec.to_builtins(made.parity)
    for worst in made.parity.slices[:1]:
        parity[f"decision_change in the worst slice, {worst.name}"] = worst.decision_change
    return report.ReleaseFacts(
        bundle_bytes=made.bundle_bytes,
        onnx_bytes=made.file_bytes["model.onnx"],
        tflite_bytes=made.file_bytes["model.tflite"],
        latency_us={engine: {int(n): value for n, value in by_n.items()} for engine, by_n in latency_us.items()},
        parity={name: value for name, value in parity.items() if isinstance(value, int | float)},
        gates=[
            report.GateRow(gate.name, "nothing" if gate.measured is None else gate.measured, gate.limit, gate.passed)
            for gate in made.gates
        ],
    )
