"""The text of a deployment says what Flower's own programs understand, and never plain text."""

import shlex
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from sottovoce.privacy.errors import ConfigError
from sottovoce.server.deployment import Deployment, shell, unit

PLAN = Deployment(
    address="fl.example.org",
    port=9092,
    superlink_port=8000,
    node_port=9100,
    nodes=3,
    folder=PurePosixPath("/srv/a place"),
    programs=PurePosixPath("/opt/sv/bin"),
    user="sottovoce",
)


def programs(plan):
    nodes = range(plan.nodes)
    return [plan.superlink(), plan.gate(), *map(plan.supernode, nodes), *map(plan.worker, nodes)]


def test_everything_is_quiet_encrypted_and_only_the_gate_is_reached_from_outside():
    for program in programs(PLAN):
        assert program.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert program.environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert "--insecure" not in program.command
        assert ("0.0.0.0:9092" in program.command) == (program.name == "sottovoce-gate")
    assert "--enable-supernode-auth" in PLAN.superlink().command
    assert PLAN.superlink().command[1:5] == ("--host", "127.0.0.1", "--port", "8000")
    assert replace(PLAN, address="127.0.0.1").gate().command[4] == "127.0.0.1:9092"


def test_nodes_share_the_population_out_among_themselves():
    from flwr.common.config import parse_config_args

    for number in range(3):
        command = PLAN.supernode(number).command
        told = parse_config_args([command[command.index("--node-config") + 1]])
        assert told == {
            "partition-id": number,
            "num-partitions": 3,
            "experiment": f"/srv/a place/node-{number}/experiment.toml",
        }
    assert len({PLAN.supernode(number).command[-5] for number in range(3)}) == 3


def test_the_app_names_the_same_objects_as_the_one_for_simulations():
    files = dict(PLAN.files("rounds = 1\n"))
    mine = tomllib.loads(files["coordinator/app/pyproject.toml"])["tool"]["flwr"]["app"]
    theirs = Path(__file__).parents[2] / "simulations" / "flower_app" / "pyproject.toml"
    known = tomllib.loads(theirs.read_text())["tool"]["flwr"]["app"]
    assert mine["components"] == known["components"]
    assert mine["config"].keys() == known["config"].keys()
    connection = tomllib.loads(files["coordinator/flower/config.toml"])["superlink"]["deployment"]
    assert connection == {"address": "127.0.0.1:8000", "root-certificates": "/srv/a place/coordinator/ca.crt"}


def test_a_shell_reads_back_the_command():
    for program in programs(PLAN):
        words = shlex.split(shell(program.command, program.environment))
        assert tuple(words[len(program.environment) :]) == program.command


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path):
    plan = replace(PLAN, programs=PurePosixPath("/bin"), user="root")
    files = []
    for program in programs(plan):
        text = unit(replace(program, command=("/bin/true", *program.command[1:])), "root")
        files.append(tmp_path / f"{program.name}.service")
        files[-1].write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True)
    mine = [line for line in done.stderr.splitlines() if "sottovoce" in line]
    assert not mine, mine


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": 0},
        {"nodes": 10_001},
        {"port": 8000},
        {"superlink_port": 9101},
        {"node_port": 65_534},
        {"node_port": 9091},
        {"folder": PurePosixPath('/srv/"x')},
        {"folder": PurePosixPath("/srv/x\nExecStart=/bin/sh")},
        {"user": "a\nb"},
        {"data": "/srv/%h"},
    ],
)
def test_what_cannot_be_written_down_is_refused(changes):
    with pytest.raises(ConfigError):
        replace(PLAN, **changes)
