"""How many threads one torch operation may use."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(most: int) -> Iterator[None]:
    """At most `most` threads within one torch operation, then as before.

    More threads than cores mostly wait for each other. Small operations gain little from a second thread, and on a busy
    machine lose tenfold.
    """
    import torch  # not part of the device runtime, whose commands import this too

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, most)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
