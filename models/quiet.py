"""Keep compiled libraries from writing to the terminal while they are called.

They write to file descriptor 2 directly, so that nothing in Python can filter what they say. Failures still come out as
exceptions; only a crash of the whole process would lose its last words.
"""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send file descriptor 2 of the whole process, all threads, to nowhere, and put it back whatever happens."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: nobody listens
        yield
        return
    try:
        _flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        _flush()
        os.dup2(kept, 2)
        os.close(kept)


def _flush() -> None:
    """What Python still holds goes where it was meant to go."""
    if sys.stderr is not None:
        sys.stderr.flush()
