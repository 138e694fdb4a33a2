import pytest
import torch

from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.accelerator import require_accelerator

MARKET = ("--data", "market", "--set", "data.devices=60", "--rounds", "1", "--no-baselines")


def missing_card():
    """Name of a kind of card that this machine has not."""
    return "mps" if torch.cuda.is_available() else "cuda"


def test_the_processor_is_always_there():
    assert require_accelerator("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "cpu:x", "meta", missing_card()])
def test_what_torch_cannot_compute_on_is_refused_by_name(name):
    with pytest.raises(ConfigError, match="--device"):
        require_accelerator(name)


def test_a_run_without_its_card_is_refused_before_anything_is_written(call, tmp_path):
    code, _, err = call("simulate", *MARKET, "--device", missing_card(), "--out", tmp_path / "run")
    assert code == 1
    assert "--device" in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_a_benchmark_without_its_card_is_refused(call):
    code, out, err = call("bench", "fleet", "--device", missing_card(), "--json")
    assert (code, out) == (1, "")
    assert "--device" in err
