"""A file of traces, and the secret of the device beside it."""

import os
import secrets
from pathlib import Path

from sottovoce.client.trace import SHORTEST_SECRET, Trace, encode_trace
from sottovoce.privacy.errors import DeviceError

SECRET_BYTES = 32
SUFFIX = ".secret"


def secret_of(traces: Path, secret: Path | None) -> Path:
    """Where the secret of a file of traces lies: beside it, unless it is said."""
    return secret or traces.with_suffix(SUFFIX)


def append_trace(path: Path, trace: Trace) -> None:
    """One more line in a file of traces; a new one is readable by its owner only.

    Raises:
        DeviceError: it cannot be written.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(encode_trace(trace))
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name a file you may write") from error


def made_secret(path: Path) -> bytes:
    """The device's secret; a new one, readable by its owner only, where there is none.

    Raises:
        DeviceError: it can be neither read nor made, or is too short.
    """
    try:
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_secret(path)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name a file you may write") from error
    made = secrets.token_bytes(SECRET_BYTES)
    with os.fdopen(place, "wb") as file:
        file.write(made)
    return made


def read_secret(path: Path) -> bytes:
    """The device's secret.

    Raises:
        DeviceError: it cannot be read, or is too short.
    """
    known = _read(path)
    if len(known) < SHORTEST_SECRET:
        raise DeviceError(f"{path}: {len(known)} bytes are no secret", "remove the file, and a new one is made")
    return known


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name an existing file you may read") from error
