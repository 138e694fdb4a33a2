"""The exact law of the noise on counts, and that nothing is released that was not paid for."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2

from sottovoce.privacy.budget import Budget
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import BudgetError, ConfigError
from sottovoce.privacy.events import MICRO, Pure
from sottovoce.privacy.filter import fixed_beforehand
from sottovoce.privacy.geometric import CountPlan, noisy_counts
from sottovoce.privacy.ledger import Ledger, Reservation
from sottovoce.privacy.plan import MechanismPlan

DRAWS = 40_000


def source(seed=0):
    return SeededEntropy(seed).generator("noise", 1)


def drawn(micro_epsilon, l1_bound=1, size=DRAWS, seed=0):
    return noisy_counts(np.zeros(size, np.int64), micro_epsilon, l1_bound, source(seed))


def mass(epsilon, x):
    """Probability of x under noise of scale 1 / epsilon."""
    return math.tanh(epsilon / 2) * math.exp(-abs(x) * epsilon)


def misfit(values, epsilon):
    """Chi-square p-value of `values` against the law, cells with fewer than 20 expected draws lumped."""
    expected, found, counts = [], [], Counter(values.tolist())
    inner = [x for x in range(-200, 201) if mass(epsilon, x) * len(values) >= 20]
    for x in inner:
        expected.append(mass(epsilon, x) * len(values))
        found.append(counts[x])
    expected.append(len(values) - sum(expected))
    found.append(len(values) - sum(found))
    statistic = sum((f - e) ** 2 / e for f, e in zip(found, expected, strict=True))
    return float(chi2.sf(statistic, len(expected) - 1))


@pytest.mark.parametrize(("micro_epsilon", "l1_bound"), [(500_000, 1), (1_000_000, 1), (1_500_000, 3), (333_333, 2)])
def test_the_noise_has_exactly_the_law_that_is_accounted(micro_epsilon, l1_bound):
    epsilon = micro_epsilon / MICRO / l1_bound
    values = drawn(micro_epsilon, l1_bound)
    assert misfit(values, epsilon) > 1e-3
    # The power of it: a scale that is off by 5 % to either side, and ordinary rounding of Laplace noise, are found.
    assert misfit(values, epsilon * 1.05) < 1e-6
    assert misfit(values, epsilon / 1.05) < 1e-6


def test_rounded_laplace_noise_would_be_found():
    rounded = np.rint(np.random.default_rng(0).laplace(0, 1.0, DRAWS)).astype(np.int64)
    assert misfit(rounded, 1.0) < 1e-6


def test_zero_is_not_drawn_twice_as_often_as_it_should():
    """Counting minus zero as zero gives zero the mass 0.63 instead of 0.46: 60 standard errors."""
    share = float((drawn(1_000_000) == 0).mean())
    assert abs(share - math.tanh(0.5)) < 5 * math.sqrt(0.25 / DRAWS)


def test_the_two_signs_are_alike_and_even_numbers_have_their_mass():
    values = drawn(500_000)
    error = math.sqrt(0.25 / DRAWS)
    assert abs((values > 0).mean() - (values < 0).mean()) < 5 * 2 * error
    even = sum(mass(0.5, x) for x in range(-400, 401, 2))
    assert abs((values % 2 == 0).mean() - even) < 5 * error


def test_equal_seeds_give_equal_noise_and_other_seeds_other():
    np.testing.assert_array_equal(drawn(500_000, size=50), drawn(500_000, size=50))
    assert not np.array_equal(drawn(500_000, size=50), drawn(500_000, size=50, seed=1))


def test_neighbours_differ_by_no_more_than_the_bound_allows():
    """Each count is hidden by the same noise, so the likelihood of any answer changes by exp(epsilon) at most."""
    epsilon = 0.5
    for shift in range(1, 4):
        ratios = [math.log(mass(epsilon / 3, x) / mass(epsilon / 3, x - shift)) for x in range(-50, 51)]
        assert max(map(abs, ratios)) <= epsilon / 3 * shift + 1e-12


def plan(**changes):
    told = {"population": 500, "delta": 1e-4, "micro_epsilon": 100_000, "l1_bound": 4, "rounds": 3}
    return CountPlan(**(told | changes))


def test_a_reservation_for_another_plan_pays_for_nothing():
    paid = Reservation(1, "0" * 64, "run", 1, plan().digest())
    assert plan().release(np.arange(4), paid, source()).shape == (4,)
    with pytest.raises(ValueError, match="another plan"):
        plan(l1_bound=5).release(np.arange(4), paid, source())


def test_fractions_and_huge_counts_are_refused():
    for total in (np.ones(3), np.array([True])):
        with pytest.raises(TypeError):
            noisy_counts(total, 1, 1, source())
    for total, epsilon, bound in (([2**41], 1, 1), ([1], 0, 1), ([1], 1, 0)):
        with pytest.raises(ValueError, match=r"count|needs"):
            noisy_counts(total, epsilon, bound, source())


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 0},
        {"population": 0},
        {"delta": 0.01},
        {"micro_epsilon": 0},
        {"l1_bound": 0},
        {"micro_epsilon": 2**40},
    ],
)
def test_a_plan_that_promises_nothing_is_refused(changes):
    with pytest.raises(ConfigError):
        plan(**changes)


def test_a_querier_spends_its_share_to_the_last_millionth_and_no_more(tmp_path):
    """Three tenths added up in floating point would be above 0.3."""
    asked = plan()
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        budget = Budget(4.0, 1e-4, ledger, {"querier:acme": 0.3, "querier:other": 1.0})
        budget.register(asked, plan(rounds=1, micro_epsilon=200_000))
        for number in (1, 2, 3):
            paid = budget.reserve(asked, "run", number, "secure", "acme")
            budget.commit(paid, "0" * 64)
        before = ledger.head()
        with pytest.raises(BudgetError, match="querier:acme"):
            budget.reserve(plan(rounds=1, micro_epsilon=200_000), "run", 4, "secure", "acme")
        with pytest.raises(BudgetError, match="querier:nobody"):
            budget.reserve(plan(rounds=1, micro_epsilon=200_000), "run", 4, "secure", "nobody")
        assert ledger.head() == before
        budget.reserve(plan(rounds=1, micro_epsilon=200_000), "run", 4, "secure", "other")
        assert budget.spent().epsilon == pytest.approx(0.5, abs=2e-3)


def test_counts_and_training_share_one_campaign(tmp_path):
    training = MechanismPlan(500, 0.1, 1.0, 1.2, 10, 1e-4)
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        budget = Budget(4.0, 1e-4, ledger)
        budget.register(training, plan())
        alone = budget.spent().epsilon
        budget.reserve(training, "run", 1, "secure")
        budget.reserve(plan(), "run", 1, "secure")
        assert alone == 0.0
        assert fixed_beforehand(ledger.book())
        assert ledger.book().spent[Pure(micro_epsilon=100_000)] == 1
        with pytest.raises(BudgetError):
            budget.register(plan(micro_epsilon=4 * MICRO))
