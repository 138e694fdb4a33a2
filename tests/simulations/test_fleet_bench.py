"""`sottovoce bench fleet`: every contender does the same work, which is what its figures rest on."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from sottovoce.client.fleet import update_norms
from sottovoce.models.ranker import initial
from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations import fleet_bench
from sottovoce.simulations.cli import run
from sottovoce.simulations.fleet_bench import Fleet, bench, parse_peers
from sottovoce.simulations.fleet_work import PARAMETERS, ROWS, SCHEMA, fleet_work
from sottovoce.simulations.peer_loop import Loop

DEVICES = 6


@pytest.fixture(scope="module")
def work():
    return fleet_work(DEVICES)


def furthest(one, other):
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_the_work_has_the_promised_size(work):
    assert sum(value.numel() for value in initial(SCHEMA, work.config, 0).values()) == PARAMETERS == 140_000
    assert {name: value.shape for name, value in work.parameters.items()} == {
        name: value.shape for name, value in initial(SCHEMA, work.config, 0).items()
    }
    assert np.diff(work.examples.offsets).tolist() == [64] * DEVICES
    assert (work.training.steps, work.training.max_rows, work.devices) == (8, ROWS, DEVICES)


def test_a_worker_process_makes_the_same_work_again(work):
    again = fleet_work(DEVICES)
    for field in ("device", "context", "ad", "labels", "catalogue"):
        np.testing.assert_array_equal(getattr(again.examples, field), getattr(work.examples, field))
    assert all(torch.equal(again.parameters[name], value) for name, value in work.parameters.items())


def test_some_devices_are_clipped_and_some_are_not():
    work = fleet_work(60)
    norms = update_norms(
        work.parameters, work.examples, work.schema, work.config, work.training, np.arange(work.devices)
    )
    assert 15 <= (norms > work.clip_norm).sum() <= 45


def test_the_fleet_and_the_loop_reach_the_same_sum(work):
    loop, two = Loop(work).total(), Fleet(work, 2)
    assert furthest(two.total(), loop) < 1e-5
    assert furthest(Fleet(work, 1).total(), loop) < 1e-5
    assert max(np.abs(value).max() for value in loop.values()) > 0.1
    assert all(np.abs(value).max() > 0 for value in loop.values()), "a parameter that nobody trains"


def test_a_round_ends_with_noise_of_the_stated_size_over_the_cohort(work):
    nothing = {name: np.zeros(value.shape) for name, value in work.parameters.items()}
    mean = work.noisy_mean(nothing, np.random.default_rng(5))
    drawn = np.concatenate([value.ravel() for value in mean.values()])
    assert len(drawn) == PARAMETERS
    assert drawn.std() == pytest.approx(work.clip_norm * work.noise_multiplier / DEVICES, rel=0.02)


def test_figures_are_given_for_every_contender_and_add_up():
    found = bench(8, 1, ("loop",), lambda what: None)
    ours = found.ms_per_device_round
    assert ours.keys() == found.cores.keys() == {"fleet", "fleet_one_thread", "loop"}
    assert found.ratio["loop"] == pytest.approx(ours["loop"] / ours["fleet"], rel=0.02, abs=0.06)
    assert found.ratio_per_core["loop"] == pytest.approx(ours["loop"] / ours["fleet_one_thread"], rel=0.02, abs=0.06)
    assert 0 < found.max_abs_diff == found.difference["loop"] < 1e-5
    assert found.parameters == PARAMETERS
    for name, (least, most) in found.ms_range.items():
        assert least <= ours[name] <= most


def test_a_sum_that_differs_shows_in_the_figures(monkeypatch):
    class Careless(Loop):
        def total(self):
            return super().total() | {"head.bias": np.full((1, 2), 77.0)}

    monkeypatch.setattr(fleet_bench, "Loop", Careless)
    assert bench(8, 1, ("loop",), lambda what: None).max_abs_diff > 60


def test_an_unknown_peer_is_refused_with_those_there_are(capsys):
    assert run(["bench", "fleet", "--against", "loop,flour", "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "'flour'" in told.err
    assert "flower, pfl, loop" in told.err
    with pytest.raises(ConfigError):
        parse_peers("")


@pytest.mark.parametrize(("peer", "module"), [("flower", "ray"), ("pfl", "pfl")])
def test_a_peer_that_is_not_installed_is_refused_with_what_to_install(monkeypatch, capsys, peer, module):
    monkeypatch.setattr(fleet_bench, "find_spec", lambda name: None if name == module else object())
    assert run(["bench", "fleet", "--against", f"loop,{peer}", "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{module} not installed" in told.err
    assert 'pip install "sottovoce[peers]"' in told.err


def test_peers_are_taken_in_any_order_and_once():
    assert parse_peers("loop, loop") == ("loop",)


def test_pfl_reaches_the_same_sum_and_adds_noise_of_the_same_size(work):
    pytest.importorskip("pfl", reason="needs the extra sottovoce[peers]")
    from sottovoce.simulations.peer_pfl import Pfl

    pfl = Pfl(work)
    try:
        assert furthest(pfl.total(), Loop(work).total()) < 1e-4
        pfl.round()
        moved = pfl.parameters()["tower.weight"] - work.parameters["tower.weight"].numpy()
        assert moved.std() == pytest.approx(work.clip_norm * work.noise_multiplier / DEVICES, rel=0.2)
    finally:
        pfl.close()


@pytest.mark.soak
def test_flower_on_ray_reaches_the_same_sum():
    pytest.importorskip("ray", reason="needs the extra sottovoce[ray]")
    from sottovoce.simulations.peer_flower import flower_rounds

    found = flower_rounds(4, 2)
    assert furthest(found.total, Loop(fleet_work(4)).total()) < 1e-5
    assert len(found.seconds) == 2
    assert min(found.seconds) > 0
    assert found.start_up_s > 0


@pytest.mark.soak
def test_the_command_measures_everybody_that_is_installed(capsys):
    pytest.importorskip("ray", reason="needs the extra sottovoce[ray]")
    assert run(["bench", "fleet", "--devices", "8", "--repeats", "2", "--against", "flower,loop", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ms_per_device_round"].keys() == {"fleet", "fleet_one_thread", "flower", "loop"}
    assert found["ratio"].keys() == found["difference"].keys() == {"flower", "loop"}
    assert found["max_abs_diff"] < 1e-4


def test_the_benchmark_runs_where_only_the_peers_are_installed():
    """pfl-research and [train] want different versions of dp-accounting, so that they never share an environment."""
    program = """
import sys
for name in ("onnx", "litert_torch", "opacus", "PIL", "pyarrow", "safetensors"):
    sys.modules[name] = None
from sottovoce.simulations.cli import run
sys.exit(run(["bench", "fleet", "--devices", "8", "--repeats", "1", "--json"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 140_000
