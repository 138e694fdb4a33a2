"""Settings for every test, and a way to the privacy lint beside them, to which pytest's importlib mode adds no path."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors on many threads spend their time waiting for each other."""
    torch.set_num_threads(1)
