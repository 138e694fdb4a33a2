"""`data`: describe, download and hand out data."""

from pathlib import Path

import click

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.errors import DataError
from sottovoce.simulations import phone
from sottovoce.simulations.cli_options import PATH, as_json, data_dir, print_json
from sottovoce.simulations.data_sources import SOURCES, source
from sottovoce.simulations.describe import DatasetSummary
from sottovoce.simulations.describe import describe as describe_dataset
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.fetch import fetch as fetch_source
from sottovoce.simulations.loading import load
from sottovoce.simulations.market import Market


@click.group()
def data() -> None:
    """Describe, download and hand out data."""


@data.command()
@click.argument("name", type=click.Choice(["market", "kuairand", "movietweetings", "completejourney", "table"]))
@click.option("--devices", type=int, help="Devices of the synthetic market.")
@click.option("--file", help="Of a table: Parquet or CSV.")
@click.option("--schema", help="Of a table: TOML that describes its columns.")
@data_dir
@as_json
def describe(
    name: str, devices: int | None, file: str | None, schema: str | None, data_dir: Path | None, json_output: bool
) -> None:
    """Devices, rows, positive rate and rows per device of a data set."""
    given = {"data.name": name, "data.devices": devices, "data.file": file, "data.schema": schema}
    chosen = compose(None, [(key, value) for key, value in given.items() if value is not None])
    summary = describe_dataset(load(chosen.data, data_dir, None))
    if json_output:
        print_json(summary)
    else:
        _show(summary)


def _show(summary: DatasetSummary) -> None:
    """The figures, aligned."""
    lines = [
        ("devices", f"{summary.devices:,}  ({summary.cold_devices:,} with held-out rows only)"),
        ("ads", f"{summary.ads:,}"),
        ("table rows", f"{summary.table_rows:,}"),
    ]
    for part, figures in (("training rows", summary.train), ("held-out rows", summary.valid)):
        spread = figures.rows_per_device
        rates = ", ".join(f"{head} {rate:.2%}" for head, rate in figures.positive_rate.items())
        lines.append((part, f"{figures.rows:,} of {figures.devices_with_rows:,} devices; {rates}"))
        lines.append(
            ("  per device", f"median {spread.median:g}, 90 % have at most {spread.p90:g}, most {spread.max:,}")
        )
    lines += [("licence", summary.licence), ("thanks to", summary.citation)]
    click.echo(summary.name)
    for name, told in lines:
        click.echo(f"  {name:15}{told}")
    click.echo(f"  {'feature':20}{'source':10}{'kind':10}{'buckets':>9}{'used':>9}{'missing':>9}")
    for one in summary.features:
        click.echo(f"  {one.name:20}{one.source:10}{one.kind:10}{one.buckets:9,}{one.used:9,}{one.missing:9.1%}")


@data.command()
@click.argument("name", type=click.Choice(sorted(SOURCES)))
@click.option("--into", type=PATH, default=Path("data"), show_default=True, help="Data folder.")
@click.option("--mirror", metavar="URL", help="Address of a copy; its files must have the same digests.")
@as_json
def fetch(name: str, into: Path, mirror: str | None, json_output: bool) -> None:
    """Download a public data set from its official address; an interrupted download is resumed."""

    def progress(file: str, done: int, total: int | None) -> None:
        share = f" of {total / 1e6:.1f} MB" if total else " MB"
        click.echo(f"\r{file}: {done / 1e6:.1f}{share}", nl=False, err=True)

    try:
        fetched = fetch_source(source(name), into, base=mirror, progress=progress)
    except KeyboardInterrupt:
        raise DataError(f"{name}: interrupted", "run the same command again; it goes on where it stopped") from None
    finally:
        click.echo(err=True)
    files = [str(path) for path in fetched.files]
    if json_output:
        print_json({"files": files, "downloaded": fetched.downloaded, "notice": fetched.notice})
        return
    click.echo("\n".join([*files, fetched.notice]))


@data.command()
@click.option("--out", type=PATH, required=True, help="Folder for the files.")
@click.option("--device", type=click.IntRange(min=0), default=0, show_default=True, help="Which person of the market.")
@click.option("--visit", type=click.IntRange(min=0), default=0, show_default=True, help="Which of their visits.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the market.")
@click.option("--rows-per-device", type=click.IntRange(2, 10_000), default=30, show_default=True)
@as_json
def device(out: Path, device: int, visit: int, seed: int, rows_per_device: int, json_output: bool) -> None:
    """Write what the phone of a market device holds: catalogue, event log, consent, and a page's request."""
    market = Market(seed, rows_per_device=rows_per_device)
    files = {
        "catalogue.json": phone.catalogue_json(market),
        "events.jsonl": phone.events_jsonl(market, device),
        "consent.json": phone.consent_json(market, device),
        "request.json": phone.request_json(market, device, visit),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(out / name, content)
    except OSError as error:
        raise DataError(f"{out}: {error.strerror}", "choose a folder you may write to") from error
    moment = f"{phone.visit(market, device, visit).time:%Y-%m-%dT%H:%M:%SZ}"
    if json_output:
        print_json({"files": [str(out / name) for name in files], "now": moment})
        return
    click.echo(f"{out}: what device {device} holds at its visit {visit}; its time is on standard output", err=True)
    click.echo(moment)
