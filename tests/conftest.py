"""Settings for every test."""

import os

import pytest
import torch

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors on many threads spend their time waiting for each other."""
    torch.set_num_threads(1)
