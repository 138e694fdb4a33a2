"""`creative`: what of a creative may be shown and why not the rest; approving its exact bytes; signing approvals.

Needs the device runtime only: a brand team sees what a device would decide.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from sottovoce.client.approval import (
    APPROVED,
    DENIED,
    FRAME,
    STATUS_WORDS,
    Approval,
    Approvals,
    Standing,
    decode_approvals,
    digest,
    statuses,
)
from sottovoce.client.brand_rules import disclosures
from sottovoce.client.combination import Showable, refusal, showable
from sottovoce.client.creative import decode_creative
from sottovoce.client.crowd import most_combinations, odds
from sottovoce.client.guardrails import Guardrails, decode_guardrails
from sottovoce.client.signed_approvals import Statement, open_approvals, sign_approvals
from sottovoce.models.atomic import write_atomically
from sottovoce.models.signing import load_private_key, load_public_key
from sottovoce.privacy.errors import ConfigError, DeviceError
from sottovoce.simulations.bundle_facts import printable
from sottovoce.simulations.cli_options import PATH, as_json, print_json

MOST_LINES = 20
"""Refused and shown combinations that are printed; --json has all."""


def _moment(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime:  # noqa: ARG001
    if value is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no moment like 2026-11-20T12:00:00Z") from error
    if moment.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone; write Z or +01:00 behind it")
    return moment.astimezone(UTC)


AT = click.option("--at", callback=_moment, help="Moment, with time zone, that counts as now. [default: the clock's]")


@click.group()
def creative() -> None:
    """Check creatives with exchangeable parts, and approve their exact bytes."""


@creative.command()
@click.argument("file", metavar="CREATIVE", type=PATH)
@click.option("--approvals", "approvals_file", type=PATH, help="What was approved; without it nothing is.")
@click.option("--key", "keys", type=PATH, multiple=True, help="The approvals are a signed file; public key, PEM.")
@click.option("--guardrails", "brand_file", type=PATH, help="The brand's rules; without them the strict defaults.")
@click.option("--role", "roles", multiple=True, help="Role that must have approved; repeatable.")
@click.option("--jurisdiction", default="", help="Where it is shown, such as EU or US-CA; decides on labels.")
@AT
@as_json
def check(
    file: Path,
    approvals_file: Path | None,
    keys: Sequence[Path],
    brand_file: Path | None,
    roles: tuple[str, ...],
    jurisdiction: str,
    at: datetime,
    json_output: bool,
) -> None:
    """Say what a device may show of CREATIVE, and everything that is refused, with its reason.

    Ends with 0 only when at least one combination can be shown.
    """
    made = decode_creative(_read(file), file.name)
    approvals = Approvals(1) if approvals_file is None else _approvals(approvals_file, keys, at)
    brand = Guardrails(version=1) if brand_file is None else decode_guardrails(_read(brand_file), brand_file.name)
    ready = showable(made, approvals, brand, at, roles=roles)
    if json_output:
        print_json(_facts(ready, jurisdiction))
    else:
        _show(ready, jurisdiction)
    if ready.reason is not None:
        sys.stdout.flush()
        raise DeviceError(f"{made.crid}: nothing can be shown: {ready.reason}", "see the refusals above")


@creative.command()
@click.argument("file", metavar="CREATIVE", type=PATH)
@click.option("--approvals", "approvals_file", type=PATH, required=True, help="Records are added; made if missing.")
@click.option("--by", required=True, help='Who speaks, as "role/name".')
@click.option("--subject", "subjects", multiple=True, help='"frame", "slot/component" or a combination; repeatable.')
@click.option("--all", "everything", is_flag=True, help="The frame and every component, but those this person denied.")
@click.option("--deny", is_flag=True, help="Deny instead.")
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long it holds.")
@click.option("--note", default="", help="Why.")
@AT
def approve(
    file: Path,
    approvals_file: Path,
    by: str,
    subjects: tuple[str, ...],
    everything: bool,
    deny: bool,
    days: int,
    note: str,
    at: datetime,
) -> None:
    """Write down that somebody saw these exact bytes and approves of them."""
    made = decode_creative(_read(file), file.name)
    before = decode_approvals(_read(approvals_file), approvals_file.name) if approvals_file.exists() else Approvals(1)
    if everything == bool(subjects):
        raise ConfigError("nothing says what is approved", "name each --subject, or say --all")
    if everything:
        own = Approvals(1, tuple(record for record in before.records if record.by == by))
        standings = statuses(made, own, at).items()
        subjects = tuple(name for name, one in standings if not one.shown and one.status != DENIED)
    status = DENIED if deny else APPROVED
    told = {"crid": made.crid, "status": status, "by": by, "at": at, "until": at + timedelta(days=days), "note": note}
    try:
        new = [msgspec.convert(told | {"subject": name, "sha256": digest(made, name)}, Approval) for name in subjects]
        after = Approvals(1, (*before.records, *new))
        decode_approvals(msgspec.json.encode(after))
    except (ValueError, DeviceError) as error:
        known = ", ".join((FRAME, *made.part))
        raise ConfigError(f"{file.name}: {error}", f"subjects: {known}, and parts joined by +") from error
    _write(approvals_file, msgspec.json.format(msgspec.json.encode(after), indent=1) + b"\n")
    for record in new:
        click.echo(printable(f"{STATUS_WORDS[status]}: {record.subject} {record.sha256[:16]} by {by}"))
    click.echo(f"{len(new)} records added to {approvals_file.name}")


@creative.command()
@click.argument("approvals_file", metavar="APPROVALS", type=PATH)
@click.option("--key", "keys", type=PATH, multiple=True, required=True, help="Private key, PEM; repeatable.")
@click.option("--version", type=click.IntRange(1), required=True, help="Above that of the list before.")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="How long it is believed.")
@click.option("--out", type=PATH, required=True, help="Signed file to write.")
@AT
def sign(approvals_file: Path, keys: Sequence[Path], version: int, days: int, out: Path, at: datetime) -> None:
    """Sign a list of approvals, so that devices need not trust the way it takes."""
    approvals = decode_approvals(_read(approvals_file), approvals_file.name)
    statement = Statement(version=version, expires=at + timedelta(days=days), approvals=approvals)
    _write(out, sign_approvals(statement, [load_private_key(key) for key in keys]))
    click.echo(f"{out.name}: {len(approvals.records)} records, version {version}, until {statement.expires:%Y-%m-%d}")


def _approvals(path: Path, keys: Sequence[Path], at: datetime) -> Approvals:
    if not keys:
        return decode_approvals(_read(path), path.name)
    trusted = [load_public_key(key) for key in keys]
    return open_approvals(_read(path), trusted, len(trusted), at).approvals


def _show(ready: Showable, jurisdiction: str) -> None:
    made = ready.creative
    lines = [f"creative {made.crid}, template {made.template.id}"]
    width = max(map(len, (FRAME, *made.part)))
    for name in (FRAME, *made.part):
        lines.append(f"  {name:<{width}}  {_standing(ready.standings[name])}")
    refused = [(one.where, f"{int(one.flaw)} {one.flaw.words} ({one.rule}: {one.seen})") for one in ready.findings]
    for name, standing in ready.standings.items():
        code = refusal(standing)
        if code is not None:
            refused.append((name, f"{int(code)} {code.words} ({STATUS_WORDS[standing.status]}: {standing.detail})"))
    lines += [f"refused: {where}: {why}" for where, why in refused[:MOST_LINES]]
    if len(refused) > MOST_LINES:
        lines.append(f"refused: and {len(refused) - MOST_LINES} more, see --json")
    lines += _counts(ready)
    for parts in ready.combinations[:MOST_LINES]:
        labels = disclosures(made, parts, jurisdiction)
        lines.append(f"shown: {'+'.join(parts)}" + (f", with {', '.join(map(repr, labels))}" if labels else ""))
    if len(ready.combinations) > MOST_LINES:
        lines.append(f"shown: and {len(ready.combinations) - MOST_LINES} more, see --json")
    for line in lines:
        click.echo(printable(line))


def _counts(ready: Showable) -> list[str]:
    crowd = most_combinations(ready.creative.audience, ready.epsilon)
    shown = len(ready.combinations)
    lines = [
        f"combinations: {ready.possible:,} possible, {ready.tried:,} tried, {ready.allowed:,} pass, {shown:,} shown",
        f"crowd: {ready.creative.audience:,} devices allow {crowd:,}",
    ]
    if shown > 1:
        lines.append(
            f"one showing moves the odds of a belief about a person by at most {odds(shown, ready.epsilon):.0f}"
        )
    return lines


def _standing(standing: Standing) -> str:
    until = f" until {standing.until:%Y-%m-%d}" if standing.shown else ""
    return f"{standing.status} {STATUS_WORDS[standing.status]} {standing.detail}{until}"


def _facts(ready: Showable, jurisdiction: str) -> dict[str, Any]:
    return {
        "crid": ready.creative.crid,
        "reason": ready.reason,
        "since": ready.since,
        "until": ready.until,
        "standings": {
            name: {"status": one.status, "words": STATUS_WORDS[one.status], "sha256": one.sha256, "detail": one.detail}
            for name, one in ready.standings.items()
        },
        "findings": [
            {"code": int(one.flaw), "words": one.flaw.words, "rule": one.rule, "where": one.where, "seen": one.seen}
            for one in ready.findings
        ],
        "possible": ready.possible,
        "tried": ready.tried,
        "allowed": ready.allowed,
        "combinations": [
            {"parts": parts, "labels": disclosures(ready.creative, parts, jurisdiction)} for parts in ready.combinations
        ],
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name an existing file you may read") from error


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name a file in a folder you may write to") from error
