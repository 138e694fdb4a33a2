"""`sottovoce sweep` as people meet it: real processes that are interrupted, killed and resumed, and plain refusals."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sottovoce.privacy.errors import SottovoceError
from sottovoce.privacy.ledger import Ledger
from sottovoce.simulations import cli_sweep
from sottovoce.simulations.loading import load
from sottovoce.simulations.results import read_results
from sottovoce.simulations.sweep_folder import SweepFolder
from sottovoce.simulations.sweep_job import carry_out
from sottovoce.simulations.sweep_workers import Event

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# Without noise nothing has to be calibrated or audited, which takes seconds for each run.
SMALL = ["--devices", "300", "--delta", "1e-3", "--set", "data.rows_per_device=8", "--set", "evaluate_every=100"]


def work_here(jobs, workers, source, data_dir, on_event, on_stop):
    """Do jobs in this process, one after the other: starting another one takes seconds."""
    dataset = load(source, data_dir, None)
    for job in jobs:
        try:
            carry_out(job, dataset, lambda number: None)
            on_event(Event(job, "done"))
        except SottovoceError as error:
            on_event(Event(job, "failed", what=error.what, todo=error.todo))


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(cli_sweep, "work", work_here)


def until(found, seconds=60.0):
    """Wait for something to become true, and return it."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
    return value


def trained(path):
    """Runs with a checkpoint."""
    return sorted({file.parts[-3] for file in path.glob("runs/*/checkpoints/round-*.safetensors")})


