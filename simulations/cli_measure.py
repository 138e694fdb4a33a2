"""`measure`: ask the devices something other than to train."""

from pathlib import Path
from typing import get_args

import click

from sottovoce.client.question import Query
from sottovoce.server.estimates import Figure, Norms, Platt, Popularity, Quality
from sottovoce.simulations.cli_options import PATH, as_json, data_dir, module_option, print_json
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import CORES, InProcessGrid
from sottovoce.simulations.loading import load
from sottovoce.simulations.measure import Measured
from sottovoce.simulations.measure import measure as release
from sottovoce.simulations.module_file import load_module
from sottovoce.simulations.run import nodes
from sottovoce.simulations.threads import torch_threads

SHOWN_ADS = 20


@click.command()
@click.argument("run", type=PATH)
@click.argument("query", type=click.Choice(get_args(Query)))
@module_option
@data_dir
@as_json
def measure(run: Path, query: Query, module: str | None, data_dir: Path | None, json_output: bool) -> None:
    """Ask the devices, within the run's budget.

    quality: AUC, log loss and click rate of the run's model on held-out rows. calibration: a correction of its
    probabilities, from training rows. clip: how many updates are no longer than each norm. popularity: impressions and
    clicks by ad.

    Each is a noisy sum over the devices that the ledger pays for. How many of each a run may release is planned before
    training: `--set measure.quality=2`.
    """
    folder = RunFolder(run)
    chosen = folder.experiment()
    dataset = load(chosen.data, data_dir, None)
    own = load_module(module, dataset.schema, chosen.seed)
    with torch_threads(CORES // chosen.nodes):
        grid = InProcessGrid(nodes(chosen, dataset, own), chosen.nodes)
        measured, dropped = release(grid, query, chosen, dataset, folder, own)
    for problem in dropped:
        click.echo(f"note: {problem}", err=True)
    if measured.noise == "seeded":
        click.echo("note: SIMULATION: NO GUARANTEE: seeded noise can be repeated", err=True)
    if measured.noise == "none":
        click.echo("note: NOT PRIVATE: these are exact sums", err=True)
    if json_output:
        print_json(measured)
        return
    _show(measured)
    click.echo(
        f"{query} {measured.number} of {measured.of}, paid by ledger row {measured.ledger_row}: "
        f"{folder.measurements / f'{query}-{measured.number}.json'}"
    )


def _show(measured: Measured) -> None:
    found = measured.figures
    if isinstance(found, Quality):
        for name, figure in (
            ("AUC", found.auc),
            ("log loss", found.log_loss),
            ("click rate", found.click_rate),
            ("rows", found.rows),
        ):
            click.echo(f"{name:12}{_told(figure, 0 if name == 'rows' else 4)}")
    elif isinstance(found, Platt):
        click.echo(f"slope       {_told(found.slope, 3)}")
        click.echo(f"intercept   {_told(found.intercept, 3)}")
        click.echo("calibrated logit = slope * logit + intercept")
    elif isinstance(found, Norms):
        for share in found.shares:
            click.echo(f"norm <= {share.norm:<9.4g}{_told(share.share, 4)}")
    elif isinstance(found, Popularity):
        click.echo(
            f"{len(found.ads)} of {found.catalogue} ads stand out from the noise: {found.least:,.0f} impressions"
        )
        for ad in found.ads[:SHOWN_ADS]:
            click.echo(
                f"ad {ad.ad:<7}{_told(ad.impressions, 0):>18} impressions   click rate {_told(ad.click_rate, 3)}"
            )
    else:
        click.echo("the noise drowned the histogram: ask with less noise or of more devices")


def _told(figure: Figure | None, digits: int) -> str:
    """A figure with its error."""
    if figure is None:
        return "drowned in noise"
    return f"{figure.value:,.{digits}f} +- {figure.error:,.{digits}f}"
