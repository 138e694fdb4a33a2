"""The thin edge to the disk: a file is either the old one or the new one, never half of one."""

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` so that a crash at any moment leaves the old file or the new one.

    The bytes go to a temporary file in the same folder, are forced to the disk, take the final name in one step, and
    then the folder itself is forced to the disk. When anything fails the temporary file is removed.

    Args:
        path: the file; its folder must exist.
        data: the whole content.
        mode: permission bits of the new file, set before the first byte is written.

    Raises:
        OSError: the folder is missing, full or read-only; `path` is as it was.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.chmod(name, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder; it has nothing to force
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
