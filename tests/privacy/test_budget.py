"""The release that would overspend is refused, exactly that one, before anything is written."""

import math
from dataclasses import replace

import pytest

from sottovoce.privacy.accountant import epsilon_pld, epsilon_rdp
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import BudgetError, ConfigError
from sottovoce.privacy.events import NonPrivate
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.renyi import widest_order

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

PLAN = MechanismPlan(population=6040, sampling_rate=0.02, clip_norm=1.0, noise_multiplier=1.0, rounds=50, delta=1e-5)


def pld(rounds, plan=PLAN):
    return epsilon_pld({plan.event(): rounds}, plan.delta)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    with Ledger.open(path, create=True) as opened:
        yield opened


def spend(budget, plan=PLAN, run="run", limit=1000):
    """Reserve and commit until refused; how many rounds went through."""
    for round in range(limit):
        try:
            reservation = budget.reserve(plan, run, round, "secure")
        except BudgetError:
            return round
        budget._ledger.commit(reservation, "ab" * 32)
    return limit


def test_exactly_the_round_that_would_overspend_is_refused_and_leaves_no_trace(ledger):
    limit = (pld(30) + pld(31)) / 2
    assert epsilon_rdp({PLAN.event(): 30}, PLAN.delta) > limit  # RDP alone would have refused long before
    budget = Budget(limit, 1e-5, ledger)
    assert spend(budget) == 30
    before = ledger.head()
    with pytest.raises(BudgetError, match="round 30 of run run would exceed epsilon") as caught:
        budget.reserve(PLAN, "run", 30, "secure")
    assert caught.value.todo
    assert ledger.verify() == before
    assert budget.spent().epsilon == pld(30) <= limit


@pytest.mark.parametrize("rounds", [1, 2, 49])
def test_a_budget_of_exactly_n_rounds_admits_n_rounds(ledger, rounds):
    budget = Budget(pld(rounds), 1e-5, ledger)
    assert budget.admits(PLAN) == rounds
    assert spend(budget) == rounds


def test_a_plan_that_fits_is_admitted_whole_and_may_stop_early(ledger):
    budget = Budget(pld(PLAN.rounds), 1e-5, ledger)
    assert budget.admits(PLAN) == PLAN.rounds
    spend(budget, limit=10)
    assert budget.admits(PLAN) == 40
    assert budget.remaining == pytest.approx(budget.epsilon - pld(10))


def test_two_plans_interleaved_share_one_budget(ledger):
    quiet = replace(PLAN, noise_multiplier=2.0, purpose="metric")
    both = {PLAN.event(): 15, quiet.event(): 15}
    budget = Budget(epsilon_pld(both, 1e-5), 1e-5, ledger)
    ledger.open_campaign(budget.epsilon, 1e-5, PLAN.population)
    for plan in (PLAN, quiet):
        ledger.plan(plan.settings(), plan.event(), plan.rounds)
    for round in range(30):
        budget.reserve((PLAN, quiet)[round % 2], "run", round, "secure")
    assert budget.spent().epsilon == budget.epsilon
    for plan in (PLAN, quiet):
        with pytest.raises(BudgetError):
            budget.reserve(plan, "run", 30, "secure")
    assert dict(ledger.book().spent) == both


def test_a_crash_spends_and_a_void_gives_back(ledger, path):
    budget = Budget(pld(3), 1e-5, ledger)
    budget.reserve(PLAN, "run", 0, "secure")  # never settled
    ledger.void(budget.reserve(PLAN, "run", 1, "secure"), "nobody was contacted")
    ledger.commit(budget.reserve(PLAN, "run", 1, "secure"), "ab" * 32)
    ledger.close()
    with Ledger.open(path) as again:
        again.recover()
        budget = Budget(pld(3), 1e-5, again)
        assert budget.spent().epsilon == pld(2)
        assert spend(budget) == 1


def test_doing_a_round_again_costs_again(ledger):
    budget = Budget(4.0, 1e-5, ledger)
    for _ in range(2):
        ledger.commit(budget.reserve(PLAN, "run", 0, "secure"), "ab" * 32)
    assert budget.spent().epsilon == pld(2)


@pytest.mark.parametrize(("epsilon", "delta"), [(8.0, 1e-5), (4.0, 1e-6), (math.inf, 1e-5)])
def test_a_campaign_cannot_be_reopened_with_other_values(ledger, epsilon, delta):
    Budget(4.0, 1e-5, ledger).reserve(PLAN, "run", 0, "secure")
    with pytest.raises(ConfigError, match="the campaign of this ledger has"):
        Budget(epsilon, delta, ledger)
    Budget(4.0, 1e-5, ledger)


