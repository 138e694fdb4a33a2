"""The files of a device that are read whole and replaced whole: catalogue and consent."""

from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TypeVar

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.errors import DeviceError

_T = TypeVar("_T")


def read_or(path: Path, decode: Callable[[bytes], _T], otherwise: _T, notes: MutableMapping[str, str]) -> _T:
    """What a file holds; where it cannot be read, something else and a note under the file's name."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        notes[path.name] = f"there is no {path.name}"
    except (DeviceError, OSError) as error:
        notes[path.name] = str(error)
    return otherwise


def replace_file(path: Path, data: bytes, notes: MutableMapping[str, str]) -> None:
    """Write a file in one step, its folder where that is missing, and drop what was noted about it.

    Raises:
        DeviceError: it cannot be written; the one before stays.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise DeviceError(
            f"{path.name} cannot be written: {error.strerror or error}", "free or repair the disk"
        ) from error
    notes.pop(path.name, None)
