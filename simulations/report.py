"""One run on one page: what was trained, how well, at what privacy cost, and what would ship.

Whatever comes from a run (names, licences, the experiment) is escaped. A run without guarantee says so at the top,
while scrolling, in the window's title and on every printed page.
"""

import math
from collections.abc import Collection

import msgspec

from sottovoce.simulations.charts import Level, Series, calibration_chart, line_chart
from sottovoce.simulations.markup import number, significant, size, table, text
from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.page import ALARM, page

LISTED = 40
"""Rows of the table of rounds at most; the charts show every round."""


class DatasetFacts(msgspec.Struct, frozen=True):
    """What the run was trained on: devices and training rows."""

    name: str
    devices: int
    rows: int
    licence: str


class RoundRow(msgspec.Struct, frozen=True):
    """One finished round.

    Attributes:
        round: 1 for the first.
        epsilon: spent up to and including this round; infinity without noise.
        cohort: devices drawn.
        replies: devices whose update was used.
        seconds: wall time.
        primary: on the held-out rows, where the round was evaluated.
        auc: likewise.
        log_loss: likewise, in nats. Training loss is not shown: devices never report it.
    """

    round: int
    epsilon: float
    cohort: int
    replies: int
    seconds: float
    primary: float | None = None
    auc: float | None = None
    log_loss: float | None = None


class PrivacyFacts(msgspec.Struct, frozen=True):
    """What is claimed, and what the ledger says.

    Attributes:
        claims: the guarantee in words, one statement each.
        ledger: facts by name, such as the number of entries and the head hash.
        budget: epsilon the campaign may spend; None without a limit.
        delta: at which every epsilon of the page is given; None where there is none.
        spent: epsilon of everything in the ledger, lost rounds included; None for that of the last round shown.
    """

    claims: list[str]
    ledger: dict[str, str]
    budget: float | None = None
    delta: float | None = None
    spent: float | None = None


class GateRow(msgspec.Struct, frozen=True):
    """One release gate: what was measured, what was allowed, as a number or in words."""

    name: str
    measured: float | str
    limit: float | str
    passed: bool


