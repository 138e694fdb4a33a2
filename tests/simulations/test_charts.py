import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.simulations.charts import (
    BOTTOM,
    GAP,
    HEIGHT,
    LEFT,
    MOST,
    RIGHT,
    TOP,
    WIDTH,
    Level,
    Series,
    calibration_chart,
    line_chart,
    scale,
    spread,
    thin,
)

finite = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
anything = st.floats(allow_nan=True, allow_infinity=True, width=32)


def drawing(markup):
    return ElementTree.fromstring(markup)  # noqa: S314 - our own output


def places(markup):
    """Every coordinate pair of lines and dots."""
    lines = re.findall(r'class="line [^"]*" d="M([^"]*)"', markup)
    pairs = [tuple(map(float, pair.split())) for line in lines for pair in line.split("L")]
    return pairs + [tuple(map(float, pair)) for pair in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', markup)]


@given(st.lists(finite, min_size=1, max_size=20), st.booleans(), st.booleans())
def test_an_axis_holds_all_values_with_a_few_round_even_ticks(values, zero, whole):
    axis = scale(values, 0, 100, zero=zero, whole=whole)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(values)
    assert max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 7
    steps = [b - a for a, b in zip(axis.ticks, axis.ticks[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert round(mantissa, 6) in {1, 2, 5}
    assert not whole or all(tick == round(tick) for tick in axis.ticks)
    assert not zero or axis.low <= 0


@given(st.lists(finite, min_size=1, max_size=20))
def test_no_two_ticks_of_an_axis_read_the_same(values):
    axis = scale(values, 0, 100)
    assert len({axis.label(tick) for tick in axis.ticks}) == len(axis.ticks)
    assert all(float(axis.label(tick).replace(",", "")) == pytest.approx(tick, abs=1e-9) for tick in axis.ticks)


def test_a_low_value_lies_at_the_start_and_a_high_one_at_the_stop():
    axis = scale([0, 200], BOTTOM, TOP)
    assert (axis.at(0), axis.at(200), axis.at(100)) == (BOTTOM, TOP, (BOTTOM + TOP) / 2)


@given(st.lists(finite, max_size=3000), st.integers(10, 400))
def test_thinning_keeps_ends_extremes_and_order(values, most):
    points = [(float(index), value) for index, value in enumerate(values)]
    kept = thin(points, most)
    assert len(kept) <= max(most, 0) or len(points) <= most
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert {min(values), max(values)} <= {value for _, value in kept}


@given(st.lists(st.floats(TOP, BOTTOM), min_size=1, max_size=8))
def test_labels_never_overlap_and_keep_their_order(wanted):
    moved = spread(wanted, TOP, BOTTOM)
    assert all(TOP - 1e-9 <= place <= BOTTOM + 1e-9 for place in moved)
    ordered = sorted(moved)
    assert all(b - a >= GAP - 1e-9 for a, b in itertools.pairwise(ordered))
    pairs = sorted(zip(wanted, moved, strict=True))
    assert [place for _, place in pairs] == sorted(place for _, place in pairs)


def test_labels_with_room_stay_where_they_are():
    assert spread([100.0, 20.0, 60.0], TOP, BOTTOM) == [100.0, 20.0, 60.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(anything, max_size=60), st.lists(anything, max_size=4), st.booleans(), st.booleans())
def test_whatever_the_values_the_drawing_is_sound_and_stays_inside(values, level_values, zero, whole):
    points = [(index + 1, value) for index, value in enumerate(values)]
    levels = [Level(f"level {index}", value) for index, value in enumerate(level_values)]
    markup = line_chart("loss", [Series("loss", points)], levels, zero=zero, whole=whole)
    if not any(map(math.isfinite, values)):
        assert markup == ""
        return
    drawing(markup)
    assert not re.search(r"\b(nan|inf)\b", markup)
    assert all(LEFT - 0.1 <= x <= RIGHT + 0.1 and TOP - 0.1 <= y <= BOTTOM + 0.1 for x, y in places(markup))


def test_a_line_says_its_name_and_last_value_and_levels_are_named():
    markup = line_chart("AUC", [Series("this run", [(1, 0.5), (2, 0.6954)])], [Level("popularity", 0.69)])
    texts = [element.text for element in drawing(markup).iter("text")]
    assert {"this run 0.695", "popularity", "round"} <= set(texts)
    svg = drawing(markup).find("svg")
    assert svg.get("role") == "img"
    assert "0.500 in round 1, 0.695 in round 2" in svg.get("aria-label")
    assert svg.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"


def test_a_higher_value_is_drawn_higher_and_a_later_round_further_right():
    (x1, y1), (x2, y2), *_ = places(line_chart("AUC", [Series("this run", [(1, 0.5), (2, 0.7)])]))
    assert x1 < x2
    assert y1 > y2


def test_one_point_is_a_dot_and_no_line():
    markup = line_chart("loss", [Series("loss", [(1, 0.6)])])
    assert "<circle" in markup
    assert 'class="line' not in markup


def test_ten_thousand_rounds_become_a_few_hundred_points_and_a_spike_survives():
    points = [(index, 0.5) for index in range(1, 10_001)]
    points[4321] = (4322, 9.0)
    markup = line_chart("loss", [Series("loss", points)])
    assert len(places(markup)) <= MOST + 1
    assert min(y for _, y in places(markup)) < BOTTOM - 0.8 * (BOTTOM - TOP)


def test_three_lines_in_one_chart_are_a_wrong_call():
    with pytest.raises(ValueError, match="two lines"):
        line_chart("loss", [Series("a", [(1, 1)])] * 3)


def test_names_are_escaped_and_cut_to_fit():
    markup = line_chart('<b>&"', [Series("loss", [(1, 1), (2, 2)])], [Level("<i>" + "x" * 50, 1.5)])
    assert "<b>" not in markup
    assert "<i>" not in markup
    assert max(len(element.text) for element in drawing(markup).iter("text")) <= 21


def test_calibration_draws_one_dot_per_bin_and_names_the_largest_gap():
    markup = calibration_chart("Calibration", [(0.1, 0.1, 10), (0.6, 0.3, 10), (0.5, float("nan"), 1)])
    assert markup.count("<circle") == 2
    assert "2 bins; largest gap: predicted 0.600, observed 0.300" in markup
    (_, exact), (x, lower) = places(markup)
    assert RIGHT - x < x - LEFT
    assert exact > lower
    sticks = re.findall(r'class="stick" d="M([\d.]+) ([\d.]+)V([\d.]+)"', markup)
    assert float(sticks[1][1]) == pytest.approx(TOP), "0.6, the top of the axis, is where the second dot ought to be"
    assert float(sticks[1][2]) == lower
    assert calibration_chart("Calibration", []) == ""


def test_perfect_calibration_lies_on_the_diagonal():
    found = places(calibration_chart("Calibration", [(value, value, 5) for value in (0.05, 0.2, 0.45)]))
    for x, y in found:
        assert (x - LEFT) / (RIGHT - LEFT) == pytest.approx((BOTTOM - y) / (BOTTOM - TOP), abs=0.001)
