"""What a sweep comes to: its runs' figures, collected from their folders, and the files that show them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sottovoce.simulations.frontier import runs_csv, summary_csv
from sottovoce.simulations.picture import png, standalone
from sottovoce.simulations.report import DatasetFacts
from sottovoce.simulations.sweep import Sweep, SweptRun
from sottovoce.simulations.sweep_folder import SweepFolder
from sottovoce.simulations.sweep_page import SweepFacts, sweep_page
from sottovoce.simulations.sweep_price import Price, price
from sottovoce.simulations.sweep_summary import summary


def collect(
    folder: SweepFolder,
    asked: Sweep,
    runs: Sequence[SweptRun],
    reasons: Mapping[str, str],
    data: DatasetFacts,
    created: str,
) -> SweepFacts:
    """Read what the runs left behind, finished or not.

    Args:
        folder: of the sweep.
        asked: the sweep.
        runs: all of its runs.
        reasons: why a run is not finished, by its name, as far as it is known.
        data: what was trained on.
        created: date and time, as text.

    Raises:
        SottovoceError: a run's folder was damaged or changed.
    """
    found = {run.name: folder.outcome(run) for run in runs}
    outcomes = [outcome for outcome in found.values() if outcome is not None]
    return SweepFacts(
        data=data,
        created=created,
        record=folder.record_file.read_text(encoding="utf-8"),
        curve=not asked.vary,
        planned=len(runs),
        lines=summary(asked.settings(), outcomes),
        outcomes=outcomes,
        missing=[f"{name}: {reasons.get(name, 'not begun')}" for name, outcome in found.items() if outcome is None],
        baselines=folder.baselines() or {},
        price=price_of(folder, asked, runs),
    )


def price_of(folder: SweepFolder, asked: Sweep, runs: Sequence[SweptRun]) -> Price:
    """What the runs cost together so far.

    Raises:
        LedgerError: a ledger does not hold.
    """
    begun, shared = folder.begun(runs), folder.ledger(asked)
    own = [] if shared is not None else [place.ledger for place in begun if Path(place.ledger).is_file()]
    return price(own, shared, len(begun), asked.base.privacy.delta)


def write(folder: SweepFolder, asked: Sweep, facts: SweepFacts) -> None:
    """The page, the drawing as SVG and PNG where there is one, and the tables as CSV.

    Raises:
        SottovoceError: a file cannot be written.
    """
    settings = list(asked.settings())
    folder.write("frontier.csv", runs_csv(settings, facts.outcomes, facts.price))
    folder.write("frontier-summary.csv", summary_csv(settings, facts.lines, facts.price))
    if drawing := facts.drawing():
        folder.write("frontier.svg", standalone(drawing).encode())
        folder.write("frontier.png", png(drawing))
    folder.write("sweep.html", sweep_page(facts).encode())


def told(facts: SweepFacts) -> dict[str, Any]:
    """For `--json`: what scripts ask for."""
    return {
        "data": facts.data.name,
        "runs": facts.price.runs,
        "price": facts.price,
        "says": facts.price.lines(),
        "settings": facts.lines,
        "outcomes": facts.outcomes,
        "baselines": facts.baselines,
    }


def show(console: Console, facts: SweepFacts) -> None:
    """The table next to the baselines, and what must be said."""
    table = Table(box=None, pad_edge=False)
    table.add_column("on held-out rows", no_wrap=True)
    for title in ("seeds", "primary", "95 % confidence", "least", "most", "AUC", "GAUC", "nDCG@5", "log loss", "s"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, one in facts.baselines.items():
        # Random scores are no probabilities: their log loss says nothing.
        loss = "" if name == "random" else f"{one.log_loss:.4f}"
        ranking = (f"{one.auc:.4f}", f"{one.gauc:.4f}", f"{one.ndcg_at_5:.4f}")
        table.add_row(name, "", f"{one.primary:.4f}", "", "", "", *ranking, loss, "")
    for line in facts.lines:
        within = "" if line.low is None or line.high is None else f"{line.low:.4f} to {line.high:.4f}"
        primary = (f"{line.primary:.4f}", within, f"{line.least:.4f}", f"{line.most:.4f}")
        means = (f"{value:.4f}" for value in (line.auc, line.gauc, line.ndcg_at_5, line.log_loss))
        table.add_row(line.label, str(line.seeds), *primary, *means, f"{line.seconds:.1f}", style="bold")
    # As wide as it is: a terminal that is narrower breaks lines, but no figure is cut.
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=400), table).maximum)
    console.print(table, crop=False)
    for said in facts.price.lines():
        console.print(said, markup=False, soft_wrap=True)
