"""`tune`: train with many settings for little more than the price of one run, and keep the best."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from sottovoce.client.examples import Examples
from sottovoce.privacy.budget import FEW_RUNS
from sottovoce.privacy.selection import SelectionPlan
from sottovoce.simulations.cli_experiment import experiment_options, overridden
from sottovoce.simulations.cli_options import PATH, as_json, data_dir, print_json
from sottovoce.simulations.cli_train import require_judging, require_measurable
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import CORES, InProcessGrid
from sottovoce.simulations.loading import impressions, load
from sottovoce.simulations.planning import plan_for
from sottovoce.simulations.results import finish
from sottovoce.simulations.run import nodes
from sottovoce.simulations.search import Search, read_search
from sottovoce.simulations.threads import torch_threads
from sottovoce.simulations.tuning import Trial, require_private, selection_plan
from sottovoce.simulations.tuning import tune as select
from sottovoce.simulations.tuning_costs import cost, costs
from sottovoce.simulations.tuning_folder import HELD_OUT, backdate, interrupted, require_untouched


@click.command()
@click.argument("grid", type=PATH)
@click.option("--out", type=PATH, help="Folder for the winner. [default: runs/DATA-tuned]")
@click.option("--runs", type=click.IntRange(2, 1000), default=5, show_default=True, help="Expected number of runs.")
@click.option("--score-on", "score_on", type=PATH, metavar="FILE", help="Public impressions that choose the winner.")
@click.option("--costs", "show_costs", is_flag=True, help="Print what tuning costs, and stop.")
@click.option("--baselines/--no-baselines", default=True, help="Also run popularity and a factorization machine.")
@experiment_options
@data_dir
@as_json
def tune(
    grid: Path,
    out: Path | None,
    runs: int,
    score_on: Path | None,
    show_costs: bool,
    baselines: bool,
    settings: tuple[str, ...],
    data_dir: Path | None,
    json_output: bool,
    **shortcuts: str | float | None,
) -> None:
    """Train a random number of runs, paid for as a whole, and keep the best.

    GRID is an experiment file with a table [grid]: lists of values by dotted key. The number of runs is secret.
    """
    search = read_search(grid, overridden(settings, shortcuts))
    base = search.base
    folder = RunFolder(out or Path("runs") / f"{base.data.name}-tuned")
    if not show_costs:
        require_untouched(folder)
    say = Console(stderr=True, highlight=False, soft_wrap=True)
    dataset = load(base.data, data_dir, None)
    if show_costs:
        require_private(search)
        _show_costs(base, dataset.train.devices, json_output)
        return
    require_measurable(dataset)
    public = impressions(score_on, dataset, base.data)[0] if score_on is not None else None
    if public is not None:
        require_judging(public)
    plan = selection_plan(search, dataset.train.devices, runs)
    _announce(say, search, dataset, plan, runs, public)
    folder.create(base)
    began = time.time()
    try:
        with torch_threads(CORES // base.nodes), _elapsed(say) as shown:
            model = select(
                lambda chosen: InProcessGrid(nodes(chosen, dataset), chosen.nodes),
                search,
                plan,
                dataset,
                public,
                folder,
                began,
                shown,
            )
        winner = folder.experiment()
        found, _ = folder.audit()
        results = finish(winner, dataset, folder, model, found, baselines, datetime.fromtimestamp(began, UTC))
        backdate(folder, began)
    except KeyboardInterrupt:
        raise interrupted(folder) from None
    if json_output:
        print_json({**results.brief(), "run": str(folder.path), "settings": _chosen(search, winner)})
        return
    results.show(Console(highlight=False))
    for key, value in _chosen(search, winner).items():
        click.echo(f"chosen: {key} = {value}")
    click.echo(f"report: {folder.report_file}")


def _announce(
    say: Console, search: Search, dataset: Dataset, plan: SelectionPlan, runs: int, public: Examples | None
) -> None:
    target, run = search.base.privacy, plan.run
    say.print(
        f"{dataset.name}: {run.population:,} devices, a random number of runs ({runs} expected) of {run.rounds} "
        f"rounds, each with one of {sum(1 for _ in search.choices())} combinations of settings; "
        f"a single run has a chance of {plan.chance(1):.0%}"
    )
    say.print(
        f"device-level epsilon {target.epsilon:g}, delta {target.delta:g} for the whole selection: noise multiplier "
        f"{run.noise_multiplier:.3f}, cohorts of about {run.expected_cohort:,.0f}"
    )
    if runs <= FEW_RUNS:
        say.print(f"note: {cost(run, runs)}", style="yellow", markup=False)
    if public is None:
        say.print(f"ASSUMPTION: {HELD_OUT}; name a public file with --score-on", style="bold red", markup=False)
    if target.noise == "seeded":
        say.print(
            "SIMULATION: NO GUARANTEE: seeded noise can be repeated; the winner cannot be released", style="bold red"
        )


@contextmanager
def _elapsed(say: Console) -> Iterator[Callable[[Trial], None]]:
    """The time on a terminal, and nothing else; what is yielded shows trials, where there is nothing to hide."""
    columns = (SpinnerColumn(), TextColumn("training"), TimeElapsedColumn())
    with Progress(*columns, console=say, disable=not say.is_terminal) as bar:
        bar.add_task("training", total=None)

        def show(trial: Trial) -> None:
            told = ", ".join(f"{key} = {value}" for key, value in trial.choice.items())
            bar.console.print(f"trial: {told}: primary {trial.score:.4f}", markup=False)

        yield show


def _chosen(search: Search, winner: Experiment) -> dict[str, Any]:
    """The winner's settings, as far as they were in the grid."""
    told = msgspec.to_builtins(winner)
    found = {}
    for key in search.grid:
        value = told
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found


def _show_costs(base: Experiment, devices: int, json_output: bool) -> None:
    """What tuning costs with the noise at which one run costs the budget."""
    run = plan_for(base, devices)
    rows = costs(run)
    if json_output:
        told = [{**msgspec.to_builtins(row), "cheaper": row.cheaper} for row in rows]
        print_json({"epsilon": base.privacy.epsilon, "noise_multiplier": run.noise_multiplier, "costs": told})
        return
    click.echo(
        f"One run of {run.rounds} rounds costs epsilon {base.privacy.epsilon:g} with noise multiplier "
        f"{run.noise_multiplier:.3f}. With the same noise:"
    )
    table = Table(box=None, pad_edge=False)
    for title in ("runs", "added up (PLD)", "random stopping (Renyi DP)", "cheaper"):
        table.add_column(title, justify="left" if title == "cheaper" else "right")
    for row in rows:
        table.add_row(str(row.runs), f"{row.added_up:.4f}", f"{row.random_stopping:.4f}", row.cheaper)
    Console(highlight=False).print(table)
