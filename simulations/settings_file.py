"""Settings that stand in a file of their own, as JSON or as TOML."""

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from sottovoce.privacy.errors import ConfigError

MOST_BYTES = 1024 * 1024
T = TypeVar("T")


def read_settings(path: Path, kind: type[T]) -> T:
    """The settings in a file; TOML by the ending `.toml`, otherwise JSON.

    Args:
        path: of the file.
        kind: what they are, a struct.

    Raises:
        ConfigError: no such file, too large, or not these settings; the message names the place.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", "name a file you may read") from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: more than {MOST_BYTES} bytes", "keep it shorter")
    try:
        if path.suffix == ".toml":
            return msgspec.convert(tomllib.loads(data.decode()), kind)
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}", "correct it at that place") from error
