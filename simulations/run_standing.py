"""How a run stands, read from its folder alone: during the run, after it, and whoever trains it.

Nothing is locked, written or waited for, so looking never disturbs a coordinator.
"""

import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec

from sottovoce.privacy.errors import CheckpointError
from sottovoce.server import round_diary
from sottovoce.server.ledger_look import LedgerLook
from sottovoce.server.observer import Outcome, Phase
from sottovoce.simulations.folder import Point, RunFolder

State = Literal["starting", "running", "quiet", "finished"]
"""`quiet`: rounds are left, and no round came for longer than rounds take here; it ended, waits or hangs."""

RECENT = 20
"""Rounds that the estimates go by."""

QUIET_S = 60.0
"""A run is not called quiet before."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run is. Tells counts that depend on cohorts: for its operator only.

    Attributes:
        run: name of the folder.
        data: name of the data set.
        state: see `State`.
        rounds: done.
        rounds_planned: in all.
        since_s: seconds since the last round, or since the folder was made.
        round_s: median of the last rounds, None before the first.
        left_s: until the end at that speed; None where nothing can be said.
        auc: by round, where it was judged.
        epsilon: spent, against an outsider; None without a finite figure.
        epsilon_known_cohort: against somebody who knows who took part, by the plan's cap; None likewise.
        budget: of the campaign; None without a limit.
        ledger_rows: length of the chain.
        ledger_problem: why the ledger tells nothing; empty when every row is as it was written.
        phases: median seconds of the last rounds by phase; empty for runs that kept no diary.
        replies: by outcome, over all rounds; empty likewise.
        sent: bytes, over all rounds.
        received: bytes, over all rounds.
        dropped: unusable replies of the last round.
        problem: why the rounds cannot be read; empty when they can.
    """

    run: str
    data: str
    state: State
    rounds: int
    rounds_planned: int
    since_s: float
    round_s: float | None
    left_s: float | None
    auc: dict[int, float]
    epsilon: float | None
    epsilon_known_cohort: float | None
    budget: float | None
    ledger_rows: int
    ledger_problem: str
    phases: dict[Phase, float]
    replies: dict[Outcome, int]
    sent: int
    received: int
    dropped: int
    problem: str = ""


def changed(folder: RunFolder) -> float:
    """When the run last wrote down a round, or its experiment; seconds since 1970.

    Raises:
        OSError: neither file is there.
    """
    file = folder.metrics_file if folder.metrics_file.exists() else folder.experiment_file
    return file.stat().st_mtime


def standing(folder: RunFolder, seen: LedgerLook, now: float) -> Standing:
    """Read a run folder.

    Args:
        folder: of the run.
        seen: what its ledger says.
        now: seconds since 1970.

    Raises:
        ConfigError: not a run folder.
        OSError: a file cannot be read.
    """
    experiment = folder.experiment()
    problem, points = "", list[Point]()
    try:
        points = folder.points()
    except CheckpointError as error:
        problem = error.what
    done = points[-1].record.round if points else 0
    diary = [line for number, line in sorted(round_diary.read(folder.diary_file).items()) if number <= done]
    recent = [point.record.seconds for point in points[-RECENT:]]
    round_s = statistics.median(recent) if recent else None
    since = max(0.0, now - changed(folder))
    # Judging the model between two rounds may take longer than a round, so a run is given ten of them.
    state: State = "running" if points else "starting"
    # A run that ended early, because its budget was spent, was judged after its last round.
    judged = folder.results_file.exists() and folder.results_file.stat().st_mtime >= changed(folder)
    if done >= experiment.rounds or judged:
        state = "finished"
    elif since > max(QUIET_S, 10 * (round_s or 0)):
        state = "quiet"
    replies: Counter[Outcome] = Counter()
    for line in diary:
        replies.update(line.replies)
    return Standing(
        run=folder.path.resolve().name,
        data=experiment.data.name,
        state=state,
        rounds=done,
        rounds_planned=experiment.rounds,
        since_s=since,
        round_s=round_s,
        left_s=_left(points, experiment.rounds - done, folder) if state == "running" else None,
        auc={point.record.round: point.metrics.auc for point in points if point.metrics is not None},
        epsilon=_finite(seen.outsider),
        epsilon_known_cohort=_finite(seen.knows_cohorts),
        budget=_finite(seen.budget),
        ledger_rows=seen.rows,
        ledger_problem=seen.problem,
        phases=_medians([line.seconds for line in diary[-RECENT:]]),
        replies=dict(replies),
        sent=sum(line.sent for line in diary),
        received=sum(line.received for line in diary),
        dropped=len(points[-1].record.dropped) if points else 0,
        problem=problem,
    )


def _left(points: list[Point], rounds: int, folder: RunFolder) -> float | None:
    """Seconds for so many more rounds, by what checkpoints say of the time between rounds, judging included."""
    times = sorted(_written(path) for path in folder.checkpoints.glob("round-*.safetensors"))
    gaps = [later - earlier for earlier, later in pairwise(times) if later > earlier]
    own = [point.record.seconds for point in points[-RECENT:]]
    if not own:
        return None
    return rounds * max(statistics.median(gaps) if gaps else 0.0, statistics.median(own))


def _written(path: Path) -> float:
    """When a checkpoint was written; 0 when it was removed meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _medians(seconds: list[dict[Phase, float]]) -> dict[Phase, float]:
    names = list(dict.fromkeys(name for one in seconds for name in one))
    return {name: statistics.median(one[name] for one in seconds if name in one) for name in names}


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
