"""The audit on one page, for a lawyer to read from the top and an engineer to check from the bottom.

What is claimed comes first, in words; then what it rests on: every release, its cost over time and at other deltas,
what other accountants say, what becomes of the figure when an assumption fails, what was tried empirically, and what no
code enforces. A ledger that does not hold proves nothing: the page then states no epsilon at all.
"""

from sottovoce.privacy.audit import AuditReport
from sottovoce.simulations.audit_claim import claim, period
from sottovoce.simulations.audit_evidence import assumptions, empirical, hazards, replay
from sottovoce.simulations.audit_facts import About, empirical_part, self_test_part
from sottovoce.simulations.audit_figures import accountants, curves, realised, releases, sensitivity
from sottovoce.simulations.markup import at_most, text
from sottovoce.simulations.page import ALARM, page


def audit_page(report: AuditReport, empirical_report: object, self_test: object, about: About) -> str:
    """The page, complete, as text to be written in UTF-8.

    Args:
        report: what the ledger proves.
        empirical_report: checks and canary bounds, see `audit_facts.Empirical`; None where they were not run.
        self_test: see `audit_facts.SelfTest`; None where it was not run.
        about: what the ledger does not say.

    Raises:
        SottovoceError: the empirical part cannot be read.
    """
    found, tested = empirical_part(empirical_report), self_test_part(self_test)
    sections = [findings(report), claim(report)]
    if report.ledger_ok:
        sections += [
            releases(report),
            curves(report),
            accountants(report),
            sensitivity(report),
            realised(report),
            empirical(found, tested, about),
        ]
    sections += [assumptions(report), hazards(), replay(report, about)]
    alarm = report.ledger_ok and not report.guarantee
    main = f'<main class="numbered">{"".join(filter(None, sections))}</main>'
    body = f"{opening(report, about)}\n{main}\n{closing(about, alarm)}"
    return page(f"Privacy audit: {about.run_name}", body, alarm)


def opening(report: AuditReport, about: About) -> str:
    """Title, warning and the figures that matter most."""
    why = ""
    if not report.ledger_ok:
        why = (
            '<p class="why"><strong>The ledger does not hold.</strong> A row was changed, removed or moved, or the '
            "ledger was rolled back. What it says can no longer be relied on, so nothing is stated about privacy. "
            "Release nothing until it is restored from a copy.</p>"
        )
    elif not report.guarantee and report.rounds:
        why = (
            '<p class="why"><strong>No privacy is promised for this run.</strong> Its noise came from a seed, or there '
            "was none: whoever knows the seed can take the noise away again. Every epsilon below only says what the "
            "same run would cost with real noise.</p>"
        )
    shown = "".join(
        f'<div><dt class="note">{text(name)}</dt><dd class="value">{text(value)}</dd>'
        f'<dd class="{tone}">{text(note)}</dd></div>'
        for name, value, note, tone in tiles(report)
    )
    when = f'<p class="quiet">{text(period(report))}</p>' if report.period else ""
    return (
        f"<header><h1>Privacy audit: {text(about.run_name)}</h1>"
        f'<p class="quiet">Data: {text(about.data_name)}, {text(about.licence)}</p>{when}{why}'
        f'<dl class="tiles three">{shown}</dl></header>'
    )


def tiles(report: AuditReport) -> list[tuple[str, str, str, str]]:
    """Name, value, remark and class of the remark, of the figures at the top."""
    count = len(report.findings)
    last = [
        ("Ledger", "whole", f"{report.head.length:,} rows", "note")
        if report.ledger_ok
        else ("Ledger", "BROKEN", f"holds up to row {report.head.length:,}", "note failed"),
        (
            "Findings",
            f"{count:,}",
            "read them first" if count else "nothing to report",
            "note failed" if count else "note",
        ),
    ]
    if not report.ledger_ok:
        return last
    shown = [("Releases", f"{report.rounds:,}", ", ".join(sorted(report.purposes)), "note")]
    if report.population is not None:
        shown.append(("Devices enrolled", f"{report.population:,}", f"the unit is one {report.unit}", "note"))
    if report.delta is not None:
        name = "Epsilon" if report.guarantee else "Epsilon, not guaranteed"
        told = f"at delta {report.delta:g}, for {short(report.observer)}"
        shown.insert(0, (name, at_most(report.epsilon) if report.private else "∞", told, "note"))
        if report.observer == "outsider":
            told = f"for a device in at most {report.max_participations:,} releases"
            shown.insert(1, ("If cohorts are known", at_most(report.epsilon_known_cohort), told, "note"))
    return shown + last


def short(observer: str) -> str:
    """An observer in two words."""
    return {"outsider": "an outsider", "knows_cohorts": "an observer who knows the cohorts"}.get(observer, observer)


def findings(report: AuditReport) -> str:
    """Everything that somebody must look at, before anything else."""
    if not report.findings:
        return ""
    found = "".join(f"<li>{text(finding)}</li>" for finding in report.findings)
    return f'<section class="why"><h2>Findings</h2><ul>{found}</ul></section>'


def closing(about: About, alarm: bool) -> str:
    """Licence of the data, and what the page itself does."""
    again = f' <strong class="failed">{ALARM}</strong>' if alarm else ""
    return (
        f'<footer class="note"><p>Data: {text(about.data_name)}, {text(about.licence)}</p>'
        f"<p>Written by sottovoce. This page loads nothing and sends nothing.{again}</p></footer>"
    )
