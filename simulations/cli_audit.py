"""`audit`: what a privacy team types.

The ledger comes first: it is replayed and nothing but its events is believed. The mechanism comes second: an audit
block runs through the run's own sampler, clipper, noise and budget, canaries are looked for, and bugs are planted to
show that the audit would have seen them. Both end in one page.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import msgspec

from sottovoce.privacy.audit import AuditReport
from sottovoce.privacy.audit import audit as audit_ledger
from sottovoce.privacy.entropy import OsEntropy, SeededEntropy
from sottovoce.privacy.errors import ConfigError, LedgerError, SottovoceError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.store import is_address
from sottovoce.simulations.audit_documents import Documents, write_documents
from sottovoce.simulations.audit_facts import About, audit_json
from sottovoce.simulations.audit_self_test import SelfTest, self_test
from sottovoce.simulations.cli_options import PATH, as_json, print_json
from sottovoce.simulations.empirical_audit import EmpiricalReport, empirical_audit
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.publisher import Publisher
from sottovoce.simulations.results import read_results
from sottovoce.simulations.threads import torch_threads

PACKAGES = ("sottovoce", "dp-accounting", "opacus", "torch", "flwr", "numpy", "scipy")

CLEAN_RUNS = 2
"""Sound mechanisms audited beside the broken ones in the report of a run; `--self-test` takes twenty."""


@click.command()
@click.argument("run", required=False)
@click.option("--ledger-only", is_flag=True, help="Only replay the ledger; do not measure the mechanism.")
@click.option("--self-test", "only_self_test", is_flag=True, help="Audit broken and sound mechanisms instead of a run.")
@click.option("--out", type=PATH, help="Folder for audit.html, audit.json, deployment.yaml. [default: the run's own]")
@click.option("--publisher", type=PATH, help="TOML with name, kind, region and authors for deployment.yaml.")
@as_json
def audit(
    run: str | None,
    ledger_only: bool,
    only_self_test: bool,
    out: Path | None,
    publisher: Path | None,
    json_output: bool,
) -> None:
    """Recompute what a run spent from its ledger, then measure whether the mechanism does what the ledger says.

    RUN is a run folder, a ledger file or a postgresql:// address. A folder's newest checkpoint must be in its ledger: a
    ledger that was rolled back is found. Ends with 1 when the ledger does not hold or a violation was detected.
    """
    if only_self_test:
        _audit_the_audit(json_output)
        return
    if run is None:
        raise click.UsageError("name a RUN, or give --self-test")
    folder = None if is_address(run) or not Path(run).is_dir() else RunFolder(Path(run))
    place: Path | str = folder.ledger if folder else run
    report, notes = folder.audit() if folder else (audit_ledger(place), ())
    measured, planted = None, None
    plan = None if ledger_only or not report.ledger_ok else _training_plan(place)
    if plan is not None:
        entropy = OsEntropy() if report.noise == "secure" else SeededEntropy(0)
        with torch_threads(1):
            measured, planted = empirical_audit(plan, entropy), self_test(CLEAN_RUNS)
    about = _about(run, folder)
    target = out or (folder.path if folder else None)
    documents = None
    if target is not None:
        documents = write_documents(target, report, measured, planted, about, _publisher(publisher))
    if json_output:
        click.echo(audit_json(report, measured, planted, about).decode(), nl=False)
    else:
        _show(report, measured, planted, documents)
    for line in notes:
        click.echo(f"note: {line}", err=True)
    sys.stdout.flush()
    _judge(report, measured, planted)


def _training_plan(place: Path | str) -> MechanismPlan | None:
    """The plan of the newest training with noise, else of another sum over devices; None where a ledger has none."""
    with Ledger.open(place, readonly=True) as ledger:
        plans = list(ledger.book().plans.values())
    found = []
    for planned in plans:
        try:
            plan = MechanismPlan.read(planned.plan)
        except ConfigError:
            continue
        if plan.digest() == planned.plan_hash and plan.noise_multiplier:
            found.append(plan)
    trained = [plan for plan in found if plan.purpose == "train"]
    return next(reversed(trained or found), None)


def _about(run: str, folder: RunFolder | None) -> About:
    name = folder.path.name if folder else "postgresql ledger" if is_address(run) else Path(run).name
    data, licence = "not stated", "not stated"
    if folder:
        data = folder.experiment().data.name
        if folder.results_file.is_file():
            licence = read_results(folder).licence
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    shown = name if is_address(run) else run
    return About(
        run_name=name,
        data_name=data,
        licence=licence,
        software_versions=versions,
        commands={
            "replay": f"sottovoce audit {shown} --ledger-only",
            "export": f"sottovoce ledger export {shown} --out ledger.jsonl",
            "empirical": f"sottovoce audit {shown}",
            "self_test": "sottovoce audit --self-test",
        },
    )


def _publisher(file: Path | None) -> Publisher | None:
    if file is None:
        return None
    try:
        return msgspec.toml.decode(file.read_bytes(), type=Publisher, strict=True)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", "name an existing TOML file") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: {error}", "it may hold name, kind, region, authors and published") from None


def _show(
    report: AuditReport, measured: EmpiricalReport | None, planted: SelfTest | None, documents: Documents | None
) -> None:
    for claim in report.claims:
        click.echo(claim)
    checks = ", ".join(f"{name} {value:.4f}" for name, value in report.cross_check.items() if value is not None)
    click.echo(f"releases: {report.rounds} ({', '.join(f'{k} {v}' for k, v in report.purposes.items())})")
    click.echo(f"entries: {', '.join(f'{k} {v}' for k, v in report.entries.items() if v)}")
    click.echo(f"noise: {report.noise}    population: {report.population}    budget: {report.budget_epsilon}")
    click.echo(f"cross-check: {checks or 'nothing to compare'}")
    click.echo(
        f"ledger: {'whole' if report.ledger_ok else 'BROKEN'}, {report.head.length} rows, head {report.head.hash}"
    )
    for finding in report.findings:
        click.echo(f"finding: {finding}")
    for assumption in report.assumptions:
        click.echo(f"assumes: {assumption}")
    if measured is not None:
        passed = sum(check.passed for check in measured.checks)
        click.echo(f"mechanism: {passed} of {len(measured.checks)} checks passed over {measured.rounds} rounds")
        for bound in measured.bounds:
            claimed = "no bound claimed" if bound.claimed is None else f"claimed at most {bound.claimed:.2f}"
            click.echo(
                f"canaries, {bound.observer}: epsilon at least {bound.lower_bound:.2f}, {claimed}; "
                f"null test {bound.null_bound:.2f}"
            )
        click.echo(f"verdict: {measured.verdict}")
    if planted is not None:
        click.echo(
            f"audit of the audit: {planted.caught} of {planted.planted_bugs} planted bugs caught, "
            f"{planted.false_alarms} false alarms in {planted.clean_runs} clean runs"
        )
    if documents is not None:
        click.echo(f"page: {documents.page}")
        if documents.record is None:
            click.echo(f"no deployment.yaml: {documents.unregistered}")
        for field in documents.unstated:
            click.echo(f"deployment.yaml, to fill in: {field}")


def _judge(report: AuditReport, measured: EmpiricalReport | None, planted: SelfTest | None) -> None:
    """End with an error when something does not hold."""
    if not report.ledger_ok:
        raise LedgerError(
            "the ledger does not hold: nothing can be said about the privacy of this run",
            "restore the ledger from a copy; until then release nothing",
        )
    if planted is not None and not planted.passed:
        raise _BLIND
    if measured is not None and measured.violations:
        raise SottovoceError(measured.verdict, "release nothing made by this installation until it is explained")


_BLIND = SottovoceError("the audit failed its own test: its verdicts mean nothing here", "report it with this output")


def _audit_the_audit(json_output: bool) -> None:
    """Run the self-test and print it."""
    with torch_threads(1):
        found = self_test()
    if json_output:
        print_json(found)
    else:
        click.echo(f"planted bugs: {found.caught} of {found.planted_bugs} caught")
        click.echo(f"clean runs: {found.false_alarms} false alarms in {found.clean_runs}")
        for name, checks in found.details.items():
            click.echo(f"  {name}: {', '.join(checks) or 'NOT CAUGHT'}")
    if not found.passed:
        sys.stdout.flush()
        raise _BLIND
