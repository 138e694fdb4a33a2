"""One campaign for all runs of a sweep: every plan stands in its ledger before the first release, or none does.

Who trains many runs and publishes the best has released more than that run's epsilon tells. Plans that stand in one
ledger before the first release are verified together, and the campaign's figure covers every model.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sottovoce.privacy.budget import Budget
from sottovoce.privacy.campaign import check_campaign
from sottovoce.privacy.errors import BudgetError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.planning import plan_for
from sottovoce.simulations.queries import measurement_plans
from sottovoce.simulations.sweep import Sweep, SweptRun
from sottovoce.simulations.sweep_price import Price, rounded_up


def plans_of(runs: Sequence[SweptRun], population: int) -> list[tuple[MechanismPlan, ...]]:
    """What each run will release: its rounds, and the measurements it may make.

    Raises:
        ConfigError: the epsilon of a run is out of reach, or means nothing.
    """
    found: dict[Experiment, tuple[MechanismPlan, ...]] = {}
    plans = []
    for run in runs:
        # Nothing else has to do with the mechanism, and finding the noise takes a second.
        told = run.experiment
        kind = Experiment(rounds=told.rounds, privacy=told.privacy, measure=told.measure)
        if kind not in found:
            found[kind] = (plan_for(kind, population), *measurement_plans(kind, population).values())
        plans.append(found[kind])
    return plans


def whole(plans: Iterable[Sequence[MechanismPlan]]) -> list[MechanismPlan]:
    """Plans that stand for all runs together, each written down once.

    A ledger knows a plan by its settings. Of runs with equal plans the first is planned as itself; the others as one
    plan for tuning, with their rounds and participations added up. So the ledger plans what will be released: neither a
    run that would count as chosen along the way, nor one twice.
    """
    count = Counter(plan for own in plans for plan in own)
    others: dict[MechanismPlan, tuple[int, int]] = {}
    for plan, times in count.items():
        kind = replace(plan, purpose="tuning", rounds=1, max_participations=None)
        rounds, most = others.get(kind, (0, 0))
        own = min(plan.rounds, plan.max_participations or plan.rounds)
        others[kind] = (rounds + (times - 1) * plan.rounds, most + (times - 1) * own)
    together = [
        replace(kind, rounds=rounds, max_participations=most) for kind, (rounds, most) in others.items() if rounds
    ]
    return [*count, *together]


def require_fits(sweep: Sweep, expected: Price) -> None:
    """Refuse a sweep whose runs cost more than its budget, before anything is made.

    Raises:
        BudgetError: by how much.
        ConfigError: the budget promises nothing.
    """
    if sweep.budget is None:
        return
    check_campaign(sweep.budget, expected.delta)
    cost = math.inf if expected.epsilon is None else expected.epsilon
    if cost > sweep.budget:
        told = "infinite epsilon" if math.isinf(cost) else f"epsilon {rounded_up(cost)}"
        raise BudgetError(
            f"{expected.runs} runs cost {told} together, more than the budget of {sweep.budget:g}",
            "leave out seeds, large values of epsilon or inf, or raise --budget; nothing was trained",
        )


def open_campaign(sweep: Sweep, ledger: Path | str, plans: Sequence[Sequence[MechanismPlan]]) -> None:
    """Plan every run in one ledger before the first of them, or refuse all.

    Args:
        sweep: with a budget, or with a ledger on which a campaign is open.
        ledger: of the campaign; made anew for a budget where there is none.
        plans: of every run.

    Raises:
        BudgetError: together they would overspend; nothing was written.
        ConfigError: the campaign has other values, or there is none.
        LedgerError: the ledger cannot be read or written.
    """
    with Ledger.open(ledger, create=sweep.budget is not None) as opened:
        limit, delta = sweep.budget, sweep.base.privacy.delta
        budget = Budget.of(opened) if limit is None else Budget(limit, delta, opened)
        budget.register(*whole(plans))
