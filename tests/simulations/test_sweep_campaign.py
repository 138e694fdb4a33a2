"""One campaign for all runs: planned whole before the first, so that each run fits and the figure is PLD's."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import BudgetError, ConfigError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations.experiment import composed
from sottovoce.simulations.sweep import sweep_of
from sottovoce.simulations.sweep_campaign import open_campaign, plans_of, require_fits, whole
from sottovoce.simulations.sweep_price import LOOKED_AT, UNCOVERED, charged, planned_price, price, rounded_up

WEAK = MechanismPlan(300, 1.0, 1.0, 9.0, 2, 1e-3, sampling="none", max_participations=2)
STRONG = replace(WEAK, noise_multiplier=5.0)
ASKED = replace(WEAK, purpose="metric", rounds=1, max_participations=None, clip_norm=4.0)
RUNS = [(WEAK, ASKED), (STRONG, ASKED)] * 2
BASE = composed({"rounds": 2, "data": {"devices": 300}, "privacy": {"delta": 1e-3}}, ())


def sweep(budget=None, ledger="", epsilons=(1.0, 2.0)):
    base = composed({"privacy": {"delta": 1e-3, "ledger": ledger}}, ())
    return sweep_of(base, epsilons, 2, (), budget)


@pytest.mark.parametrize("times", [1, 2, 3, 7])
@pytest.mark.parametrize("cohorts", ["secret", "visible"])
def test_what_is_planned_together_is_what_all_runs_are_charged_and_each_plan_stands_there_once(times, cohorts):
    mine = [tuple(replace(plan, cohorts=cohorts) for plan in (WEAK, STRONG, ASKED))] * times
    together = whole(mine)
    assert len({plan.digest() for plan in together}) == len(together)
    assert {plan.digest() for plan in mine[0]} <= {plan.digest() for plan in together}
    assert sum((Counter(plan.charged()) for plan in together), Counter()) == charged(mine)


def test_all_runs_fit_side_by_side_and_the_published_figure_covers_them(tmp_path):
    path = tmp_path / "ledger.db"
    needed = planned_price(sweep(1.0), RUNS).epsilon
    open_campaign(sweep(needed), path, RUNS)
    with Ledger.open(path) as ledger:
        budget = Budget.of(ledger)
        # As workers do: each registers its own plans, the second after the first one's releases.
        for number, own in enumerate(RUNS):
            budget.register(*own)
            for plan in own:
                for round in range(plan.rounds):
                    budget.commit(budget.reserve(plan, f"run {number}", round, "secure"), "ab" * 32)
        spent = budget.spent()
        assert (spent.accountant, spent.guarantee) == ("PLD", True)
        assert spent.epsilon == pytest.approx(needed)
        with pytest.raises(BudgetError):
            budget.reserve(STRONG, "one run more", 0, "secure")
    found = price([], path, 4, 1e-3)
    assert found.covered
    assert found.epsilon == pytest.approx(needed)
    assert "one campaign covers the models of all of them" in found.headline
    assert LOOKED_AT in found.lines()


def test_planning_again_changes_nothing(tmp_path):
    path = tmp_path / "ledger.db"
    open_campaign(sweep(9.0), path, RUNS)
    with Ledger.open(path) as ledger:
        Budget.of(ledger).reserve(WEAK, "first", 0, "secure")
        before = ledger.head()
    open_campaign(sweep(9.0), path, RUNS)
    with Ledger.open(path) as ledger:
        assert ledger.head() == before


def test_a_budget_that_does_not_hold_all_runs_is_refused_before_anything_is_made(tmp_path):
    needed = planned_price(sweep(1.0), RUNS)
    require_fits(sweep(needed.epsilon), needed)
    with pytest.raises(BudgetError, match="4 runs cost epsilon"):
        require_fits(sweep(needed.epsilon - 1e-3), needed)
    noiseless = [(replace(WEAK, noise_multiplier=0.0),), *RUNS]
    with pytest.raises(BudgetError, match="infinite epsilon"):
        require_fits(sweep(1e6), planned_price(sweep(1e6), noiseless))
    with pytest.raises(ConfigError, match="not a budget"):
        require_fits(sweep(-1.0), needed)


def test_a_campaign_that_was_opened_elsewhere_is_joined_or_refused_whole(tmp_path):
    path = tmp_path / "ledger.db"
    needed = planned_price(sweep(1.0), RUNS).epsilon
    with Ledger.open(path, create=True) as ledger:
        Budget(needed - 1e-3, 1e-3, ledger).open(300)
        before = ledger.head()
    with pytest.raises(BudgetError, match="would exceed"):
        open_campaign(sweep(ledger=str(path)), path, RUNS)
    with Ledger.open(path) as ledger:
        assert ledger.head() == before
    with pytest.raises(ConfigError, match="has epsilon"):
        open_campaign(sweep(50.0, ledger=str(path)), path, RUNS)


def test_without_a_campaign_the_ledgers_are_added_up_and_cover_nothing(tmp_path):
    for name, plans in (("a", (WEAK,)), ("b", (STRONG,)), ("c", (replace(WEAK, noise_multiplier=0.0),))):
        with Ledger.open(tmp_path / name, create=True) as ledger:
            budget = Budget(math.inf, 1e-3, ledger)
            for plan in plans:
                for round in range(2):
                    budget.reserve(plan, name, round, "secure")
    both = price([tmp_path / "a", tmp_path / "b"], None, 2, 1e-3)
    assert both.epsilon == pytest.approx(planned_price(sweep(), [(WEAK,), (STRONG,)]).epsilon)
    assert both.epsilon > planned_price(sweep(), [(STRONG,)]).epsilon
    assert not both.covered
    assert both.headline.startswith("2 runs were made on these devices; publishing the best of them is not covered by")
    assert f"{UNCOVERED}; together they cost epsilon {rounded_up(both.epsilon)} at delta 0.001" in both.headline
    every = price([tmp_path / name for name in "abc"], None, 3, 1e-3)
    assert (every.epsilon, every.noiseless, every.guarantee) == (None, 1, False)
    assert "infinite epsilon, since 1 had no noise; the other 2 cost epsilon" in every.headline
    assert price([tmp_path / "c"], None, 1, 1e-3).headline.endswith("infinite epsilon: no run had noise")


def test_noise_is_looked_for_once_for_runs_with_the_same_mechanism(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "sottovoce.simulations.sweep_campaign.plan_for", lambda kind, people: asked.append(kind) or WEAK
    )
    runs = sweep_of(BASE, [1.0, 2.0], 3, ["server.learning_rate=0.1,0.2"], None).runs()
    assert len(plans_of(runs, 300)) == 12
    assert sorted(kind.privacy.epsilon for kind in asked) == [1.0, 2.0]
