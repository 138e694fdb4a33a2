"""A coordinator's log: one JSON object a line, with declared fields only, and nothing that tells who took part.

Every line has `time` (UTC, ISO 8601, milliseconds), `level`, `event` and `run`; `EVENTS` names the other fields of
each event. A field that is not declared there is a programmer's mistake and raises. No device, no node, no count that
depends on a cohort is among them, except under `round_answered`, which is written only where the operator asked for
restricted events. Texts come from reported errors alone: those of any other exception could hold anything, so only its
type is told.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import TextIO

from sottovoce.privacy.errors import ConfigError, SottovoceError
from sottovoce.server.observer import DRAWN, Phase, Traffic

EVENTS: Mapping[str, frozenset[str]] = {
    "run_started": frozenset({"version", "rounds_planned"}),
    "enrolled": frozenset({"nodes", "devices", "left_out"}),
    "round_opened": frozenset({"round"}),
    "round_answered": frozenset(
        {"round", "used", "late", "duplicate", "malformed", "error", "silent", "sent_bytes", "received_bytes"}
    ),
    "round_released": frozenset({"round", "ledger_rows", "pay_s", "release_s", "keep_s", "draw_s", "ask_s"}),
    "round_skipped": frozenset({"round", "reason"}),
    "observer_failed": frozenset({"kind"}),
    "note": frozenset({"text"}),
    "run_ended": frozenset({"outcome", "kind", "reason"}),
}
"""Fields of each event besides those of every line. `draw_s` and `ask_s` are restricted like `round_answered`."""

LONGEST = 1000
"""Characters of a text that are kept."""

_SECRETS = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.S), "[key or certificate]"),
    (re.compile(r"(?<=://)[^/\s@]*:[^\s]*@"), "[login]@"),
    (
        re.compile(
            r"(?i)(\"?\b(?:[\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key)|pgpassword|authorization))"
            r"(\"?\s*[=:]\s*)(?:(?:bearer|basic)\s+)?(\"[^\"]*\"|'[^']*'|[^\s,;&]+)"
        ),
        r"\1\2[secret]",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/-]{8,}=*"), r"\1 [secret]"),
    (re.compile(r"(?i)\b(node|device)s?\s*[:#=]?\s*\d(?:[\d, ]*\d)?"), r"\1 [number]"),
)


def redacted(text: str) -> str:
    """`text` without logins, passwords, tokens, keys, and numbers of nodes and devices; cut at `LONGEST` characters.

    A net below the rule, which is that no secret is ever handed to the log.
    """
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


class RunLog:
    """A `RoundObserver` that writes.

    Args:
        logger: with handlers whose formatter is `JsonLines`.
        restricted: whether to write what depends on cohorts.
    """

    def __init__(self, logger: logging.Logger, restricted: bool = False) -> None:
        self._logger, self._restricted = logger, restricted

    def tell(self, event: str, level: int = logging.INFO, /, **fields: str | float) -> None:
        """Write one event.

        Raises:
            ValueError: the event or a field is not declared.
        """
        unknown = fields.keys() - EVENTS.get(event, frozenset()) if event in EVENTS else {event}
        if unknown:
            raise ValueError(f"not declared for the log: {sorted(unknown)}")
        told = {name: redacted(value) if isinstance(value, str) else value for name, value in fields.items()}
        self._logger.log(level, event, extra={"fields": told})

    def enrolled(self, nodes: int, devices: int, left_out: int) -> None:
        """Write it."""
        self.tell("enrolled", nodes=nodes, devices=devices, left_out=left_out)

    def opened(self, round: int) -> None:
        """Write it."""
        self.tell("round_opened", round=round)

    def answered(self, round: int, traffic: Traffic) -> None:
        """Write it where restricted events were asked for."""
        if self._restricted:
            counts = {outcome: traffic.replies[outcome] for outcome in traffic.replies}
            self.tell("round_answered", round=round, **counts, sent_bytes=traffic.sent, received_bytes=traffic.received)

    def released(self, round: int, seconds: Mapping[Phase, float], ledger_rows: int) -> None:
        """Write it; phases that depend on the cohort where restricted events were asked for."""
        told: dict[str, str | float] = {
            f"{phase}_s": round_to(spent) for phase, spent in seconds.items() if self._restricted or phase not in DRAWN
        }
        self.tell("round_released", round=round, ledger_rows=ledger_rows, **told)

    def skipped(self, round: int, why: str) -> None:
        """Write it."""
        self.tell("round_skipped", logging.WARNING, round=round, reason=why)

    def failed(self, error: Exception) -> None:
        """Write that an observer is left out from now on."""
        self.tell("observer_failed", logging.ERROR, kind=type(error).__name__)


def round_to(seconds: float) -> float:
    """Seconds to the millisecond."""
    return round(seconds, 3)


class JsonLines(logging.Formatter):
    """One JSON object a line, ASCII only, so that no text can break out of its line or move a terminal's cursor.

    Args:
        run: name of the run, in every line.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), "run": self._run}
        return json.dumps({**head, **getattr(record, "fields", {})})


class _Stream(logging.StreamHandler[TextIO]):
    """To standard error; whoever closed it does not end the run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        """A log that cannot be written stops nothing."""


class _File(WatchedFileHandler):
    """To a file that may be rotated; a full disk loses lines and says so once."""

    said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the base class's
        """Say once that lines are lost."""
        if not self.said:
            self.said = True
            print(f"log: {self.baseFilename} cannot be written, lines are lost", file=sys.stderr)  # noqa: T201

    def _open(self) -> TextIOWrapper:
        return os.fdopen(
            os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8"
        )


@contextmanager
def logging_to(run: str, stream: TextIO | None, file: Path | None, restricted: bool = False) -> Iterator[RunLog]:
    """A log while the block runs, which says how the block ended.

    Args:
        run: name of the run.
        stream: where JSON lines go; None for nowhere.
        file: to which they are appended, readable by its owner only; None for none.
        restricted: see `RunLog`.

    Raises:
        ConfigError: the file cannot be opened.
    """
    # Not one of logging's named loggers: those are global, and other libraries write node numbers there.
    logger = logging.Logger("sottovoce")
    handlers: list[logging.Handler] = [] if stream is None else [_Stream(stream)]
    if file is not None:
        try:
            handlers.append(_File(file))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}", "choose a file you may write to") from error
    # Without any handler logging would print bare names of events by itself.
    logger.addHandler(logging.NullHandler())
    for handler in handlers:
        handler.setFormatter(JsonLines(run))
        logger.addHandler(handler)
    log = RunLog(logger, restricted)
    try:
        yield log
    except SottovoceError as error:
        log.tell("run_ended", logging.ERROR, outcome="refused", kind=type(error).__name__, reason=error.what)
        raise
    except KeyboardInterrupt:
        log.tell("run_ended", logging.WARNING, outcome="interrupted")
        raise
    except BaseException as error:
        log.tell("run_ended", logging.CRITICAL, outcome="failed", kind=type(error).__name__)
        raise
    else:
        log.tell("run_ended", outcome="finished")
    finally:
        for handler in handlers:
            # On a full disk what is still buffered fails here once more; the run and its result are whole.
            with suppress(OSError):
                handler.close()
