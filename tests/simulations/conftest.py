import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sottovoce.privacy.errors import DataError
from sottovoce.simulations.dataset import locate


@pytest.fixture(scope="session")
def real_set() -> Callable[[str], Path]:
    """Data folder that holds the named set; the test is skipped where it is missing."""

    def find(folder: str) -> Path:
        try:
            root = locate(None, os.environ.get("SOTTOVOCE_DATA"), Path(__file__).resolve().parents[2])
        except DataError as error:
            pytest.skip(f"{error.what}: {error.todo}")
        if not (root / folder).is_dir():
            pytest.skip(f"{folder}/ is not in the data folder")
        return root

    return find
