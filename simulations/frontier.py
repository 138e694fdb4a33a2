"""The privacy-utility frontier: epsilon against `primary`, with confidence bands and baselines; and the same as CSV.

One drawing serves the page, the SVG and the PNG. The axis of epsilon is logarithmic; runs without noise stand at a
place of their own at its right, behind a break. What the sweep cost the devices is written under the drawing, so that
it cannot be shown without.
"""

import csv
import io
import math
import textwrap
from collections.abc import Mapping, Sequence

import msgspec

from sottovoce.simulations.charts import Level, Scale, dot, scale, shorten, spread
from sottovoce.simulations.markup import number, text
from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.sweep import Setting
from sottovoce.simulations.sweep_price import Price
from sottovoce.simulations.sweep_summary import Line, Outcome

WIDTH = 640
LEFT, RIGHT, TOP, BOTTOM = 52, 466, 58, 288
EDGE = 8
"""Where lines of text begin."""
MARGIN = 26
"""From the ends of the axis to the outermost points."""
NOISELESS = 84
"""Between the largest epsilon and the place without noise."""
APART = 30
"""Least distance between two ticks with labels."""
LETTERS = 94
"""In a line of the text below."""

DRAWN = ("random", "popularity", "central FM, k=16")
"""Baselines that are lines in the drawing."""


def frontier(
    title: str, lines: Sequence[Line], outcomes: Sequence[Outcome], baselines: Mapping[str, Metrics], price: Price
) -> str:
    """The drawing as `<svg>`; empty text without a finished run.

    Args:
        title: above it.
        lines: one for each epsilon, rising; the one without noise, if any, at the end.
        outcomes: every finished run.
        baselines: by name; those in `DRAWN` are drawn.
        price: of the sweep, written below.
    """
    if not lines:
        return ""
    lines = [_bounded(line) for line in lines]
    levels = [Level(name, baselines[name].primary) for name in DRAWN if name in baselines]
    values = [value for line in lines for value in (line.least, line.most, line.low, line.high) if value is not None]
    y = scale([*values, *(level.value for level in levels)], BOTTOM, TOP)
    x = places([line.epsilon for line in lines])
    setting_at = {line.setting: place for line, place in zip(lines, x, strict=True)}
    finite = [(line, place) for line, place in zip(lines, x, strict=True) if line.epsilon is not None]
    parts = [
        f'<text class="title" x="{EDGE}" y="18">{text(title)}</text>',
        f'<text class="quiet" x="{EDGE}" y="38">primary on held-out rows (mean of GAUC and nDCG@5; '
        f"higher is better)</text>",
        *_axes(lines, x, y, price.delta),
    ]
    parts += [f'<path class="level" d="M{LEFT} {y.at(level.value):.1f}H{RIGHT}"/>' for level in levels]
    parts += _band(finite, y)
    means = [(place, y.at(line.primary)) for line, place in finite]
    if len(means) > 1:
        parts.append(f'<path class="line main" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in means)}"/>')
    parts += [
        f'<circle class="hollow main" cx="{setting_at[one.setting]:.1f}" cy="{y.at(one.metrics.primary):.1f}" r="2.2"/>'
        for one in outcomes
    ]
    for line, place in zip(lines, x, strict=True):
        if line.low is not None and line.high is not None and (line.epsilon is None or len(finite) == 1):
            parts += _whisker(place, y.at(line.low), y.at(line.high))
        parts.append(dot(place, y.at(line.primary), "main"))
    parts += _labels(lines[-1], levels, y)
    told = _below(lines, price)
    parts += [
        f'<text class="quiet" x="{EDGE}" y="{BOTTOM + 62 + 15 * row}">{text(line)}</text>'
        for row, line in enumerate(told)
    ]
    height = BOTTOM + 58 + 15 * len(told)
    story = " ".join([f"{title}.", *(f"{line.label}: primary {number(line.primary, 4)}." for line in lines), *told])
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text(story)}">'
    return f"{head}{''.join(parts)}</svg>"


def _bounded(line: Line) -> Line:
    """The interval cut at 0 and 1, between which the figure lies: Student's law does not know them."""
    if line.low is None or line.high is None:
        return line
    return msgspec.structs.replace(line, low=max(0.0, line.low), high=min(1.0, line.high))


def places(epsilons: Sequence[float | None]) -> list[float]:
    """Where each epsilon lies on the axis; None, without noise, at its right end."""
    finite = [epsilon for epsilon in epsilons if epsilon is not None]
    stop = RIGHT - MARGIN - (NOISELESS if None in epsilons else 0)
    start = LEFT + MARGIN
    if not finite:
        return [(LEFT + RIGHT) / 2] * len(epsilons)
    low, high = math.log(min(finite)), math.log(max(finite))
    return [
        RIGHT - MARGIN
        if epsilon is None
        else (start + stop) / 2
        if high == low
        else start + (stop - start) * (math.log(epsilon) - low) / (high - low)
        for epsilon in epsilons
    ]


