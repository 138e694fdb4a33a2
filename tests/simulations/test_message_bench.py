"""`bench messages` exchanges real messages with a real SuperLink."""

import json
import shutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("flower-superlink", path=Path(sys.executable).parent) is None, reason="flwr not installed"
)


def test_a_small_bench_counts_every_byte_that_it_sent(call):
    code, out, err = call("bench", "messages", "--nodes", 1, "--values", 5000, "--arrays", 1, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert 20_000 < told["bytes_down"] < 25_000
    assert 20_000 < told["bytes_up"] < 25_000
    assert min(told["push_ms"], told["node_ms"], told["pull_ms"], told["idle_poll_ms"]) > 0
    assert told["superlink_mib_after"] >= told["superlink_mib_before"] > 50


def test_more_arrays_than_values_are_refused(call):
    code, out, err = call("bench", "messages", "--values", 1, "--arrays", 2)
    assert (code, out) == (1, "")
    assert "1 values in 2 arrays" in err