def workers():
    """Process ids of the workers of a sweep in this process."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, check=False
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if b"spawn_main" in line]


def spoken(path, name):
    with Ledger.open(path / "runs" / name / "ledger.db", readonly=True) as ledger:
        book = ledger.book()
    return {run_id for run_id, *_ in book.uses}, book.states


def test_a_sweep_that_lost_a_worker_and_was_interrupted_is_finished_by_the_same_command(tmp_path, call, monkeypatch):
    path = tmp_path / "sweep"
    question = [*SMALL, "--rounds", "40", "--epsilon", "inf", "--seeds", "3", "--no-baselines", "--out", str(path)]

    def disturb():
        until(lambda: trained(path))
        os.kill(workers()[0], signal.SIGKILL)
        until(lambda: len(trained(path)) == 3)
        # As a terminal does it: every process hears Ctrl-C.
        for process in (*workers(), os.getpid()):
            os.kill(process, signal.SIGINT)

    with ThreadPoolExecutor() as pool:
        disturbed = pool.submit(disturb)
        code, out, err = call("sweep", *question, "--workers", "1")
        disturbed.result()
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert "epsilon-inf-seed-0 died: its worker was killed (SIGKILL)" in err
    assert "epsilon-inf-seed-1 done: primary 0." in err
    assert "error: interrupted; 1 of 3 runs are finished, the others are whole" in err
    assert f"sottovoce sweep --resume {path}" in err
    assert "3 runs were made on these devices" in err
    assert not workers()
    killed, finished, interrupted = (spoken(path, f"epsilon-inf-seed-{seed}") for seed in range(3))
    # No round was cut off by Ctrl-C: nothing was paid for in vain.
    assert 0 < interrupted[1]["COMMITTED"] < finished[1]["COMMITTED"] == 40
    assert interrupted[1]["RESERVED"] == interrupted[1]["SPENT_ON_CRASH"] == 0

    monkeypatch.setattr(cli_sweep, "work", work_here)
    code, out, err = call("sweep", "--resume", path, "--no-baselines", "--json")
    told = json.loads(out)
    assert (code, told["runs"]) == (0, 3), err
    # Each went on from its checkpoint: it is still the same run.
    ids = [spoken(path, f"epsilon-inf-seed-{seed}")[0] for seed in range(3)]
    assert ids == [killed[0], finished[0], interrupted[0]]
    assert [(one["seeds"], one["epsilon"]) for one in told["settings"]] == [(3, None)]
    assert [one["rounds"] for one in told["outcomes"]] == [40] * 3
    assert "infinite epsilon: no run had noise" in told["says"][0]
    assert (path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    for artefact in ("frontier.svg", "sweep.html"):
        assert "3 runs were made on these devices" in (path / artefact).read_text()
    with (path / "frontier.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3

    # Nothing is left to do, and nothing is done; another question is refused.
    before = {file: file.stat().st_mtime_ns for file in path.glob("runs/*/*")}
    assert call("sweep", *question)[0] == 0
    assert {file: file.stat().st_mtime_ns for file in path.glob("runs/*/*")} == before
    code, out, err = call("sweep", *question, "--seeds", "2")
    assert (code, out) == (1, "")
    assert "another sweep: seeds differ" in err


def test_settings_are_compared_on_one_campaign_that_every_run_draws_on(tmp_path, call, in_this_process):
    path = tmp_path / "sweep"
    code, out, err = call(
        *("sweep", *SMALL, "--rounds", "2", "--noise", "seeded", "--epsilon", "3", "--seeds", "1", "--budget", "5"),
        *("--vary", "local.steps=1,2", "--set", "privacy.sampling=none", "--out", path, "--workers", "1"),
    )
    assert code == 0, err
    assert "epsilon 3, local.steps = 2" in out
    assert "2 runs were made on these devices; one campaign covers the models of all of them with epsilon" in out
    assert "SIMULATION: NO GUARANTEE" in out
    assert "popularity" in out
    with Ledger.open(path / "ledger.db", readonly=True) as ledger:
        book = ledger.book()
    assert len({run_id for run_id, *_ in book.uses}) == 2
    assert book.spent == book.fixed
    folder = SweepFolder(path)
    assert "TAKEN AS PUBLIC DATA" in " ".join(read_results(folder.run("001-epsilon-3-seed-0")).notes)
    assert not list(path.glob("frontier.svg"))


WRONG = {
    "no number": (["--epsilon", "1,x"], 2, "'1,x' is not a list of numbers"),
    "epsilon 0": (["--epsilon", "1,0"], 2, "0 is not above 0"),
    "epsilon NaN": (["--epsilon", "nan"], 2, "nan is not above 0"),
    "no seeds": (["--seeds", "0"], 2, "--seeds"),
    "no workers": (["--workers", "0"], 2, "--workers"),
    "one seed": (["--seed", "3"], 2, "--seed"),
    "noise none": (["--noise", "none", "--epsilon", "1"], 2, "--noise none goes with --epsilon inf only"),
    "resume and more": (["--resume", "there", "--seeds", "2"], 2, "--resume takes the settings of the sweep"),
    "resume nothing": (["--resume", "there"], 1, "no sweep.toml"),
    "vary nothing": (["--vary", "local.steps"], 1, "not KEY=V1,V2"),
    "vary data": (["--vary", "data.devices=1,2"], 1, "may not vary"),
    "unknown key": (["--vary", "local.stepz=1,2"], 1, "stepz"),
    "twice": (["--epsilon", "1,1"], 1, "epsilon 1 is given twice"),
    "delta": (["--delta", "0.01", "--epsilon", "inf", "--devices", "300"], 1, "1/population"),
    "budget below": (["--epsilon", "inf", "--budget", "4", *SMALL], 1, "cost infinite epsilon"),
    "no budget": (["--epsilon", "inf", "--budget", "-1", *SMALL], 1, "epsilon = -1"),
    "no campaign": (["--epsilon", "inf", "--ledger", "there/l.db", *SMALL], 1, "l.db"),
}


@pytest.mark.parametrize(("options", "expected", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_one_clear_line_and_leaves_nothing_behind(
    call, tmp_path, monkeypatch, options, expected, said
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("sweep", *options)
    assert (code, out) == (expected, "")
    assert said in err
    assert "Traceback" not in err
    assert not list(Path().iterdir())


def test_a_run_that_fails_is_named_and_the_others_are_shown(tmp_path, call, in_this_process):
    path = tmp_path / "sweep"
    question = ["sweep", *SMALL, "--rounds", "1", "--epsilon", "inf", "--seeds", "2", "--no-baselines", "--out", path]
    assert call(*question)[0] == 0
    lost = path / "runs" / "epsilon-inf-seed-1"
    (lost / "results.json").unlink()
    (lost / "experiment.toml").unlink()
    code, out, err = call(*question)
    assert (code, out) == (1, "")
    assert "error: 1 not finished: epsilon-inf-seed-1: " in err
    assert "is not empty" in err
    assert "1 of 2 runs are not finished" in (path / "sweep.html").read_text()
    with (path / "frontier.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0"]


def test_a_run_of_a_sweep_says_in_its_own_results_what_the_sweep_cost(tmp_path, call, in_this_process):
    path = tmp_path / "sweep"
    assert call("sweep", *SMALL, "--rounds", "1", "--epsilon", "inf", "--seeds", "2", "--out", path)[0] == 0
    notes = read_results(SweepFolder(path).run("epsilon-inf-seed-1")).notes
    assert notes[0].startswith(
        "one run of a sweep: 2 runs were made on these devices; publishing the best of them is not"
    )
    assert "TAKEN AS PUBLIC DATA" in notes[1]
