"""Watching a coordinator at work: log, metrics and diary around a run, wherever it runs."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sottovoce.server.ledger_look import LedgerWatch
from sottovoce.server.metrics_address import require_safe
from sottovoce.server.observer import RoundObserver, Together
from sottovoce.server.run_log import RunLog, logging_to
from sottovoce.simulations.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Operations:
    """What an operator asked for. None of it changes what is trained, released or spent.

    Attributes:
        log_json: JSON lines on standard error.
        log_file: JSON lines appended to a file.
        restricted: also tell what depends on cohorts: in the log, and on `/metrics/restricted`.
        metrics_port: of the metrics; None for none, 0 for a free one.
        metrics_host: address of the metrics.
        metrics_anywhere: whether an address outside loopback was meant.
        overdue_s: longest time between two rounds, in seconds.
        least_nodes: below it the coordinator is not ready.
        certificates: PEM files whose expiry is told.
    """

    log_json: bool = False
    log_file: Path | None = None
    restricted: bool = False
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    metrics_anywhere: bool = False
    overdue_s: float = 1800.0
    least_nodes: int = 1
    certificates: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an address that more people can reach than was meant, before anything is made or spent."""
        if self.metrics_port is not None:
            require_safe(self.metrics_host, self.metrics_anywhere, self.restricted)


@dataclass(frozen=True, slots=True)
class Operated:
    """A run that is watched.

    Attributes:
        observer: to hand to the coordinator.
        log: for what is not about rounds.
        port: of the metrics; None without them.
    """

    observer: RoundObserver
    log: RunLog
    port: int | None


@contextmanager
def operated(asked: Operations, folder: RunFolder, rounds: int) -> Iterator[Operated]:
    """Open what was asked for, and close it when the block ends.

    Args:
        asked: by the operator.
        folder: of the run, which is made already.
        rounds: planned.

    Raises:
        ConfigError: the log cannot be opened, or the metrics cannot or must not be served there.
    """
    with ExitStack() as opened:
        stream = sys.stderr if asked.log_json else None
        log = opened.enter_context(logging_to(folder.path.resolve().name, stream, asked.log_file, asked.restricted))
        log.tell("run_started", version=version("sottovoce"), rounds_planned=rounds)
        observers: list[RoundObserver] = [log]
        port = None
        if asked.metrics_port is not None:
            # Only here: who wants no metrics needs no library for them.
            from sottovoce.server.metrics_server import serving
            from sottovoce.server.run_metrics import RunMetrics, Watched

            metrics = RunMetrics(
                Watched(
                    ledger=LedgerWatch(folder.ledger),
                    folder=folder.path,
                    rounds=rounds,
                    overdue_s=asked.overdue_s,
                    certificates=asked.certificates,
                )
            )
            port = opened.enter_context(
                serving(
                    metrics,
                    asked.metrics_port,
                    asked.metrics_host,
                    elsewhere=asked.metrics_anywhere,
                    restricted=asked.restricted,
                    least_nodes=asked.least_nodes,
                )
            )
            observers.append(metrics)
        yield Operated(Together(*observers, failed=log.failed), log, port)
