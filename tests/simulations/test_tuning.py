"""A selection is paid for once, keeps the best run, and tells nothing of the others, not even how many there were."""

import json
import re
import stat
from dataclasses import replace

import pytest

from sottovoce.models.passport import load_passport, releasable
from sottovoce.privacy.accountant import published
from sottovoce.privacy.audit import audit
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.chain import Committed, Planned, Reserved
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import BudgetError, ConfigError, GateError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.selection import SelectionPlan
from sottovoce.server import checkpoint
from sottovoce.simulations import run, tuning
from sottovoce.simulations.cli import run as command
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.issuing import passport
from sottovoce.simulations.loading import load
from sottovoce.simulations.queries import measurement_plans
from sottovoce.simulations.results import finish, read_results
from sottovoce.simulations.run import go_on, nodes, train, trained
from sottovoce.simulations.search import Search, read_search
from sottovoce.simulations.shipping import require_committed
from sottovoce.simulations.tuning import judged_by, selection_plan, tune
from sottovoce.simulations.tuning_folder import HELD_OUT, assumptions, backdate, require_untouched

GRID = """
rounds = 2
evaluate_every = 2
[data]
devices = 120
rows_per_device = 8
[privacy]
delta = 1e-3
sampling_rate = 0.3
[model]
embedding_width = 4
tower_width = 4
hidden_width = 8
[grid]
server.learning_rate = [0.0213, 0.0547, 0.0871]
local.steps = [1, 2]
privacy.clip_norm = [0.613, 1.127]
"""
BEGAN = 1_700_000_000.0


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "grid.toml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="module")
def dataset(file):
    return load(read_search(file, ()).base.data, None, None)


@pytest.fixture(scope="module")
def plans(file, dataset):
    """The selection's plan: finding the noise takes a moment."""
    return selection_plan(read_search(file, ()), dataset.train.devices, 5)


def opened(chosen, dataset):
    return InProcessGrid(nodes(chosen, dataset), chosen.nodes)


def resumed(folder, dataset):
    chosen = folder.experiment()
    return train(opened(chosen, dataset), chosen, dataset, folder, lambda point: None)


@pytest.fixture
def go(file, dataset, plans):
    """Run a selection in a folder, with so many runs; returns the trials that were seen."""

    def gone(path, runs=3, noise="seeded", public=None, changes=()):
        search = read_search(file, [("privacy.noise", noise), *changes])
        folder, seen = RunFolder(path), []
        folder.create(search.base)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SelectionPlan, "draw", lambda plan, source: runs)
            model = tune(
                lambda chosen: opened(chosen, dataset), search, plans, dataset, public, folder, BEGAN, seen.append
            )
        return folder, model, seen

    return gone


def concluded(folder, dataset, model):
    finish(folder.experiment(), dataset, folder, model, folder.audit()[0], False)
    backdate(folder, BEGAN)


def planted(monkeypatch, score):
    """Let `score` of the settings take the place of the measure on public rows."""
    real = tuning.measure

    def measure(chosen, judge, parameters):
        return type("Scored", (), {"primary": score(chosen, real(chosen, judge, parameters))})

    monkeypatch.setattr(tuning, "measure", measure)


def entries(place):
    with Ledger.open(place, readonly=True) as ledger:
        return list(ledger.entries())


# What it costs


def test_the_audit_finds_the_price_of_one_selection_within_the_budget(go, dataset, plans, tmp_path):
    folder, model, _ = go(tmp_path / "run", noise="secure", runs=2)
    found, _ = folder.audit()
    price, accountant = published(plans.charged(), 1e-3)
    assert (found.epsilon, found.accountant) == (pytest.approx(price, abs=1e-9), accountant)
    assert price <= 4.0
    assert (found.guarantee, found.findings, found.adaptive) == (True, [], False)
    assert (found.rounds, found.purposes, found.entries["COMMITTED"]) == (1, {"tuning": 1}, 1)
    weaker = replace(plans.run, noise_multiplier=plans.run.noise_multiplier - 0.002)
    assert published(SelectionPlan(weaker, 5).charged(), 1e-3)[0] > 4.0
    require_committed(folder.ledger, model)


