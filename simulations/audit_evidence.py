"""What supports the figures of an audit and what does not: experiments, assumptions, hazards, and how to repeat it."""

from sottovoce.privacy.audit import AuditReport
from sottovoce.simulations.audit_facts import About, Bound, Check, Empirical, SelfTest
from sottovoce.simulations.hazards import HAZARDS
from sottovoce.simulations.markup import number, significant, table, text


def empirical(found: Empirical | None, tested: SelfTest | None, about: About) -> str:
    """Conformance checks, canary bounds and the self-test, or how to run them."""
    parts = []
    if found is None:
        parts.append(absent("Conformance checks and canary attacks were not run.", "empirical", about))
    else:
        parts += [setting(found), checks(found.checks), bounds(found.by_observer())]
    if tested is None:
        parts.append(absent("The audit was not tried on planted bugs.", "self_test", about))
    else:
        parts.append(self_test(tested))
    note = (
        "Experiments can show a violation; they cannot show that there is none. A bound far below the claim is what a "
        "sound run looks like, and also what a weak attack looks like: the power says which."
    )
    return f'<section><h2>What was tried</h2>{"".join(parts)}<p class="note">{note}</p></section>'


def absent(told: str, command: str, about: About) -> str:
    """That something was not run, and the command that runs it, where it is known."""
    typed = about.commands.get(command)
    how = f' It is run by:</p><pre tabindex="0">{text(typed)}</pre>' if typed else "</p>"
    return f"<p>{text(told)}{how}"


def setting(found: Empirical) -> str:
    """The verdict and what was fixed beforehand."""
    fixed = [
        f"{name} {value}"
        for name, value in (
            ("canaries", None if found.m is None else f"{found.m:,}"),
            ("rounds", None if found.rounds is None else f"{found.rounds:,}"),
            ("error rate", None if found.alpha is None else significant(found.alpha)),
        )
        if value is not None
    ]
    bad = any(not check.passed for check in found.checks) or any(map(violated, found.by_observer()))
    tone = ' class="failed"' if bad else ""
    told = f"<p{tone}><strong>{text(found.verdict)}</strong></p>" if found.verdict else ""
    return told + (f'<p class="note">Fixed beforehand: {text(", ".join(fixed))}.</p>' if fixed else "")


def checks(made: list[Check]) -> str:
    """Each check with what was expected, what was measured, and how surprising that is."""
    if not made:
        return ""
    failed = sum(not check.passed for check in made)
    told = f"{len(made)} checks, none failed"
    if failed:
        told = f'<span class="failed">{failed} of {len(made)} checks failed</span>'
    lines = "".join(outcome(check.passed, f"{check.name}: {measured(check)}") for check in made)
    return f'<h3>Conformance: {told}</h3><ul class="gates">{lines}</ul>'


def outcome(passed: bool, told: str) -> str:
    """One line of a list of tests."""
    word = '<span class="passed">✓ passed</span>' if passed else '<span class="failed">✗ FAILED</span>'
    return f"<li>{word}<span>{text(told)}</span></li>"


def measured(check: Check) -> str:
    """A check's figures in words."""
    figures = [
        f"{name} {worded(value)}"
        for name, value in (
            ("measured", check.measured),
            ("expected", check.expected),
            ("statistic", check.statistic),
            ("p", check.p_value),
        )
        if value is not None and value != ""
    ]
    power = "" if check.power is None else f"Power: {worded(check.power)}"
    return ". ".join(part.rstrip(".") for part in (", ".join(figures), check.detail, power) if part) or "no figures"


def bounds(made: list[Bound]) -> str:
    """What the attacks showed: at least this much is lost, against at most that."""
    if not made:
        return ""
    rows = [
        [
            bound.observer or "-",
            number(bound.lower_bound, 2),
            number(bound.claimed, 2),
            number(bound.null_bound, 2),
            compared(bound),
            "-" if bound.power is None else worded(bound.power),
            bound.method or "-",
        ]
        for bound in made
    ]
    header = ["the attacker sees", "at least", "claimed", "null test", "result", "power", "attack"]
    return table("Lower bounds on epsilon from canaries", header, rows, prose=(4, 5, 6))


