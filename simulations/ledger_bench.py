"""How fast a ledger is, and whether it holds: what `sottovoce bench ledger` measures.

Every figure that ends on disk depends on the disk: `fsyncs_per_s` says what it can do.
"""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations import tampering
from sottovoce.simulations.ledger_trial import trial
from sottovoce.simulations.postgres_server import NoServerError, server

BATCH = 100
"""Rows in a batch that waits for the disk once."""

PLAN = MechanismPlan(1_000_000, 0.001, 1.0, 1.0, 20_000, 1e-7)
"""What is released while reservations are timed: a campaign of 20,000 rounds."""

EPSILON = 8.0


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on one database.

    Attributes:
        appends_per_s: rows appended one by one by one process, each on disk before the next.
        reserve_ms_at_10000: median of a whole `Budget.reserve` after 10,000 rounds, until it is on disk.
        kills: writers killed with SIGKILL while several spent one budget.
        acknowledged_lost: rows that a writer was told are safe and that are not there.
        tampers_tried: ways to lie about a ledger that were tried.
        tampers_found: of those, found with the row named.
        check_ms_at_10000: median of `Budget.reserve` after 10,000 rounds within a transaction: all but the disk.
        appends_per_s_batched: rows appended 100 at a time by `Ledger.exclusive`.
        open_ms: to open the ledger and check all its rows.
        rows: of that ledger.
        writers: processes that spent one budget while some were killed.
        acknowledged: rows that they were told are safe.
        releases_allowed: by that budget.
        releases_made: in the end, crashed ones included.
    """

    appends_per_s: int
    reserve_ms_at_10000: float
    kills: int
    acknowledged_lost: int
    tampers_tried: int
    tampers_found: int
    check_ms_at_10000: float
    appends_per_s_batched: int
    open_ms: float
    rows: int
    writers: int
    acknowledged: int
    releases_allowed: int
    releases_made: int


class Bench(Speed, frozen=True, kw_only=True):
    """What was measured on this machine; the figures at the top are SQLite's.

    Attributes:
        fsyncs_per_s: of the disk, 4 KiB each, one after the other.
        postgres: the same on PostgreSQL, on the same disk when its temporary folder is; null where none can be started.
    """

    fsyncs_per_s: int
    postgres: Speed | None


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How much is tried.

    Attributes:
        kills: writers to kill.
        writers: that write at a time.
        rounds: filled in before reservations are timed, at most half of what `PLAN` has.
        seconds: how long each rate is measured.
        tamper_step: 1 tries every way to lie, k one in k.
    """

    kills: int = 100
    writers: int = 8
    rounds: int = 10_000
    seconds: float = 2.0
    tamper_step: int = 1


def bench(folder: Path, effort: Effort, say: Callable[[str], None]) -> Bench:
    """Measure everything, in a temporary folder.

    Args:
        folder: on the disk to measure.
        effort: how much is tried.
        say: told what is measured next.

    Raises:
        ConfigError: nothing can be written there.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: not a folder you may write to", "choose another --folder")
    with tempfile.TemporaryDirectory(prefix="ledger-bench-", dir=folder) as made:
        place = Path(made)
        numbers = iter(range(100))
        say("the disk")
        rate = fsyncs_per_s(place, effort.seconds)

        def new_file() -> Path:
            return place / f"{next(numbers)}.db"

        forged = new_file()
        overwrite = partial(tampering.overwrite_file, forged)
        files = _speed(new_file, forged, overwrite, effort, say)
    postgres = _postgres(effort, say)
    return Bench(**msgspec.structs.asdict(files), fsyncs_per_s=rate, postgres=postgres)


def fsyncs_per_s(folder: Path, seconds: float) -> int:
    """Writes of 4 KiB a second, each on disk before the next."""
    with (folder / "fsync").open("wb", buffering=0) as file:

        def write() -> None:
            file.write(bytes(4096))
            os.fsync(file.fileno())

        return _per_second(write, seconds)


def _postgres(effort: Effort, say: Callable[[str], None]) -> Speed | None:
    try:
        import psycopg

        with server() as running:
            forged = running.new_database()
            with psycopg.connect(running.address(forged)) as superuser:
                return _speed(
                    lambda: running.address(running.new_database()),
                    running.address(forged),
                    partial(tampering.overwrite_database, superuser),
                    effort,
                    lambda what: say(f"PostgreSQL: {what}"),
                )
    except (ModuleNotFoundError, NoServerError):
        return None


def _speed(
    new: Callable[[], Path | str],
    forged: Path | str,
    overwrite: Callable[[tampering.Content], None],
    effort: Effort,
    say: Callable[[str], None],
) -> Speed:
    """Everything on one database.

    Args:
        new: names a place where a new ledger can be made.
        forged: another such place, of which `overwrite` replaces what lies there.
        overwrite: see `tampering.tried`.
        effort: see `bench`.
        say: see `bench`.
    """
    say("appending")
    event, plan_hash = PLAN.event(), PLAN.digest()
    with Ledger.open(new(), create=True) as ledger:
        ledger.open_campaign(EPSILON, PLAN.delta, PLAN.population)

        def append() -> None:
            ledger.reserve("run", 0, event, plan_hash, "train", "secure")

        def batch() -> None:
            with ledger.exclusive():
                for _ in range(BATCH):
                    append()

        singly, batched = _per_second(append, effort.seconds), BATCH * _per_second(batch, effort.seconds)
    say(f"reserving after {effort.rounds:,} rounds")
    place = new()
    with Ledger.open(place, create=True) as ledger:
        Budget(EPSILON, PLAN.delta, ledger).register(PLAN)
        with ledger.exclusive():
            for round in range(effort.rounds):
                ledger.commit(ledger.reserve("run", round, event, plan_hash, "train", "secure"), "ab" * 32)
        length = ledger.head().length
    began = time.perf_counter()
    with Ledger.open(place) as ledger:
        opened = time.perf_counter() - began
        budget = Budget(EPSILON, PLAN.delta, ledger)

        def reserve() -> None:
            budget.reserve(PLAN, "run", effort.rounds, "secure")

        reserve()
        whole = _median_ms(reserve)
        with ledger.exclusive():
            alone = _median_ms(reserve)
    say(f"killing {effort.kills} of {effort.writers} writers at a time")
    outcome = trial(new(), kills=effort.kills, writers=effort.writers, allowed=40 * effort.kills)
    say("tampering")
    with Ledger.open(forged, create=True) as ledger:
        tampering.every_kind(ledger)
    tried, missed = tampering.tried(forged, overwrite, effort.tamper_step)
    return Speed(
        appends_per_s=singly,
        reserve_ms_at_10000=whole,
        kills=outcome.kills,
        acknowledged_lost=outcome.acknowledged_lost,
        tampers_tried=tried,
        tampers_found=tried - len(missed),
        check_ms_at_10000=alone,
        appends_per_s_batched=batched,
        open_ms=round_ms(opened),
        rows=length,
        writers=outcome.writers,
        acknowledged=outcome.acknowledged,
        releases_allowed=outcome.allowed,
        releases_made=outcome.released,
    )


def _per_second(action: Callable[[], None], seconds: float) -> int:
    """How often something can be done in a second."""
    began, count = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        action()
        count += 1
    return round(count / took)


def _median_ms(action: Callable[[], None], repeats: int = 200) -> float:
    """Median time of something."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return round_ms(float(np.median(times)))


def round_ms(seconds: float) -> float:
    """Milliseconds to the microsecond."""
    return round(seconds * 1e3, 3)
