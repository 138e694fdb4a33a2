"""Measure a run's devices: take up its ledger, ask once within its budget, keep what was released.

Every release is a file `RUN/measurements/QUERY-NUMBER.json` whose digest the ledger commits. Nothing of a training run
is repeated: neither a round, nor a number of a measurement, nor its noise.
"""

import hashlib
import re
from typing import get_args

import msgspec
from flwr.serverapp import Grid

from sottovoce.client.own_model import OwnModel
from sottovoce.client.question import Floats, Query
from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.book import Book
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.chain import Head
from sottovoce.privacy.errors import BudgetError, LedgerError, SottovoceError
from sottovoce.privacy.events import NoiseKind, Purpose
from sottovoce.privacy.ledger import Ledger, Reservation
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server import checkpoint
from sottovoce.server.estimates import Norms, Platt, Popularity, Quality, norms, platt, popularity, quality
from sottovoce.server.measurement import Inquiry
from sottovoce.server.measurement import measure as release
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.planning import entropy_of
from sottovoce.simulations.queries import inquiry, measurement_plans
from sottovoce.simulations.run import trained

Figures = Quality | Platt | Norms | Popularity | None

NAME = re.compile(rf"({'|'.join(get_args(Query))})-([1-9][0-9]*)\.json")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement as it is kept.

    Attributes:
        query: what was asked.
        number: of the measurement in its run, from 1.
        of: how many are planned.
        run_id: of the run.
        model_round: rounds of training in the model that was asked about.
        purpose: in the ledger.
        plan_hash: of its plan.
        ledger_row: that paid for it.
        ledger_hash: of that row.
        noise: where the noise comes from.
        noise_multiplier: z.
        clip_norm: largest L2 norm of one device's vector.
        noise_std: standard deviation of the noise in each number.
        marks: see `Question.marks`.
        vector: the noisy sum: what was released.
        figures: computed from it.
    """

    query: Query
    number: int
    of: int
    run_id: str
    model_round: int
    purpose: Purpose
    plan_hash: str
    ledger_row: int
    ledger_hash: str
    noise: NoiseKind
    noise_multiplier: float
    clip_norm: float
    noise_std: float
    marks: list[float]
    vector: list[float]
    figures: Figures


def measure(
    grid: Grid, query: Query, experiment: Experiment, dataset: Dataset, folder: RunFolder, own: OwnModel | None = None
) -> tuple[Measured, tuple[str, ...]]:
    """Release one measurement of a run that has at least one checkpoint.

    A file that a crash left behind uncommitted was released: it is committed now. A measurement that left no file
    counts as spent, and its number is not used again.

    Args:
        grid: where the nodes are.
        query: what to ask.
        experiment: of the run.
        dataset: that it was trained on.
        folder: of the run; kept from other processes meanwhile.
        own: module that the run trains in place of the ranker.

    Returns:
        What was released, and a line for each answer that could not be used: those are for the operator only.

    Raises:
        BudgetError: it was not planned, all that were planned are released, or nothing is left; nobody was asked.
        CheckpointError: there is no model to ask about.
        ConfigError: another process works in this folder, or other devices enrolled than the plan is for.
        LedgerError: the ledger was changed, or is older than what was released.
    """
    entropy = entropy_of(experiment)
    with folder.locked():
        model, kept = trained(experiment, dataset, folder, own), checkpoint.newest(folder.checkpoints)
        run_id = kept.facts.run_id
        with Ledger.open(folder.ledger) as ledger:
            ledger.verify(kept.facts.ledger_head)
            settle(folder, ledger, run_id)
            budget = Budget.of(ledger)
            plans = measurement_plans(experiment, dataset.train.devices)
            plan, number = _planned(query, plans.get(query), run_id, budget, ledger.book())
            asked = inquiry(query, plan, experiment, dataset, {n: v.numpy() for n, v in model.parameters.items()})
            found: list[Measured] = []

            def keep(total: Floats, paid: Reservation) -> bytes:
                found.append(
                    Measured(
                        query=query,
                        number=number,
                        of=plan.rounds,
                        run_id=run_id,
                        model_round=model.rounds,
                        purpose=plan.purpose,
                        plan_hash=paid.plan_hash,
                        ledger_row=paid.seq,
                        ledger_hash=paid.hash,
                        noise=entropy.kind if plan.noise_multiplier else "none",
                        noise_multiplier=plan.noise_multiplier,
                        clip_norm=plan.clip_norm,
                        noise_std=plan.summed_noise().std(total.size),
                        marks=asked.marks.tolist(),
                        vector=total.tolist(),
                        figures=figures(asked, total),
                    )
                )
                data = msgspec.json.format(msgspec.json.encode(found[0]), indent=2)
                _write(folder, f"{query}-{number}.json", data)
                return data

            if (folder.measurements / f"{query}-{number}.json").exists():
                raise LedgerError(
                    f"{folder.measurements}: {query}-{number}.json is there, but not in the ledger: it was rolled back",
                    "stop; restore the newest copy of the ledger and tell the auditor",
                )
            released = release(asked, number, run_id, grid, budget, entropy, keep)
    return found[0], released.dropped


def settle(folder: RunFolder, ledger: Ledger, run_id: str) -> None:
    """Commit what was released before a crash could be recorded, and count what was lost as spent.

    Raises:
        LedgerError: a kept measurement is not in the ledger, which was rolled back; or a file cannot be read.
    """
    for path in sorted(folder.measurements.glob("*.json")) if folder.measurements.is_dir() else ():
        if not NAME.fullmatch(path.name):
            continue
        try:
            data = path.read_bytes()
            row = msgspec.json.decode(data, type=_Row)
        except (OSError, msgspec.DecodeError) as error:
            raise LedgerError(
                f"{path}: cannot be read: {error}", "restore it from a copy: it says what the ledger must hold"
            ) from None
        paid = ledger.reservation(row.ledger_row, row.ledger_hash)
        if paid is not None:
            ledger.commit(paid, hashlib.sha256(data).hexdigest())
        ledger.verify(Head(row.ledger_row, row.ledger_hash))
    ledger.recover(run_id)


class _Row(msgspec.Struct, frozen=True):
    """What a kept measurement says about the ledger."""

    ledger_row: int
    ledger_hash: str


def figures(asked: Inquiry, total: Floats) -> Figures:
    """What a noisy sum says."""
    plan = asked.plan
    std = plan.summed_noise().std(total.size)
    match asked.query:
        case "quality":
            return quality(total, asked.marks, std)
        case "calibration":
            return platt(total, asked.marks, std)
        case "clip":
            return norms(total, asked.marks, std, plan.expected_cohort)
        case "popularity":
            return popularity(total, std)


def _planned(
    query: Query, plan: MechanismPlan | None, run_id: str, budget: Budget, book: Book
) -> tuple[MechanismPlan, int]:
    """The plan that pays for the next release, and its number; BudgetError when there is none."""
    todo = f"set measure.{query} before training, for example --set measure.{query}=1: a budget is planned beforehand"
    if plan is None:
        raise BudgetError(f"no {query} measurement is planned in this run", todo)
    done = sum(
        count for (run, plan_hash, _, _), count in book.uses.items() if (run, plan_hash) == (run_id, plan.digest())
    )
    if done >= plan.rounds:
        raise BudgetError(f"all {plan.rounds} planned {query} measurements of this run are spent", todo)
    if budget.admits(plan) < 1:
        raise BudgetError(f"the budget does not cover another {query} measurement", todo)
    return plan, done + 1


def _write(folder: RunFolder, name: str, data: bytes) -> None:
    try:
        folder.measurements.mkdir(exist_ok=True)
        write_atomically(folder.measurements / name, data)
    except OSError as error:
        raise SottovoceError(
            f"{folder.measurements / name}: {error.strerror}; the release is lost and counts as spent",
            "free space or make the folder writable, then ask again if more are planned",
        ) from error
