"""A trial of a ledger: writers spend one budget together while some are killed, until all of them are refused.

Every writer says what it was acknowledged as soon as it was. In the end each of those rows must be there, and not one
release too many may have been paid for.
"""

import multiprocessing
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import msgspec
import numpy as np

from sottovoce.privacy.accountant import published
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import BudgetError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan

LONGEST_S = 0.08
"""Most time between the first acknowledgement of a writer and its death."""

_SLOW_TO_LOAD = ("scipy.special", "dp_accounting.rdp", "dp_accounting.pld.privacy_loss_distribution")

_REFUSED = b"refused"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a trial.

    Attributes:
        kills: writers killed while they wrote.
        writers: at work at a time.
        acknowledged: rows that writers were told are safe.
        acknowledged_lost: of those, how many are not in the ledger as they were; 0 is a pass.
        allowed: releases that the budget allows.
        released: reservations that count as spent in the end; equal to `allowed` is a pass.
        rows: in the ledger, its chain unbroken.
    """

    kills: int
    writers: int
    acknowledged: int
    acknowledged_lost: int
    allowed: int
    released: int
    rows: int


def plan_for(releases: int) -> MechanismPlan:
    """The plan whose releases are paid for: thousands of them fit a budget, and each is quickly accounted."""
    return MechanismPlan(1_000_000, 0.001, 1.0, 50.0, releases, 1e-7, cohorts="visible")


def trial(address: Path | str, *, kills: int, writers: int, allowed: int, seed: int = 0) -> Outcome:
    """Run a trial on a new ledger.

    Args:
        address: where the ledger is made.
        kills: how many writers to kill with SIGKILL, each at a random moment while it writes.
        writers: processes that write at the same time; a killed one is replaced.
        allowed: releases that the budget allows.
        seed: of the moments.

    Raises:
        LedgerError: the ledger does not hold in the end.
    """
    plan = plan_for(2 * allowed)
    epsilon = sum(published({plan.event(): count}, plan.delta)[0] for count in (allowed, allowed + 1)) / 2
    with Ledger.open(address, create=True) as ledger:
        Budget(epsilon, plan.delta, ledger).open(plan.population, plan)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_SLOW_TO_LOAD])
    rng = np.random.default_rng(seed)
    told: dict[int, str] = {}
    running: dict[Connection, tuple[ForkServerProcess, float | None]] = {}
    started = killed = 0
    refused = False
    while running or not started:
        while len(running) < writers and not refused:
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=_spend, args=(address, epsilon, plan, f"run-{started}", sender), daemon=True)
            child.start()
            sender.close()
            running[receiver] = (child, None)
            started += 1
        ready = wait(list(running), timeout=0.005)
        for receiver in [one for one in running if one in ready]:
            child, death = running[receiver]
            try:
                said = receiver.recv_bytes()
            except (EOFError, OSError):
                receiver.close()
                child.join()
                del running[receiver]
                continue
            if said == _REFUSED:
                refused = True
                continue
            seq, sha256 = said.split()
            told[int(seq)] = sha256.decode()
            if death is None:
                running[receiver] = (child, time.monotonic() + rng.uniform(0, LONGEST_S))
        for receiver, (child, death) in running.items():
            if death is not None and death < time.monotonic() and killed < kills and not refused:
                child.kill()
                killed += 1
                running[receiver] = (child, float("inf"))
    return _outcome(address, plan, told, kills=killed, writers=writers, allowed=allowed)


def _spend(address: Path | str, epsilon: float, plan: MechanismPlan, run_id: str, told: Connection) -> None:
    """Release until refused, and say what is safe."""
    with Ledger.open(address) as ledger:
        budget = Budget(epsilon, plan.delta, ledger)
        for round in range(plan.rounds):
            try:
                paid = budget.reserve(plan, run_id, round, "secure")
            except BudgetError:
                told.send_bytes(_REFUSED)
                return
            told.send_bytes(f"{paid.seq} {paid.hash}".encode())
            budget.commit(paid, "ab" * 32)
            head = ledger.head()
            told.send_bytes(f"{head.length} {head.hash}".encode())


def _outcome(
    address: Path | str, plan: MechanismPlan, told: dict[int, str], *, kills: int, writers: int, allowed: int
) -> Outcome:
    with Ledger.open(address, readonly=True) as ledger:
        stored = {row.seq: row.hash for row in ledger.rows()}
        return Outcome(
            kills=kills,
            writers=writers,
            acknowledged=len(told),
            acknowledged_lost=sum(stored.get(seq) != sha256 for seq, sha256 in told.items()),
            allowed=allowed,
            released=ledger.book().spent[plan.event()],
            rows=ledger.verify().length,
        )
