"""The figures of an audit: releases by purpose, curves, other accountants, and what an assumption is worth."""

import math

from sottovoce.privacy.audit import AuditReport
from sottovoce.simulations.charts import Level, Series, line_chart
from sottovoce.simulations.markup import at_most, number, significant, table, text

LISTED = 40
"""Rows of the table of the curve at most; the charts show every point."""

PRV_ROOM = 0.02
"""How far Opacus' PRV may lie above PLD: its own error and that of the grid."""

SLACK = 1e-3
"""Two accountants agree within this."""


def releases(report: AuditReport) -> str:
    """Every release, by purpose, querier and mechanism."""
    if report.releases:
        header = ["purpose", "for whom", "mechanism", "releases", "epsilon alone", "most per device", "plan"]
        rows = [
            [
                spend.purpose,
                spend.querier or "the campaign",
                spend.mechanism,
                f"{spend.count:,}",
                "∞" if spend.epsilon_alone is None else at_most(spend.epsilon_alone),
                "no cap" if spend.max_participations is None else f"{spend.max_participations:,}",
                spend.plan_hash[:12],
            ]
            for spend in report.releases
        ]
        shown = table("Everything that was released", header, rows, prose=(1, 2))
    else:
        rows = [[purpose, f"{count:,}"] for purpose, count in report.purposes.items()]
        shown = table("Everything that was released", ["purpose", "releases"], rows) if rows else "<p>Nothing.</p>"
    note = (
        "Epsilon alone is the privacy loss, against an outsider, if nothing else had been released. "
        "Epsilons do not simply add up: the total above composes all releases together."
    )
    return f'<section><h2>What was released</h2>{shown}<p class="note">{note}</p></section>'


def curves(report: AuditReport) -> str:
    """Epsilon over releases and over delta, for both observers, each on its own scale."""
    budget = (
        []
        if report.budget_epsilon is None
        else [Level(f"budget {significant(report.budget_epsilon)}", report.budget_epsilon)]
    )
    charts = []
    for name, field in (("outsider", "epsilon_outsider"), ("cohorts known", "epsilon_known_cohort")):
        points = [(float(point.releases), getattr(point, field)) for point in report.curve]
        series = Series("epsilon", [(x, y) for x, y in points if y is not None], 4)
        charts.append(line_chart(f"Epsilon after each release: {name}", [series], budget, zero=True, across="release"))
    for name, field in (("outsider", "epsilon_outsider"), ("cohorts known", "epsilon_known_cohort")):
        found = [(-math.log10(point.delta), getattr(point, field)) for point in report.by_delta if point.delta > 0]
        series = Series("epsilon", sorted((x, y) for x, y in found if y is not None), 4)
        charts.append(line_chart(f"Epsilon at other deltas: {name}", [series], zero=True, across="delta", place=power))
    drawn = "".join(charts)
    if not drawn:
        return "<section><h2>Privacy loss over time</h2><p>There is no finite figure to draw.</p></section>"
    note = (
        "Read from left to right: the loss only grows with more releases, and a smaller delta costs a larger epsilon. "
        "All points of one line describe the same releases; epsilon and delta mean something only as a pair."
    )
    return (
        f'<section><h2>Privacy loss over time, and at other deltas</h2><div class="pair">{drawn}</div>'
        f'<p class="note">{note}</p>{points_listed(report)}</section>'
    )


def power(place: float) -> str:
    """A delta by the logarithm it is drawn at."""
    return f"{10.0**-place:.0e}".replace("e-0", "e-")


def points_listed(report: AuditReport) -> str:
    """The curves as numbers."""
    step = max(1, math.ceil(len(report.curve) / LISTED))
    shown = sorted({*range(0, len(report.curve), step), len(report.curve) - 1} & {*range(len(report.curve))})
    by_release = [
        [f"{point.releases:,}", finite(point.epsilon_outsider), finite(point.epsilon_known_cohort)]
        for point in (report.curve[index] for index in shown)
    ]
    by_delta = [
        [f"{point.delta:g}", finite(point.epsilon_outsider), finite(point.epsilon_known_cohort)]
        for point in report.by_delta
    ]
    tables = [
        table(caption, [first, "outsider", "cohorts known"], rows)
        for caption, first, rows in (
            ("Epsilon after releases", "releases", by_release),
            ("Epsilon by delta", "delta", by_delta),
        )
        if rows
    ]
    return f'<details><summary>The points as tables</summary><div class="pair">{"".join(tables)}</div></details>'


