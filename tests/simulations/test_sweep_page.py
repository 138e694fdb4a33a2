"""The page of a sweep says first what all runs cost, escapes what it is given, and loads nothing."""

import msgspec

from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.page import ALARM
from sottovoce.simulations.report import DatasetFacts
from sottovoce.simulations.sweep import Setting
from sottovoce.simulations.sweep_page import SweepFacts, sweep_page
from sottovoce.simulations.sweep_price import LOOKED_AT, Price
from sottovoce.simulations.sweep_summary import Outcome, summary

FIGURES = Metrics(0.61, 0.62, 0.21, 0.415, 0.6, 0.01, 10, 100)
SETTINGS = [Setting(1, 2.0, {"model.x": "<script>"}), Setting(2, 4.0, {"model.x": "b"})]
OUTCOMES = [
    Outcome(
        run=f"00{number}-seed-0",
        setting=number,
        seed=0,
        metrics=msgspec.structs.replace(FIGURES, primary=0.4 + number / 100),
        rounds=2,
        seconds=1.5,
        noise_multiplier=1.25,
        experiment_sha256="ab" * 32,
    )
    for number in (1, 2)
]
FACTS = SweepFacts(
    data=DatasetFacts("mine & yours", 300, 4000, "<b>licence</b>"),
    created="2026-11-23 17:42 UTC",
    record="epsilon = [2.0, 4.0] # <i>",
    curve=True,
    planned=3,
    lines=summary(SETTINGS, OUTCOMES),
    outcomes=OUTCOMES,
    missing=["003-seed-0: its worker was killed (SIGKILL)"],
    baselines={"random": FIGURES},
    price=Price(runs=3, epsilon=6.25, delta=1e-3, covered=False, guarantee=True),
)


def test_the_cost_comes_before_any_figure():
    made = sweep_page(FACTS)
    said = (
        "3 runs were made on these devices; publishing the best of them is not covered by any one run&#x27;s epsilon; "
    )
    said += "together they cost epsilon 6.2500 at delta 0.001."
    assert said in made
    assert made.index(said) < made.index("<table>")
    assert LOOKED_AT[1:] in made
    assert ALARM not in made


def test_what_comes_from_elsewhere_is_text():
    made = sweep_page(FACTS)
    for foreign in ("<script>", "<b>licence", "<i>"):
        assert foreign not in made
    assert "&lt;script&gt;" in made
    assert "default-src" in made


def test_missing_runs_are_named_and_the_page_is_not_taken_for_whole():
    made = sweep_page(FACTS)
    assert "1 of 3 runs are not finished" in made
    assert "003-seed-0: its worker was killed (SIGKILL)" in made


def test_settings_are_a_table_and_no_curve_and_the_best_is_marked():
    assert "<svg" in sweep_page(FACTS)
    made = sweep_page(msgspec.structs.replace(FACTS, curve=False))
    assert "<svg" not in made
    assert made.count('class="strong"') == 1
    assert '<tr class="strong"><th scope="row">epsilon 4, model.x = b' in made


def test_a_sweep_without_guarantee_carries_the_alarm():
    price = msgspec.structs.replace(FACTS.price, guarantee=False)
    assert ALARM in sweep_page(msgspec.structs.replace(FACTS, price=price))
