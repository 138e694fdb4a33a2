"""One run on two grids: in this process, and on Flower's own simulation runtime with a real SuperLink and Ray."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sottovoce.server import checkpoint
from sottovoce.server.ledger_look import look
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.loading import load
from sottovoce.simulations.run import nodes, train
from sottovoce.simulations.run_standing import standing

APP = Path(__file__).parents[2] / "simulations" / "flower_app"

EXPERIMENT = """
rounds = 3
[data]
name = "market"
devices = 300
[privacy]
noise = "seeded"
delta = 1e-4
epsilon = 8.0
"""


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def superlink(tmp_path):
    """A SuperLink on loopback, in simulation mode; stopped by its process id."""
    bin_folder = Path(sys.executable).parent
    home, runtime, control = tmp_path / "flwr", free_port(), free_port()
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "127.0.0.1:{runtime}"\ninsecure = true\n'
    )
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        *("flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess", "--host", "127.0.0.1"),
        *("--port", str(runtime), "--control-api-address", f"127.0.0.1:{control}"),
        "--disable-runtime-dependency-installation",
    ]
    with (tmp_path / "superlink.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield environment
        finally:
            process.terminate()
            process.wait(20)


def run_on_flower(environment, arguments, folder, rounds):
    deadline = time.monotonic() + 150
    while True:
        done = subprocess.run(["flwr", "run", str(APP), *arguments], env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            break
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(1)
    while not (folder / "checkpoints" / f"round-{rounds:06d}.safetensors").exists():
        assert time.monotonic() < deadline, "the run did not finish"
        time.sleep(0.5)


@pytest.mark.skipif(
    shutil.which("flower-superlink", path=Path(sys.executable).parent) is None, reason="flwr not installed"
)
def test_the_same_run_on_flowers_simulation_runtime_ends_with_the_same_weights(tmp_path, superlink):
    pytest.importorskip("ray", reason="needs the extra sottovoce[ray]")
    file = tmp_path / "experiment.toml"
    file.write_text(EXPERIMENT)
    there = tmp_path / "there"
    log = tmp_path / "log.jsonl"
    watching = f'log-file="{log}" metrics-port={free_port()}'
    run_on_flower(superlink, ["--run-config", f'experiment="{file}" out="{there}" {watching}'], there, 3)

    experiment = compose(file, ())
    dataset = load(experiment.data, None, None)
    here = RunFolder(tmp_path / "here")
    here.create(experiment)
    train(InProcessGrid(nodes(experiment, dataset), 2), experiment, dataset, here, lambda point: None)

    expected, found = checkpoint.newest(here.checkpoints), checkpoint.newest(there / "checkpoints")
    assert (found.facts.round, found.problems) == (3, ())
    for name, value in expected.state.items():
        torch.testing.assert_close(found.state[name], value, atol=1e-5, rtol=0)

    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events[:2] == ["run_started", "enrolled"]
    assert events.count("round_released") >= 2  # the last line may still be on its way
    # Judged like any other run, so that it can be released; Flower's task may still be writing.
    deadline = time.monotonic() + 60
    while not RunFolder(there).results_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told = standing(RunFolder(there), look(RunFolder(there).ledger), time.time())
    assert (told.state, told.rounds, told.ledger_problem) == ("finished", 3, "")
    assert told.replies["used"] == told.rounds * 2
