import os
import subprocess
import sys

import msgspec
import pytest

from sottovoce.privacy.errors import CheckpointError, ConfigError, LedgerError
from sottovoce.server.round import RoundRecord
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.folder import Point, RunFolder


def point(round, epsilon=1.0):
    return Point(
        record=RoundRecord(round=round, cohort=10, answered=9, dropped=(), seconds=0.1), epsilon=epsilon, metrics=None
    )


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "run")
    made.create(Experiment())
    return made


def test_the_experiment_is_read_back_as_it_was_given(folder):
    assert folder.experiment() == Experiment()
    assert os.listdir(folder.path) == ["experiment.toml"]


def test_a_folder_that_holds_anything_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        RunFolder(tmp_path).create(Experiment())
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_asking_whether_a_folder_is_free_makes_nothing(tmp_path):
    RunFolder(tmp_path / "new").require_free()
    assert not (tmp_path / "new").exists()


def test_a_file_cannot_be_a_run(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "below"):
        with pytest.raises(ConfigError):
            RunFolder(place).create(Experiment())
        with pytest.raises(ConfigError, match=r"no experiment\.toml"):
            RunFolder(place).experiment()


def test_points_come_back_in_the_order_of_rounds(folder):
    assert folder.points() == []
    for round in (1, 2, 3):
        folder.append(point(round))
    assert folder.points() == [point(1), point(2), point(3)]


def test_a_last_line_cut_short_is_left_out_and_new_lines_do_not_hang_on_to_it(folder):
    folder.append(point(1))
    folder.append(point(2))
    whole = folder.metrics_file.read_bytes()
    for cut in range(1, len(whole) - len(whole.split(b"\n")[0]) - 1):
        folder.metrics_file.write_bytes(whole[:-cut])
        kept = folder.points()
        assert kept in ([point(1)], [point(1), point(2)])
        folder.rewind(2)
        folder.append(point(3))
        assert folder.points() == [*kept, point(3)]


def test_rounds_after_the_checkpoint_are_forgotten(folder):
    for round in (1, 2, 3):
        folder.append(point(round))
    folder.rewind(2)
    folder.append(point(3, epsilon=2.0))
    assert folder.points() == [point(1), point(2), point(3, epsilon=2.0)]


def test_rewinding_a_run_without_points_makes_no_file(folder):
    folder.rewind(0)
    assert not folder.metrics_file.exists()


@pytest.mark.parametrize("line", [b"{", b"null", b"[]", b'{"record": 3}', b"\xff\xfe"])
def test_a_damaged_line_in_the_middle_is_named(folder, line):
    folder.metrics_file.write_bytes(
        msgspec.json.encode(point(1)) + b"\n" + line + b"\n" + msgspec.json.encode(point(2))
    )
    with pytest.raises(CheckpointError, match="line 2"):
        folder.points()


def test_an_audit_without_a_ledger_is_refused(folder):
    with pytest.raises(LedgerError, match="no ledger"):
        folder.audit()


HOLD = """
import sys
from pathlib import Path
from sottovoce.simulations.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="no such lock there")
def test_one_process_trains_in_a_folder_and_its_end_frees_it(folder):
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process"), folder.locked():
            pytest.fail("two at once")
        other.kill()
    with folder.locked(), pytest.raises(ConfigError), folder.locked():
        pytest.fail("two at once")
    with folder.locked():
        pass


def test_an_error_inside_the_lock_is_not_taken_for_a_failed_lock(folder):
    with pytest.raises(BlockingIOError), folder.locked():
        raise BlockingIOError