class ReleaseFacts(msgspec.Struct, frozen=True):
    """What would ship.

    Attributes:
        bundle_bytes: the signed file.
        onnx_bytes: the ONNX model in it.
        tflite_bytes: the TFLite model in it.
        latency_us: microseconds to score N ads, by engine, then by N, on the machine that built the bundle.
        parity: differences between engines and the evaluated model, by name.
        gates: in the order they ran.
    """

    bundle_bytes: int
    onnx_bytes: int
    tflite_bytes: int
    latency_us: dict[str, dict[int, float]]
    parity: dict[str, float]
    gates: list[GateRow]


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page shows.

    Attributes:
        title: of the run.
        created: date and time, as text.
        dataset: what it was trained on.
        experiment: the experiment file, as text.
        rounds: by rising number; none when the run broke off early.
        metrics: of the final model on the held-out rows.
        baselines: by name, on the same rows.
        calibration: from `metrics.calibration_curve`, of the final model.
        privacy: claims and ledger.
        release: None when nothing was exported.
        guarantee: False for seeded noise or none: the page then carries the banner.
    """

    title: str
    created: str
    dataset: DatasetFacts
    experiment: str
    rounds: list[RoundRow]
    metrics: Metrics | None
    baselines: dict[str, Metrics]
    calibration: list[tuple[float, float, int]]
    privacy: PrivacyFacts
    release: ReleaseFacts | None
    guarantee: bool


def render(summary: RunSummary) -> str:
    """The page, complete, as text to be written in UTF-8."""
    body = (
        f"{opening(summary)}\n<main>{learning(summary)}\n{privacy(summary)}\n{quality(summary)}\n"
        f"{release(summary.release)}\n{experiment(summary)}</main>\n{closing(summary)}"
    )
    return page(summary.title, body, alarm=not summary.guarantee)


def opening(summary: RunSummary) -> str:
    """Title, warning and the figures that matter most."""
    data = summary.dataset
    why = (
        ""
        if summary.guarantee
        else '<p class="why"><strong>No privacy is promised for this model.</strong> Its noise came from a seed, or '
        "there was none: whoever knows the seed can take the noise away again. It cannot be signed for release, and "
        "every epsilon below only says what the same run would cost with real noise.</p>"
    )
    shown = "".join(
        f'<div><dt class="note">{text(name)}</dt><dd class="value">{text(value)}</dd>'
        f'<dd class="{tone}">{text(note)}</dd></div>'
        for name, value, note, tone in headline(summary)
    )
    return (
        f'<header><h1>{text(summary.title)}</h1><p class="quiet">{text(data.name)}: {data.devices:,} devices, '
        f'{data.rows:,} training rows</p><p class="quiet">{text(summary.created)}</p>{why}'
        f'<dl class="tiles">{shown}</dl></header>'
    )


def headline(summary: RunSummary) -> list[tuple[str, str, str, str]]:
    """Name, value, remark and class of the remark, of the figures at the top."""
    tiles = []
    if summary.metrics is not None:
        for name, figure in (("Primary", "primary"), ("AUC", "auc")):
            best = max(levels(summary, figure), key=lambda level: level.value, default=None)
            note = "" if best is None else f"best other: {number(best.value)} by {best.name}"
            tiles.append((name, number(getattr(summary.metrics, figure)), note, "note"))
    facts = summary.privacy
    if summary.rounds:
        spent = summary.rounds[-1].epsilon if facts.spent is None else facts.spent
        delta = "" if facts.delta is None else f"delta {facts.delta:g}"
        budget = "" if facts.budget is None else f"budget {significant(facts.budget)}"
        remark = "no noise" if math.isinf(spent) else ", ".join(part for part in (delta, budget) if part)
        name = "Epsilon spent" if summary.guarantee else "Epsilon, not guaranteed"
        tiles.append((name, number(spent, 2), remark, "note"))
    seconds = sum(row.seconds for row in summary.rounds)
    told = f"{duration(seconds)} in all" if summary.rounds else ""
    tiles.append(("Rounds", f"{len(summary.rounds):,}", told, "note"))
    if summary.release is not None:
        failed = sum(not gate.passed for gate in summary.release.gates)
        gates = len(summary.release.gates)
        told = (
            f"{failed} of {gates} gates failed"
            if failed
            else f"all {gates} gates passed"
            if gates
            else "no gate has run"
        )
        tiles.append(("Bundle", size(summary.release.bundle_bytes), told, "note failed" if failed else "note"))
    return tiles


def learning(summary: RunSummary) -> str:
    """Quality, log loss and attendance by round; chance has no log loss worth a mark."""
    if not summary.rounds:
        return "<section><h2>Learning</h2><p>No round has finished.</p></section>"
    rows = summary.rounds
    primary = [(row.round, row.primary) for row in rows if row.primary is not None]
    auc = [(row.round, row.auc) for row in rows if row.auc is not None]
    log_loss = [(row.round, row.log_loss) for row in rows if row.log_loss is not None]
    charts = [
        line_chart(
            "Ranking quality on held-out rows (primary)", [Series("this run", primary)], levels(summary, "primary")
        ),
        line_chart("AUC on held-out rows", [Series("this run", auc)], levels(summary, "auc")),
        line_chart(
            "Log loss on held-out rows (nats)", [Series("this run", log_loss)], levels(summary, "log_loss", {"random"})
        ),
        line_chart(
            "Devices per round",
            [
                Series("drawn", [(row.round, row.cohort) for row in rows], 0),
                Series("answered", [(row.round, row.replies) for row in rows], 0),
            ],
            zero=True,
            whole=True,
        ),
    ]
    unjudged = "" if primary or auc else "<p>No round was evaluated on held-out rows.</p>"
    return f'<section><h2>Learning</h2>{unjudged}<div class="pair">{"".join(charts)}</div>{rounds(rows)}</section>'


def levels(summary: RunSummary, figure: str, without: Collection[str] = ()) -> list[Level]:
    """The baselines' value of one figure, to draw beside the curve; those named in `without` are left out."""
    return [Level(name, getattr(metrics, figure)) for name, metrics in summary.baselines.items() if name not in without]


def rounds(rows: list[RoundRow]) -> str:
    """The curves as numbers: at most `LISTED` rounds, evaluated ones first of all, always the first and the last."""
    shown = rows
    if len(rows) > LISTED:
        telling = [row for row in rows[1:-1] if row.primary is not None or row.auc is not None] or rows[1:-1]
        step = max(1, math.ceil(len(telling) / (LISTED - 2)))
        shown = [rows[0], *telling[step - 1 :: step], rows[-1]]
    cells = [
        [
            f"{row.round:,}",
            number(row.primary, 4),
            number(row.auc, 4),
            number(row.log_loss, 4),
            number(row.epsilon, 3),
            f"{row.cohort:,}",
            f"{row.replies:,}",
            number(row.seconds, 2),
        ]
        for row in shown
    ]
    some = f"{len(cells)} of {len(rows):,} rounds" if len(cells) < len(rows) else "All rounds"
    header = ["round", "primary", "AUC", "log loss", "epsilon", "drawn", "answered", "seconds"]
    return f"<details><summary>{some} as a table</summary>{table(some, header, cells)}</details>"


