"""How much memory this process took."""

import sys
from pathlib import Path


def peak_rss_mib() -> float:
    """Most memory that this process ever held, in MiB.

    Where the system tells it per program, that is read: the figure of `getrusage` is carried over from the process that
    started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
