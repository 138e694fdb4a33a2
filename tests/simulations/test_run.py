"""Whole runs on a small market: repeatable when seeded, resumable always, and never cheaper after a crash."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from sottovoce.models import ranker
from sottovoce.privacy.accountant import published
from sottovoce.privacy.audit import audit
from sottovoce.privacy.errors import BudgetError, CheckpointError, ConfigError, LedgerError
from sottovoce.privacy.ledger import Ledger
from sottovoce.server import checkpoint
from sottovoce.server.round import Coordinator
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.loading import load
from sottovoce.simulations.planning import plan_for, record_plan, told_training
from sottovoce.simulations.run import nodes, train, trained
from sottovoce.simulations.shipping import require_committed

ROUNDS = 5
SETTINGS = [
    ("data.devices", 120),
    ("data.rows_per_device", 8),
    ("rounds", ROUNDS),
    ("evaluate_every", 2),
    ("privacy.delta", 1e-3),
    ("privacy.sampling_rate", 0.3),
    ("privacy.noise", "seeded"),
    ("model.embedding_width", 4),
    ("model.tower_width", 4),
    ("model.hidden_width", 8),
]


def experiment(*changes):
    return compose(None, [*SETTINGS, *changes])


@pytest.fixture(scope="module")
def dataset():
    return load(experiment().data, None, None)


def go(path, dataset, chosen=None, on_point=lambda point: None):
    chosen = chosen or experiment()
    folder = RunFolder(path)
    if not folder.experiment_file.exists():
        folder.create(chosen)
    return train(InProcessGrid(nodes(chosen, dataset), chosen.nodes), chosen, dataset, folder, on_point)


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """A run that nothing disturbed: its folder, and its model."""
    path = tmp_path_factory.mktemp("straight") / "run"
    return path, go(path, dataset)


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def test_the_same_seed_gives_the_same_weights_bit_for_bit(straight, dataset, tmp_path):
    again = go(tmp_path / "run", dataset)
    assert equal(again.parameters, straight[1].parameters)
    assert again.sha256 != straight[1].sha256  # another run of another ledger


def test_another_seed_gives_other_weights(straight, dataset, tmp_path):
    other = go(tmp_path / "run", dataset, experiment(("seed", 1)))
    assert not torch.equal(other.parameters["table"], straight[1].parameters["table"])


def test_secure_noise_never_repeats(dataset, tmp_path):
    chosen = experiment(("privacy.noise", "secure"))
    one, other = (go(tmp_path / name, dataset, chosen).parameters["table"] for name in "ab")
    assert not torch.equal(one, other)


def test_how_many_nodes_share_the_devices_changes_rounding_only(straight, dataset, tmp_path):
    other = go(tmp_path / "run", dataset, experiment(("nodes", 5)))
    for name, value in straight[1].parameters.items():
        torch.testing.assert_close(other.parameters[name], value, atol=1e-4, rtol=0)


def test_a_ranker_that_could_not_be_exported_is_refused_before_anything_is_spent(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(ranker, "probabilities", torch.erf)
    with pytest.raises(ConfigError, match=r"aten\.erf"):
        go(tmp_path / "run", dataset)
    assert not (tmp_path / "run" / "ledger.db").exists()


def test_the_model_that_training_hands_over_is_the_one_in_the_folder(straight, dataset):
    path, model = straight
    read = trained(experiment(), dataset, RunFolder(path))
    assert equal(read.parameters, model.parameters)
    assert (read.rounds, read.sha256, read.notes) == (ROUNDS, model.sha256, ())


def test_the_learning_curve_has_every_round_and_is_judged_as_asked(straight):
    points = RunFolder(straight[0]).points()
    assert [point.record.round for point in points] == list(range(1, ROUNDS + 1))
    assert [point.record.round for point in points if point.metrics] == [2, 4, 5]
    epsilons = [point.epsilon for point in points]
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] <= 4.0


def test_a_finished_run_is_left_as_it_is(straight, dataset, tmp_path):
    shutil.copytree(straight[0], tmp_path / "run")
    before = audit(tmp_path / "run" / "ledger.db")
    again = go(tmp_path / "run", dataset)
    assert equal(again.parameters, straight[1].parameters)
    assert audit(tmp_path / "run" / "ledger.db") == before


@pytest.mark.parametrize("after", range(1, ROUNDS))
def test_an_interrupted_run_ends_like_one_that_was_not(straight, dataset, tmp_path, after):
    def interrupt(point):
        if point.record.round == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", dataset, on_point=interrupt)
    resumed = go(tmp_path / "run", dataset)
    assert equal(resumed.parameters, straight[1].parameters)
    assert resumed.notes == ()
    found, expected = (audit(path / "ledger.db") for path in (tmp_path / "run", straight[0]))
    assert (found.epsilon_outsider, found.entries) == (expected.epsilon_outsider, expected.entries)
    points = RunFolder(tmp_path / "run").points()
    assert [(point.record.round, point.epsilon) for point in points] == [
        (point.record.round, point.epsilon) for point in RunFolder(straight[0]).points()
    ]


class Crash(BaseException):
    """Nothing in the house catches it."""


@pytest.mark.parametrize("at", [1, 3, ROUNDS])
def test_a_crash_before_the_commit_of_a_kept_round_costs_nothing(straight, dataset, tmp_path, monkeypatch, at):
    commit = Ledger.commit

    def crash(self, reservation, artifact, realised=None):
        if reservation.round == at:
            raise Crash
        commit(self, reservation, artifact, realised)

    monkeypatch.setattr(Ledger, "commit", crash)
    with pytest.raises(Crash):
        go(tmp_path / "run", dataset)
    monkeypatch.setattr(Ledger, "commit", commit)
    before = audit(tmp_path / "run" / "ledger.db")
    assert (before.rounds, before.entries["RESERVED"]) == (at, 1)
    resumed = go(tmp_path / "run", dataset)
    assert equal(resumed.parameters, straight[1].parameters)
    found = audit(tmp_path / "run" / "ledger.db")
    assert found.entries == {"COMMITTED": ROUNDS, "RESERVED": 0, "SPENT_ON_CRASH": 0, "VOID": 0}
    require_committed(tmp_path / "run" / "ledger.db", resumed)


@pytest.mark.parametrize("at", [1, 3, ROUNDS])
def test_a_crash_within_a_round_is_paid_for_and_the_run_ends_early_with_a_note(
    straight, dataset, tmp_path, monkeypatch, at
):
    collect = Coordinator._collect

    def crash(self, number, population, cohort):
        if number == at:
            raise Crash
        return collect(self, number, population, cohort)

    monkeypatch.setattr(Coordinator, "_collect", crash)
    with pytest.raises(Crash):
        go(tmp_path / "run", dataset)
    monkeypatch.setattr(Coordinator, "_collect", collect)
    before = audit(tmp_path / "run" / "ledger.db")
    resumed = go(tmp_path / "run", dataset)
    found = audit(tmp_path / "run" / "ledger.db")
    assert resumed.rounds == ROUNDS - 1
    assert any(f"round {at} was cut off" in note for note in resumed.notes)
    assert any(f"round {ROUNDS} of {ROUNDS} was not run" in note for note in resumed.notes)
    assert before.epsilon_outsider <= found.epsilon_outsider <= 4.0
    assert found.entries == {"COMMITTED": ROUNDS - 1, "RESERVED": 0, "SPENT_ON_CRASH": 1, "VOID": 0}
    require_committed(tmp_path / "run" / "ledger.db", resumed)
    last = RunFolder(straight[0]).checkpoints / f"round-{ROUNDS - 1:06d}.safetensors"
    expected, _ = checkpoint.decode(last.read_bytes(), "expected")
    assert equal(checkpoint.newest(tmp_path / "run" / "checkpoints").state, expected)


def damaged(source, target):
    shutil.copytree(source, target)
    return RunFolder(target)


def test_a_damaged_newest_checkpoint_is_passed_over_and_its_round_is_not_repaid_by_magic(straight, dataset, tmp_path):
    folder = damaged(straight[0], tmp_path / "run")
    last = folder.checkpoints / f"round-{ROUNDS:06d}.safetensors"
    data = bytearray(last.read_bytes())
    data[-5] ^= 1
    last.write_bytes(data)
    resumed = go(folder.path, dataset)
    assert resumed.rounds == ROUNDS - 1
    assert [note for note in resumed.notes if "not what was written" in note]
    assert [note for note in resumed.notes if "was not run" in note]
    assert len(folder.points()) == ROUNDS - 1
    assert audit(folder.ledger).rounds == ROUNDS


def test_without_any_readable_checkpoint_nothing_is_started(straight, dataset, tmp_path):
    folder = damaged(straight[0], tmp_path / "run")
    for file in folder.checkpoints.iterdir():
        file.write_bytes(b"x")
    with pytest.raises(CheckpointError):
        go(folder.path, dataset)
    with pytest.raises(CheckpointError):
        trained(experiment(), dataset, folder)


def test_without_its_ledger_a_run_is_not_continued_and_no_new_ledger_appears(straight, dataset, tmp_path):
    folder = damaged(straight[0], tmp_path / "run")
    folder.ledger.unlink()
    with pytest.raises(LedgerError, match="no ledger"):
        go(folder.path, dataset)
    assert not folder.ledger.exists()


def test_a_ledger_that_was_rolled_back_is_refused_and_left_as_it_was_found(dataset, tmp_path):
    def keep(point):
        if point.record.round == 2:
            shutil.copy(tmp_path / "run" / "ledger.db", tmp_path / "older.db")
            for end in ("-wal", "-shm"):
                shutil.copy(tmp_path / "run" / f"ledger.db{end}", tmp_path / f"older.db{end}")

    go(tmp_path / "run", dataset, on_point=keep)
    for end in ("", "-wal", "-shm"):
        shutil.copy(tmp_path / f"older.db{end}", tmp_path / "run" / f"ledger.db{end}")
    with pytest.raises(LedgerError, match="rolled back"):
        go(tmp_path / "run", dataset)
    found, _ = RunFolder(tmp_path / "run").audit()
    assert not found.ledger_ok
    assert found.epsilon is None
    assert audit(tmp_path / "run" / "ledger.db").rounds == 2  # nothing was added to it


def test_a_ledger_of_another_run_is_refused(straight, dataset, tmp_path):
    folder = damaged(straight[0], tmp_path / "run")
    other = RunFolder(tmp_path / "other")
    go(other.path, dataset)
    shutil.copy(other.ledger, folder.ledger)
    with pytest.raises(LedgerError, match="rewritten"):
        go(folder.path, dataset)


def test_a_plan_changed_under_a_run_is_refused(straight, dataset, tmp_path):
    folder = damaged(straight[0], tmp_path / "run")
    changed = experiment(("privacy.clip_norm", 2.0))
    with pytest.raises(CheckpointError, match="another experiment"):
        go(folder.path, dataset, changed)
    with pytest.raises(CheckpointError, match="another experiment"):
        trained(changed, dataset, folder)


def test_a_budget_too_small_for_one_more_run_is_not_borrowed_from(straight, dataset, tmp_path):
    folder = damaged(straight[0], tmp_path / "run")
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(BudgetError):
        go(folder.path, dataset)
    assert audit(folder.ledger).rounds == ROUNDS


def test_a_delta_that_would_let_one_device_through_is_refused():
    with pytest.raises(ConfigError, match="1/population"):
        plan_for(experiment(("privacy.delta", 1e-2)), 120)


def test_a_run_without_noise_has_no_epsilon_and_says_so(dataset, tmp_path):
    chosen = experiment(("privacy.noise", "none"), ("privacy.epsilon", float("inf")), ("rounds", 2))
    go(tmp_path / "run", dataset, chosen)
    assert [point.epsilon for point in RunFolder(tmp_path / "run").points()] == [None, None]
    found = audit(tmp_path / "run" / "ledger.db")
    assert (found.epsilon, found.private, found.guarantee) == (None, False, False)


@pytest.mark.skipif(os.name == "nt", reason="no such signal there")
def test_a_killed_process_loses_at_most_the_round_it_was_in(dataset, tmp_path):
    run, chosen = tmp_path / "run", experiment(("rounds", 30), ("evaluate_every", 30))
    command = [sys.executable, "-m", "sottovoce.simulations.cli", "simulate", "--out", str(run)]
    file = tmp_path / "experiment.toml"
    file.write_text(chosen.to_toml())
    process = subprocess.Popen([*command, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/round-000003*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = RunFolder(run)
    before, problems = folder.audit()
    kept = checkpoint.newest(folder.checkpoints)
    assert (before.ledger_ok, problems) == (True, ())
    assert before.rounds - kept.facts.round in (0, 1)
    assert before.entries["RESERVED"] in (0, 1)
    resumed = go(run, dataset, chosen)
    after, _ = folder.audit()
    assert before.epsilon_outsider < after.epsilon_outsider <= 4.0
    assert after.entries["COMMITTED"] == resumed.rounds == 30 - after.entries["SPENT_ON_CRASH"]
    assert after.entries["SPENT_ON_CRASH"] in (0, 1)
    assert len(folder.points()) in (resumed.rounds, resumed.rounds - 1)


def test_devices_are_told_the_noise_of_the_record_level_target_for_the_rounds_they_may_join():
    made = experiment(("local.steps", 3), ("local.record.epsilon", 5.0), ("privacy.max_participations", 2))
    plan = plan_for(made, 120)
    told, own = told_training(made, plan), record_plan(made, plan)
    assert own is not None
    assert (own.steps, own.participations, own.records) == (3, 2, made.local.max_rows)
    assert told.record.noise_multiplier == own.noise_multiplier > 0
    louder = replace(own, noise_multiplier=own.noise_multiplier - 1e-3)
    assert published(own.charged(), own.delta)[0] <= 5.0 < published(louder.charged(), own.delta)[0]
    off = experiment()
    assert told_training(off, plan) == off.local
    assert record_plan(off, plan) is None


def test_a_seeded_run_with_record_level_noise_repeats_itself_and_a_fresh_one_does_not(dataset, tmp_path):
    def weights(name, *changes):
        made = experiment(("local.record.noise_multiplier", 1.0), ("rounds", 2), *changes)
        folder = RunFolder(tmp_path / name)
        folder.create(made)
        return train(InProcessGrid(nodes(made, dataset), made.nodes), made, dataset, folder, lambda _: None).parameters

    first, again, other = weights("first"), weights("again"), weights("other", ("seed", 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["table"], other["table"])
    assert not first["table"][0].any()