def privacy(summary: RunSummary) -> str:
    """The epsilon curve beside the claims and the ledger."""
    facts = summary.privacy
    spent = [(row.round, row.epsilon) for row in summary.rounds]
    budget = [] if facts.budget is None else [Level(f"budget {significant(facts.budget)}", facts.budget)]
    curve = line_chart("Epsilon spent, all rounds so far", [Series("epsilon", spent, 2)], budget, zero=True)
    if not curve:
        told = "No noise was added: epsilon is infinite." if summary.rounds else "Nothing has been spent."
        curve = f"<p>{told}</p>"
    claims = "".join(f"<li>{text(claim)}</li>" for claim in facts.claims) or "<li>Nothing is claimed.</li>"
    heading = "What is guaranteed" if summary.guarantee else "What would be claimed with real noise"
    ledger = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts.ledger.items())
    book = f'<h3>Ledger</h3><dl class="facts">{ledger}</dl>' if ledger else ""
    return (
        f'<section><h2>Privacy</h2><div class="pair">{curve}<div><h3>{heading}</h3><ul>{claims}</ul>{book}</div></div>'
        '<p class="note">The guarantee covers the releases listed in the ledger. Scores and counts of devices '
        "on this page are read inside the simulation: treat the page as data of the devices, and do not publish it.</p>"
        "</section>"
    )


def quality(summary: RunSummary) -> str:
    """The final model beside the baselines, and its calibration."""
    judged = [(name, metrics) for name, metrics in summary.baselines.items()]
    if summary.metrics is not None:
        judged.append(("this run", summary.metrics))
    if not judged:
        return "<section><h2>Quality</h2><p>The final model was not evaluated.</p></section>"
    judged.sort(key=lambda pair: pair[1].primary)
    own = next((index for index, (_, metrics) in enumerate(judged) if metrics is summary.metrics), None)
    cells = [
        [name, *map(number, (m.primary, m.auc, m.gauc, m.ndcg_at_5, m.log_loss, m.calibration_error))]
        for name, m in judged
    ]
    header = ["model", "primary", "AUC", "GAUC", "nDCG@5", "log loss", "calibration error"]
    count = judged[0][1]
    caption = f"Held-out rows: {count.rows:,} of {count.devices:,} devices"
    chart = calibration_chart("Calibration: observed rate by predicted rate", summary.calibration)
    note = (
        "Primary is the mean of GAUC and nDCG@5. The first four figures are higher when better. Log loss (nats) and "
        "calibration error are lower when better, and mean nothing for random scores. In the calibration chart every "
        "dot is a bin of about as many rows as any other, and its stick is the distance to a perfect prediction."
    )
    return (
        f"<section><h2>Quality</h2>{table(caption, header, cells, own)}"
        f'<div class="pair">{chart}<p class="note">{note}</p></div></section>'
    )


def release(facts: ReleaseFacts | None) -> str:
    """Gates, sizes, latency and parity of what would ship."""
    if facts is None:
        return "<section><h2>Release</h2><p>Nothing was exported from this run.</p></section>"
    gates = "".join(
        f'<li><span class="{"passed" if gate.passed else "failed"}">{"✓ passed" if gate.passed else "✗ FAILED"}</span>'
        f"<span>{text(gate.name)}: measured {text(worded(gate.measured))}, limit {text(worded(gate.limit))}</span></li>"
        for gate in facts.gates
    )
    files = [
        ("signed bundle", facts.bundle_bytes),
        ("ONNX model", facts.onnx_bytes),
        ("TFLite model", facts.tflite_bytes),
    ]
    sizes = table("Size", ["file", "size", "bytes"], [[name, size(count), f"{count:,}"] for name, count in files])
    counts = sorted({count for by_count in facts.latency_us.values() for count in by_count})
    timed = [
        [f"{count:,}", *(number(by_count.get(count), 1) for by_count in facts.latency_us.values())] for count in counts
    ]
    latency = table("Time to score on the building machine, µs", ["ads", *facts.latency_us], timed) if timed else ""
    compared = [[name, significant(value)] for name, value in facts.parity.items()]
    parity = table("Parity with the evaluated model", ["comparison", "value"], compared) if compared else ""
    return (
        f'<section><h2>Release</h2><ul class="gates">{gates or "<li>No gate has run.</li>"}</ul>'
        f'<div class="pair"><div>{sizes}{parity}</div><div>{latency}</div></div></section>'
    )


def worded(value: float | str) -> str:
    """A gate's figure: words as they are, numbers in few digits."""
    return value if isinstance(value, str) else significant(value)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def experiment(summary: RunSummary) -> str:
    """The experiment file, to be run again."""
    written = (
        f'<pre tabindex="0">{text(summary.experiment)}</pre>' if summary.experiment.strip() else "<p>Not recorded.</p>"
    )
    return f"<section><h2>Experiment</h2>{written}</section>"


def closing(summary: RunSummary) -> str:
    """Licence of the data, and what the page itself does."""
    again = "" if summary.guarantee else f' <strong class="failed">{ALARM}</strong>'
    return (
        f'<footer class="note"><p>Data: {text(summary.dataset.name)}, {text(summary.dataset.licence)}</p>'
        f"<p>Written by sottovoce. This page loads nothing and sends nothing.{again}</p></footer>"
    )