def test_the_ledger_holds_one_reservation_and_every_mechanism_that_may_have_run(go, dataset, plans, tmp_path):
    folder, model, _ = go(tmp_path / "run", runs=4)
    rows = entries(folder.ledger)
    (reserved,) = (row for row in rows if isinstance(row, Reserved))
    (committed,) = (row for row in rows if isinstance(row, Committed))
    assert (reserved.plan_hash, reserved.purpose, reserved.noise) == (plans.digest(), "tuning", "seeded")
    assert committed.artifact_sha256 == model.sha256 == checkpoint.newest(folder.checkpoints).sha256
    clips = [row.plan["clip_norm"] for row in rows if isinstance(row, Planned) and row.plan_hash != plans.digest()]
    assert clips == [0.613, 1.127]


def test_on_a_campaign_ledger_the_selection_is_one_release_among_others(go, dataset, plans, tmp_path):
    shared = tmp_path / "campaign.db"
    with Ledger.open(shared, create=True) as ledger:
        Budget(6.0, 1e-3, ledger).register(plans)
    folder, model, _ = go(tmp_path / "run", noise="secure", runs=2, changes=[("privacy.ledger", str(shared))])
    assert not (folder.path / "ledger.db").exists()
    assert audit(shared).purposes == {"tuning": 1}
    assert audit(shared).epsilon == pytest.approx(published(plans.charged(), 1e-3)[0])
    require_committed(folder.ledger, model)
    with pytest.raises(BudgetError):
        go(tmp_path / "again", noise="secure", changes=[("privacy.ledger", str(shared))])
    assert audit(shared).purposes == {"tuning": 1}
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"experiment.toml"}  # nothing there was paid for


def test_measurements_planned_with_a_selection_share_its_budget_and_count_as_planned(file, dataset, tmp_path):
    search = read_search(file, [("measure.quality", 1)])
    plan, folder = selection_plan(search, dataset.train.devices, 5), RunFolder(tmp_path / "run")
    folder.create(search.base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SelectionPlan, "draw", lambda plan, source: 1)
        tune(lambda chosen: opened(chosen, dataset), search, plan, dataset, None, folder, BEGAN)
    quality = measurement_plans(search.base, dataset.train.devices)["quality"]
    with Ledger.open(folder.ledger) as ledger:
        Budget.of(ledger).reserve(quality, "measured", 1, "secure")
    found, _ = folder.audit()
    assert (found.purposes, found.adaptive, found.guarantee) == ({"tuning": 1, "metric": 1}, False, True)
    assert published(plan.charged(), 1e-3)[0] < found.epsilon <= 4.0


# Which run wins


@pytest.mark.parametrize("best", [("server", "learning_rate", 0.0547), ("privacy", "clip_norm", 0.613)])
def test_the_best_of_the_trials_wins_by_a_planted_score(go, dataset, tmp_path, monkeypatch, best):
    section, key, value = best
    planted(monkeypatch, lambda chosen, _: -abs(getattr(getattr(chosen, section), key) - value))
    folder, model, seen = go(tmp_path / "run", runs=8)
    assert len(seen) == 8
    assert len({tuple(trial.choice.values()) for trial in seen}) > 3
    assert getattr(getattr(folder.experiment(), section), key) == value
    assert trained(folder.experiment(), dataset, folder).sha256 == model.sha256


def test_the_winner_has_the_highest_score_on_public_rows(go, dataset, tmp_path):
    folder, model, seen = go(tmp_path / "run", runs=6)
    top = max(trial.score for trial in seen)
    winner = next(trial for trial in seen if trial.score == top)
    assert len({trial.score for trial in seen}) > 1
    assert winner.model is model
    again = run.measure(folder.experiment(), judged_by(dataset, dataset.valid), model.parameters)
    assert again.primary == top