def _axes(lines: Sequence[Line], x: Sequence[float], y: Scale, delta: float) -> list[str]:
    parts = []
    for tick in y.ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y.at(tick):.1f}H{RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y.at(tick) + 4:.1f}">{y.label(tick)}</text>')
    noiseless = lines[-1].epsilon is None and len(lines) > 1
    end = RIGHT - MARGIN - NOISELESS / 2
    if noiseless:
        parts.append(f'<path class="mark" d="M{LEFT} {BOTTOM}H{end - 3}"/>')
        parts.append(f'<path class="mark" d="M{end + 3} {BOTTOM}H{RIGHT}"/>')
        parts += [
            f'<path class="mark" d="M{end + by - 2} {BOTTOM + 5}L{end + by + 2} {BOTTOM - 5}"/>' for by in (-3, 3)
        ]
    else:
        parts.append(f'<path class="mark" d="M{LEFT} {BOTTOM}H{RIGHT}"/>')
    last = -math.inf
    finite = [place for line, place in zip(lines, x, strict=True) if line.epsilon is not None]
    for line, place in zip(lines, x, strict=True):
        parts.append(f'<path class="mark" d="M{place:.1f} {BOTTOM}v4"/>')
        crowded = place - last < APART or (place != finite[-1] and finite[-1] - place < APART) if finite else False
        if line.epsilon is None or not crowded:
            name = "no noise" if line.epsilon is None else f"{line.epsilon:g}"
            parts.append(f'<text class="tick middle" x="{place:.1f}" y="{BOTTOM + 18}">{name}</text>')
            last = place
    told = f"epsilon of one run per device at delta {delta:g}, log scale"
    if finite:
        parts.append(f'<text class="tick middle" x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 38}">{text(told)}</text>')
    return parts


def _band(finite: Sequence[tuple[Line, float]], y: Scale) -> list[str]:
    """The area between the confidence limits; where there are none, it is interrupted."""
    parts, stretch = [], []
    for line, place in [*finite, (None, 0.0)]:
        if line is not None and line.low is not None and line.high is not None:
            stretch.append((place, y.at(line.low), y.at(line.high)))
            continue
        if len(stretch) > 1:
            corners = [(a, low) for a, low, _ in stretch] + [(a, high) for a, _, high in reversed(stretch)]
            parts.append(f'<path class="band" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in corners)}"/>')
        stretch = []
    return parts


def _whisker(place: float, low: float, high: float) -> list[str]:
    return [
        f'<path class="line main" d="M{place:.1f} {low:.1f}V{high:.1f}"/>',
        *(f'<path class="line main" d="M{place - 5:.1f} {end:.1f}H{place + 5:.1f}"/>' for end in (low, high)),
    ]


def _labels(last: Line, levels: Sequence[Level], y: Scale) -> list[str]:
    """Names beside the lines that they name."""
    labels = [(y.at(level.value), f"{shorten(level.name)} {number(level.value, 4)}", "quiet") for level in levels]
    labels.append((y.at(last.primary), f"{shorten(last.label)} {number(last.primary, 4)}", "main"))
    heights = spread([height for height, _, _ in labels], TOP, BOTTOM)
    return [
        f'<text class="{tone}" x="{RIGHT + 10}" y="{height + 4:.1f}">{text(name)}</text>'
        for height, (_, name, tone) in zip(heights, labels, strict=True)
    ]


def _below(lines: Sequence[Line], price: Price) -> list[str]:
    """What the marks mean, and what must be said."""
    seeds = sorted({line.seeds for line in lines})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    marks = f"Filled: mean of {many} seed{'' if seeds[-1] == 1 else 's'}; circles: single runs"
    if any(line.low is not None for line in lines):
        marks += "; band and bar: 95 % confidence of the mean, Student t over seeds"
    headline = price.headline if price.guarantee or not price.runs else f"NO GUARANTEE: {price.headline}"
    return [*textwrap.wrap(f"{marks}.", LETTERS), *textwrap.wrap(f"{headline[0].upper()}{headline[1:]}.", LETTERS)]


def runs_csv(settings: Sequence[Setting], outcomes: Sequence[Outcome], price: Price) -> bytes:
    """One row for every finished run."""
    by_number = {setting.number: setting for setting in settings}
    keys = list(settings[0].choice) if settings else []
    header = ["run", "setting", "epsilon", *keys, "seed", "primary", "auc", "gauc", "ndcg@5", "log_loss"]
    header += ["calibration_error", "devices", "rows", "rounds", "seconds", "noise_multiplier", "experiment_sha256"]
    rows = []
    for one in outcomes:
        setting, found = by_number[one.setting], one.metrics
        row = [one.run, setting.number, setting.epsilon, *(setting.choice[key] for key in keys), one.seed]
        row += [found.primary, found.auc, found.gauc, found.ndcg_at_5, found.log_loss, found.calibration_error]
        row += [found.devices, found.rows, one.rounds, round(one.seconds, 2), one.noise_multiplier]
        rows.append([*row, one.experiment_sha256])
    return _csv(header, rows, price)


def summary_csv(settings: Sequence[Setting], lines: Sequence[Line], price: Price) -> bytes:
    """One row for every setting with a finished run."""
    keys = list(settings[0].choice) if settings else []
    header = ["setting", "epsilon", *keys, "seeds", "primary_mean", "primary_low_95", "primary_high_95", "primary_min"]
    header += ["primary_max", "auc_mean", "gauc_mean", "ndcg@5_mean", "log_loss_mean", "seconds_mean"]
    rows = []
    for line in lines:
        row = [line.setting, math.inf if line.epsilon is None else line.epsilon, *(line.choice[key] for key in keys)]
        row += [line.seeds, line.primary, line.low, line.high, line.least, line.most]
        rows.append([*row, line.auc, line.gauc, line.ndcg_at_5, line.log_loss, round(line.seconds, 2)])
    return _csv(header, rows, price)


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]], price: Price) -> bytes:
    """Rows, each with what the whole sweep cost: a table that is cut up still tells it."""
    together = math.inf if price.epsilon is None else price.epsilon
    cost = [price.runs, together, price.delta, price.covered, price.guarantee]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [*header, "sweep_runs", "sweep_epsilon", "sweep_delta", "sweep_epsilon_covers_all", "sweep_guarantee"]
    )
    writer.writerows([*row, *cost] for row in rows)
    return file.getvalue().encode()
