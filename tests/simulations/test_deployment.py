"""One run on Flower's deployment runtime: real programs, TLS, a key for every node, and those who should not get in."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from federation import Federation
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node

from sottovoce.server import checkpoint
from sottovoce.server.certificates import node_key
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.loading import load
from sottovoce.simulations.run import nodes, train

EXPERIMENT = """
rounds = 10
evaluate_every = 10
[data]
name = "market"
devices = 240
[model]
embedding_width = 0
[privacy]
noise = "seeded"
delta = 1e-4
epsilon = 8.0
"""
NODES = 4

pytestmark = pytest.mark.skipif(
    shutil.which("flower-superlink", path=Path(sys.executable).parent) is None, reason="flwr not installed"
)


@pytest.fixture
def federation(tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text(EXPERIMENT)
    made = Federation.written(tmp_path, file, NODES)
    try:
        yield made
    finally:
        made.stop()


def intruder(federation, name, private):
    """A real SuperNode as node 0 is started, but with another key, on a port of its own."""
    file = federation.folder / f"{name}.key"
    file.write_bytes(private)
    file.chmod(0o600)
    command = list(federation.programs["sottovoce-node-0"]["command"])
    command[command.index("--auth-supernode-private-key") + 1] = str(file)
    command[command.index("--port") + 1] = str(federation.spare.pop())
    command += ["--max-retries", "2"]
    federation.start(name, command)


def test_ten_private_rounds_on_real_supernodes_end_with_the_weights_of_the_in_process_grid(federation, tmp_path):
    federation.start("sottovoce-superlink")
    federation.start("sottovoce-gate")
    federation.until(lambda: federation.healthy(federation.superlink), "the SuperLink is up")
    federation.until(lambda: federation.healthy(federation.gate), "the gate is up")
    revoked = node_key()
    (tmp_path / "revoked.pub").write_bytes(revoked.public)
    register = federation.flwr("supernode", "register", str(tmp_path / "revoked.pub"))
    ids = [one["node-id"] for one in federation.operator(*federation.told["register"], register)]
    federation.operator(federation.flwr("supernode", "unregister", str(ids.pop())))
    for number in range(NODES):
        federation.start(f"sottovoce-node-{number}")
        federation.start(f"sottovoce-node-{number}-worker")
    federation.until(lambda: federation.online() == NODES, "all nodes are online", pause=1)
    federation.operator(federation.told["run"])
    run = tmp_path / "dep" / "coordinator" / "runs" / "first"

    # While it trains, others try to get in.
    intruder(federation, "unknown", node_key().private)
    intruder(federation, "revoked", revoked.private)
    intruders_are_refused(federation, ids)
    last = run / "checkpoints" / "round-000010.safetensors"
    federation.until(last.exists, "ten rounds are done", 150)
    assert federation.online() == NODES

    experiment = compose(tmp_path / "experiment.toml", ())
    dataset = load(experiment.data, None, None)
    here = RunFolder(tmp_path / "here")
    here.create(experiment)
    train(InProcessGrid(nodes(experiment, dataset), NODES), experiment, dataset, here, lambda point: None)
    expected, found = checkpoint.newest(here.checkpoints), checkpoint.newest(run / "checkpoints")
    assert (found.facts.round, found.problems) == (10, ())
    for name, value in expected.state.items():
        torch.testing.assert_close(found.state[name], value, atol=1e-5, rtol=0)
    federation.until(lambda: (run / "metrics.jsonl").read_text().count("\n") == 10, "the last round is noted")
    rounds = [json.loads(line)["record"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(one["dropped"] == [] and one["answered"] == one["cohort"] for one in rounds), rounds


def intruders_are_refused(federation, ids):
    for name in ("unknown", "revoked"):
        assert "Failed to initialize the connection to the SuperLink" in federation.ended(name)
    beat = SendNodeHeartbeatRequest(
        node=Node(node_id=int(ids[0])), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
    ).SerializeToString()
    path, own = "/v1/fleet/send-node-heartbeat", federation.folder / "dep" / "node-0" / "node.key"
    mine = federation.signed(own)
    assert federation.post(federation.gate, path, beat, mine) == 200
    # The same signed header again: the gate takes it for what it is. The SuperLink alone does not notice.
    assert federation.post(federation.gate, path, beat, mine) == 409
    assert federation.post(federation.superlink, path, beat, mine) == 200
    other = federation.signed(federation.folder / "dep" / "node-1" / "node.key")
    assert federation.post(federation.gate, path, beat, other) == 401
    assert federation.post(federation.gate, path, beat, {}) == 401
    # What an operator may do is not reached from outside, and nothing is without TLS.
    assert federation.post(federation.gate, "/v1/control/list-nodes", b"", federation.signed(own)) == 404
    for port in (federation.gate, federation.superlink):
        with pytest.raises(OSError, match=r"closed|reset|refused|EOF|Remote end"):
            federation.post(port, path, beat, federation.signed(own), scheme="http")
    key = federation.folder / "dep" / "node-0" / "node.key"
    command = federation.programs["sottovoce-node-0"]["command"]
    plain = [
        *command[:3],
        "--insecure",
        "--auth-supernode-private-key",
        str(key),
        "--port",
        str(federation.spare.pop()),
    ]
    refused = subprocess.run(plain, capture_output=True, text=True, timeout=90)
    assert refused.returncode != 0
    assert "requires a secure TLS connection" in refused.stdout + refused.stderr
