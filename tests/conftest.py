"""Settings for every test, and a way to the privacy lint beside them, to which pytest's importlib mode adds no path."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from sottovoce.simulations.postgres_server import NoServerError, server

# A shell starts what runs in the background with interrupts ignored, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors on many threads spend their time waiting for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server for this session; tests are skipped where none can be started."""
    pytest.importorskip("psycopg", reason="ledgers on PostgreSQL are part of the [postgres] extra")
    with pytest.MonkeyPatch.context() as environment:
        # Whatever is set for other servers would change how this one is reached.
        for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGOPTIONS", "PGSERVICE", "PGSSLMODE"):
            environment.delenv(name, raising=False)
        running = server()
        try:
            started = running.__enter__()
        except NoServerError as error:
            pytest.skip(f"{error.what}: {error.todo}")
        yield started
        running.__exit__(None, None, None)


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    """Where a new ledger may be made: a file, then an empty database."""
    if request.param == "sqlite":
        return tmp_path / "ledger.db"
    found = request.getfixturevalue("postgres")
    return found.address(found.new_database())
