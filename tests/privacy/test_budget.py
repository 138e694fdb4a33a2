"""The release that would overspend is refused, exactly that one, before anything is written."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from sottovoce.privacy.accountant import epsilon_pld
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import BudgetError, ConfigError
from sottovoce.privacy.events import NonPrivate, Pure
from sottovoce.privacy.filter import Filter, fixed_beforehand
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.renyi import epsilon_at_order, epsilon_rdp, widest_order

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
    loud = replace(PLAN, rounds=15)
    quiet = replace(PLAN, noise_multiplier=2.0, purpose="metric", rounds=15)
    both = {loud.event(): 15, quiet.event(): 15}
    budget = Budget(epsilon_pld(both, 1e-5), 1e-5, ledger)
    budget.register(loud, quiet)
    for round in range(30):
        budget.reserve((loud, quiet)[round % 2], "run", round, "secure")
    assert budget.spent().epsilon == budget.epsilon
    for plan in (loud, quiet):
        with pytest.raises(BudgetError):
            budget.reserve(plan, "run", 30, "secure")
    assert dict(ledger.book().spent) == both


def test_choosing_along_the_way_among_plans_that_do_not_fit_together_is_adaptive(ledger):
    quiet = replace(PLAN, noise_multiplier=2.0, purpose="metric")
    budget = Budget(pld(30), 1e-5, ledger)
    ledger.open_campaign(budget.epsilon, 1e-5, PLAN.population, filter_order=8.0)
    for plan in (PLAN, quiet):
        ledger.plan(plan.settings(), plan.event(), plan.rounds)
    budget.reserve(PLAN, "run", 0, "secure")
    assert fixed_beforehand(ledger.book())
    with pytest.raises(BudgetError, match="judged at order 8"):
        budget.reserve(quiet, "run", 1, "secure")


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
    assert not fixed_beforehand(ledger.book())
    assert budget.spent().epsilon == 4.0
    with pytest.raises(BudgetError, match="judged at order"):
        budget.reserve(replace(PLAN, noise_multiplier=0.4, sampling_rate=1.0), "run", 2, "secure")


# Whole plans, and what was not planned


def test_a_whole_plan_is_refused_before_its_first_release_and_nothing_is_written(ledger):
    budget = Budget(pld(49), 1e-5, ledger)
    with pytest.raises(BudgetError, match="50 planned releases would exceed") as caught:
        budget.register(PLAN)
    assert caught.value.todo
    assert ledger.head().length == 0
    budget.register(replace(PLAN, rounds=49))
    assert ledger.book().fixed == {PLAN.event(): 49}


def test_plans_are_verified_together_and_written_down_once(ledger):
    other = replace(PLAN, noise_multiplier=2.0, purpose="metric", rounds=20)
    budget = Budget(epsilon_pld({PLAN.event(): 50, other.event(): 20}, 1e-5), 1e-5, ledger)
    budget.register(PLAN, other)
    before = ledger.head()
    budget.register(PLAN, other)
    assert ledger.head() == before
    with pytest.raises(BudgetError):
        budget.register(replace(PLAN, rounds=51))
    assert ledger.head() == before


def test_what_was_not_planned_before_the_first_release_is_judged_by_a_filter_of_fixed_order(ledger):
    late = replace(PLAN, noise_multiplier=1.5, purpose="metric")
    budget = Budget(2.0, 1e-5, ledger)
    budget.register(PLAN)
    order = ledger.book().campaign.filter_order
    spend(budget, limit=10)
    spent = 0
    while epsilon_at_order({PLAN.event(): 10, late.event(): spent + 1}, 1e-5, order) <= 2.0:
        spent += 1
    assert 0 < spent < 1000
    assert spend(budget, late, "late") == spent
    assert not fixed_beforehand(ledger.book())
    assert budget.spent().epsilon == 2.0  # a filter promises its limit, not where it happened to stop
    # PLD would have let more pass, which an adaptive choice could have abused.
    assert epsilon_pld({PLAN.event(): 10, late.event(): spent + 1}, 1e-5) < 2.0


def test_more_rounds_than_planned_are_not_planned(ledger):
    budget = Budget(4.0, 1e-5, ledger)
    budget.register(PLAN)
    assert spend(budget, limit=50) == 50
    assert fixed_beforehand(ledger.book())
    budget.reserve(PLAN, "run", 51, "secure")
    assert not fixed_beforehand(ledger.book())


def test_a_campaign_without_a_filter_refuses_what_was_not_planned(ledger):
    ledger.open_campaign(4.0, 1e-5, PLAN.population)
    budget = Budget.of(ledger)
    ledger.plan(PLAN.settings(), PLAN.event(), PLAN.rounds)
    budget.reserve(PLAN, "run", 1, "secure")
    with pytest.raises(BudgetError, match="not planned before the first one"):
        budget.reserve(replace(PLAN, noise_multiplier=3.0), "run", 2, "secure")


def test_a_void_first_release_still_was_the_first(ledger):
    """Otherwise a coordinator could look, void and plan anew."""
    budget = Budget(4.0, 1e-5, ledger)
    ledger.void(budget.reserve(PLAN, "run", 1, "secure"), "nobody was contacted")
    late = replace(PLAN, noise_multiplier=3.0)
    budget.reserve(late, "run", 2, "secure")
    assert not fixed_beforehand(ledger.book())


# Shares


def test_a_share_refuses_its_purpose_while_the_budget_goes_on(ledger):
    metric = replace(PLAN, purpose="metric", rounds=10)
    budget = Budget(4.0, 1e-5, ledger, shares={"purpose:metric": pld(3) + 1e-6})
    budget.open(PLAN.population, PLAN, metric)
    for plan in (PLAN, metric):
        ledger.plan(plan.settings(), plan.event(), plan.rounds)
    assert spend(budget, metric, "metrics") == 3
    before = ledger.head()
    with pytest.raises(BudgetError, match="share of purpose:metric"):
        budget.reserve(metric, "metrics", 4, "secure")
    assert ledger.head() == before
    assert spend(budget, PLAN, "train", limit=5) == 5


def test_queriers_have_shares_of_their_own_and_strangers_none(ledger):
    budget = Budget(8.0, 1e-5, ledger, shares={"querier:acme": pld(2) + 1e-6, "querier:beta": pld(1) + 1e-6})
    budget.register(PLAN)
    for querier, rounds in (("acme", 2), ("beta", 1), ("stranger", 0)):
        for round in range(rounds):
            budget.reserve(PLAN, querier, round, "secure", querier)
        with pytest.raises(BudgetError, match=f"share of querier:{querier}"):
            budget.reserve(PLAN, querier, rounds, "secure", querier)
    assert ledger.book().spent[PLAN.event()] == 3
    budget.reserve(PLAN, "own", 0, "secure")


def test_a_share_for_all_others_is_one_for_each(ledger):
    budget = Budget(8.0, 1e-5, ledger, shares={"querier:*": pld(1) + 1e-6})
    budget.register(PLAN)
    for querier in ("one", "two"):
        budget.reserve(PLAN, querier, 0, "secure", querier)
        with pytest.raises(BudgetError, match="querier"):
            budget.reserve(PLAN, querier, 1, "secure", querier)


def test_shares_hold_in_whole_millionths_for_pure_releases():
    tenth = Pure(micro_epsilon=100_000)
    filter = Filter(0.3, 1e-5)
    assert [filter.allows(Counter({tenth: count}), tenth) for count in range(4)] == [True, True, True, False]
    assert filter.reach(Counter(), tenth, 10) == 3


@pytest.mark.parametrize("shares", [{"metric": 1.0}, {"purpose:": 1.0}, {"querier:a": -1.0}, {"querier:a": math.inf}])
def test_impossible_shares_are_refused(ledger, shares):
    with pytest.raises(ConfigError):
        Budget(4.0, 1e-5, ledger, shares=shares)


def test_a_budget_can_be_taken_up_from_its_ledger(ledger):
    with pytest.raises(ConfigError, match="no campaign"):
        Budget.of(ledger)
    Budget(4.0, 1e-5, ledger).register(PLAN)
    again = Budget.of(ledger)
    assert (again.epsilon, again.delta) == (4.0, 1e-5)
    again.reserve(PLAN, "run", 0, "secure")


def test_visible_cohorts_with_a_cap_are_charged_no_more_often_than_a_device_can_take_part(ledger):
    plan = replace(PLAN, cohorts="visible", max_participations=4, rounds=20)
    budget = Budget(10.0, 1e-5, ledger)
    budget.register(plan)
    assert spend(budget, plan, limit=20) == 20
    assert ledger.book().spent[plan.event()] == 4
    assert budget.spent().epsilon == pytest.approx(9.997, abs=1e-3)
    with pytest.raises(BudgetError):
        budget.reserve(plan, "another run", 1, "secure")  # the same devices again: the cap is per run


@pytest.mark.parametrize("seed", range(3))
def test_a_long_campaign_answers_from_memory(ledger, seed):
    """Ten thousand rounds: the rule is asked for whole runs at once, not round by round."""
    event = replace(PLAN, noise_multiplier=20.0).event()
    asked = []
    filter = Filter(4.0, 1e-5)
    real = filter._fits
    filter._fits = lambda counts: asked.append(1) or real(counts)
    for spent in range(seed, 10_000, 97):
        assert filter.allows(Counter({event: spent}), event, 10_000)
    assert len(asked) <= 2


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


def test_runs_that_an_earlier_plan_covers_need_no_room_of_their_own(ledger):
    budget = Budget(pld(150), 1e-5, ledger)
    budget.register(replace(PLAN, rounds=150))
    for run in range(3):
        budget.register(PLAN)
        assert spend(budget, run=f"run-{run}", limit=50) == 50
    assert fixed_beforehand(ledger.book())
    assert budget.spent().epsilon == pld(150)
    with pytest.raises(BudgetError):
        budget.reserve(PLAN, "run-3", 0, "secure")
