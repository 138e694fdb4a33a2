"""The frontier drawn: nothing overlaps or leaves the picture, no noise has its own place, and the cost stands below."""

import csv
import io
import itertools
import math
import re
from xml.etree import ElementTree

import msgspec
import pytest

from sottovoce.simulations.charts import GAP
from sottovoce.simulations.frontier import APART, LEFT, RIGHT, WIDTH, frontier, places, runs_csv, summary_csv
from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.sweep import Setting
from sottovoce.simulations.sweep_price import Price
from sottovoce.simulations.sweep_summary import Outcome, summary

PRICE = Price(runs=15, epsilon=None, delta=1e-5, covered=False, noiseless=3, noisy_epsilon=23.12341, guarantee=False)
BASELINES = {
    name: Metrics(0.5, 0.5, 0.4, primary, 0.6, 0.01, 10, 100)
    for name, primary in (("random", 0.3), ("popularity", 0.451), ("central FM, k=16", 0.453), ("<truth>", 0.9))
}
EPSILONS = (1.0, 2.0, 4.0, 8.0, math.inf)


def sweep(epsilons=EPSILONS, seeds=3, choice=None):
    settings = [Setting(number, epsilon, choice or {}) for number, epsilon in enumerate(epsilons, 1)]
    outcomes = [
        Outcome(
            run=f"epsilon-{setting.epsilon:g}-seed-{seed}",
            setting=setting.number,
            seed=seed,
            metrics=Metrics(0.6, 0.6, 0.2, 0.4 + 0.01 * setting.number + 0.004 * seed, 0.6, 0.01, 10, 100),
            rounds=2,
            seconds=1.5,
            noise_multiplier=0.0 if math.isinf(setting.epsilon) else 1.25,
            experiment_sha256="ab" * 32,
        )
        for setting in settings
        for seed in range(seeds)
    ]
    return settings, summary(settings, outcomes), outcomes


def drawn(epsilons=EPSILONS, seeds=3, price=PRICE):
    _, lines, outcomes = sweep(epsilons, seeds)
    return ElementTree.fromstring(frontier("A & B <c>", lines, outcomes, BASELINES, price))  # noqa: S314 - our own


def words(root):
    return [
        (element.get("class"), float(element.get("x")), float(element.get("y")), element.text)
        for element in root.iter("text")
    ]


def of_class(root, name):
    return [element for element in root if name in element.get("class", "").split()]


def test_the_axis_is_logarithmic_and_no_noise_stands_apart_at_its_right():
    found = places([1.0, 2.0, 4.0, 8.0, None])
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert steps[:3] == pytest.approx([steps[0]] * 3)
    assert steps[3] >= APART
    assert found[0] > LEFT
    assert found[-1] < RIGHT
    assert places([3.0]) == [(LEFT + RIGHT) / 2]
    assert places([None]) == [(LEFT + RIGHT) / 2]
    labels = [text for _, _, _, text in words(drawn())]
    assert "no noise" in labels
    assert {"1", "2", "4", "8"} <= set(labels)
    assert "epsilon of one run per device at delta 1e-05, log scale" in labels


def test_what_the_sweep_cost_is_part_of_the_picture():
    root = drawn()
    written = " ".join(text for kind, *_, text in words(root) if kind == "quiet")
    assert "NO GUARANTEE: 15 runs were made on these devices; publishing the best of them is not covered" in written
    assert "the other 12 cost epsilon 23.1235 at delta 1e-05." in written
    assert "15 runs were made" in root.get("aria-label")


def test_baselines_are_named_beside_their_lines_and_no_two_labels_overlap():
    labels = [(y, text) for _, x, y, text in words(drawn()) if x > RIGHT]
    assert {text for _, text in labels} == {
        "central FM, k=16 0.4530",
        "popularity 0.4510",
        "no noise 0.4540",
        "random 0.3000",
    }
    heights = sorted(y for y, _ in labels)
    assert min(after - before for before, after in itertools.pairwise(heights)) >= GAP - 1e-6
    assert len(of_class(drawn(), "level")) == 3


@pytest.mark.parametrize("epsilons", [EPSILONS, (4.0,), (math.inf,), (1.0, 1.01, 1.02, 300.0), (2.0, math.inf)])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_everything_lies_within_the_picture_however_few_points_there_are(epsilons, seeds):
    root = drawn(epsilons, seeds)
    _, _, width, height = map(float, root.get("viewBox").split())
    assert width == WIDTH
    numbers = [float(n) for path in root.iter("path") for n in re.findall(r"-?\d+\.?\d*", path.get("d"))]
    assert all(-1e-6 <= value <= width for value in numbers)
    assert all(0 <= x < width and 0 < y < height for _, x, y, _ in words(root))
    dots = [element for element in root.iter("circle") if "hollow" not in element.get("class")]
    assert len(dots) == len(epsilons)
    ticks = [x for kind, x, _, text in words(root) if kind == "tick middle" and not text.startswith("epsilon")]
    assert all(after - before >= APART for before, after in itertools.pairwise(ticks))


def test_a_band_joins_the_intervals_and_one_run_has_none():
    assert len(of_class(drawn(), "band")) == 1
    assert not of_class(drawn(seeds=1), "band")
    (band,) = of_class(drawn(), "band")
    # Four settings with noise, once along the lower limits and once back along the upper ones.
    assert len(re.findall(r"[ML]", band.get("d"))) == 8


def test_nothing_is_drawn_without_a_finished_run():
    assert frontier("title", [], [], BASELINES, PRICE) == ""


def rows(data):
    return list(csv.DictReader(io.StringIO(data.decode())))


def test_every_row_of_the_tables_tells_what_the_whole_sweep_cost():
    settings, lines, outcomes = sweep((2.0, math.inf), 2, {"local.steps": 3})
    for found in (rows(runs_csv(settings, outcomes, PRICE)), rows(summary_csv(settings, lines, PRICE))):
        assert {row["sweep_runs"] for row in found} == {"15"}
        assert {row["sweep_epsilon"] for row in found} == {"inf"}
        assert {row["sweep_epsilon_covers_all"] for row in found} == {"False"}
        assert {row["local.steps"] for row in found} == {"3"}
        assert [row["epsilon"] for row in found] == sorted(row["epsilon"] for row in found)
    one = rows(runs_csv(settings, outcomes, PRICE))[1]
    assert (one["run"], one["seed"], one["noise_multiplier"], one["rounds"]) == ("epsilon-2-seed-1", "1", "1.25", "2")
    assert one["experiment_sha256"] == "ab" * 32
    assert float(one["primary"]) == outcomes[1].metrics.primary
    mean = rows(summary_csv(settings, lines, PRICE))[0]
    assert float(mean["primary_mean"]) == pytest.approx(0.412)
    assert float(mean["primary_low_95"]) < 0.41 < 0.414 < float(mean["primary_high_95"])


def test_a_covered_sweep_says_so():
    price = msgspec.structs.replace(PRICE, covered=True, epsilon=3.5, guarantee=True, budget=4.0)
    written = " ".join(text for kind, *_, text in words(drawn(price=price)) if kind == "quiet")
    assert "one campaign covers the models of all of them with epsilon 3.5000 of a budget of 4" in written
    assert "NO GUARANTEE" not in written