def test_runs_are_judged_without_looking_at_training_rows(dataset):
    judge = judged_by(dataset, dataset.valid)
    assert (judge.train.rows, judge.valid.rows) == (0, dataset.valid.rows)
    assert judge.train.devices == dataset.train.devices


def test_a_model_that_diverged_loses_instead_of_ending_the_selection(go, dataset, tmp_path, monkeypatch):
    def shaken(grid, experiment, data, folder, begun, on_point):
        model = go_on(grid, experiment, data, folder, begun, on_point)
        if experiment.local.steps == 1:
            model.parameters["table"][1:] = float("nan")
        return model

    monkeypatch.setattr(tuning, "go_on", shaken)
    folder, _, seen = go(tmp_path / "run", runs=6)
    assert {trial.choice["local.steps"] for trial in seen} == {1, 2}
    assert folder.experiment().local.steps == 2


def test_seeded_runs_with_equal_settings_differ_from_each_other_and_repeat(go, tmp_path, monkeypatch):
    monkeypatch.setattr(Search, "draw", lambda search, source: next(search.choices()))
    seen, again = (go(tmp_path / name, runs=2)[2] for name in ("one", "other"))
    one, two = (trial.model.parameters["table"] for trial in seen)
    assert not (one == two).all()
    assert [trial.score for trial in seen] == [trial.score for trial in again]


# What it tells


def told(folder):
    """Everything a run folder holds, without what is random or is a hash of it."""
    found = {}
    for path in sorted(folder.path.rglob("*")):
        name = str(path.relative_to(folder.path))
        if path.is_dir():
            found[name] = sorted(child.name for child in path.iterdir())
        elif name.startswith("checkpoints"):
            state, facts = checkpoint.decode(path.read_bytes(), name)
            found[name] = ({key: value.tolist() for key, value in state.items()}, facts.round, facts.ledger_length)
        elif name == "ledger.db":
            found[name] = [
                (type(row).__name__, row.time, getattr(row, "event", None), getattr(row, "round", None))
                for row in entries(path)
            ]
        elif name == "report.html":
            continue
        elif name.endswith("safetensors"):
            found[name] = path.read_bytes()
        else:
            found[name] = re.sub(r'"seconds":[0-9.e-]+|[0-9a-f]{64}', "", path.read_text())
    return found


@pytest.mark.parametrize("winner", ["the first", "the last"])
def test_nothing_in_the_folder_tells_how_many_runs_there_were(go, dataset, tmp_path, monkeypatch, winner):
    # Every run has the same settings and the same randomness: all that could differ is their number.
    monkeypatch.setattr(Search, "draw", lambda search, source: next(search.choices()))
    monkeypatch.setattr(tuning, "_own", lambda entropy, number: SeededEntropy(5))
    scores = iter(())
    planted(monkeypatch, lambda chosen, metrics: next(scores))
    folders = []
    for runs in (2, 7):
        scores = iter(range(runs) if winner == "the last" else range(runs, 0, -1))
        folder, model, seen = go(tmp_path / str(runs), runs=runs)
        assert seen[0 if winner == "the first" else -1].model is model
        concluded(folder, dataset, model)
        folders.append(folder)
    few, many = (told(folder) for folder in folders)
    assert few == many
    assert {name for name in few if "/" not in name} == {
        "checkpoints",
        "experiment.toml",
        "ledger.db",
        "metrics.jsonl",
        "restricted",
        "results.json",
        "tuning.toml",
    }


def test_every_time_that_is_written_down_is_the_one_at_which_the_selection_began(go, dataset, tmp_path):
    folder, model, _ = go(tmp_path / "run")
    concluded(folder, dataset, model)
    assert {row.time for row in entries(folder.ledger)} == {"2023-11-14T22:13:20.000+00:00"}
    assert {path.stat().st_mtime for path in folder.path.rglob("*")} == {BEGAN}


