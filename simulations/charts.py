"""Small line and calibration charts as inline SVG: no script, no font, no colour of their own.

Colours and strokes come from the page by class name, so that a chart follows the light, dark and print styles. Labels
stand beside the lines they name. The drawing is 440 units wide, about one per pixel on a desk and on a phone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sottovoce.simulations.markup import number, text

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 294, 14, 210
GAP = 14
"""Least distance between two labels, in units."""

MOST = 400
"""Points drawn per line at most."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A line with its name.

    Attributes:
        name: shown at the end of the line.
        points: (x, y) by rising x; points that are not finite are left out.
        decimals: of the last value, shown beside the name.
    """

    name: str
    points: Sequence[Point]
    decimals: int = 3


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Scale:
    """One axis: its ticks, and where a value lies between two ends of the drawing."""

    ticks: tuple[float, ...]
    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Place of a value, in units of the drawing."""
        return self.start + (self.stop - self.start) * (value - self.low) / (self.high - self.low)

    def label(self, tick: float) -> str:
        """A tick in as many decimals as its neighbours need."""
        step = self.ticks[1] - self.ticks[0]
        return number(tick, max(0, -math.floor(math.log10(step) + 1e-9)))


def scale(values: Sequence[float], start: float, stop: float, *, zero: bool = False, whole: bool = False) -> Scale:
    """An axis with three to six round ticks that holds all values.

    Args:
        values: what must fit, at least one, all finite.
        start: where the low end lies in the drawing.
        stop: where the high end lies.
        zero: begin at 0; for amounts, where length means something.
        whole: ticks at whole numbers only.
    """
    low, high = (min(0.0, *values) if zero else min(values)), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        room = max(abs(low) * 0.1, 0.5 if whole or low == 0 else 0.0)
        low, high = (low if zero else low - room), high + room
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= (high - low) / 4.5)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(index * step for index in range(first, max(last, first + 1) + 1))
    return Scale(ticks, ticks[0], ticks[-1], start, stop)


def thin(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most `most` points of the same shape: of each stretch its lowest and highest, and the two ends.

    Spikes survive, so a round that went wrong cannot vanish between two drawn ones.
    """
    if len(points) <= most:
        return list(points)
    stretches = (most - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for stretch in range(stretches):
        part = inner[stretch * len(inner) // stretches : (stretch + 1) * len(inner) // stretches]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return [*kept, points[-1]]


def spread(places: Sequence[float], low: float, high: float) -> list[float]:
    """Move labels apart until none is nearer than `GAP` to another, as little as possible, keeping their order.

    Args:
        places: wanted heights, in any order.
        low: smallest height allowed; given up only where there are too many labels.
        high: largest height allowed.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [max(places[index], low) for index in order]
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + GAP)
    ceiling = high
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - GAP
    result = [0.0] * len(places)
    for place, index in zip(moved, order, strict=True):
        result[index] = place
    return result


def line_chart(
    title: str,
    series: Sequence[Series],
    levels: Sequence[Level] = (),
    *,
    zero: bool = False,
    whole: bool = False,
    across: str = "round",
    place: Callable[[float], str] = "{:.0f}".format,
) -> str:
    """One or two lines by round, with levels to compare with, as a figure; empty text when there is no point.

    Args:
        title: what is drawn, with its unit.
        series: at most two; each gets its own colour and is named at its end.
        levels: dashed lines, named at the right edge.
        zero: the vertical axis begins at 0.
        whole: the vertical axis counts something.
        across: what the horizontal axis counts, one by one.
        place: how a place on that axis is written.

    Raises:
        ValueError: more than two lines.
    """
    if len(series) > 2:
        raise ValueError(f"a chart takes at most two lines, got {len(series)}")
    drawn = [(s, [p for p in s.points if math.isfinite(p[1])]) for s in series]
    drawn = [(s, points) for s, points in drawn if points]
    if not drawn:
        return ""
    levels = [level for level in levels if math.isfinite(level.value)]
    every = [y for _, points in drawn for _, y in points] + [level.value for level in levels]
    x = scale([x for _, points in drawn for x, _ in points], LEFT, RIGHT, whole=True)
    y = scale(every, BOTTOM, TOP, zero=zero, whole=whole)
    parts = [*grid(x, y, place), caption(across)]
    labels: list[tuple[float, str, str]] = []
    for level in levels:
        height = y.at(level.value)
        parts.append(f'<path class="level" d="M{LEFT} {height:.1f}H{RIGHT}"/>')
        labels.append((height, level.name, "quiet"))
    for index, (line, points) in enumerate(drawn):
        tone = "main" if index == 0 else "second"
        ends = [(x.at(a), y.at(b)) for a, b in thin(points)]
        if len(ends) > 1:
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in ends)
            parts.append(f'<path class="line {tone}{" dense" if len(ends) > MOST / 2 else ""}" d="M{path}"/>')
        parts.append(dot(*ends[-1], tone))
        labels.append((ends[-1][1], f"{line.name} {number(points[-1][1], line.decimals)}", tone))
    for height, (_, name, tone) in zip(spread([p for p, _, _ in labels], TOP, BOTTOM), labels, strict=True):
        parts.append(f'<text class="{tone}" x="{RIGHT + 8}" y="{height + 4:.1f}">{text(shorten(name))}</text>')
    return figure(title, story(drawn, across, place), parts)


