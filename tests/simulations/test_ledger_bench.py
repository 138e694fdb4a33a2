"""`sottovoce bench ledger` measures the real thing and prints what scripts look for."""

import json

import pytest

from sottovoce.simulations.cli import run
from sottovoce.simulations.ledger_bench import Effort, bench

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

KEYS = ["appends_per_s", "reserve_ms_at_10000", "kills", "acknowledged_lost", "tampers_tried", "tampers_found"]


def test_a_small_bench_measures_everything_and_leaves_nothing_behind(tmp_path):
    said = []
    result = bench(tmp_path, Effort(kills=2, writers=2, rounds=50, seconds=0.1, tamper_step=20), said.append)
    for speed in (result, result.postgres):
        if speed is None:
            continue
        assert speed.appends_per_s > 0
        assert speed.appends_per_s_batched > 0
        assert speed.reserve_ms_at_10000 > 0
        assert speed.check_ms_at_10000 > 0
        assert (speed.kills, speed.acknowledged_lost, speed.rows) == (2, 0, 102)
        assert speed.tampers_found == speed.tampers_tried > 15
        assert speed.releases_made == speed.releases_allowed == 80
    assert result.fsyncs_per_s > 0
    assert said[0] == "the disk"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused(tmp_path, capfd):
    assert run(["bench", "ledger", "--folder", str(tmp_path / "none"), "--json"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "not a folder you may write to" in err


@pytest.mark.soak
def test_the_command_prints_one_json_object_with_the_agreed_keys_first(tmp_path, capfd):
    assert run(["bench", "ledger", "--folder", str(tmp_path), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert list(told)[: len(KEYS)] == KEYS
    assert told["kills"] == 100
    assert told["acknowledged_lost"] == 0
    assert told["tampers_found"] == told["tampers_tried"]