def test_settings_and_scores_of_those_that_lost_are_nowhere(go, dataset, tmp_path, monkeypatch):
    planted(monkeypatch, lambda chosen, metrics: chosen.server.learning_rate + metrics.primary / 1e6)
    folder, model, seen = go(tmp_path / "run", runs=8)
    concluded(folder, dataset, model)
    lost = [trial for trial in seen if trial.model is not model]
    assert lost
    for path in folder.path.rglob("*"):
        if path.is_file() and path.name != "tuning.toml":
            data = path.read_bytes()
            for trial in lost:
                assert repr(trial.score).encode() not in data
                if trial.choice["server.learning_rate"] != 0.0871:
                    assert str(trial.choice["server.learning_rate"]).encode() not in data
            assert b"trials" not in data


def test_trials_are_shown_only_where_there_is_nothing_to_hide_and_lie_where_nobody_looks(
    go, dataset, tmp_path, monkeypatch
):
    modes = []

    def look(grid, experiment, data, folder, begun, on_point):
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in (folder.path, folder.path.parent))
        return go_on(grid, experiment, data, folder, begun, on_point)

    monkeypatch.setattr(tuning, "go_on", look)
    _, _, seen = go(tmp_path / "run", noise="secure", runs=2)
    assert seen == []
    assert set(modes) == {0o700}
    assert not (tmp_path / "run" / "trials").exists()


def test_the_assumption_about_the_rows_that_chose_stays_with_the_run(go, dataset, tmp_path):
    folder, model, _ = go(tmp_path / "run", noise="secure", runs=1)
    concluded(folder, dataset, model)
    assert HELD_OUT in read_results(folder).notes
    assert "TAKEN AS PUBLIC DATA" in folder.report_file.read_text()
    proof = passport(folder.audit()[0], trained_plan(folder, dataset), assumptions(folder))
    assert HELD_OUT in proof.label
    folder, model, _ = go(tmp_path / "public", noise="secure", runs=1, public=dataset.valid)
    concluded(folder, dataset, model)
    assert (read_results(folder).notes, assumptions(folder)) == ((), ())


def trained_plan(folder, dataset):
    return run.plan_of(folder, folder.experiment(), dataset)


# What becomes of it


def test_the_winner_is_a_run_like_any_other_and_its_passport_says_how_it_was_made(go, dataset, plans, tmp_path):
    folder, model, _ = go(tmp_path / "run", noise="secure", runs=2)
    concluded(folder, dataset, model)
    proof = passport(folder.audit()[0], trained_plan(folder, dataset), assumptions(folder))
    releasable(proof)
    assert load_passport(proof.canonical()) == proof
    assert (proof.accountant, proof.releases, proof.rounds) == ("Renyi DP", {"tuning": 1}, 2)
    assert "best of about 5 runs of 2 rounds" in proof.mechanism
    assert proof.clip_norm == folder.experiment().privacy.clip_norm
    assert proof.epsilon <= 4.0
    again = resumed(folder, dataset)
    assert (again.sha256, folder.audit()[0].rounds) == (model.sha256, 1)


def test_a_winner_with_seeded_noise_cannot_be_released(go, dataset, tmp_path):
    folder, _, _ = go(tmp_path / "run", runs=1)
    with pytest.raises(GateError, match="seeded"):
        releasable(passport(folder.audit()[0], trained_plan(folder, dataset)))


class Crash(BaseException):
    """Nothing in the house catches it."""


