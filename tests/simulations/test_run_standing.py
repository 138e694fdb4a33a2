"""Where a run is: one that ended early is finished once it was judged, and not one that went on afterwards."""

import os
import time

from sottovoce.server.ledger_look import look
from sottovoce.simulations.cli import run
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.run_standing import standing

SMALL = ["--devices", "60", "--rounds", "2", "--delta", "1e-3", "--no-baselines", "--set", "data.rows_per_device=6"]


def test_a_run_that_ended_before_its_last_round_is_finished_once_it_was_judged(tmp_path):
    place = tmp_path / "run"
    assert run(["simulate", *SMALL, "--out", str(place)]) == 0
    folder = RunFolder(place)
    folder.experiment_file.write_text(folder.experiment_file.read_text().replace("rounds = 2\n", "rounds = 3\n", 1))

    def state():
        return standing(folder, look(folder.ledger), time.time()).state

    assert (folder.experiment().rounds, state()) == (3, "finished")
    before = folder.metrics_file.stat().st_mtime - 60
    os.utime(folder.results_file, (before, before))
    assert state() == "running"
    folder.results_file.unlink()
    assert state() == "running"