def finite(epsilon: float | None) -> str:
    """An epsilon; infinity where there is no finite one."""
    return "∞" if epsilon is None else at_most(epsilon)


def accountants(report: AuditReport) -> str:
    """The same releases by other people's code, with what must hold between the figures."""
    if not report.cross_check:
        return ""
    checks = report.cross_check
    pld = checks.get("pld")
    known = {
        "pld": ("PLD, dp-accounting", "the published figure"),
        "rdp": ("RDP, dp-accounting", "at least PLD"),
        "opacus_prv": ("PRV, Opacus, upper bound", f"from PLD to PLD + {PRV_ROOM:g}"),
        "opacus_rdp": ("RDP, Opacus", "at least PLD"),
    }
    rows = []
    for name, value in checks.items():
        title, rule = known.get(name, (name, "-"))
        room = PRV_ROOM if name == "opacus_prv" else math.inf
        if pld is None or value is None or name not in known:
            holds = "-"
        elif name == "pld":
            holds = "yes"
        else:
            holds = "yes" if pld - SLACK <= value <= pld + room + SLACK * (room < math.inf) else "NO"
        apart = None if pld is None or value is None else value - pld
        away = "-" if apart is None else f"{apart:+.4f}"
        rows.append([title, number(value, 4), away, rule, holds])
    shown = table(
        "Epsilon for an outsider, by accountant",
        ["accountant", "epsilon", "minus PLD", "must be", "holds"],
        rows,
        strong=next((index for index, name in enumerate(checks) if name == "pld"), None),
        prose=(3, 4),
    )
    note = (
        "A dash means that the accountant gives no finite figure or is outside its range. The central-limit "
        "approximation (GDP) is left out on purpose: it reports too little."
    )
    return f'<section><h2>Cross-check by other accountants</h2>{shown}<p class="note">{note}</p></section>'


def sensitivity(report: AuditReport) -> str:
    """What becomes of epsilon when one assumption fails; the first case is the ledger as recorded."""
    if not report.sensitivity:
        return ""
    base = report.sensitivity[0].epsilon
    rows = [
        [
            case.assumption,
            finite(case.epsilon),
            "" if not index or case.epsilon is None or base is None else f"{case.epsilon - base:+.4f}",
        ]
        for index, case in enumerate(report.sensitivity)
    ]
    caption = "Epsilon" if report.delta is None else f"Epsilon at delta {report.delta:g}"
    shown = table(caption, ["if", "epsilon", "change"], rows, strong=0)
    note = "One assumption at a time. Two that fail together cost more than either."
    return f'<section><h2>If an assumption does not hold</h2>{shown}<p class="note">{note}</p></section>'


def realised(report: AuditReport) -> str:
    """What was counted while the campaign ran, beside what each plan assumed."""
    if not report.realised:
        return ""
    alarms = [alarm for facts in report.realised for alarm in facts.alarms]
    told = '<p class="passed">No alarm: what was counted agrees with the plan.</p>'
    if alarms:
        told = "<ul>" + "".join(f'<li class="failed">{text(alarm)}</li>' for alarm in alarms) + "</ul>"
    tables = "".join(
        table(
            f"Plan {facts.plan_hash[:12]}: {facts.rounds:,} rounds counted",
            ["", "planned", "counted"],
            [
                [
                    "devices enrolled",
                    f"{facts.population_planned:,}",
                    span(facts.population_least, facts.population_most),
                ],
                ["sampling rate", rate(facts.sampling_rate_planned), rate(facts.sampling_rate_observed)],
                ["sampling rate, upper confidence bound", "", rate(facts.sampling_rate_upper)],
                ["rounds of the busiest device", f"at most {report.max_participations:,}", f"{facts.busiest_device:,}"],
            ],
        )
        for facts in report.realised
    )
    note = (
        "These counts are exact and say something about the people counted. They are for auditors, not for publication."
    )
    return f'<section><h2>Planned and counted</h2>{told}{tables}<p class="note">{note}</p></section>'


def span(least: int, most: int) -> str:
    """Devices enrolled, least to most."""
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def rate(value: float) -> str:
    """A sampling rate."""
    return f"{value:.4g}"
