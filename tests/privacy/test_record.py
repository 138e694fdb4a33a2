"""Record-level figures and their conversion to a device: published values, bounds from both sides, and the label."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.privacy_accountant import NeighboringRelation
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.accountant import epsilon_without_sampling
from sottovoce.privacy.claim import DeviceClaim
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import Gaussian, NonPrivate, PoissonGaussian
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.record import LARGE, RecordPlan, RecordTarget, group_epsilon

PHONE = RecordPlan(
    records=60, sampling_rate=0.25, clip_norm=1.0, noise_multiplier=1.0, steps=20, participations=1, delta=1e-5
)
"""60 records, batches of 16 of them (q = 1 / ceil(60 / 16)), five passes."""


@pytest.mark.parametrize(("records", "epsilon"), [(1, 8.08), (2, 18.9), (5, 64.3), (10, 177.4)])
def test_measured_figures_are_reproduced(records, epsilon):
    assert PHONE.group_claim(records).epsilon == pytest.approx(epsilon, rel=2e-3)


def test_the_figure_for_one_record_is_that_of_stock_dp_accounting_under_add_or_remove():
    event = dp_event.SelfComposedDpEvent(dp_event.PoissonSampledDpEvent(0.25, dp_event.GaussianDpEvent(1.0)), 20)
    stock = pld_privacy_accountant.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    assert PHONE.claim().epsilon == pytest.approx(stock.compose(event).get_epsilon(1e-5), abs=1e-3)


def test_the_noise_for_a_target_is_the_least_in_thousandths():
    found = RecordTarget(epsilon=8.08, delta=1e-5, sampling_rate=0.25).plan(60, 20, 1)
    assert found == PHONE
    assert replace(PHONE, noise_multiplier=0.999).claim().epsilon > 8.08


def test_a_group_is_never_better_off_than_a_smaller_one_nor_worse_than_without_sampling():
    known = [PHONE.group_claim(k).epsilon for k in (1, 2, 5, 10, 60, LARGE, LARGE + 1, 200, 5000)]
    assert known == sorted(known)
    for k in (2, 10, 60, LARGE + 1):
        with_all = group_epsilon({replace(PHONE, sampling_rate=1.0).event(): 20}, 1e-5, k)
        assert PHONE.group_claim(k).epsilon < with_all
    # Every record in every step: the closed Gaussian formula, mu = 10 * sqrt(20).
    exact = epsilon_without_sampling({Gaussian(noise_multiplier=0.1): 20}, 1e-5)
    assert group_epsilon({replace(PHONE, sampling_rate=1.0).event(): 20}, 1e-5, 10) == pytest.approx(exact)


def test_the_conversion_is_above_an_attack_that_counts_what_a_whole_device_adds_up_to():
    """An attacker who tests sum > t on the total of all steps: P(true) - e^eps P(false) must stay below delta.

    200,000 draws; a conversion that merely multiplied 8.08 by the size of the group would be refuted.
    """
    rng = np.random.default_rng(0)
    for k in (5, 10):
        shift = rng.binomial(k, 0.25, (200_000, 20)).sum(1) / math.sqrt(20)
        seen = shift + rng.standard_normal(len(shift))
        t = float(np.quantile(seen, 0.5))
        # log P(N(0, 1) > t)
        false = math.log(0.5 * math.erfc(t / math.sqrt(2)))
        lower = math.log(0.5 - 1e-5) - false
        assert PHONE.group_claim(k).epsilon >= lower
    for k in (10, 60):
        assert PHONE.group_claim(k).epsilon > 8.08 * k


@settings(max_examples=8, deadline=None)
@given(q=st.floats(0.01, 1.0), z=st.floats(0.6, 5.0), steps=st.integers(1, 50), k=st.integers(LARGE + 1, 500))
def test_beyond_the_mixtures_the_bound_stays_between_the_mean_shift_and_no_sampling(q, z, steps, k):
    event = PoissonGaussian(sampling_rate=q, noise_multiplier=z, adjacency="add_remove")
    found = group_epsilon({event: steps}, 1e-6, k)
    assert found >= steps * (q * k / z) ** 2 / 2 * 0.9
    top = Gaussian(noise_multiplier=z / k / math.sqrt(steps))
    assert found <= epsilon_without_sampling({top: 1}, 0.5e-6) * (1 + 1e-9)


def test_different_steps_compose():
    one, other = PHONE.event(), replace(PHONE, noise_multiplier=2.0).event()
    both = group_epsilon(Counter({one: 10, other: 10}), 1e-5, 5)
    assert group_epsilon({other: 20}, 1e-5, 5) < both < group_epsilon({one: 20}, 1e-5, 5)


def test_every_printed_figure_has_its_conversion_beside_it():
    text = str(PHONE.claim())
    for needed in (
        "8.07",
        "1e-05",
        "per record, not per device",
        "2 records 18.9",
        "10 records 177.",
        "whole device of 60",
    ):
        assert needed in text
    assert "NO GUARANTEE" not in text
    assert str(PHONE.claim(noise_kind="seeded")).startswith("SIMULATION: NO GUARANTEE")
    assert "far less" in str(PHONE.group_claim(3))
    assert "record group of 3" in str(PHONE.group_claim(3))
    assert not isinstance(PHONE.claim(), DeviceClaim)
    assert PHONE.claim(0).epsilon == 0


def test_a_step_says_that_its_unit_is_a_record_and_is_no_device_event():
    device = MechanismPlan(60, 0.25, 1.0, 1.0, 20, 1e-5)
    assert PHONE.event().adjacency == "add_remove"
    assert PHONE.event() != device.event()
    assert PHONE.digest() != device.digest()
    assert PHONE.settings()["unit"] == "record"


@pytest.mark.parametrize(
    "event",
    [
        Gaussian(noise_multiplier=1.0),
        NonPrivate(sampling_rate=0.5),
        PoissonGaussian(sampling_rate=0.5, noise_multiplier=1.0),
    ],
)
def test_what_devices_released_together_is_not_converted(event):
    with pytest.raises(ValueError, match="records of one device"):
        group_epsilon({event: 1}, 1e-5, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"records": 0},
        {"steps": 0},
        {"participations": 0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"clip_norm": 0.0},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"delta": 1 / 60},
        {"delta": 0.0},
        {"delta": math.nan},
    ],
)
def test_a_plan_that_protects_no_record_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(PHONE, **wrong)


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon": math.inf}, {"delta": 1.0}, {"delta": 0.0}])
def test_a_target_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RecordTarget(**wrong)


def test_nobody_can_ask_about_a_group_of_none():
    with pytest.raises(ValueError, match="one record or more"):
        PHONE.group_claim(0)
