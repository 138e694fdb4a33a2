"""What is calibrated with is what the ledger paid for, of the very weights that ship, and sense; else nothing ships."""

import shutil
from hashlib import sha256

import msgspec
import pytest

from sottovoce.models.calibration import Calibration, identity
from sottovoce.models.ranker import INTERCEPT, SLOPE
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy import audit as audit_module
from sottovoce.privacy.audit import audit
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import GateError, LedgerError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.estimates import Figure, Platt
from sottovoce.simulations import results as results_module
from sottovoce.simulations.bundle_check import check_ledger
from sottovoce.simulations.calibrating import calibration_of
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.issuing import passport
from sottovoce.simulations.measure import Measured
from sottovoce.simulations.run import Trained

SCHEMA = FeatureSchema(
    features=(
        Feature(name="hour", source="context", kind="integer", buckets=4),
        Feature(name="ad", source="ad", kind="integer", buckets=9, in_history=True, privacy="public"),
    ),
    history_length=2,
    heads=("click", "conversion"),
)
PLAN = MechanismPlan(100, 1.0, 0.5, 2.0, 3, 1e-3, sampling="none")
ASKED = MechanismPlan(100, 1.0, 4.0, 5.0, 9, 1e-3, purpose="calibration", sampling="none")
WEIGHTS = {round: f"{round:064x}" for round in range(1, 4)}
MODEL = Trained({}, 3, WEIGHTS[3], ())


def platt(slope=0.9, intercept=0.1, error=0.02):
    return Platt(slope=Figure(value=slope, error=error), intercept=Figure(value=intercept, error=error))


class Run:
    """A run folder with three committed rounds, to measure in."""

    def __init__(self, path):
        self.path, self.ledger, self.folder = path, path / "ledger.db", RunFolder(path)
        (path / "measurements").mkdir(parents=True)
        with Ledger.open(self.ledger, create=True) as ledger:
            self._budget(ledger).register(PLAN, ASKED)
            for round, digest in WEIGHTS.items():
                ledger.commit(self._budget(ledger).reserve(PLAN, "run", round, "secure"), digest)

    def _budget(self, ledger):
        return Budget(1000.0, PLAN.delta, ledger)

    def measure(self, number, figures=None, *, commit=True, run_id="run", round=3, plan=ASKED, **bent):
        with Ledger.open(self.ledger) as ledger:
            paid = self._budget(ledger).reserve(plan, run_id, number, "secure")
            told = {
                "query": "calibration",
                "number": number,
                "of": 9,
                "run_id": run_id,
                "model_round": round,
                "purpose": plan.purpose,
                "plan_hash": paid.plan_hash,
                "ledger_row": paid.seq,
                "ledger_hash": paid.hash,
                "noise": "secure",
                "noise_multiplier": 5.0,
                "clip_norm": 4.0,
                "noise_std": 20.0,
                "marks": [0.0],
                "vector": [1.0, 2.0, 3.0, 4.0],
                "figures": figures,
            }
            data = msgspec.json.encode(Measured(**(told | bent)))
            (self.path / "measurements" / f"calibration-{number}.json").write_bytes(data)
            if commit:
                ledger.commit(paid, sha256(data).hexdigest())
        return paid.seq

    def train_again(self, digest):
        with Ledger.open(self.ledger) as ledger:
            ledger.commit(self._budget(ledger).reserve(PLAN, "run", 3, "secure"), digest)

    def found(self, model=MODEL, run_id="run"):
        return calibration_of(self.folder, self.ledger, run_id, model, SCHEMA)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    Run(path)
    return path


@pytest.fixture
def run(trained_once, tmp_path):
    shutil.copytree(trained_once, tmp_path / "run")
    copied = object.__new__(Run)
    copied.path = tmp_path / "run"
    copied.ledger, copied.folder = copied.path / "ledger.db", RunFolder(copied.path)
    return copied