def violated(bound: Bound) -> bool:
    """Whether more was found than is claimed."""
    return bound.lower_bound is not None and bound.claimed is not None and bound.lower_bound > bound.claimed


def compared(bound: Bound) -> str:
    """A lower bound against the claim."""
    if bound.lower_bound is None or bound.claimed is None:
        return "not compared"
    return "VIOLATION: above the claim" if violated(bound) else "no violation detected"


def self_test(tested: SelfTest) -> str:
    """How the audit did where the truth is known."""
    caught = tested.caught == tested.planted_bugs and tested.planted_bugs > 0
    quiet = tested.false_alarms == 0 and tested.clean_runs > 0
    lines = outcome(caught, f"planted bugs: {tested.caught:,} of {tested.planted_bugs:,} caught") + outcome(
        quiet, f"clean runs: {tested.false_alarms:,} false alarms in {tested.clean_runs:,}"
    )
    entries = tested.details if isinstance(tested.details, list) else [tested.details]
    if isinstance(tested.details, dict):
        entries = [f"{name}: {worded(value)}" for name, value in tested.details.items()]
    told = "".join(f"<li>{text(worded(entry))}</li>" for entry in entries if entry is not None)
    more = f'<details><summary>The single runs</summary><ul class="note">{told}</ul></details>' if told else ""
    return f'<h3>The audit, audited</h3><ul class="gates">{lines}</ul>{more}'


def worded(value: object) -> str:
    """Any value of a report for reading; nothing shows as a program would print it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return significant(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {worded(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(worded, value))
    return str(value)


def assumptions(report: AuditReport) -> str:
    """What every figure rests on and no code enforces."""
    listed = "".join(f"<li>{text(assumption)}</li>" for assumption in report.assumptions)
    if not listed:
        return ""
    return (
        "<section><h2>Not enforced by code</h2><p>Every figure rests on these. They have to be seen to by people and "
        f"contracts.</p><ul>{listed}</ul></section>"
    )


def hazards() -> str:
    """The checklist of known mistakes."""
    count = sum(hazard.standing == "open" for hazard in HAZARDS)
    listed = "".join(
        f'<li><span class="{"failed" if hazard.standing == "open" else "passed"}">{hazard.standing}</span>'
        f'<span>{text(hazard.mistake)}: <span class="note">{text(hazard.how)} ({text(hazard.file)})</span></span></li>'
        for hazard in HAZARDS
    )
    return (
        f"<section><h2>Hazards</h2><p>{len(HAZARDS)} known mistakes with differential privacy. Built in: the code "
        f"cannot do otherwise. Checked: found when it happens. Open: nothing in the code stops it ({count} of them)."
        f'</p><ul class="gates">{listed}</ul><p class="note">The frame of this review is NIST SP 800-226, Guidelines '
        "for Evaluating Differential Privacy Guarantees. The list is sottovoce's own and claims no conformity.</p>"
        "</section>"
    )


def replay(report: AuditReport, about: About) -> str:
    """How to repeat the audit, and on which ledger and with which software it was made."""
    held = "rows" if report.ledger_ok else "rows that hold"
    facts = {
        held: f"{report.head.length:,}",
        "hash of the last row" if report.ledger_ok else "hash of the last row that holds": report.head.hash,
        **about.software_versions,
    }
    listed = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts.items())
    typed = "\n".join(f"# {name.replace('_', ' ')}\n{command}" for name, command in about.commands.items())
    how = f'<p>Whoever has the ledger can repeat this audit:</p><pre tabindex="0">{text(typed)}</pre>' if typed else ""
    return f'<section><h2>Ledger and software</h2>{how}<dl class="facts">{listed}</dl></section>'
