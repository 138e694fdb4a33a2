"""A sweep's folder answers one question for ever: the same one goes on, another is refused and changes nothing."""

import math

import pytest

from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.experiment import composed
from sottovoce.simulations.sweep import sweep_of
from sottovoce.simulations.sweep_folder import SweepFolder
from sottovoce.simulations.tuning_folder import assumptions, sweep_record

BASE = composed({"rounds": 2, "privacy": {"delta": 1e-3}}, ())
RECORD = {"epsilon": 8.0}


def asked(epsilons=(1.0, math.inf), seeds=2, vary=("local.steps=1,3",), budget=9.0, told=()):
    return sweep_of(composed({"rounds": 2, "privacy": {"delta": 1e-3}}, told), epsilons, seeds, vary, budget)


@pytest.fixture
def folder(tmp_path):
    found = SweepFolder(tmp_path / "sweep")
    found.create(asked())
    return found


@pytest.mark.parametrize("budget", [None, 9.0])
@pytest.mark.parametrize("told", [(), [("local.record", RECORD)]])
def test_the_record_gives_the_question_back_as_it_was_asked(tmp_path, budget, told):
    folder, question = SweepFolder(tmp_path), asked(budget=budget, told=told)
    folder.create(question)
    assert folder.sweep() == question
    folder.require(question)
    assert [run.name for run in folder.runs(folder.sweep())] == [run.name for run in question.runs()]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"epsilons": (2.0, math.inf)}, "epsilon"),
        ({"seeds": 3}, "seeds"),
        ({"budget": None}, "budget"),
        ({"vary": ("local.steps=1,2",)}, "vary.local.steps"),
        ({"told": [("server.learning_rate", 0.7)]}, "experiment.server.learning_rate"),
    ],
)
def test_another_question_is_refused_and_what_differs_is_named(folder, changed, said):
    before = folder.record_file.read_bytes()
    with pytest.raises(ConfigError, match=f"another sweep: {said} differ") as refused:
        folder.require(asked(**changed))
    assert "--resume" in refused.value.todo
    assert folder.record_file.read_bytes() == before


def test_a_folder_that_holds_anything_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no sweep"):
        SweepFolder(tmp_path).require(asked())
    with pytest.raises(ConfigError, match=r"no sweep\.toml"):
        SweepFolder(tmp_path).sweep()


def test_half_a_record_that_a_crash_left_is_nothing(tmp_path):
    (tmp_path / ".sweep.toml.k3x").write_text("epsi")
    SweepFolder(tmp_path).require(asked())


def test_a_damaged_record_is_refused(folder):
    folder.record_file.write_text("seeds = 'two'")
    with pytest.raises(ConfigError, match=r"sweep\.toml"):
        folder.sweep()


def test_a_second_process_is_kept_out(folder):
    with folder.locked(), pytest.raises(ConfigError, match="another process sweeps there"), folder.locked():
        pass


def test_one_campaign_has_one_ledger_and_otherwise_each_run_its_own(tmp_path):
    folder = SweepFolder(tmp_path)
    assert folder.ledger(asked()) == tmp_path / "ledger.db"
    assert folder.ledger(asked(budget=None)) is None
    assert folder.ledger(asked(told=[("privacy.ledger", "/there/l.db")])).name == "l.db"
    (run, *_) = folder.runs(asked())
    assert run.experiment.privacy.ledger == str(tmp_path / "ledger.db")


def test_a_run_whose_experiment_was_changed_is_not_taken_for_the_sweeps(folder):
    run = folder.runs(folder.sweep())[0]
    place = folder.run(run.name)
    place.create(composed({"rounds": 3}, ()))
    assert folder.outcome(run) is None
    assert folder.begun([run]) == [place]
    place.results_file.write_text("{}")
    with pytest.raises(ConfigError, match="not the experiment that this sweep asks for"):
        folder.outcome(run)


def test_a_run_says_for_ever_that_it_was_one_of_many(folder):
    place = folder.run("epsilon-4-seed-0")
    assert assumptions(place) == ()
    place.create(BASE)
    sweep_record(place).write_text('assumes = ["one run of a sweep"]')
    assert assumptions(place) == ("one run of a sweep",)
    sweep_record(place).write_text("assumes = 3")
    with pytest.raises(ConfigError, match="assumes is not a list"):
        assumptions(place)