def test_the_newest_committed_measurement_of_these_weights_calibrates_the_first_head_alone(run):
    run.measure(1, platt(0.7))
    row = run.measure(2, platt(0.9))
    (run.path / "measurements" / "quality-1.json").write_text("{}")
    (run.path / "measurements" / "calibration-9.json.tmp").write_text("{}")
    made, said = run.found()
    click, conversion = made.heads
    assert (click.slope, click.intercept) == (pytest.approx(0.9, abs=1e-7), pytest.approx(0.1, abs=1e-7))
    assert conversion == identity(("conversion",)).heads[0]
    data = (run.path / "measurements" / "calibration-2.json").read_bytes()
    paid = click.source
    assert (paid.run_id, paid.number, paid.model_round, paid.ledger_row) == ("run", 2, 3, row)
    assert paid.artifact_sha256 == sha256(data).hexdigest()
    assert "calibration-2.json" in said


def test_numbers_are_ordered_as_numbers(run):
    for number in (2, 10):
        run.measure(number, platt(0.5 + number / 100))
    assert run.found()[0].heads[0].source.number == 10


def test_a_run_without_a_measurement_ships_as_trained_and_says_so(run):
    made, said = run.found()
    assert made == identity(SCHEMA.heads)
    assert "none was measured in this run" in said


def test_a_measurement_of_another_round_is_not_used(run):
    run.measure(1, platt(), round=2)
    run.measure(2, platt(), round=4)
    made, said = run.found()
    assert made.identity
    assert "none was measured of round 3" in said


def test_a_measurement_of_weights_that_were_lost_and_trained_anew_is_not_used(run):
    """The same round of the same run, and yet another model: its row came before these weights."""
    run.measure(1, platt())
    run.train_again("cd" * 32)
    assert run.found()[0].heads[0].slope != 1.0
    assert run.found(Trained({}, 3, "cd" * 32, ()))[0].identity


def refused(run, *words, **given):
    with pytest.raises(GateError) as told:
        run.found(**given)
    for word in words:
        assert word in told.value.what
    assert "--calibration none" in told.value.todo


def test_a_measurement_that_was_never_committed_is_refused(run):
    run.measure(1, platt())
    run.measure(2, platt(), commit=False)
    refused(run, "calibration-2.json is not a calibration that the ledger committed")


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"slope":{"value":0.9', b'"slope":{"value":0.8'), (b'"model_round":3', b'"model_round":2'), (b"}", b"} ")],
)
def test_a_measurement_that_was_edited_after_its_commit_is_refused(run, old, new):
    run.measure(1, platt())
    path = run.path / "measurements" / "calibration-1.json"
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    refused(run, "calibration-1.json is not a calibration that the ledger committed")


def test_another_kind_of_release_or_another_runs_is_no_calibration(run):
    run.measure(1, platt(), run_id="other")
    refused(run, "for this run")
    run.measure(1, platt(), plan=PLAN)  # committed, but as training
    refused(run, "for this run")


@pytest.mark.parametrize("bent", [{"ledger_row": 2}, {"ledger_hash": "00" * 32}, {"run_id": "run", "ledger_row": 99}])
def test_a_measurement_that_names_another_row_than_paid_for_it_is_refused(run, bent):
    run.measure(1, platt(), **bent)
    refused(run, "another row")


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        (None, "drowned"),
        (platt(0.0, error=0.0), "no calibration"),
        (platt(-0.8), "too close to 0"),
        (platt(0.9, error=0.31), "too close to 0"),
        (platt(50.0), "no calibration"),
        (platt(0.9, 21.0), "no calibration"),
    ],
    ids=str,
)
def test_a_fit_that_makes_no_sense_is_refused_and_the_way_out_is_named(run, figures, word):
    run.measure(1, figures)
    refused(run, word)


def test_a_file_of_garbage_and_a_ledger_that_does_not_hold_are_refused(run):
    (run.path / "measurements" / "calibration-1.json").write_bytes(b"\xff")
    with pytest.raises(LedgerError, match="cannot be read"):
        run.found()
    run.measure(1, platt())
    data = run.ledger.read_bytes()
    run.ledger.write_bytes(data.replace(b'"round":2', b'"round":9'))
    with pytest.raises(LedgerError):
        run.found()