def test_a_crash_in_the_second_trial_leaves_the_whole_budget_spent_and_no_trial(
    go, dataset, plans, tmp_path, monkeypatch
):
    calls = []

    def crash(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise Crash
        return go_on(*arguments)

    monkeypatch.setattr(tuning, "go_on", crash)
    with pytest.raises(Crash):
        go(tmp_path / "run", runs=3)
    monkeypatch.undo()
    folder = RunFolder(tmp_path / "run")
    found, _ = folder.audit()
    assert found.entries == {"COMMITTED": 0, "RESERVED": 1, "SPENT_ON_CRASH": 0, "VOID": 0}
    assert found.epsilon_outsider == pytest.approx(published(plans.charged(), 1e-3)[0])
    assert not (folder.path / "trials").exists()
    with pytest.raises(ConfigError, match="cut off there, and paid for"):
        require_untouched(folder)
    with Ledger.open(folder.ledger) as ledger, pytest.raises(BudgetError):
        Budget.of(ledger).reserve(plans.run, "not paid for", 1, "seeded")


def test_trials_that_a_killed_process_left_behind_are_removed_when_the_folder_is_tried_again(go, tmp_path):
    folder, _, _ = go(tmp_path / "run", runs=1)
    (folder.path / "trials" / "abc").mkdir(parents=True)
    with folder.locked(), pytest.raises(ConfigError, match="another process"):
        require_untouched(folder)
    assert (folder.path / "trials" / "abc").exists()
    with pytest.raises(ConfigError, match="finished there"):
        require_untouched(folder)
    assert not (folder.path / "trials").exists()


def test_a_crash_between_the_winner_and_its_row_is_made_good_by_resuming(go, dataset, tmp_path, monkeypatch):
    def crash(*arguments):
        raise Crash

    monkeypatch.setattr(Ledger, "commit", crash)
    with pytest.raises(Crash):
        go(tmp_path / "run", runs=2)
    monkeypatch.undo()
    folder = RunFolder(tmp_path / "run")
    assert folder.audit()[0].entries["RESERVED"] == 1
    model = resumed(folder, dataset)
    require_committed(folder.ledger, model)
    assert folder.audit()[0].entries == {"COMMITTED": 1, "RESERVED": 0, "SPENT_ON_CRASH": 0, "VOID": 0}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("privacy.noise", "none", "without noise"),
        ("privacy.cohorts", "visible", "how many runs there are"),
        ("privacy.secure_aggregation", True, "sums of every run"),
        ("local.record", {}, "every record anew"),
    ],
)
def test_a_selection_that_could_hide_nothing_is_refused(file, key, value, words):
    changes = [(key, value)] + ([("privacy.epsilon", float("inf"))] if value == "none" else [])
    if value is True:
        changes += [("privacy.sampling", "none"), ("privacy.mechanism", "discrete_gaussian"), ("nodes", 5)]
    with pytest.raises(ConfigError, match=words):
        selection_plan(read_search(file, changes), 120, 5)


# As it is typed


def test_the_command_prints_the_winner_and_never_the_number_of_runs(file, tmp_path, capfd):
    assert command(["tune", str(file), "--out", str(tmp_path / "run"), "--no-baselines", "--runs", "3", "--json"]) == 0
    told = capfd.readouterr()
    found = json.loads(told.out)
    assert (found["epsilon"] <= 4.0, found["guarantee"]) == (True, True)
    assert set(found["settings"]) == {"server.learning_rate", "local.steps", "privacy.clip_norm"}
    assert "seconds" not in found
    assert "trial:" not in told.err
    assert "TAKEN AS PUBLIC DATA" in told.err
    assert "adding up is cheaper" in told.err
    assert command(["tune", str(file), "--out", str(tmp_path / "run")]) == 1
    assert "finished there" in capfd.readouterr().err


def test_ctrl_c_says_that_the_budget_is_gone(file, tmp_path, capfd, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "go_on", interrupt)
    assert command(["tune", str(file), "--out", str(tmp_path / "run")]) == 1
    assert "its budget is spent" in capfd.readouterr().err
    assert not (tmp_path / "run" / "trials").exists()


def test_prices_are_printed_without_training_or_paying(file, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(["tune", str(file), "--costs", "--json", "--set", "privacy.sampling=none"]) == 0
    rows = json.loads(capfd.readouterr().out)["costs"]
    assert [row["runs"] for row in rows] == [2, 3, 4, 5, 10, 20]
    for row in rows:
        dearer = row["added_up"] if row["cheaper"] == "random stopping" else row["random_stopping"]
        assert dearer == max(row["added_up"], row["random_stopping"])
    assert not list(tmp_path.iterdir())
