"""Tuning with random stopping: pay once, train a secret number of times, keep the best run and nothing else.

The price is that of a run and a little (`privacy.selection`), on three conditions, all kept here. Every run is the
same random algorithm: it draws its settings from the whole grid. Runs are judged by public rows alone, with no history
in view, since histories are training rows. And nothing of the runs that lost may leave, nor how many there were: trials
lie in a private folder that is removed, and every time that is written down is the time at which the selection began,
since how long it took would tell how many runs there were.
"""

import math
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from sottovoce.client.examples import Examples
from sottovoce.privacy.entropy import Entropy, OsEntropy, SeededEntropy
from sottovoce.privacy.errors import ConfigError, DataError, SottovoceError
from sottovoce.privacy.ledger import Ledger, Reservation
from sottovoce.privacy.selection import Selection, SelectionPlan
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.planning import plan_for
from sottovoce.simulations.queries import measurement_plans
from sottovoce.simulations.run import Trained, begin, budget_of, go_on, measure
from sottovoce.simulations.search import Search
from sottovoce.simulations.tuning_folder import make_private, promote, record_file, trials_folder, write_record


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a selection. Secret: neither settings nor score may be told, unless it is the best.

    Attributes:
        choice: its settings.
        folder: where it trained.
        model: what it ended with.
        score: higher is better; minus infinity for a model that cannot be scored.
    """

    choice: Mapping[str, Any]
    folder: RunFolder
    model: Trained
    score: float


def require_private(search: Search) -> None:
    """Refuse runs whose number cannot be hidden, or that have nothing to hide.

    Raises:
        ConfigError: no noise, visible cohorts, secure sums, or a record-level guarantee, which every run would use up.
    """
    target = search.base.privacy
    if search.base.local.record is not None:
        raise ConfigError(
            "local.record: each run of a selection costs every record anew, and random stopping hides none of it from "
            "whoever sees the updates",
            "leave local.record out of the grid's file, and train with the chosen settings and record-level noise",
        )
    if target.noise == "none":
        raise ConfigError(
            "runs without noise cannot be selected from privately",
            "use --noise seeded to look at every trial, or --noise secure to keep the result",
        )
    if target.secure_aggregation:
        raise ConfigError(
            "privacy.secure_aggregation guards against the coordinator, who sees the sums of every run; the price of a "
            "selection counts on nobody seeing those that lost",
            "tune without it, or add up a fixed number of runs on one ledger",
        )
    if target.cohorts == "visible":
        raise ConfigError(
            "privacy.cohorts = 'visible': whoever sees the cohorts sees how many runs there are",
            "keep cohorts secret, or add up a fixed number of runs on one ledger",
        )


def selection_plan(search: Search, population: int, runs: int) -> SelectionPlan:
    """The selection whose whole price is the experiment's epsilon.

    Args:
        search: the experiment and its grid.
        population: enrolled devices.
        runs: expected number of runs, 2 or more.

    Raises:
        ConfigError: runs without noise, visible cohorts, or an epsilon out of reach.
    """
    require_private(search)
    run = plan_for(search.base, population, lambda run: SelectionPlan(run, runs).charged())
    return SelectionPlan(run, runs)


def judged_by(dataset: Dataset, rows: Examples) -> Dataset:
    """The data that runs are scored on: public rows, and nobody's history."""
    nothing = Examples(
        np.zeros(rows.devices + 1, np.int64),
        rows.device,
        rows.context[:0],
        rows.ad[:0],
        rows.labels[:0],
        rows.catalogue,
        rows.match[:0],
    )
    return replace(dataset, train=nothing, valid=rows, truth=None)


