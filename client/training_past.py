"""How often this one phone joined which run, kept on its disk: what a restart, and a deletion, must not forget.

It lies outside the store of events, so that deleting one's data does not make the device take part more often. It holds
names of runs, numbers of rounds and one time, and nothing about what was learned. A round is written down before any
row is looked at; a crash in between counts as joined.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Moment
from sottovoce.models.atomic import write_atomically

RUNS = 64
"""Runs that are remembered; the one not joined for longest is forgotten first."""

_MOST_BYTES = 64 * 1024


class JoinedRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run that the device took part in.

    Attributes:
        run_id: as the coordinator calls it.
        rounds: how many it joined.
        last: the newest of them.
    """

    run_id: Annotated[str, Meta(max_length=256)]
    rounds: Annotated[int, Meta(ge=1)]
    last: Annotated[int, Meta(ge=0)]


class TrainingPast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every run that is remembered.

    Attributes:
        runs: the one joined last stands last.
        last: when the device last joined a round; None when it never did.
    """

    runs: Annotated[tuple[JoinedRun, ...], Meta(max_length=RUNS)] = ()
    last: Moment | None = None

    def run(self, run_id: str) -> JoinedRun | None:
        """What is known of a run; None when the device never joined it."""
        return next((run for run in self.runs if run.run_id == run_id), None)

    def since_s(self, now: datetime) -> float | None:
        """Seconds since the last round; 0 when it lies in the future, because the clock was set back."""
        return None if self.last is None else max(0.0, (now - self.last).total_seconds())

    def settled(self, now: datetime) -> "TrainingPast":
        """The same with a last round that lies in the future moved to now, so that the wait ends some time."""
        return self if self.last is None or self.last <= now else msgspec.structs.replace(self, last=_utc(now))

    def joined(self, run_id: str, round: int, now: datetime) -> "TrainingPast":
        """With one more round."""
        known = self.run(run_id)
        added = JoinedRun(run_id, known.rounds + 1 if known else 1, max(round, known.last if known else 0))
        others = tuple(run for run in self.runs if run.run_id != run_id)
        return TrainingPast((*others, added)[-RUNS:], _utc(now))


def read_past(path: Path) -> TrainingPast | None:
    """The past in that file, a new one where there is none; None when it cannot be read, and nobody may train."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return TrainingPast()
    except OSError:
        return None
    if len(data) > _MOST_BYTES:
        return None
    try:
        return msgspec.json.decode(data, type=TrainingPast)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def write_past(path: Path, past: TrainingPast) -> bool:
    """Whether the past is on the disk now; if not, what was there before still is."""
    try:
        write_atomically(path, msgspec.json.encode(past), mode=0o600)
    except OSError:
        return False
    return True


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