def calibration_chart(title: str, points: Sequence[tuple[float, float, int]]) -> str:
    """Predicted against observed rate, one dot per bin, each tied to where it ought to be; empty without points."""
    points = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if not points:
        return ""
    values = [value for predicted, observed, _ in points for value in (predicted, observed)]
    x, y = scale(values, LEFT, RIGHT, zero=True), scale(values, BOTTOM, TOP, zero=True)
    parts = [*grid(x, y), caption("predicted rate")]
    parts.append(f'<path class="level" d="M{LEFT} {BOTTOM}L{RIGHT} {TOP}"/>')
    parts.append(f'<text class="quiet" x="{RIGHT + 8}" y="{TOP + 4}">predicted = observed</text>')
    for predicted, observed, _ in points:
        place = x.at(predicted)
        parts.append(f'<path class="stick" d="M{place:.1f} {y.at(predicted):.1f}V{y.at(observed):.1f}"/>')
        parts.append(dot(place, y.at(observed), "main"))
    worst = max(points, key=lambda point: abs(point[0] - point[1]))
    told = f"{len(points)} bins; largest gap: predicted {worst[0]:.3f}, observed {worst[1]:.3f}."
    return figure(title, told, parts)


def grid(x: Scale, y: Scale, across: Callable[[float], str] | None = None) -> list[str]:
    """Horizontal grid lines, tick marks and tick labels; `across` writes those of the horizontal axis its own way."""
    parts = []
    label = across or x.label
    for tick in y.ticks:
        place = y.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {place:.1f}H{RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{place + 4:.1f}">{y.label(tick)}</text>')
    for tick in x.ticks:
        place = x.at(tick)
        parts.append(f'<path class="mark" d="M{place:.1f} {BOTTOM}v4"/>')
        parts.append(f'<text class="tick middle" x="{place:.1f}" y="{BOTTOM + 17}">{text(label(tick))}</text>')
    return parts


def caption(label: str) -> str:
    """The name of the horizontal axis, below its middle."""
    return f'<text class="tick middle" x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 34}">{text(label)}</text>'


def dot(x: float, y: float, tone: str) -> str:
    """A marker."""
    return f'<circle class="{tone}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def shorten(name: str, most: int = 21) -> str:
    """A label that fits beside the chart."""
    return name if len(name) <= most else name[: most - 1] + "…"


def story(drawn: Sequence[tuple[Series, Sequence[Point]]], across: str, place: Callable[[float], str]) -> str:
    """What the lines show, in words, for those who do not see them."""
    return " ".join(
        f"{line.name}: {number(points[0][1], line.decimals)} in {across} {place(points[0][0])}, "
        f"{number(points[-1][1], line.decimals)} in {across} {place(points[-1][0])}."
        for line, points in drawn
    )


def figure(title: str, told: str, parts: Sequence[str]) -> str:
    """The drawing with its title above it and its story for screen readers."""
    return (
        f"<figure><figcaption>{text(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(f"{title}. {told}")}">'
        f"{''.join(parts)}</svg></figure>"
    )
