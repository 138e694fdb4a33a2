"""`sweep`: train with every epsilon and every seed, and draw what privacy costs in quality."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sottovoce.privacy.errors import SottovoceError
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations.cli_experiment import experiment_options_without, overridden
from sottovoce.simulations.cli_options import PATH, as_json, data_dir, print_json
from sottovoce.simulations.cli_train import require_measurable
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.grid import CORES
from sottovoce.simulations.loading import load
from sottovoce.simulations.report import DatasetFacts
from sottovoce.simulations.sweep import Sweep, SweptRun, sweep_of
from sottovoce.simulations.sweep_campaign import open_campaign, plans_of, require_fits
from sottovoce.simulations.sweep_folder import SweepFolder
from sottovoce.simulations.sweep_job import Job
from sottovoce.simulations.sweep_price import LOOKED_AT, Price, planned_price
from sottovoce.simulations.sweep_results import collect, price_of, show, told, write
from sottovoce.simulations.sweep_workers import Event, work

SEEDS = 3


def _epsilons(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...]:  # noqa: ARG001
    """A list of epsilons as typed."""
    if value is None:
        return ()
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers, such as 1,2,4,8,inf") from None
    for epsilon in found:
        if not epsilon > 0:
            raise click.BadParameter(f"{epsilon:g} is not above 0")
    return found


@click.command()
@click.argument("experiment", required=False, type=PATH)
@click.option(
    "--epsilon",
    "epsilons",
    callback=_epsilons,
    metavar="E1,E2,...",
    help="Budget of each run; inf trains without noise. [default: the experiment's]",
)
@click.option(
    "--seeds", type=click.IntRange(1, 1000), help=f"Runs of each setting, with seeds 0 ... N-1. [default: {SEEDS}]"
)
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=V1,V2,...",
    help="Values of any key of the experiment, to compare; repeatable.",
)
@click.option("--budget", type=float, metavar="EPSILON", help="Of one campaign, planned beforehand, that pays for all.")
@click.option("--workers", type=click.IntRange(1, 256), help="Runs side by side, one thread each. [default: cores]")
@experiment_options_without("epsilon", "seed")
@click.option("--out", type=PATH, help="Folder for the sweep. [default: runs/DATA-sweep]")
@click.option("--resume", type=PATH, metavar="DIR", help="Continue an interrupted sweep.")
@click.option("--baselines/--no-baselines", default=True, help="Also run popularity and a factorization machine.")
@data_dir
@as_json
def sweep(
    experiment: Path | None,
    epsilons: tuple[float, ...],
    seeds: int | None,
    vary: tuple[str, ...],
    budget: float | None,
    workers: int | None,
    settings: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    baselines: bool,
    data_dir: Path | None,
    json_output: bool,
    **shortcuts: str | float | None,
) -> None:
    """Train with every epsilon and every seed, and draw the privacy-utility frontier.

    EXPERIMENT is a TOML file, as for `simulate`. The same command on the same folder goes on where it was interrupted.
    Looking at many runs costs privacy: without --budget or --ledger, do it on data that you may look at.
    """
    overrides = overridden(settings, shortcuts)
    if resume is not None and (experiment or epsilons or seeds or vary or budget is not None or overrides or out):
        raise click.UsageError("--resume takes the settings of the sweep; give no other settings")
    if shortcuts["noise"] == "none" and any(math.isfinite(epsilon) for epsilon in epsilons):
        raise click.UsageError("--noise none goes with --epsilon inf only")
    if resume is not None:
        folder = SweepFolder(resume.resolve())
        asked = folder.sweep()
    else:
        base = compose(experiment, overrides)
        folder = SweepFolder((out or Path("runs") / f"{base.data.name}-sweep").resolve())
        asked = sweep_of(base, epsilons or (base.privacy.epsilon,), seeds or SEEDS, vary, budget)
        folder.require(asked)
    began = time.monotonic()
    say = Console(stderr=True, highlight=False, soft_wrap=True)
    dataset = load(asked.base.data, data_dir, None)
    require_measurable(dataset)
    runs = folder.runs(asked)
    left = [run for run in runs if folder.outcome(run) is None]
    jobs = [] if folder.baselines() or not baselines else [Job("baselines", folder.baselines_file, None)]
    if left:
        plans = plans_of(runs, dataset.train.devices)
        expected = planned_price(asked, plans)
        require_fits(asked, expected)
        _announce(say, dataset.train.devices, asked, len(runs), len(left), expected)
        _begin(folder, asked, plans)
        jobs += _jobs(folder, left, expected)
    with folder.locked():
        data = DatasetFacts(dataset.name, dataset.train.devices, dataset.train.rows, dataset.licence)
        del dataset  # each worker loads its own
        failures: list[Event] = []
        crew = min(workers or CORES, max(1, len(jobs)))
        with _Progress(say, folder, runs, failures) as shown:
            try:
                work(jobs, crew, asked.base.data, data_dir, shown.hear, shown.stopping)
            except KeyboardInterrupt:
                raise _interrupted(say, folder, asked, runs) from None
        reasons = {event.job.name: event.what for event in failures}
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        facts = collect(folder, asked, runs, reasons, data, now)
        write(folder, asked, facts)
    if failures:
        show(say, facts)
        raise _unfinished(folder, failures)
    if json_output:
        print_json({**told(facts), "sweep": str(folder.path), "seconds": round(time.monotonic() - began, 1)})
        return
    show(Console(highlight=False), facts)
    click.echo(f"report: {folder.path / 'sweep.html'}    {time.monotonic() - began:.0f} s in all")


def _begin(folder: SweepFolder, asked: Sweep, plans: Sequence[Sequence[MechanismPlan]]) -> None:
    """Plan all runs where one campaign pays, and write down what is asked for; a refusal leaves nothing behind."""
    ledger = folder.ledger(asked)
    if ledger is not None and asked.base.privacy.ledger:
        open_campaign(asked, ledger, plans)
    folder.create(asked)
    if ledger is not None and not asked.base.privacy.ledger:
        open_campaign(asked, ledger, plans)


def _jobs(folder: SweepFolder, left: Sequence[SweptRun], expected: Price) -> list[Job]:
    """What is left to do: half-done runs first, since they end first."""
    lines = [LOOKED_AT]
    if not expected.covered and expected.runs > 1:
        lines.insert(0, f"one run of a sweep: {expected.headline}")
    order = sorted(left, key=lambda run: not folder.run(run.name).experiment_file.exists())
    return [Job(run.name, folder.run(run.name).path, run.experiment, tuple(lines)) for run in order]


def _announce(say: Console, devices: int, asked: Sweep, runs: int, left: int, expected: Price) -> None:
    """What will be done, and what it costs."""
    settings = sum(1 for _ in asked.settings())
    finished = f"; {runs - left} are finished" if left < runs else ""
    say.print(
        f"{asked.base.data.name}: {devices:,} devices, {runs} runs ({settings} settings, {asked.seeds} seeds) of "
        f"{asked.base.rounds} rounds{finished}",
        markup=False,
    )
    say.print(expected.forecast, style=None if expected.covered else "bold red", markup=False)
    if asked.base.privacy.noise == "seeded":
        say.print("SIMULATION: NO GUARANTEE: seeded noise can be repeated", style="bold red")


class _Progress:
    """Every run at work on a terminal; elsewhere one line for each that ended."""

    def __init__(self, say: Console, folder: SweepFolder, runs: Sequence[SweptRun], failures: list[Event]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=say, disable=not say.is_terminal, transient=True)
        self._say, self._folder, self._failures = say, folder, failures
        self._runs = {run.name: run for run in runs}
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def hear(self, event: Event) -> None:
        """Show what happened to a job."""
        name, run = event.job.name, self._runs.get(event.job.name)
        if event.kind == "round":
            if name not in self._tasks:
                self._tasks[name] = self._bar.add_task(name, total=run.experiment.rounds if run else None)
            self._bar.update(self._tasks[name], completed=event.round)
            return
        if name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))
        if event.kind == "done":
            found = self._folder.outcome(run) if run else None
            figures = f": primary {found.metrics.primary:.4f}, AUC {found.metrics.auc:.4f}" if found else ""
            spent = f", {found.rounds} rounds in {found.seconds:.1f} s" if found else ""
            self._bar.console.print(f"{name} done{figures}{spent}", markup=False)
        elif event.kind in ("failed", "died"):
            self._failures.append(event)
            self._bar.console.print(f"{name} {event.kind}: {event.what}", style="bold red", markup=False)

    def stopping(self) -> None:
        """Ctrl-C was heard."""
        self._bar.console.print("ending the rounds under way; Ctrl-C again cuts them off")


def _interrupted(say: Console, folder: SweepFolder, asked: Sweep, runs: Sequence[SweptRun]) -> SottovoceError:
    """What Ctrl-C left."""
    finished = sum(folder.outcome(run) is not None for run in runs)
    say.print(price_of(folder, asked, runs).headline, markup=False)
    return SottovoceError(
        f"interrupted; {finished} of {len(runs)} runs are finished, the others are whole",
        f"continue with: sottovoce sweep --resume {folder.path}",
    )


def _unfinished(folder: SweepFolder, failures: Sequence[Event]) -> SottovoceError:
    """Which jobs are not done, and why."""
    what = "; ".join(f"{event.job.name}: {event.what}" for event in failures)
    todo = "".join(f"{todo}; then " for todo in dict.fromkeys(event.todo for event in failures if event.todo))
    return SottovoceError(
        f"{len(failures)} not finished: {what}", f"{todo}go on with: sottovoce sweep --resume {folder.path}"
    )
