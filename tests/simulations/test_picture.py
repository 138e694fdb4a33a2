"""The PNG is the SVG: same places, same colours, no font or library of the system."""

import io
from xml.etree import ElementTree

import pytest
from PIL import Image

from sottovoce.simulations.charts import Level, Series, calibration_chart, line_chart
from sottovoce.simulations.picture import png, standalone

SVG = (
    '<svg viewBox="0 0 100 50" role="img" aria-label="a">'
    '<path class="band" d="M10.0 10.0L40.0 10.0L40.0 20.0L10.0 20.0"/>'
    '<path class="line main" d="M10 30H90"/><path class="mark" d="M50 40v8"/>'
    '<path class="level" d="M10 25H90"/><circle class="second" cx="80.0" cy="10.0" r="5"/>'
    '<text class="tick end" x="95" y="48">0.50</text></svg>'
)


def pixels(svg, width=400):
    return Image.open(io.BytesIO(png(svg, width))).convert("RGB")


def test_every_mark_is_where_the_drawing_has_it_in_its_colour():
    picture = pixels(SVG)
    assert picture.size == (400, 200)
    assert picture.getpixel((2, 2)) == (255, 255, 255)
    assert picture.getpixel((200, 120)) == pytest.approx((0x1A, 0x5F, 0xB4), abs=9)
    assert picture.getpixel((200, 176)) == pytest.approx((0x59, 0x63, 0x6E), abs=9)
    assert picture.getpixel((320, 40)) == pytest.approx((0xB3, 0x50, 0x0B), abs=9)
    # A band lets the paper through.
    red, _, blue = picture.getpixel((100, 60))
    assert 200 < red < 235 < blue < 255
    dashes = [picture.getpixel((x, 100)) == (255, 255, 255) for x in range(40, 360)]
    assert 100 < sum(dashes) < 220
    written = picture.crop((300, 150, 382, 196))
    assert min(low for low, _ in written.getextrema()) < 150


def test_charts_of_the_report_can_be_pictures_too():
    for chart in (
        line_chart("t", [Series("a", [(1, 0.5), (2, 0.6)]), Series("b", [(1, 0.4)])], [Level("x", 0.45)]),
        calibration_chart("t", [(0.1, 0.2, 5), (0.5, 0.4, 5)]),
    ):
        svg = chart[chart.index("<svg") : chart.index("</figure>")]
        assert len(pixels(svg).getcolors(10**6)) > 10


def test_a_path_that_charts_do_not_draw_is_refused_and_not_drawn_wrong():
    with pytest.raises(ValueError, match="do not draw"):
        png('<svg viewBox="0 0 9 9"><path class="line main" d="M0 0C1 1 2 2 3 3"/></svg>')


def test_the_file_carries_its_colours_for_light_and_dark_and_loads_nothing():
    file = standalone(SVG)
    root = ElementTree.fromstring(file)  # noqa: S314 - our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in file
    assert file.count("http") == 1
    assert "url(" not in file