def test_a_plan_for_another_population_or_delta_is_refused(ledger):
    budget = Budget(4.0, 1e-5, ledger)
    with pytest.raises(ConfigError, match="delta = 1e-06"):
        budget.reserve(replace(PLAN, delta=1e-6), "run", 0, "secure")
    assert ledger.head().length == 0
    budget.reserve(PLAN, "run", 0, "secure")
    with pytest.raises(ConfigError, match="population = 6041"):
        budget.reserve(replace(PLAN, population=6041), "run", 1, "secure")
    assert ledger.head().length == 3


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)]
)
def test_impossible_budgets_are_refused(ledger, epsilon, delta):
    with pytest.raises(ConfigError):
        Budget(epsilon, delta, ledger)


def test_no_noise_fits_no_finite_budget_and_is_loud_in_an_unlimited_one(ledger):
    bare = replace(PLAN, noise_multiplier=0.0)
    with pytest.raises(BudgetError):
        Budget(1e9, 1e-5, ledger).reserve(bare, "run", 0, "secure")
    assert ledger.head().length == 0
    budget = Budget(math.inf, 1e-5, ledger)
    budget.reserve(bare, "run", 0, "secure")
    assert list(ledger.entries())[2].noise == "none"
    assert list(ledger.entries())[2].event == NonPrivate(sampling_rate=0.02)
    for claim in (budget.spent(), budget.running()):
        assert claim.epsilon == math.inf
        assert str(claim).startswith("SIMULATION: NO GUARANTEE")


def test_noise_that_is_there_cannot_be_recorded_as_none(ledger):
    with pytest.raises(ValueError, match="secure or seeded"):
        Budget(4.0, 1e-5, ledger).reserve(PLAN, "run", 0, "none")


def test_one_seeded_round_takes_the_guarantee_away(ledger):
    budget = Budget(4.0, 1e-5, ledger)
    assert budget.spent().epsilon == 0
    budget.reserve(PLAN, "run", 0, "secure")
    assert budget.spent().guarantee
    budget.reserve(PLAN, "run", 1, "seeded")
    assert not budget.spent().guarantee
    assert budget.spent().epsilon == pld(2)


def test_the_running_figure_is_never_below_the_published_one_nor_above_the_budget(ledger):
    budget = Budget(pld(20), 1e-5, ledger)
    for round in range(20):
        budget.reserve(PLAN, "run", round, "secure")
        assert budget.spent().epsilon <= budget.running().epsilon <= budget.epsilon


def test_a_campaign_opened_without_a_plan_can_judge_what_is_chosen_later(ledger):
    budget = Budget(4.0, 1e-5, ledger)
    budget.open(PLAN.population)
    assert ledger.book().campaign.filter_order == widest_order(4.0, 1e-5)
    budget.reserve(PLAN, "run", 0, "secure")
    chosen_later = replace(PLAN, noise_multiplier=2.0)
    budget.reserve(chosen_later, "run", 1, "secure")
    assert ledger.book().adaptive
    assert budget.spent().epsilon == 4.0
    with pytest.raises(BudgetError, match="judged at order"):
        budget.reserve(replace(PLAN, noise_multiplier=0.4, sampling_rate=1.0), "run", 2, "secure")


@pytest.mark.parametrize(("population", "said"), [(0, "nobody to protect"), (100_000, "below 1/population")])
def test_a_campaign_that_promises_nothing_is_not_opened(ledger, population, said):
    with pytest.raises(ConfigError, match=said):
        Budget(4.0, 1e-5, ledger).open(population)
    assert ledger.head().length == 0


def test_a_campaign_cannot_be_reopened_for_other_devices_or_with_other_shares(ledger):
    Budget(4.0, 1e-5, ledger, {"purpose:metric": 0.5}).open(6040)
    before = ledger.head()
    Budget(4.0, 1e-5, ledger, {"purpose:metric": 0.5}).open(6040)
    Budget(4.0, 1e-5, ledger).open(6040)
    with pytest.raises(ConfigError, match="population = 6041"):
        Budget(4.0, 1e-5, ledger).open(6041)
    for shares in ({"purpose:metric": 0.6}, {"purpose:eval": 0.5}):
        with pytest.raises(ConfigError, match="other shares"):
            Budget(4.0, 1e-5, ledger, shares)
    assert ledger.verify() == before


def test_plans_over_budget_are_refused_whole_and_leave_the_ledger_as_it_was(ledger):
    budget = Budget(pld(60), 1e-5, ledger)
    with pytest.raises(BudgetError, match="100 planned releases would exceed epsilon") as caught:
        budget.register(PLAN, replace(PLAN, purpose="metric"))
    assert caught.value.todo
    assert ledger.verify().length == 0
    budget.register(PLAN)
    assert ledger.verify().length == 2
