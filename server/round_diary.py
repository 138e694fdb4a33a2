"""What an operator may look up about each round afterwards: replies by outcome, bytes, seconds by phase.

One JSON line a round, in the restricted part of the run folder: it tells how many answered, which outsiders must not
learn while an epsilon rests on secret cohorts.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from sottovoce.server.observer import Outcome, Phase, Traffic, Unobserved


class DiaryLine(msgspec.Struct, frozen=True, kw_only=True):
    """One round.

    Attributes:
        round: from 1.
        replies: by outcome.
        sent: bytes.
        received: bytes.
        seconds: by phase.
    """

    round: int
    replies: dict[Outcome, int]
    sent: int
    received: int
    seconds: dict[Phase, float]


class RoundDiary(Unobserved):
    """A `RoundObserver` that keeps a line of each released round.

    Args:
        file: appended to; its folder is made, for its owner only.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._traffic = Traffic()

    def opened(self, round: int) -> None:  # noqa: ARG002 - the protocol's signature
        """A new line begins."""
        self._traffic = Traffic()

    def answered(self, round: int, traffic: Traffic) -> None:  # noqa: ARG002 - the protocol's signature
        """Remember it for the line."""
        self._traffic = traffic

    def released(
        self,
        round: int,
        seconds: Mapping[Phase, float],
        ledger_rows: int,  # noqa: ARG002 - the protocol's signature
    ) -> None:
        """Write the line; raises OSError where that is not possible."""
        traffic = self._traffic
        line = DiaryLine(
            round=round,
            replies={outcome: count for outcome, count in traffic.replies.items() if count},
            sent=traffic.sent,
            received=traffic.received,
            seconds=dict(seconds),
        )
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._file.open("ab") as file:
            # A line that a crash cut short is closed first, or it would swallow this one.
            file.write((b"\n" if file.tell() else b"") + msgspec.json.encode(line))


def read(file: Path) -> dict[int, DiaryLine]:
    """The lines by round, the newest of each; those that a crash cut short are passed over.

    Raises:
        OSError: the file is there and cannot be read.
    """
    found = {}
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            read = msgspec.json.decode(line, type=DiaryLine)
        except msgspec.DecodeError:
            continue
        found[read.round] = read
    return found
