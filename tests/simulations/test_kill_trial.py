"""The witness of a kill trial sees what it is there to see; the trial itself is long and runs with the soak tests."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sottovoce.models import atomic
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.ledger import Ledger
from sottovoce.server import checkpoint
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.kill_trial import MARKERS, _tracer, _Witness, experiment, trial
from sottovoce.simulations.loading import load
from sottovoce.simulations.markers import TABLE
from sottovoce.simulations.run import train


class Stop(BaseException):
    """Ends a run as a crash would, once a round is closed."""


def go(path, until, on_point=lambda point: None):
    """Rounds up to `until`, as a life of the trial has them."""
    chosen = experiment()
    folder = RunFolder(path)
    if not folder.experiment_file.exists():
        folder.create(chosen)

    def stop(point):
        on_point(point)
        if point.record.round == until:
            raise Stop

    with pytest.raises(Stop):
        train(InProcessGrid(MARKERS.app(), chosen.nodes), chosen, load(chosen.data, None, None), folder, stop)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """By round: the folder as it was when that round was closed."""
    path = tmp_path_factory.mktemp("kept")
    go(path / "run", 3, lambda point: shutil.copytree(path / "run", path / str(point.record.round)))
    return path


def looked(path):
    witness = _Witness(path)
    witness.look()
    return witness


def test_a_run_without_kills_shows_every_device_once_in_every_round(kept):
    for number in (1, 2, 3):
        seen = looked(kept / str(number))
        assert (seen.rounds, seen.double_counts, seen.wrong_rounds, seen.problems) == (number, 0, 0, [])
        assert 0 < seen.epsilon < 50


def changed(kept, tmp_path, place, amount):
    """The newest checkpoint with `amount` devices' updates more at a marker's place."""
    shutil.copytree(kept / "3", tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    found = checkpoint.newest(folder)
    table = found.state[f"parameters/{TABLE}"]
    table[1:].reshape(-1)[place] += amount * experiment().privacy.clip_norm / MARKERS.population
    checkpoint.write(folder, found.state, found.facts)
    return looked(tmp_path / "run")


def test_a_device_that_is_in_a_round_twice_is_seen(kept, tmp_path):
    seen = changed(kept, tmp_path, MARKERS.first(2) + 5, 1)
    assert (seen.double_counts, seen.wrong_rounds) == (1, 0)


def test_a_device_that_is_missing_is_seen(kept, tmp_path):
    assert changed(kept, tmp_path, MARKERS.first(2) + 5, -1).wrong_rounds == 1


def test_a_device_in_a_round_that_is_not_in_the_model_is_seen(kept, tmp_path):
    assert changed(kept, tmp_path, MARKERS.first(4), 1).wrong_rounds == 1


def test_a_ledger_that_forgets_is_seen(kept, tmp_path):
    seen = looked(kept / "3")
    seen.path = kept / "2"
    seen.look()
    assert seen.epsilon_fell == 1
    assert any("fell from round 3 to 2" in problem for problem in seen.problems)


def test_a_fail_point_can_lie_before_and_after_every_write(tmp_path):
    lines = set()
    sys.settrace(_tracer({atomic.__file__}, lines.add))
    try:
        atomic.write_atomically(tmp_path / "file", b"data")
    finally:
        sys.settrace(None)
    source = Path(atomic.__file__).read_text(encoding="utf-8").splitlines()
    passed = "\n".join(source[number - 1] for _, number in sorted(lines))
    for step in ("mkstemp", "file.write", "file.flush", "os.fsync(file", "os.replace", "os.fsync(folder"):
        assert step in passed


@pytest.mark.parametrize("ledger_of", [1, 2, 3])
@pytest.mark.parametrize("checkpoint_of", [0, 1, 2, 3])
def test_a_checkpoint_may_be_older_than_its_ledger_and_never_newer(kept, tmp_path, checkpoint_of, ledger_of):
    """Whatever is put back: what was spent stays spent, or nothing is started."""
    run = tmp_path / "run"
    shutil.copytree(kept / str(ledger_of), run)
    shutil.rmtree(run / "checkpoints")
    if checkpoint_of:
        shutil.copytree(kept / str(checkpoint_of) / "checkpoints", run / "checkpoints")
    with Ledger.open(run / "ledger.db", readonly=True) as ledger:
        before = ledger.book()
    spent = sum(before.spent.values())
    assert spent == ledger_of
    if checkpoint_of > ledger_of:
        with pytest.raises(LedgerError, match="rolled back"):
            go(run, 4)
        extra = 0
    else:
        go(run, checkpoint_of + 1)
        extra = 1
        assert checkpoint.newest(run / "checkpoints").facts.round == checkpoint_of + 1
        if checkpoint_of:
            seen = looked(run)
            assert (seen.double_counts, seen.wrong_rounds) == (0, 0)
    with Ledger.open(run / "ledger.db", readonly=True) as ledger:
        assert sum(ledger.book().spent.values()) == spent + extra


@pytest.mark.soak
def test_a_coordinator_that_is_killed_goes_on_and_counts_nothing_twice():
    found = trial(40)
    assert (found.kills, found.resumes) == (40, 40)
    assert (found.double_counts, found.wrong_rounds, found.epsilon_fell, found.problems) == (0, 0, 0, [])
    assert found.at_lines >= 16
    assert np.isfinite(found.epsilon)