# Against the ledger, from the bundle alone


@pytest.fixture(autouse=True, scope="module")
def audited_fast():
    """Other accountants are slow, and not what is asked here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_module, "cross_check", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("stated") / "run")
    run.measure(1, platt())
    run.measure(2, platt(), commit=False)
    return run, passport(audit(run.ledger), PLAN), calibration_of_first(run)


def calibration_of_first(run):
    (run.path / "measurements" / "calibration-2.json").unlink()
    return run.found()[0]


@pytest.mark.parametrize(
    ("bent", "named"),
    [
        ({}, set()),
        ({"ledger_hash": "00" * 32}, {"ledger_hash"}),
        ({"artifact_sha256": "00" * 32}, {"artifact_sha256"}),
        ({"number": 2}, {"number"}),
        ({"run_id": "other"}, {"run_id", "trained_by_this_run"}),
        ({"ledger_row": 4}, {"ledger_hash", "purpose", "artifact_sha256"}),  # the first round of training
        ({"ledger_row": 99}, {"ledger_hash", "purpose", "run_id", "number", "artifact_sha256"}),
        ({"ledger_row": 1}, {"ledger_hash", "purpose", "run_id", "number", "artifact_sha256"}),
    ],
)
def test_every_part_of_a_source_is_held_against_the_ledger(stated, bent, named):
    run, proof, made = stated
    first = made.heads[0]
    source = msgspec.structs.replace(first.source, **bent)
    other = Calibration(heads=(msgspec.structs.replace(first, source=source), *made.heads[1:]))
    with Ledger.open_unchecked(run.ledger) as ledger:
        found = check_ledger(proof, WEIGHTS[3], ledger, other)
    assert {one.field for one in found.mismatches} == {f"calibration.click.{name}" for name in named}
    assert any(line.startswith("calibration: ") for line in found.not_checked)


def test_a_source_that_was_paid_for_after_the_release_is_none(stated):
    run, proof, made = stated
    with Ledger.open_unchecked(run.ledger) as ledger:
        row = made.heads[0].source.ledger_row
        earlier = msgspec.structs.replace(
            proof, ledger_length=row - 1, ledger_head=next(one.hash for one in ledger.rows() if one.seq == row - 1)
        )
        fields = {one.field for one in check_ledger(earlier, WEIGHTS[3], ledger, made).mismatches}
    assert "calibration.click.purpose" in fields


# From the command line


SMALL = [
    *("--data", "market", "--set", "data.devices=400", "--rounds", "6", "--delta", "1e-3", "--epsilon", "inf"),
    *("--set", "privacy.sampling=none", "--set", "model.embedding_width=4", "--set", "model.tower_width=4"),
    *("--set", "model.hidden_width=8", "--set", "measure.calibration=1"),
    "--no-baselines",
]


def test_a_measured_run_ships_calibrated_and_is_judged_so_unless_that_is_turned_off(call, tmp_path, monkeypatch):
    asked, run = [], tmp_path / "run"

    def stop(*given, **more):
        asked.append((given[2], given[6], more["calibration"]))
        raise GateError("seen", "stop")

    monkeypatch.setattr(results_module, "ship", stop)
    # So few devices drown in any noise, and without it a run promises nothing: that is refused elsewhere.
    monkeypatch.setattr(results_module, "releasable", lambda _: None)
    assert call("simulate", *SMALL, "--out", run)[0] == 0
    assert call("measure", run, "calibration")[0] == 0
    for more in ([], ["--calibration", "none"]):
        assert "seen" in call("release", run, *more)[2]
    (model, metrics, made), (_, plain_metrics, plain) = asked
    assert made.heads[0].source.model_round == 6
    assert plain.identity
    assert not {SLOPE, INTERCEPT} & model.parameters.keys()  # they enter once, in the release
    assert metrics["calibration_error"] != plain_metrics["calibration_error"]
    assert metrics["auc"] == pytest.approx(plain_metrics["auc"], abs=1e-3)
