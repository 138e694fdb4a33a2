"""A sum leaves with the noise of its plan, for the reservation that paid for it, and in no other way."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sottovoce.privacy.budget import Budget
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

PLAN = MechanismPlan(6040, 0.02, 0.5, 1.2, 5, 1e-5)
FAMILIES = ["gaussian", "discrete_gaussian"]


@pytest.fixture
def pay(tmp_path):
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        budget = Budget(8.0, 1e-5, ledger)
        yield lambda plan, round=1: budget.reserve(plan, "run", round, "secure")


def source(round=0):
    return SeededEntropy(7).generator("noise", round)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_noise_has_the_promised_size_and_half_of_it_would_be_noticed(pay, family):
    plan = replace(PLAN, noise=family)
    released = plan.summed_noise().release(np.zeros(200_000), pay(plan), source())
    for promised, fits in ((1.2 * 0.5, True), (1.2 * 0.5 / 0.97, False)):
        spread = (released.var() / promised**2 - 1) / np.sqrt(2 / len(released))
        assert bool(abs(spread) < 4.5) is fits
    assert stats.kstest(released[:20_000] / 0.6, "norm").pvalue > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reservation_for_another_plan_pays_for_nothing(pay, family):
    plan = replace(PLAN, noise=family)
    other = pay(replace(plan, clip_norm=0.4))
    with pytest.raises(ValueError, match="another plan"):
        plan.summed_noise().release(np.zeros(3), other, source())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sum_is_still_there_under_the_noise_and_nan_counts_as_zero(pay, family):
    plan = replace(PLAN, noise=family)
    total = np.array([1e4, np.nan, -np.inf, -1e4])
    released = plan.summed_noise().release(total, pay(plan), source())
    assert np.abs(released - [1e4, 0, 0, -1e4]).max() < 6 * 0.6
    assert released.shape == total.shape


def test_a_plan_without_noise_releases_the_exact_sum(tmp_path):
    plan = replace(PLAN, noise_multiplier=0.0)
    with Ledger.open(tmp_path / "bare.db", create=True) as ledger:
        paid = Budget(float("inf"), 1e-5, ledger).reserve(plan, "run", 1, "secure")
    assert plan.summed_noise().release([1.5, 2.25], paid, source()).tolist() == [1.5, 2.25]


def test_whole_numbers_pay_for_rounding_the_sum_to_them():
    plain, whole = PLAN.summed_noise(), replace(PLAN, noise="discrete_gaussian").summed_noise()
    assert plain.std(10) == plain.std(10**6)
    assert plain.std(10) < whole.std(10) < whole.std(10**6) < plain.std(10) * (1 + 1e-5)
