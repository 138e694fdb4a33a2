"""`simulate` and `evaluate`: what an ML engineer types."""

import time
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sottovoce.client.examples import Examples
from sottovoce.client.scoring import score
from sottovoce.privacy.errors import DataError, SottovoceError
from sottovoce.simulations.accelerator import require_accelerator
from sottovoce.simulations.bootstrap import Interval, intervals
from sottovoce.simulations.cli_experiment import experiment_options, overridden
from sottovoce.simulations.cli_operations import operations_options
from sottovoce.simulations.cli_options import PATH, as_json, data_dir, device_option, module_option, print_json
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment, compose
from sottovoce.simulations.folder import Point, RunFolder
from sottovoce.simulations.grid import CORES, InProcessGrid
from sottovoce.simulations.loading import impressions, load
from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.metrics import evaluate as evaluate_scores
from sottovoce.simulations.module_file import load_module
from sottovoce.simulations.operating import Operations, operated
from sottovoce.simulations.planning import plan_of, record_plan
from sottovoce.simulations.results import finish
from sottovoce.simulations.run import model_of, module_facts, nodes, train, trained
from sottovoce.simulations.threads import torch_threads


@click.command()
@click.argument("experiment", required=False, type=PATH)
@experiment_options
@click.option("--out", type=PATH, help="Folder for the run. [default: runs/DATA]")
@click.option("--resume", type=PATH, metavar="RUN", help="Continue an interrupted run.")
@module_option
@device_option
@click.option("--baselines/--no-baselines", default=True, help="Also run popularity and a factorization machine.")
@click.option("--show-config", is_flag=True, help="Print the experiment, defaults filled in, and stop.")
@operations_options
@data_dir
@as_json
def simulate(
    experiment: Path | None,
    settings: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    module: str | None,
    accelerator: str,
    baselines: bool,
    show_config: bool,
    operations: Operations,
    data_dir: Path | None,
    json_output: bool,
    **shortcuts: str | float | None,
) -> None:
    """Train across simulated devices under a privacy budget.

    EXPERIMENT is a TOML file; without it the data set's defaults are used. Every key can be overridden.
    """
    overrides = overridden(settings, shortcuts)
    if resume is not None and (experiment is not None or overrides or out is not None):
        raise click.UsageError("--resume takes the experiment of the run; give no other settings")
    folder = RunFolder(resume) if resume is not None else None
    chosen = folder.experiment() if folder else compose(experiment, overrides)
    if show_config:
        if json_output:
            print_json(chosen)
        else:
            click.echo(chosen.to_toml(), nl=False)
        return
    if folder is None:
        folder = RunFolder(out or Path("runs") / chosen.data.name)
        folder.require_free()
    require_accelerator(accelerator)
    if accelerator != "cpu" and (module is not None or chosen.local.record is not None):
        raise click.UsageError("a module of one's own and record-level training need --device cpu")
    began = time.monotonic()
    say = Console(stderr=True, highlight=False, soft_wrap=True, quiet=operations.log_json)
    dataset = load(chosen.data, data_dir, None)
    require_measurable(dataset)
    own_model = load_module(module, dataset.schema, chosen.seed)
    facts = module_facts(own_model, dataset)
    if own_model is not None:
        own_model.require(chosen.local)
    if resume is not None:
        folder.require_module(facts)
    plan = plan_of(folder, chosen, dataset)
    own = record_plan(chosen, plan)
    if resume is None:
        folder.create(chosen, facts)
    _announce(say, chosen, dataset.train.devices, dataset.train.rows, plan.noise_multiplier)
    if facts is not None:
        say.print(f"{facts.name}, a module of your own, in place of the ranker: {facts.values:,} weights", markup=False)
    if own is not None:
        joins = plan.expected_cohort * chosen.rounds
        say.print(
            f"record-level noise multiplier {own.noise_multiplier:.3f} on the device: about {joins:,.0f} times in all "
            f"a device draws {own.steps} random numbers for each weight of the model"
        )
    try:
        with operated(operations, folder, chosen.rounds) as watched:
            if watched.port is not None:
                say.print(f"metrics: http://{operations.metrics_host}:{watched.port}/metrics", markup=False)
            with torch_threads(CORES // chosen.nodes), _Bar(say, chosen) as bar:
                grid = InProcessGrid(nodes(chosen, dataset, own_model, accelerator), chosen.nodes)
                model = train(grid, chosen, dataset, folder, bar.advance, own_model, watched.observer)
            for note in model.notes:
                say.print(f"note: {note}", style="yellow", markup=False)
                watched.log.tell("note", text=note)
        found, _ = folder.audit()
        results = finish(chosen, dataset, folder, model, found, baselines, own=own_model)
    except KeyboardInterrupt:
        raise SottovoceError(
            f"interrupted; {folder.path} is whole and its ledger honest",
            f"continue with: sottovoce simulate --resume {folder.path}",
        ) from None
    if json_output:
        print_json({**results.brief(), "run": str(folder.path), "seconds": round(time.monotonic() - began, 1)})
        return
    results.show(Console(highlight=False))
    click.echo(f"report: {folder.report_file}    {time.monotonic() - began:.0f} s in all")


def require_measurable(dataset: Dataset) -> None:
    """Refuse data that nothing can be learnt from or measured on, before any budget is spent on it.

    Raises:
        DataError: what is missing.
    """
    for part, rows in (("training", dataset.train), ("held-out", dataset.valid)):
        if not rows.rows:
            raise DataError(f"{dataset.name}: no {part} rows", "give more devices, or more rows")
    require_judging(dataset.valid)


def require_judging(rows: Examples) -> None:
    """Refuse rows that cannot tell a good model from a bad one.

    Raises:
        DataError: why they cannot.
    """
    evaluate_scores(np.full(rows.rows, 0.5), rows.labels[:, 0], rows.owners)


def _announce(say: Console, chosen: Experiment, devices: int, rows: int, noise: float) -> None:
    target = chosen.privacy
    say.print(f"{chosen.data.name}: {devices:,} devices, {rows:,} rows, {chosen.rounds} rounds on {chosen.nodes} nodes")
    if target.noise == "none":
        say.print("NOT PRIVATE: no noise, epsilon is infinite; this run cannot be released", style="bold red")
    else:
        say.print(
            f"device-level epsilon {target.epsilon:g}, delta {target.delta:g}: noise multiplier {noise:.3f}, "
            + (
                "everybody joins every round"
                if target.sampling == "none"
                else f"cohorts of about {target.sampling_rate * devices:,.0f}"
            )
        )
    if target.noise == "seeded":
        say.print(
            "SIMULATION: NO GUARANTEE: seeded noise can be repeated; this run cannot be released", style="bold red"
        )


class _Bar:
    """Progress on a terminal; elsewhere one line per point of the learning curve."""

    def __init__(self, say: Console, chosen: Experiment) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=say, disable=not say.is_terminal)
        self._task = self._bar.add_task("starting", total=chosen.rounds)
        self._say = say
        self._rounds = chosen.rounds

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, point: Point) -> None:
        """Show one more round."""
        record = point.record
        spent = "no privacy" if point.epsilon is None else f"epsilon {point.epsilon:.2f}"
        line = f"round {record.round}/{self._rounds}  {record.answered / record.seconds:,.0f} devices/s  {spent}"
        self._bar.update(self._task, completed=record.round, description=line)
        for problem in record.dropped:
            self._say.print(f"round {record.round}: {problem}", style="yellow", markup=False)
        if point.metrics:
            quality = f"  AUC {point.metrics.auc:.4f}  primary {point.metrics.primary:.4f}"
            (self._bar.console if self._say.is_terminal else self._say).print(line + quality)


