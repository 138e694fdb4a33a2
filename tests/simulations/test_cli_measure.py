"""`sottovoce measure` as people and scripts meet it."""

import json

import pytest

from sottovoce.simulations.cli import run
from sottovoce.simulations.cli_audit import _training_plan

SMALL = ["--devices", "300", "--rounds", "2", "--delta", "1e-3", "--no-baselines"]
SMALL += ["--set", "data.rows_per_device=8", "--set", "privacy.sampling_rate=0.3"]
PLANNED = [word for query in ("quality", "calibration", "clip") for word in ("--set", f"measure.{query}=1")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    assert run(["simulate", *SMALL, *PLANNED, "--out", str(path)]) == 0
    return path


def test_json_is_one_object_and_the_file_says_the_same(finished, capfd):
    capfd.readouterr()
    assert run(["measure", str(finished), "clip", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told == json.loads((finished / "measurements" / "clip-1.json").read_text())
    assert len(told["figures"]["shares"]) == len(told["marks"]) == 16
    assert told["purpose"] == "clip_count"


def test_figures_come_with_their_errors_and_the_row_that_paid(finished, capfd):
    capfd.readouterr()
    assert run(["measure", str(finished), "quality"]) == 0
    out = capfd.readouterr().out
    assert "rows" in out
    assert "+-" in out
    assert "quality 1 of 1, paid by ledger row" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["popularity"], 1, "measure.popularity"),
        (["gender"], 2, "gender"),
        ([], 2, "quality"),
    ],
)
def test_what_was_not_planned_or_is_no_question_is_refused_in_two_lines(finished, capfd, arguments, code, words):
    capfd.readouterr()
    assert run(["measure", str(finished), *arguments]) == code
    told = capfd.readouterr()
    assert told.out == ""
    assert words in told.err
    assert "Traceback" not in told.err


def test_what_the_noise_drowned_is_said_and_still_paid_for(finished, capfd):
    capfd.readouterr()
    assert run(["measure", str(finished), "calibration"]) == 0
    out = capfd.readouterr().out
    assert "slope" in out or "drowned" in out
    assert run(["measure", str(finished), "calibration"]) == 1
    assert "all 1 planned calibration measurements" in capfd.readouterr().err


def test_the_audit_runs_the_mechanism_that_trained_and_not_the_measurement_that_came_last(finished):
    found = _training_plan(finished / "ledger.db")
    assert found is not None
    assert (found.purpose, found.rounds) == ("train", 2)
