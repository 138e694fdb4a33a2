"""What an audit claims: the figures in a sentence, all that gives them a meaning, and what they mean for a person."""

import math
from datetime import UTC, datetime

from sottovoce.privacy.audit import AuditReport
from sottovoce.simulations.markup import at_most, significant, text

OBSERVERS = {
    "outsider": "somebody who sees everything that was released, but not who took part",
    "knows_cohorts": "somebody who sees everything that was released and also knows who took part, and when",
}

UNITS = {
    "device": "one device with everything it ever contributed",
    "record": "one record on a device; a device with many is protected less",
}

ADJACENCIES = {
    "zero_out": "data sets of which one lacks all contributions of one unit: zeros stand in their place (zero-out)",
    "add_remove": "data sets that differ by the presence of one unit (add or remove)",
}

SURE = 0.01
"""The suspicion in the example for a person."""


def claim(report: AuditReport) -> str:
    """What is claimed, what it means for a person, and whether the ledger holds."""
    heading = "What is claimed" if report.guarantee else "What would be claimed with real noise"
    if not report.ledger_ok:
        return "<section><h2>What is claimed</h2><p>Nothing. The ledger does not hold.</p></section>"
    if report.delta is None or not report.rounds:
        return f"<section><h2>What is claimed</h2><p>Nothing has been released yet.</p>{verdict(report)}</section>"
    if report.epsilon is None:
        told = "No finite figure exists, because a release carried no noise. No privacy is promised to anybody."
        return f"<section><h2>What is claimed</h2><p>{told}</p>{verdict(report)}</section>"
    why = "".join(f"<li>{text(reason)}</li>" for reason in report.fallback)
    fallback = (
        "<h3>Why the figure is that of an observer who knows the cohorts</h3><p>The smaller figure that sampling "
        f"would allow against an outsider, epsilon {at_most(report.epsilon_outsider)}, is not claimed, because:</p>"
        f"<ul>{why}</ul>"
        if why
        else ""
    )
    exact = "".join(f"<li>{text(line)}</li>" for line in report.claims)
    return (
        f"<section><h2>{heading}</h2>{claim_sentences(report)}{covered(report)}{fallback}"
        f"<h3>What that {'means' if report.guarantee else 'would mean'} for a person</h3>"
        f"<p>{meaning(report, report.epsilon, report.delta)}</p>"
        f"{verdict(report)}"
        f'<details><summary>The claims in the form other programs print them</summary><ul class="note">{exact}</ul>'
        "</details></section>"
    )


def claim_sentences(report: AuditReport) -> str:
    """The headline, the other observer's figure, then what both cover, as markup."""
    verb = "is" if report.guarantee else "would be"
    among = f" of the {report.population:,} enrolled" if report.population is not None and whole_device(report) else ""
    whom = f"any one {text(report.unit)}{among}"
    delta = f"at delta {report.delta:g}"
    sentences = [
        f"Against {OBSERVERS[report.observer]}, the privacy loss of {whom} {verb} at most "
        f"<strong>epsilon {at_most(report.epsilon)} {delta}</strong>."
    ]
    if report.observer == "outsider":
        sentences.append(
            f"Against {OBSERVERS['knows_cohorts']}, it {verb} at most <strong>epsilon "
            f"{at_most(report.epsilon_known_cohort)} {delta}</strong>."
        )
    return "".join(f'<p class="claim">{sentence}</p>' for sentence in sentences)


def covered(report: AuditReport) -> str:
    """What gives the figure its meaning, one line each."""
    made = ", ".join(f"{purpose} {count:,}" for purpose, count in report.purposes.items())
    unit, compared = UNITS[report.unit], ADJACENCIES[report.adjacency]
    facts = {
        "unit": unit,
        "compared": compared,
        "covers": f"{report.rounds:,} releases: {made}",
        "period": period(report),
        "population": "" if report.population is None else f"{report.population:,} enrolled devices, a public number",
        "participation": f"cohorts known: a device that took part in at most {report.max_participations:,} releases",
        "computed by": report.accountant,
        "zero-concentrated": "" if report.rho is None else f"rho {at_most(report.rho)}, cohorts known",
        "settings": "some were chosen after the first release" if report.adaptive else "fixed before the first release",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in facts.items() if value)
    return f'<dl class="facts">{listed}</dl>'


def whole_device(report: AuditReport) -> bool:
    """Whether the unit is a device with all it has."""
    return report.unit == "device"


def meaning(report: AuditReport, epsilon: float, delta: float) -> str:
    """The same for a person, in two sentences without a term of art.

    The first is the definition; the second is its bound on a change of belief by Bayes' rule, rounded up.
    """
    about, absent = (
        ("the person behind one device", "had the device sent nothing")
        if whole_device(report)
        else ("one record of a person", "had that record not been there")
    )
    times = math.exp(min(epsilon, 50.0))
    decimals = 2 if times < 10 else 1 if times < 1000 else 0
    factor = "perhaps more than a million" if times > 1e6 else f"at most {at_most(times, decimals)}"
    later = SURE * times / (1 - SURE + SURE * times)
    sure = f"at most {math.ceil(100 * later - 1e-9):.0f} % sure" if later <= 0.99 else "all but certain"
    return (
        f"Whatever somebody concludes about {about} from all that was released, that conclusion is {factor} "
        f"times as likely as it would have been {absent}, plus one chance in {math.floor(1 / delta + 1e-6):,}. That "
        f"chance aside, whoever was {100 * SURE:.0f} % sure of something before can, because of these data, be {sure} "
        "of it afterwards."
    )


def verdict(report: AuditReport) -> str:
    """What reading the ledger from its first row to its last came to."""
    entries = ", ".join(
        f"{count:,} {words}"
        for state, words in (
            ("COMMITTED", "completed"),
            ("RESERVED", "never settled and counted as spent"),
            ("SPENT_ON_CRASH", "lost in a crash and counted as spent"),
            ("VOID", "given back unused"),
        )
        if (count := report.entries.get(state, 0))
    )
    budget = "no limit" if report.budget_epsilon is None else f"epsilon {significant(report.budget_epsilon)}"
    return (
        f"<h3>The ledger</h3><p>Its {report.head.length:,} rows were read from the first to the last: each is as it "
        f"was written, and the figures on this page were computed anew from them alone. Releases: {entries or 'none'}. "
        f"Budget of the campaign: {budget}. Plans: {report.plans:,}. Noise: {text(report.noise)}.</p>"
    )


def period(report: AuditReport) -> str:
    """From when to when, to the minute."""
    return " to ".join(dict.fromkeys(map(minute, report.period)))


def minute(moment: str) -> str:
    """A time of the ledger without its seconds; as it stands where it is none."""
    try:
        return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return moment
