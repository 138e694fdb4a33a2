"""Conformance checks: silent on what was promised, loud on each fault, at the size that they say they see."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sottovoce.privacy import conformance as release
from sottovoce.privacy import conformance_cohorts as cohorts
from sottovoce.privacy import conformance_noise as noise
from sottovoce.privacy.conformance_cohorts import Law

ALARM = 1e-7
ROUNDS, PLACES = 80, 600
DEVICES, RATE = 500, 0.04


@pytest.fixture(scope="module")
def pure():
    return np.random.default_rng(1).normal(size=(ROUNDS, PLACES))


@pytest.fixture(scope="module")
def drawn():
    return np.random.default_rng(2).random((ROUNDS, DEVICES)) < RATE


def noise_checks(values, grid=0.0):
    return [
        noise.noise_size(values, ALARM),
        noise.noise_size_by_round(values, ALARM),
        noise.normal_shape(values, grid, ALARM),
        noise.normal_tails(values, ALARM),
        noise.repeated_noise(values, ALARM),
        noise.lagged_noise(values, "rounds", ALARM),
        noise.lagged_noise(values, "places", ALARM),
    ]


COHORT_CHECKS = (
    cohorts.cohort_rate,
    cohorts.device_rates,
    cohorts.cohort_spread,
    cohorts.device_spread,
    cohorts.shared_members,
)


def failed(checks):
    return {check.name for check in checks if not check.passed}


def test_promised_noise_passes_every_check(pure):
    assert failed(noise_checks(pure)) == set()


def bent(values, **how):
    """A copy with one fault."""
    out = values.copy()
    rng = np.random.default_rng(9)
    match how:
        case {"scale": scale}:
            out *= scale
        case {"quiet": round}:
            out[round] *= 0.6
        case {"law": "laplace"}:
            out = rng.laplace(scale=math.sqrt(0.5), size=values.shape)
        case {"law": "uniform"}:
            out = rng.uniform(-math.sqrt(3), math.sqrt(3), values.shape)
        case {"cut": far}:
            out = np.clip(values, -far, far)
        case {"repeat": (one, other)}:
            out[other] = out[one]
        case {"negate": (one, other)}:
            out[other] = -out[one]
        case {"remember": share}:
            for number in range(1, len(out)):
                out[number] = share * out[number - 1] + math.sqrt(1 - share**2) * values[number]
        case {"tile": width}:
            out = np.tile(values[:, :width], (1, values.shape[1] // width))
    return out


@pytest.mark.parametrize(
    ("fault", "seen_by"),
    [
        ({"scale": 0.97}, "noise size"),
        ({"scale": 1.03}, "noise size"),
        ({"scale": 0.5}, "noise size"),
        ({"quiet": 11}, "noise size by round"),
        ({"law": "laplace"}, "noise shape"),
        ({"law": "uniform"}, "noise shape"),
        ({"cut": 3.0}, "noise tails"),
        ({"repeat": (3, 60)}, "repeated noise"),
        ({"negate": (3, 60)}, "repeated noise"),
        ({"remember": 0.05}, "noise lag over rounds"),
        ({"tile": 50}, "noise lag over places"),
    ],
    ids=str,
)
def test_each_fault_of_the_noise_is_seen(pure, fault, seen_by):
    assert seen_by in failed(noise_checks(bent(pure, **fault)))


def test_the_size_check_sees_what_it_says_it_sees():
    """Power, by simulation of the test statistic itself: chi-square draws in place of their sums."""
    check = noise.noise_size(np.random.default_rng(0).normal(size=(40, 500)), ALARM)
    least = float(check.power.split("below ")[1].split(" ")[0])
    totals = least**2 * stats.chi2.rvs(20_000, size=20_000, random_state=3)
    missed = np.mean(2 * stats.chi2.cdf(totals, 20_000) >= ALARM)
    assert missed < 0.002
    assert 0.9 < least < 0.99


def test_noise_on_a_coarse_grid_is_still_gaussian_and_off_it_is_not(pure):
    rounded = np.rint(pure / 0.2) * 0.2
    assert noise.normal_shape(rounded, 0.2, ALARM).passed
    assert not noise.normal_shape(rounded, 0.0, ALARM).passed


def test_a_number_off_the_grid_is_seen_unless_it_cannot_be_read(pure):
    width = 2.0**-10
    released = np.rint(pure / width) * width
    error = np.full(pure.shape, width / 100)
    assert noise.public_grid(released, width, error).passed
    released[5, 7] += width / 3
    assert noise.public_grid(released, width, error).statistic == 1
    error[5, 7] = width
    assert noise.public_grid(released, width, error).passed
    assert "none" in noise.public_grid(released, width, np.full(pure.shape, width)).power


def test_silence_in_place_of_noise_is_seen_without_a_warning():
    silent = np.zeros((6, 40))
    assert "noise size" in failed(noise_checks(silent))


def test_one_round_is_judged_by_what_one_round_shows(pure):
    assert failed(noise_checks(pure[:1])) == set()
    assert "none" in noise.repeated_noise(pure[:1], ALARM).power


# Cohorts


def cohort_checks(asked, law=None):
    return [check(asked, law or Law(asked.shape[1], RATE), ALARM) for check in COHORT_CHECKS]


def test_independent_coins_pass_every_check(drawn):
    assert failed(cohort_checks(drawn)) == set()


def fixed_size(rng):
    out = np.zeros((ROUNDS, DEVICES), bool)
    for row in out:
        row[rng.choice(DEVICES, round(DEVICES * RATE), replace=False)] = True
    return out


def in_turn(rng):
    sizes = rng.binomial(DEVICES, RATE, ROUNDS)
    out, start = np.zeros((ROUNDS, DEVICES), bool), 0
    for row, size in zip(out, sizes, strict=True):
        row[np.arange(start, start + size) % DEVICES] = True
        start += size
    return out


def spared(rng):
    out = rng.random((ROUNDS, DEVICES)) < 0.2
    out[1:] &= ~out[:-1]
    return out


def twice(rng):
    out = rng.random((ROUNDS, DEVICES)) < RATE
    out[50] = out[4]
    return out


@pytest.mark.parametrize(
    ("draw", "seen_by"),
    [
        (lambda rng: rng.random((ROUNDS, DEVICES)) < 1.3 * RATE, "sampling rate"),
        (
            lambda rng: rng.random((ROUNDS, DEVICES)) < np.where(np.arange(DEVICES) == 3, 0.6, RATE),
            "rate of each device",
        ),
        (fixed_size, "cohort size spread"),
        (lambda rng: rng.random((ROUNDS, DEVICES)) < rng.choice([0.5, 1.5], (ROUNDS, 1)) * RATE, "cohort size spread"),
        (in_turn, "spread between devices"),
        (lambda rng: rng.random((ROUNDS, DEVICES)) < rng.choice([0.4, 1.6], DEVICES) * RATE, "spread between devices"),
        (twice, "rounds in common"),
        (spared, "rounds in common"),
    ],
    ids=[
        "a higher rate",
        "one favourite",
        "fixed size",
        "bursts",
        "in turn",
        "half favoured",
        "cohort used twice",
        "no two rounds running",
    ],
)
def test_each_impostor_of_a_sampler_is_seen(draw, seen_by):
    asked = draw(np.random.default_rng(5))
    law = Law(DEVICES, float(asked.mean()) if draw is spared else RATE)
    assert seen_by in failed(cohort_checks(asked, law))


def test_everybody_in_every_round_is_what_rate_one_promises():
    everybody = np.ones((20, 30), bool)
    assert failed(cohort_checks(everybody, Law(30, 1.0))) == set()
    everybody[3, 4] = False
    assert "sampling rate" in failed(cohort_checks(everybody, Law(30, 1.0)))


def test_cohorts_with_a_public_cap_are_judged_by_the_law_of_the_cap():
    rng = np.random.default_rng(8)
    asked, cap = rng.random((400, 200)) < 0.1, 22
    for row in asked:
        joined = np.flatnonzero(row)
        row[rng.permutation(joined)[cap:]] = False
    capped = Law(200, 0.1, cap)
    assert capped.sizes().sum() == pytest.approx(1.0)
    assert capped.rate == pytest.approx(asked.mean(), rel=0.02)
    assert failed(cohort_checks(asked, capped)) == set()
    assert failed(cohort_checks(asked, Law(200, 0.1)))


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.integers(1, 30), st.floats(0.0, 3.0))
def test_the_chernoff_bound_is_never_below_the_exact_tail_of_one_count(coins, rate, count, share):
    law = Law(coins, rate).sizes()
    squares = np.square(np.arange(coins + 1) - law @ np.arange(coins + 1))
    # The sum of independent counts is at least as far out as `total` when each of them is.
    each = share * float(law @ squares)
    total = each * count
    above = law[squares >= each].sum() ** count if share >= 1 else 0.0
    below = law[squares <= each].sum() ** count if share <= 1 else 0.0
    assert cohorts._chernoff(total, count, law) >= min(1.0, max(above, below)) * (1 - 1e-6)


def test_the_chernoff_bound_keeps_its_level():
    """500 honest sets of sizes, each judged at 5 %: a bound that is valid fails at most that often."""
    rng = np.random.default_rng(3)
    law = Law(100, 0.1).sizes()
    totals = np.square(rng.binomial(100, 0.1, (500, 30)) - 10.0).sum(1)
    assert np.mean([cohorts._chernoff(float(total), 30, law) < 0.05 for total in totals]) < 0.05


# The bound on a device, the denominator, the debit


def test_canaries_at_the_bound_pass_and_longer_shorter_or_missing_ones_do_not():
    rng = np.random.default_rng(4)
    owner = rng.integers(0, 100, 800)
    lengths = 1.0 + rng.normal(size=800)

    def both(seen):
        return failed([release.clip_norm(seen, 1.0, 1.0, ALARM), release.largest_canary(seen, owner, 1.0, 1.0, ALARM)])

    assert both(lengths) == set()
    assert "clip norm" in both(lengths + 0.4)
    assert "clip norm" in both(lengths - 1.0)
    one_too_long = np.where(owner == 7, lengths + 4.0, lengths)
    assert both(one_too_long) == {"largest canary"}


def test_without_a_participation_nothing_is_claimed_about_the_bound():
    for check in (
        release.clip_norm([], 1.0, 1.0, ALARM),
        release.largest_canary([], np.empty(0, int), 1.0, 1.0, ALARM),
    ):
        assert check.passed
        assert check.power.startswith("none")


def test_division_by_the_realised_number_is_told_from_the_public_constant():
    rng = np.random.default_rng(6)
    sizes = rng.binomial(DEVICES, RATE, 200)
    members = rng.binomial(sizes, 0.5)
    noisy = rng.normal(size=200)
    assert release.denominator(members + noisy, members, sizes, 20.0, 1.0, ALARM).passed
    realised = release.denominator(members * 20.0 / np.maximum(sizes, 1) + noisy, members, sizes, 20.0, 1.0, ALARM)
    assert not realised.passed
    assert realised.statistic == pytest.approx(1.0, abs=0.3)


def test_cohorts_of_one_size_leave_nothing_to_regress_on():
    check = release.denominator(np.full(5, 3.0), np.full(5, 3), np.full(5, 6), 6.0, 1.0, ALARM)
    assert check.passed
    assert check.power.startswith("none")


def test_a_refused_reply_is_an_alarm():
    assert release.replies([]).passed
    assert "norm 9" in release.replies(["node 1: reply of norm 9 exceeds 5"]).measured
    assert not release.replies(["node 1: reply of norm 9 exceeds 5"]).passed


@pytest.mark.parametrize(
    ("before", "after", "strangers", "passed"),
    [
        ([1, 2, 3], [1, 2, 3], 0, True),
        ([1, -1, 3], [1, 2, 3], 0, True),
        ([1, 1, 2], [1, 1, 2], 0, False),
        ([0, 1, 2], [1, 2, 3], 0, False),
        ([1, 2, 3], [1, 2, 2], 0, False),
        ([1, 2, 3], [1, 2, 3], 1, False),
    ],
    ids=["each in time", "nobody asked", "one missing", "debited late", "given back", "another event"],
)
def test_a_debit_that_is_missing_late_or_different_is_seen(before, after, strangers, passed):
    assert release.debit(before, after, strangers).passed is passed


@pytest.mark.soak
def test_p_values_of_honest_runs_are_not_too_small():
    """Of 300 honest runs at 5 % a check, none fails significantly more often than that: binomial, at 1e-4."""
    rng = np.random.default_rng(11)
    fails = {}
    for _ in range(300):
        for check in [
            *noise_checks(rng.normal(size=(40, 200))),
            *cohort_checks(rng.random((40, 300)) < RATE, Law(300, RATE)),
        ]:
            fails[check.name] = fails.get(check.name, 0) + (check.p_value < 0.05)
    assert max(fails.values()) <= stats.binom.isf(1e-4, 300, 0.05)
