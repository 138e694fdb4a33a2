"""Measurements of whole runs: planned beforehand, paid once, kept whole, and close to the truth."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from sottovoce.client.scoring import score
from sottovoce.privacy.audit import audit
from sottovoce.privacy.calibration import calibrated
from sottovoce.privacy.chain import Committed
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import BudgetError, CheckpointError, LedgerError
from sottovoce.privacy.filter import fixed_beforehand
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.noise import release_sum
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.estimates import quality
from sottovoce.simulations import measure as module
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.loading import load
from sottovoce.simulations.measure import measure
from sottovoce.simulations.metrics import evaluate
from sottovoce.simulations.planning import plan_for
from sottovoce.simulations.queries import QUERIES, inquiry, marks, measurement_charge, measurement_plans
from sottovoce.simulations.run import nodes, train, trained

SETTINGS = [
    ("data.devices", 400),
    ("rounds", 3),
    ("privacy.delta", 1e-3),
    ("privacy.sampling_rate", 0.3),
    ("privacy.noise", "seeded"),
    ("model.embedding_width", 4),
    ("model.tower_width", 4),
    ("model.hidden_width", 8),
    *((f"measure.{query}", 2) for query in QUERIES),
]


def experiment(*changes):
    return compose(None, [*SETTINGS, *changes])


@pytest.fixture(scope="module")
def dataset():
    return load(experiment().data, None, None)


class Counting(InProcessGrid):
    """Counts what is sent."""

    def __init__(self, *args):
        super().__init__(*args)
        self.sent = []

    def push_messages(self, messages):
        messages = list(messages)
        self.sent += [message.metadata.message_type for message in messages]
        return super().push_messages(messages)


def grid(chosen, dataset):
    return Counting(nodes(chosen, dataset), chosen.nodes)


def go(path, chosen, dataset, on_point=lambda point: None):
    folder = RunFolder(path)
    if not folder.experiment_file.exists():
        folder.create(chosen)
    return train(grid(chosen, dataset), chosen, dataset, folder, on_point)


def ask(path, query, chosen, dataset, using=None):
    return measure(using or grid(chosen, dataset), query, chosen, dataset, RunFolder(path))[0]


def book(path):
    with Ledger.open(path / "ledger.db", readonly=True) as ledger:
        return ledger.book()


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("straight") / "run"
    return path, go(path, experiment(), dataset)


@pytest.fixture
def run(straight, tmp_path):
    """A copy of a finished run, to measure."""
    return shutil.copytree(straight[0], tmp_path / "run")


# What is planned


def test_a_run_that_plans_no_measurement_has_the_noise_it_always_had():
    chosen = experiment(*((f"measure.{query}", 0) for query in QUERIES))
    assert not measurement_plans(chosen, 400)
    shape = MechanismPlan(400, 0.3, chosen.privacy.clip_norm, 0.0, 3, 1e-3)
    assert plan_for(chosen, 400).noise_multiplier == calibrated(shape, 4.0).noise_multiplier


def test_training_takes_more_noise_so_that_both_stay_within_epsilon():
    alone, beside = (plan_for(experiment(*changes), 400) for changes in ([(f"measure.{q}", 0) for q in QUERIES], []))
    assert beside.noise_multiplier > alone.noise_multiplier


def test_every_query_has_a_purpose_and_a_plan_of_its_own():
    plans = measurement_plans(experiment(), 400)
    assert {plan.purpose for plan in plans.values()} == {"metric", "calibration", "clip_count", "preprocess"}
    assert len({plan.digest() for plan in plans.values()}) == len(QUERIES)
    assert sum(measurement_charge(experiment(), 400).values()) == 2 * len(QUERIES)


def test_half_bits_for_every_mark_never_exceed_the_bound_of_their_plan():
    found = marks("clip", experiment())
    assert np.linalg.norm(np.full(len(found), 0.5)) <= measurement_plans(experiment(), 400)["clip"].clip_norm
    assert found[len(found) // 2] == experiment().privacy.clip_norm


# What is paid


def test_everything_planned_fits_and_not_one_more(dataset, run):
    chosen = experiment()
    for query in QUERIES:
        assert [ask(run, query, chosen, dataset).number for _ in range(2)] == [1, 2]
    report = audit(run / "ledger.db")
    assert report.purposes == {"calibration": 2, "clip_count": 2, "metric": 2, "preprocess": 2, "train": 3}
    assert 3.9 < report.epsilon_outsider <= 4.0
    assert not report.adaptive
    assert not [finding for finding in report.findings if "alarm" in finding or "population" in finding]
    before = book(run).head
    for query in QUERIES:
        using = grid(chosen, dataset)
        with pytest.raises(BudgetError, match="all 2 planned") as told:
            ask(run, query, chosen, dataset, using)
        assert f"measure.{query}" in told.value.todo
        assert using.sent == []
    assert book(run).head == before


def test_what_was_never_planned_asks_nobody_and_writes_nothing(dataset, tmp_path):
    chosen = experiment(*((f"measure.{query}", 0) for query in QUERIES))
    go(tmp_path / "run", chosen, dataset)
    before, using = book(tmp_path / "run").head, grid(chosen, dataset)
    with pytest.raises(BudgetError, match="no quality measurement is planned") as told:
        ask(tmp_path / "run", "quality", chosen, dataset, using)
    assert "measure.quality" in told.value.todo
    assert using.sent == []
    assert book(tmp_path / "run").head == before


def test_another_question_at_the_planned_noise_is_still_a_planned_release(dataset, run):
    """What the ledger fixed is how much noise hides how many releases; which sum they are may follow from results."""
    later = experiment(("measure.clip_norm", 5.0))
    assert ask(run, "quality", later, dataset).clip_norm == 5.0
    assert fixed_beforehand(book(run))


def test_a_run_without_a_model_cannot_be_measured(dataset, tmp_path):
    RunFolder(tmp_path / "run").create(experiment())
    with pytest.raises(CheckpointError):
        ask(tmp_path / "run", "quality", experiment(), dataset)


# What is kept


def test_the_file_is_what_the_ledger_committed(dataset, run):
    measured = ask(run, "calibration", experiment(), dataset)
    data = (run / "measurements" / "calibration-1.json").read_bytes()
    with Ledger.open(run / "ledger.db", readonly=True) as ledger:
        *_, last = ledger.entries()
    assert isinstance(last, Committed)
    assert (last.artifact_sha256, last.reservation) == (hashlib.sha256(data).hexdigest(), measured.ledger_row)
    kept = json.loads(data)
    assert (kept["vector"], kept["plan_hash"], kept["noise"]) == (measured.vector, measured.plan_hash, "seeded")


def test_seeded_measurements_repeat_across_runs_and_differ_within_one(dataset, straight, tmp_path):
    one, other = (shutil.copytree(straight[0], tmp_path / name) for name in "ab")
    first, second = (ask(one, "popularity", experiment(), dataset).vector for _ in range(2))
    assert ask(other, "popularity", experiment(), dataset).vector == first
    assert second != first


def test_a_crash_after_the_file_was_written_commits_it_next_time(dataset, run, monkeypatch):
    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sottovoce.privacy.budget.Budget.commit", cut)
        with pytest.raises(KeyboardInterrupt):
            ask(run, "clip", experiment(), dataset)
    kept = (run / "measurements" / "clip-1.json").read_bytes()
    assert ask(run, "clip", experiment(), dataset).number == 2
    assert (run / "measurements" / "clip-1.json").read_bytes() == kept
    assert book(run).states == {"COMMITTED": 5, "RESERVED": 0}


def test_a_crash_before_the_file_was_written_is_spent_and_its_number_is_gone(dataset, run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        with pytest.raises(module.SottovoceError, match="No space left"):
            ask(run, "clip", experiment(), dataset)
    assert ask(run, "clip", experiment(), dataset).number == 2
    assert book(run).states["SPENT_ON_CRASH"] == 1
    with pytest.raises(BudgetError):
        ask(run, "clip", experiment(), dataset)


def test_a_ledger_that_was_rolled_back_is_found_by_what_was_released(dataset, run, tmp_path):
    shutil.copy(run / "ledger.db", tmp_path / "old.db")
    ask(run, "clip", experiment(), dataset)
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (run / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "old.db", run / "ledger.db")
    using = grid(experiment(), dataset)
    for query in ("clip", "quality"):
        with pytest.raises(LedgerError):
            ask(run, query, experiment(), dataset, using)
    assert using.sent == []


def test_measuring_a_run_that_is_not_finished_does_not_change_how_it_ends(dataset, straight, tmp_path):
    def interrupt(point):
        if point.record.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", experiment(), dataset, interrupt)
    assert ask(tmp_path / "run", "quality", experiment(), dataset).model_round == 2
    ended = go(tmp_path / "run", experiment(), dataset)
    assert ended.notes == ()
    for name, value in straight[1].parameters.items():
        assert torch.equal(ended.parameters[name], value)
    assert fixed_beforehand(book(tmp_path / "run"))


# How close it is


def test_quality_is_within_its_error_of_the_exact_figures(dataset, straight, tmp_path):
    """A hundred draws of noise: bins cost up to 0.01 of AUC, the noise what is stated."""
    chosen = experiment(("measure.clip_norm", 40.0), ("privacy.epsilon", float("inf")), ("privacy.noise", "none"))
    go(tmp_path / "run", chosen, dataset)
    chances = score(
        trained(chosen, dataset, RunFolder(tmp_path / "run")).parameters,
        dataset.schema,
        chosen.model,
        dataset.train,
        dataset.valid,
    )[:, 0]
    labels = dataset.valid.labels[:, 0]
    exact = evaluate(chances, labels, dataset.valid.owners)
    total = np.array(ask(tmp_path / "run", "quality", chosen, dataset).vector)
    edges, std = marks("quality", chosen), 2.0
    off = []
    for seed in range(100):
        noisy = release_sum(total, std, SeededEntropy(seed).generator("noise", 1))
        found = quality(noisy, edges, std)
        assert found.auc is not None
        off.append((found.auc.value - exact.auc) / found.auc.error)
        assert abs(found.auc.value - exact.auc) < 5 * found.auc.error + 0.01
        assert abs(found.log_loss.value - exact.log_loss) < 5 * found.log_loss.error + 0.005
        assert abs(found.click_rate.value - labels.mean()) < 5 * found.click_rate.error
    assert 0.7 < np.std(off) < 1.3  # standard error 0.07


def test_without_noise_quality_is_exact_but_for_bins(dataset, tmp_path):
    chosen = experiment(("privacy.noise", "none"), ("privacy.epsilon", float("inf")), ("measure.clip_norm", 1e5))
    go(tmp_path / "run", chosen, dataset)
    model = trained(chosen, dataset, RunFolder(tmp_path / "run"))
    chances = score(model.parameters, dataset.schema, chosen.model, dataset.train, dataset.valid)[:, 0]
    exact = evaluate(chances, dataset.valid.labels[:, 0], dataset.valid.owners)
    measured = ask(tmp_path / "run", "quality", chosen, dataset)
    assert measured.noise == "none"
    assert measured.figures.rows.value == exact.rows
    assert measured.figures.auc.value == pytest.approx(exact.auc, abs=0.02)
    assert measured.figures.log_loss.value == pytest.approx(exact.log_loss, abs=0.01)
    ads = ask(tmp_path / "run", "popularity", chosen, dataset).figures.ads
    assert sum(ad.impressions.value for ad in ads) == dataset.train.rows


def test_a_question_carries_the_model_only_where_it_is_about_one(dataset, straight):
    weights = {name: value.numpy() for name, value in straight[1].parameters.items()}
    plans = measurement_plans(experiment(), 400)
    for query in QUERIES:
        asked = inquiry(query, plans[query], experiment(), dataset, weights)
        assert bool(asked.parameters) == (query != "popularity")
