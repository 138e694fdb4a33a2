"""What a line that is said to a device comes to, and the parts that lines are made of."""

from pathlib import Path
from typing import Any, NamedTuple

from sottovoce.privacy.errors import DeviceError

_MOST = 64 * 1024


class Answer(NamedTuple):
    """What a line came to.

    Attributes:
        text: for people.
        data: for scripts.
        done: nothing more is to be said.
    """

    text: str
    data: dict[str, Any]
    done: bool = False


def one_word(words: list[str], usage: str) -> str:
    """The only word of a line.

    Raises:
        DeviceError: there is another number of words.
    """
    if len(words) != 1 or not words[0]:
        raise DeviceError("one word is missing or too much", f"say: {usage}")
    return words[0]


def file_content(path: str) -> bytes:
    """A small file; of one that is too large, enough for whoever reads it to say so.

    Raises:
        DeviceError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(_MOST + 1)
    except (OSError, ValueError) as error:
        raise DeviceError(f"{path}: {getattr(error, 'strerror', None) or error}", "name a file you may read") from None
