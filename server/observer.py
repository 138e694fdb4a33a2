"""What a coordinator tells whoever watches it, round by round; watching changes nothing.

Some of it is secret. While an epsilon rests on secret cohorts, every figure here that depends on who was drawn must
stay with the coordinator: replies, bytes, and the seconds of the phases in `DRAWN`. Whoever implements `RoundObserver`
decides where each figure goes.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from flwr.app import Message
from flwr.common.constant import ErrorCode

Outcome = Literal["used", "late", "duplicate", "malformed", "error", "silent"]
"""What became of a reply. `late`: after its message had expired. `duplicate`: of a node that was not asked, or that had
answered. `silent`: none came."""

Phase = Literal["pay", "draw", "ask", "release", "keep"]
"""Parts of a round: debit the ledger; draw the cohort; wait for replies and add them up; noise and the step of the
model; checkpoint and commit."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
PHASES: tuple[Phase, ...] = get_args(Phase)

DRAWN: frozenset[Phase] = frozenset({"draw", "ask"})
"""Phases whose length depends on how many devices were drawn. That of the others depends on public sizes only."""

_EXPIRED = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)


@dataclass(slots=True)
class Traffic:
    """What one round sent and what came back. Secret while cohorts are.

    Attributes:
        replies: messages by outcome; a node that was asked counts once under `silent` when nothing came.
        sent: bytes of the instructions.
        received: bytes of the replies, errors left out.
    """

    replies: Counter[Outcome] = field(default_factory=Counter)
    sent: int = 0
    received: int = 0

    def failed(self, message: Message | None) -> None:
        """Count a reply that is an error, or None for one that cannot be read."""
        if message is None:
            self.replies["malformed"] += 1
        else:
            self.replies["late" if message.error.code in _EXPIRED else "error"] += 1

    def settle(self, asked: int) -> None:
        """Count as silent whoever of `asked` nodes neither answered nor failed."""
        heard = sum(count for outcome, count in self.replies.items() if outcome != "duplicate")
        self.replies["silent"] = max(0, asked - heard)


class RoundObserver(Protocol):
    """Is told what a coordinator does. Must be quick, and must not raise: it runs inside the round."""

    def enrolled(self, nodes: int, devices: int, left_out: int) -> None:
        """The population is known; `left_out` nodes are connected and enrolled nobody."""

    def opened(self, round: int) -> None:
        """A round begins; it is not paid for yet."""

    def answered(self, round: int, traffic: Traffic) -> None:
        """No more replies are waited for."""

    def released(self, round: int, seconds: Mapping[Phase, float], ledger_rows: int) -> None:
        """The round's model is on disk and in the ledger, which had `ledger_rows` rows when the round was paid for."""

    def skipped(self, round: int, why: str) -> None:
        """The round was not run; `why` names no device and no node."""


class Unobserved:
    """Tells nobody."""

    def enrolled(self, nodes: int, devices: int, left_out: int) -> None:
        """Nothing."""

    def opened(self, round: int) -> None:
        """Nothing."""

    def answered(self, round: int, traffic: Traffic) -> None:
        """Nothing."""

    def released(self, round: int, seconds: Mapping[Phase, float], ledger_rows: int) -> None:
        """Nothing."""

    def skipped(self, round: int, why: str) -> None:
        """Nothing."""


class Stopwatch:
    """Seconds by phase.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds: dict[Phase, float] = {}

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Add what happens inside to a phase."""
        began = self._clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - began


def carried(message: Message) -> int:
    """Bytes of the arrays and packed messages in it; names and settings, some hundred bytes, are left out."""
    content = message.content
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    packed = (value for record in content.config_records.values() for value in record.values())
    return arrays + sum(len(value) for value in packed if isinstance(value, bytes))


class Together:
    """Tells several observers, in order; one that fails is left out from then on, for no round may be lost to it.

    Args:
        observers: whom to tell.
        failed: called once with what a failing observer raised.
    """

    def __init__(self, *observers: RoundObserver, failed: Callable[[Exception], None] = lambda _: None) -> None:
        self._left = list(observers)
        self._failed = failed

    def enrolled(self, nodes: int, devices: int, left_out: int) -> None:
        """Pass it on."""
        self._tell(lambda one: one.enrolled(nodes, devices, left_out))

    def opened(self, round: int) -> None:
        """Pass it on."""
        self._tell(lambda one: one.opened(round))

    def answered(self, round: int, traffic: Traffic) -> None:
        """Pass it on."""
        self._tell(lambda one: one.answered(round, traffic))

    def released(self, round: int, seconds: Mapping[Phase, float], ledger_rows: int) -> None:
        """Pass it on."""
        self._tell(lambda one: one.released(round, seconds, ledger_rows))

    def skipped(self, round: int, why: str) -> None:
        """Pass it on."""
        self._tell(lambda one: one.skipped(round, why))

    def _tell(self, event: Callable[[RoundObserver], None]) -> None:
        for one in tuple(self._left):
            try:
                event(one)
            except Exception as error:
                self._left.remove(one)
                self._failed(error)
