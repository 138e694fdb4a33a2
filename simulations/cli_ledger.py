"""`ledger`: open a campaign, look at its ledger, check it, hand it out.

A ledger is named by its run folder, its file, or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`. On a command line
others can read the password: better leave it out and put it into ~/.pgpass.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import click

from sottovoce.privacy.budget import Budget
from sottovoce.privacy.campaign import check_campaign
from sottovoce.privacy.chain import Head
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.statement import Statement, statement
from sottovoce.simulations.cli_experiment import experiment_options, overridden
from sottovoce.simulations.cli_options import PATH, as_json, ledger_place, print_json

SHOWN_HASH = 12
"""Letters of a hash in a table."""


@click.group()
def ledger() -> None:
    """Open, show, verify and export privacy ledgers.

    LEDGER is a run folder, a ledger file or a postgresql:// address.
    """


@ledger.command("open")
@click.argument("place", metavar="LEDGER", callback=ledger_place)
@click.option("--epsilon", type=float, required=True, help="Budget of the campaign; inf for one that is not private.")
@click.option("--delta", type=float, required=True, help="Chance with which the guarantee may fail.")
@click.option("--population", type=int, required=True, help="Enrolled devices.")
@click.option(
    "--share",
    "shares",
    multiple=True,
    metavar="NAME=EPS",
    help="Most to spend on purpose:NAME or for querier:NAME, querier:* for all others; repeatable.",
)
@as_json
def open_ledger(
    place: Path | str, epsilon: float, delta: float, population: int, shares: Sequence[str], json_output: bool
) -> None:
    """Open a campaign that several runs share, before any of them starts.

    Opening it again with the same values changes nothing; with others it is refused.
    """
    kept = dict(_share(text) for text in shares)
    check_campaign(epsilon, delta, population, kept)
    with Ledger.open(place, create=True) as opened:
        Budget(epsilon, delta, opened, kept).open(population)
        found = statement(opened)
    if json_output:
        print_json(found)
    else:
        _show_campaign(found)


@ledger.command("plan")
@click.argument("place", metavar="LEDGER", callback=ledger_place)
@click.argument("experiment", required=False, type=PATH)
@click.option("--runs", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs of this experiment.")
@experiment_options
@as_json
def plan_runs(
    place: Path | str,
    experiment: Path | None,
    runs: int,
    settings: tuple[str, ...],
    json_output: bool,
    **shortcuts: str | float | None,
) -> None:
    """Plan runs before the first release of a campaign, so that they are added up by PLD.

    EXPERIMENT is a TOML file, as for `simulate`. A run with another epsilon, other rounds or another sampling rate is
    another plan. What was not planned before the first release is judged by a stricter rule.
    """
    from sottovoce.simulations.experiment import compose  # not part of the device runtime
    from sottovoce.simulations.planning import plan_for
    from sottovoce.simulations.queries import measurement_plans
    from sottovoce.simulations.sweep_campaign import whole

    chosen = compose(experiment, overridden(settings, shortcuts))
    with Ledger.open(place) as opened:
        budget = Budget.of(opened)
        campaign = opened.book().campaign
        people = campaign.population if campaign else 0
        plans = (plan_for(chosen, people), *measurement_plans(chosen, people).values())
        budget.register(*whole([plans] * runs))
        found = statement(opened)
    if json_output:
        print_json(found)
        return
    _show_campaign(found)
    for planned in found.plans:
        click.echo(f"plan {planned.plan_hash[:SHOWN_HASH]}: {planned.mechanism}, {planned.planned:,} releases")


@ledger.command()
@click.argument("place", metavar="LEDGER", callback=ledger_place)
@click.option("--last", type=click.IntRange(min=0), default=10, show_default=True, help="Newest rows to show.")
@as_json
def show(place: Path | str, last: int, json_output: bool) -> None:
    """Campaign, plans, spending, open reservations and the newest rows."""
    with Ledger.open(place, readonly=True) as opened:
        found = statement(opened, last)
    if json_output:
        print_json(found)
        return
    _show_campaign(found)
    for plan in found.plans:
        cap = "" if plan.max_participations is None else f", at most {plan.max_participations} rounds per device"
        click.echo(f"plan {plan.plan_hash[:SHOWN_HASH]}: {plan.mechanism}; {plan.cohorts} cohorts{cap}")
        click.echo(f"  {plan.released:,} released of {plan.planned:,} planned")
    for account in found.accounts:
        alone = "no finite epsilon" if account.epsilon_alone is None else f"epsilon {account.epsilon_alone:.4f} alone"
        share = "" if account.share is None else f", share {account.share:g}"
        click.echo(f"{account.name}: {account.releases:,} releases, {alone}{share}")
    for one in found.open:
        click.echo(f"open since {one.time}: row {one.row}, round {one.round} of run {one.run_id} ({one.purpose})")
    for entry in found.last:
        click.echo(f"row {entry.seq}  {entry.time}  {entry.__struct_config__.tag}")


@ledger.command()
@click.argument("place", metavar="LEDGER", callback=ledger_place)
@click.option("--head", "pinned", metavar="LENGTH:HASH", help="Which the ledger must contain; bundles carry theirs.")
@as_json
def verify(place: Path | str, pinned: str | None, json_output: bool) -> None:
    """Check every row; the first that does not hold is named, and the exit code is 1.

    Only a head that was kept elsewhere shows that the whole ledger was replaced by an older or a rewritten one.
    """
    wanted = None if pinned is None else _head(pinned)
    with Ledger.open(place, readonly=True) as opened:
        found = opened.verify(wanted)
        opened.realised(opened.book())
    if json_output:
        print_json({"ledger_ok": True, "length": found.length, "hash": found.hash, "contains_head": pinned})
        return
    click.echo(f"whole: {found.length:,} rows, head {found.length}:{found.hash}")


@ledger.command()
@click.argument("place", metavar="LEDGER", callback=ledger_place)
@click.option("--out", type=PATH, required=True, help="JSON lines that anybody may see and recompute.")
@click.option("--restricted", type=PATH, help="Cohort sizes and the like, into a file of their own: keep it secret.")
@as_json
def export(place: Path | str, out: Path, restricted: Path | None, json_output: bool) -> None:
    """Write the rows as JSON lines, checked; docs/replay_ledger.py recomputes epsilon from them."""
    with Ledger.open(place, readonly=True) as opened:
        opened.export_jsonl(out)
        if restricted is not None:
            opened.export_restricted(restricted)
        head = opened.head()
    if json_output:
        secret = None if restricted is None else str(restricted)
        print_json({"length": head.length, "hash": head.hash, "out": str(out), "restricted": secret})
        return
    click.echo(f"{out}: {head.length:,} rows, head {head.length}:{head.hash}")
    if restricted is not None:
        click.echo(f"{restricted}: restricted records; whoever reads them weakens the guarantee")


def _show_campaign(found: Statement) -> None:
    click.echo(f"{found.ledger}: {found.head.length:,} rows, head {found.head.length}:{found.head.hash}")
    campaign = found.campaign
    if campaign is None:
        click.echo("no campaign is open")
        return
    limit = "no limit" if campaign.epsilon is None else f"epsilon {campaign.epsilon:g}"
    click.echo(f"campaign: {limit} at delta {campaign.delta:g} per {campaign.unit}, {campaign.population:,} devices")
    for name, share in sorted(campaign.shares.items()):
        click.echo(f"  share of {name}: epsilon {share / 1e6:g}")
    cost = "no finite epsilon" if found.epsilon is None else f"epsilon {found.epsilon:.4f}"
    states = ", ".join(f"{state} {count:,}" for state, count in found.states.items())
    click.echo(f"spent: {cost} by {found.accountant}; {found.releases:,} releases ({states or 'none yet'})")


def _share(text: str) -> tuple[str, float]:
    """A share as typed."""
    name, _, value = text.rpartition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ConfigError(
            f"--share {text!r} is not NAME=EPS", "write for instance --share purpose:metric=0.5"
        ) from None


def _head(text: str) -> Head:
    """A head as typed."""
    match = re.fullmatch(r"(\d{1,15}):([0-9a-f]{64})", text)
    if not match:
        raise ConfigError(f"--head {text!r} is not LENGTH:HASH", "copy it from a checkpoint, a bundle or `ledger show`")
    return Head(int(match[1]), match[2])
