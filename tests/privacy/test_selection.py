"""Random stopping: the law of the number of runs is the one that is paid for, and nothing else may run."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.accountant import published
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.calibration import calibrated
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import BudgetError
from sottovoce.privacy.events import RepeatAndSelect
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.selection import Selection, SelectionPlan, _mass, _mean, _success

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

RUN = MechanismPlan(6040, 0.02, 1.0, 1.0, 200, 1e-5)


@given(st.floats(1.01, 200), st.just(0.0) | st.floats(0.01, 3))
@settings(deadline=None)
def test_the_law_has_the_mean_that_is_paid_for(mean, shape):
    chance = _success(mean, shape)
    assert _mean(chance, shape) == pytest.approx(mean, rel=1e-6)
    if mean < 20:
        masses = [_mass(count, chance, shape) for count in range(1, 6000)]
        assert sum(masses) == pytest.approx(1, abs=1e-4)
        assert sum(count * mass for count, mass in enumerate(masses, 1)) == pytest.approx(mean, rel=1e-2)


@pytest.mark.parametrize("shape", [0.0, 1.0, 0.5])
def test_draws_follow_the_law_and_a_wrong_mean_would_be_noticed(shape):
    plan = SelectionPlan(RUN, 5.0, shape)
    source = SeededEntropy(3).generator("runs", 0)
    draws = np.array([plan.draw(source) for _ in range(20_000)])
    assert draws.min() == 1
    for mean, fits in ((5.0, True), (5.5, False)):
        chance = _success(mean, shape)
        expected = np.array([_mass(count, chance, shape) for count in range(1, 30)])
        seen = np.array([(draws == count).mean() for count in range(1, 30)])
        distance = ((seen - expected) ** 2 / expected).sum() * len(draws)
        assert bool(distance < 70) is fits  # chi-square with 29 degrees of freedom exceeds 70 once in 30,000


def test_the_geometric_law_is_geometric():
    assert [_mass(count, 0.2, 1.0) for count in (1, 2, 3)] == pytest.approx([0.2, 0.16, 0.128])
    assert [SelectionPlan(RUN, 5.0, 1.0).chance(count) for count in (1, 2, 3)] == pytest.approx([0.2, 0.16, 0.128])


def test_a_single_run_is_the_likeliest_number_of_the_logarithmic_law():
    assert [SelectionPlan(RUN, mean).chance(1) for mean in (5, 10)] == pytest.approx([0.350, 0.269], abs=1e-3)


def test_a_selection_is_paid_once_and_costs_what_was_published(tmp_path):
    plan = SelectionPlan(RUN, 10.0)
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        budget = Budget(4.0, 1e-5, ledger)
        budget.register(plan)
        paid = budget.reserve(plan, "tuning", 1, "secure")
        selection = Selection(plan, paid)
        for run in range(25):
            for round in (1, 2, 3):
                covered = selection.reserve(RUN, f"run-{run}", round, "secure")
                assert (covered.run_id, covered.round, covered.plan_hash) == (f"run-{run}", round, RUN.digest())
                selection.commit(covered, "ab" * 32)
        budget.commit(paid, "cd" * 32)
        assert budget.spent().epsilon == pytest.approx(3.68, abs=6e-3)
        assert budget.spent().accountant == "Renyi DP"
        assert [type(entry).__name__ for entry in ledger.entries()] == ["Campaign", "Planned", "Reserved", "Committed"]
        with pytest.raises(BudgetError):
            budget.reserve(plan, "tuning", 2, "secure")


def test_nothing_but_the_mechanism_that_was_paid_for_may_run(tmp_path):
    plan = SelectionPlan(RUN, 10.0)
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        paid = Budget(4.0, 1e-5, ledger).reserve(plan, "tuning", 1, "secure")
    selection = Selection(plan, paid)
    with pytest.raises(ValueError, match="mechanism"):
        selection.reserve(replace(RUN, noise_multiplier=0.9), "run", 1, "secure")
    with pytest.raises(ValueError, match="not the next"):
        selection.reserve(RUN, "run", 2, "secure")
    selection.reserve(RUN, "run", 1, "secure")
    with pytest.raises(ValueError, match="not the next"):
        selection.reserve(RUN, "run", 1, "secure")
    with pytest.raises(ValueError, match="another plan"):
        Selection(SelectionPlan(RUN, 11.0), paid)


def test_runs_may_differ_in_their_clip_norm_since_noise_is_relative_to_it(tmp_path):
    plan, wider = SelectionPlan(RUN, 10.0), replace(RUN, clip_norm=2.0)
    assert SelectionPlan(wider, 10.0).event() == plan.event()
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        selection = Selection(plan, Budget(4.0, 1e-5, ledger).reserve(plan, "tuning", 1, "secure"))
    assert selection.reserve(wider, "run", 1, "secure").plan_hash == wider.digest() != RUN.digest()
    for changed in ("noise_multiplier", "sampling_rate", "delta"):
        with pytest.raises(ValueError, match="mechanism"):
            selection.reserve(replace(wider, **{changed: getattr(wider, changed) / 2}), "other", 1, "secure")


def test_a_selection_of_runs_can_be_calibrated_to_a_budget():
    plan = calibrated(RUN, 2.0, charged=lambda run: SelectionPlan(run, 5.0).charged())
    assert published(SelectionPlan(plan, 5.0).charged(), 1e-5)[0] <= 2.0
    less = replace(plan, noise_multiplier=plan.noise_multiplier - 0.002)
    assert published(SelectionPlan(less, 5.0).charged(), 1e-5)[0] > 2.0


@pytest.mark.parametrize(("mean", "shape"), [(1.0, 0.0), (math.inf, 0.0), (5.0, -0.1), (5.0, math.inf), (5.0, 1e-9)])
def test_selections_without_an_account_are_refused(mean, shape):
    with pytest.raises(ValueError, match=r"mean > 1|shape"):
        SelectionPlan(RUN, mean, shape)


def test_runs_without_noise_cannot_be_selected_from():
    with pytest.raises(ValueError, match="without noise"):
        SelectionPlan(replace(RUN, noise_multiplier=0.0), 5.0)


def test_a_fourth_tuning_run_is_sent_to_random_stopping(tmp_path):
    plan = replace(RUN, purpose="tuning", rounds=400)
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        budget = Budget(8.0, 1e-5, ledger)
        budget.register(plan)
        for run in ("one", "two", "three"):
            budget.reserve(plan, run, 1, "secure")
        with pytest.raises(BudgetError, match="random stopping"):
            budget.reserve(plan, "four", 1, "secure")
        budget.reserve(plan, "one", 2, "secure")
        assert isinstance(SelectionPlan(RUN, 5.0).event(), RepeatAndSelect)


def test_random_stopping_is_not_sent_to_random_stopping(tmp_path):
    plan = SelectionPlan(RUN, 5.0)
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        budget = Budget(20.0, 1e-5, ledger)
        budget.register(plan)
        for number in range(5):
            budget.reserve(plan, f"selection {number}", 1, "secure")
        with pytest.raises(BudgetError, match="random stopping"):
            budget.reserve(replace(RUN, purpose="tuning"), "a single run", 1, "secure")
