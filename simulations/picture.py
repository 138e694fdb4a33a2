"""The page's own charts as pictures: a chart's SVG by itself, with its colours in it, and the same drawing as PNG.

The PNG is drawn from the SVG, of which the charts use little: straight paths, dots and lines of text with a class. It
is drawn larger and made smaller, which smooths its edges, with the font that comes with Pillow: no system library and
no font has to be installed.
"""

import io
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from xml.etree import ElementTree

from PIL import Image, ImageDraw, ImageFont

from sottovoce.simulations.stylesheet import CHARTS, DARK, LIGHT

SHARPER = 3
"""How much larger than the result the PNG is drawn."""

Place = tuple[float, float]

_NUMBER = re.compile(r"[MLHVv]|-?\d+(?:\.\d+)?")


def standalone(svg: str) -> str:
    """A chart's `<svg>` as a file of its own, in light and dark, with a background.

    Args:
        svg: as `charts.drawing` makes it.
    """
    style = f":root {{ {LIGHT} }} @media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }} {CHARTS}"
    style += ' svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }'
    head, rest = svg.split(">", 1)
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    ground = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return f"{head}><style>{style}</style>{ground}{rest}\n"


def png(svg: str, width: int = 1760) -> bytes:
    """A chart's `<svg>` as PNG on white.

    Args:
        svg: as `charts.drawing` makes it.
        width: in pixels.

    Raises:
        ValueError: it holds what the charts do not use.
    """
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own output, and XML without a document type
    _, _, across, down = map(float, root.attrib["viewBox"].split())
    scale = width * SHARPER / across
    size = (width * SHARPER, round(down * scale))
    colours = dict(re.findall(r"--(\w+): (#\w+)", LIGHT))
    picture = Image.new("RGB", size, colours["paper"])
    for element in root:
        _DRAW[element.tag](picture, element, scale, colours)
    picture = picture.resize((width, round(down * width / across)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _path(picture: Image.Image, element: ElementTree.Element, scale: float, colours: dict[str, str]) -> None:
    """Straight lines, or the area within them."""
    kinds = element.attrib["class"].split()
    points = [(x * scale, y * scale) for x, y in _points(element.attrib["d"])]
    tone = colours[_tone(kinds)]
    if "band" in kinds:
        layer = Image.new("L", picture.size, 0)
        ImageDraw.Draw(layer).polygon(points, fill=round(255 * 0.16))
        picture.paste(Image.new("RGB", picture.size, tone), mask=layer)
        return
    width = max(1, round((2.0 if "line" in kinds else 1.0) * scale))
    pieces = _dashes(points, 3 * scale) if "level" in kinds else [points]
    for piece in pieces:
        ImageDraw.Draw(picture).line(piece, fill=tone, width=width, joint="curve")


def _dot(picture: Image.Image, element: ElementTree.Element, scale: float, colours: dict[str, str]) -> None:
    kinds = element.attrib["class"].split()
    x, y, radius = (float(element.attrib[name]) * scale for name in ("cx", "cy", "r"))
    box = (x - radius, y - radius, x + radius, y + radius)
    draw = ImageDraw.Draw(picture)
    if "hollow" in kinds:
        draw.ellipse(box, fill=colours["paper"], outline=colours[_tone(kinds)], width=max(1, round(scale)))
    else:
        draw.ellipse(box, fill=colours[_tone(kinds)])


def _text(picture: Image.Image, element: ElementTree.Element, scale: float, colours: dict[str, str]) -> None:
    kinds = element.attrib.get("class", "").split()
    size = {"title": 14.0, "quiet": 11.0}.get(next((kind for kind in kinds if kind in ("title", "quiet")), ""), 12.0)
    font = ImageFont.load_default(size * scale * 0.95)
    anchor = "rs" if "end" in kinds else "ms" if "middle" in kinds else "ls"
    place = (float(element.attrib["x"]) * scale, float(element.attrib["y"]) * scale)
    ImageDraw.Draw(picture).text(place, element.text or "", fill=colours[_tone(kinds)], font=font, anchor=anchor)


_DRAW = {"path": _path, "circle": _dot, "text": _text}


def _tone(kinds: Sequence[str]) -> str:
    """Name of a colour by class, as the style sheet has it."""
    for kind, tone in (
        ("main", "main"),
        ("second", "second"),
        ("band", "main"),
        ("stick", "main"),
        ("grid", "faint"),
        ("mark", "quiet"),
        ("level", "quiet"),
        ("tick", "quiet"),
        ("quiet", "quiet"),
    ):
        if kind in kinds:
            return tone
    return "ink"


def _points(path: str) -> Iterator[Place]:
    """Corners of a path of M, L, H, V and v."""
    if not re.fullmatch(r"(?:[MLHVv][\d. -]+)+", path):
        raise ValueError(f"a path that charts do not draw: {path}")
    x = y = 0.0
    command, numbers = "", iter(_NUMBER.findall(path))
    for word in numbers:
        if word in "MLHVv":
            command = word
            continue
        value = float(word)
        if command == "H":
            x = value
        elif command in "Vv":
            y = value if command == "V" else y + value
        else:
            x, y = value, float(next(numbers))
        yield x, y


def _dashes(points: Sequence[Place], length: float) -> Iterator[list[Place]]:
    """Every other stretch of `length` of the lines between points."""
    for (x, y), (to_x, to_y) in pairwise(points):
        whole = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
        count = max(1, round(whole / length))
        for index in range(0, count, 2):
            first, last = index / count, min(1.0, (index + 1) / count)
            yield [
                (x + (to_x - x) * first, y + (to_y - y) * first),
                (x + (to_x - x) * last, y + (to_y - y) * last),
            ]