def tune(
    open_grid: Callable[[Experiment], Grid],
    search: Search,
    plan: SelectionPlan,
    dataset: Dataset,
    public: Examples | None,
    folder: RunFolder,
    began: float,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> Trained:
    """Pay, train a random number of runs, and make the best of them the run in `folder`.

    A crash costs everything: the selection stays spent, and its trials are removed where that is still possible.

    Args:
        open_grid: the nodes for a run with the given settings.
        search: the experiment and its grid.
        plan: of `selection_plan`.
        dataset: the nodes train on it.
        public: rows to score on, which must be public; None takes the held-out rows as such, and says so.
        folder: made by `RunFolder.create` with the base experiment.
        began: seconds since 1970; the only time that is written down.
        on_trial: called after each run, only where noise is seeded: then there is nothing to keep secret.

    Raises:
        BudgetError: the campaign cannot pay; nothing was trained.
        ConfigError: another process works in this folder.
        LedgerError: the ledger cannot be read or written.
    """
    target = search.base.privacy
    entropy: Entropy = SeededEntropy(search.base.seed) if target.noise == "seeded" else OsEntropy()
    judge = judged_by(dataset, dataset.valid if public is None else public)
    with ExitStack() as stack:
        stack.enter_context(folder.locked())
        ledger = stack.enter_context(Ledger.open(folder.ledger, create=True, clock=lambda: began))
        write_record(folder, search.grid, plan.mean, public is not None)
        try:
            paid, epsilon = _pay(search, plan, ledger, entropy)
        except SottovoceError:
            record_file(folder).unlink()
            raise
        trials = make_private(trials_folder(folder))
        stack.callback(shutil.rmtree, trials, ignore_errors=True)
        purse = Selection(plan, paid)

        def attempt(number: int) -> Trial:
            choice = search.draw(entropy.generator("settings of a run", number))
            chosen, place = search.experiment(choice), RunFolder(make_private(trials / secrets.token_hex(8)))
            mechanism = replace(plan.run, clip_norm=chosen.privacy.clip_norm)
            run = begin(chosen, dataset, place, mechanism, purse, lambda: epsilon, _own(entropy, number))
            model = go_on(open_grid(chosen), chosen, dataset, place, run, lambda _: None)
            trial = Trial(choice, place, model, _score(chosen, judge, model))
            if entropy.kind == "seeded":
                on_trial(trial)
            return trial

        runs = plan.draw(entropy.generator("runs of a selection", 0))
        best = reduce(_better, map(attempt, range(1, runs + 1)))
        promote(best.folder, search.experiment(best.choice), folder)
        # From here on the run in the folder is whole: a crash before this row is made good when it is resumed.
        ledger.commit(paid, best.model.sha256)
    return best.model


def _pay(search: Search, plan: SelectionPlan, ledger: Ledger, entropy: Entropy) -> tuple[Reservation, float]:
    """Debit the whole selection, and write down every mechanism that a run may have; also what was spent then."""
    budget = budget_of(search.base, ledger)
    budget.register(plan, *measurement_plans(search.base, plan.population).values())
    with ledger.exclusive():
        paid = budget.reserve(plan, secrets.token_hex(8), 1, entropy.kind)
        # After the first release these plans count for nothing by themselves; the winner's is looked up by its digest.
        for clip_norm in search.clip_norms():
            run = replace(plan.run, clip_norm=clip_norm)
            ledger.plan(run.settings(), run.event(), run.rounds, run.cohorts, run.max_participations)
    return paid, budget.running().epsilon


def _own(entropy: Entropy, number: int) -> Entropy:
    """The randomness of one run: with a seed, another one for each."""
    if entropy.kind == "secure":
        return entropy
    return SeededEntropy(int.from_bytes(entropy.generator("seed of a run", number).bits(2).tobytes(), "big"))


def _score(chosen: Experiment, judge: Dataset, model: Trained) -> float:
    try:
        return measure(chosen, judge, model.parameters).primary
    except DataError:
        # A model that diverged gives no probabilities. Ending here would waste what was paid; it loses instead.
        return -math.inf


def _better(best: Trial, trial: Trial) -> Trial:
    """The better of two runs, the earlier one of equals; the other one's folder is removed."""
    kept, lost = (trial, best) if trial.score > best.score else (best, trial)
    shutil.rmtree(lost.folder.path, ignore_errors=True)
    return kept
