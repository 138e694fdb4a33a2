"""Processes that do the jobs of a sweep side by side, one thread each, and end whole when they are told to.

A worker that dies takes one job with it, which is reported; another worker takes its place.
"""

import multiprocessing
import multiprocessing.connection
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType

from sottovoce.simulations.experiment import DataSource
from sottovoce.simulations.sweep_job import Job, serve

MOMENT_S = 0.3
"""Seconds after which Ctrl-C is heard at the latest."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a job.

    Attributes:
        job: which.
        kind: `round` after each round, then one of `done`, `stopped`, `failed` (by an error that is reported) and
            `died` (with its worker).
        round: finished ones.
        what: why it failed or died.
        todo: what to do about it.
    """

    job: Job
    kind: str
    round: int = 0
    what: str = ""
    todo: str = ""


class _Worker:
    """A process and the job it is at."""

    def __init__(self, source: DataSource, data_dir: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, source, data_dir), daemon=True)
        with _unheard_interrupt():
            self.process.start()
        other.close()
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        """The next job."""
        self.job = job
        with suppress(OSError):  # it is dead: waiting for its answer will tell
            self.connection.send(job)

    def stop(self) -> None:
        """Ask it to go home after the round it is in."""
        with suppress(OSError):
            self.connection.send(None)

    def end(self) -> None:
        """See it off; whatever it is still doing is cut off, and can be continued."""
        self.process.join(0.0 if self.job else 5.0)
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextmanager
def _unheard_interrupt() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; a child that is born here never hears of it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Starting the first child also starts this one, which lets the signal through again when it is up.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(
    jobs: Iterable[Job],
    workers: int,
    source: DataSource,
    data_dir: Path | None,
    on_event: Callable[[Event], None],
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Have every job done, each by one of `workers` processes.

    Args:
        jobs: in the order in which they are begun.
        workers: at least 1.
        source: the data that each worker loads.
        data_dir: where the public data sets lie.
        on_event: called with everything that happens.
        on_stop: called when Ctrl-C was heard and workers end their rounds.

    Raises:
        KeyboardInterrupt: Ctrl-C. Every worker has ended the round it was in, or was killed by a second Ctrl-C; folders
            are whole either way.
    """
    waiting = deque(jobs)
    crew: list[_Worker] = []
    with _interrupts() as heard:
        try:
            while not heard and (waiting or any(worker.job for worker in crew)):
                while waiting and len(crew) < workers:
                    crew.append(_Worker(source, data_dir))
                for worker in crew:
                    if worker.job is None and waiting:
                        worker.give(waiting.popleft())
                _hear(crew, on_event)
            if heard:
                on_stop()
        finally:
            for worker in crew:
                worker.stop()
            while len(heard) < 2 and any(worker.job for worker in crew):
                _hear(crew, on_event)
            for worker in crew:
                worker.end()
    if heard:
        raise KeyboardInterrupt


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Every Ctrl-C so far, as a list that grows: an exception could come amid a message of a worker."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signature of a signal handler
        heard.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    before = signal.signal(signal.SIGINT, hear)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, before)


def _hear(crew: list[_Worker], on_event: Callable[[Event], None]) -> None:
    """Wait a moment for any worker to say something or to die, and pass it on."""
    by_connection = {worker.connection: worker for worker in crew}
    for connection in multiprocessing.connection.wait(list(by_connection), MOMENT_S):
        worker = by_connection[connection]  # type: ignore[index]
        job = worker.job
        try:
            kind, *details = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            crew.remove(worker)
            worker.connection.close()
            if job is not None:
                on_event(Event(job, "died", what=_death(worker.process.exitcode)))
            continue
        if job is None:
            continue
        if kind == "round":
            on_event(Event(job, kind, round=details[0]))
            continue
        worker.job = None
        what, todo = (*details, "", "")[:2]
        on_event(Event(job, kind, what=what, todo=todo))


def _death(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        try:
            return f"its worker was killed ({signal.Signals(-code).name})"
        except ValueError:
            return f"its worker was killed (signal {-code})"
    return f"its worker ended with exit code {code}"