FIGURES = {
    "AUC": "auc",
    "GAUC": "gauc",
    "nDCG@5": "ndcg@5",
    "primary": "primary",
    "log loss": "log_loss",
    "calibration error": "calibration_error",
}
"""What `evaluate` prints, by its keys in JSON."""


@click.command()
@click.argument("run", type=PATH)
@click.option("--impressions", "file", type=PATH, help="Rows to score. [default: the run's held-out rows]")
@click.option(
    "--bootstrap",
    "resamples",
    type=click.IntRange(100, 100_000),
    metavar="N",
    help="Also 95 % intervals, from N times drawing devices with replacement; the same N gives the same intervals.",
)
@module_option
@data_dir
@as_json
def evaluate(
    run: Path,
    file: Path | None,
    resamples: int | None,
    module: str | None,
    data_dir: Path | None,
    json_output: bool,
) -> None:
    """Score a run's model on held-out impressions.

    Each row is scored with its device's training rows as history; labels of the scored file are never read as features.
    """
    folder = RunFolder(run)
    chosen = folder.experiment()
    dataset = load(chosen.data, data_dir, None)
    rows = dataset.valid if file is None else impressions(file, dataset, chosen.data)[0]
    own = load_module(module, dataset.schema, chosen.seed)
    model = trained(chosen, dataset, folder, own)
    chances = score(model.parameters, dataset.schema, model_of(chosen, own), dataset.train, rows)
    metrics: Metrics = evaluate_scores(chances[:, 0], rows.labels[:, 0], rows.owners)
    spread: dict[str, Interval] = {}
    if resamples is not None:
        spread = intervals(chances[:, 0], rows.labels[:, 0], rows.owners, resamples, np.random.default_rng(0))
    for note in model.notes:
        click.echo(f"note: {note}", err=True)
    told = msgspec.to_builtins(metrics)
    if json_output:
        print_json({**told, "intervals": spread, "resamples": resamples} if spread else told)
        return
    for name, key in FIGURES.items():
        click.echo(f"{name:18}{told[key]:.4f}{_within(spread.get(key))}")
    click.echo(f"{'devices, rows':18}{metrics.devices:,}, {metrics.rows:,}  (model of round {model.rounds})")
    if spread:
        click.echo(f"95 % intervals by drawing the devices {resamples:,} times; another training run would differ too")


def _within(found: Interval | None) -> str:
    """An interval beside its figure; a warning where many resamples had too few positives to have one."""
    if found is None:
        return ""
    if not found.defined:
        return "  no interval: too few positives"
    sparse = f"  ({1 - found.defined:.0%} of the drawings had none)" if found.defined < 1 else ""
    return f"  {found.low:.4f} to {found.high:.4f}{sparse}"
