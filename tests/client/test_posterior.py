"""The posterior: what is learnt, that order does not matter, that it stays small, and that damaged bytes are told."""

import numpy as np
import pytest

from sottovoce.client.posterior import MAX_ARMS, Arm, Posterior, Shown, decode, encode, updated
from sottovoce.privacy.errors import DeviceError


def impressions(rng, n, arm="cat:1", offset=0.0, chance=0.1):
    odds = np.log(chance / (1 - chance)) + offset
    return [Shown(arm, chance, bool(click)) for click in rng.random(n) < 1 / (1 + np.exp(-odds))]


def grid(shown, variance):
    """Mean and variance by integrating the exact belief over a fine grid."""
    offset = np.linspace(-8, 8, 20001)
    told = -(offset**2) / (2 * variance)
    for one in shown:
        p = 1 / (1 + np.exp(-(np.log(one.chance / (1 - one.chance)) + offset)))
        told += np.log(p if one.clicked else 1 - p)
    weight = np.exp(told - told.max())
    weight /= weight.sum()
    mean = (weight * offset).sum()
    return mean, (weight * (offset - mean) ** 2).sum()


@pytest.mark.parametrize(("n", "offset"), [(5, 0.0), (30, 1.0), (300, -0.5)])
def test_one_update_is_close_to_the_exact_belief(n, offset):
    shown = impressions(np.random.default_rng(n), n, offset=offset)
    arm = updated(Posterior(), shown, 0.5).arms[0]
    mean, variance = grid(shown, 0.5)
    assert arm.mean == pytest.approx(mean, abs=0.12)
    assert arm.variance == pytest.approx(variance, rel=0.15)


def test_the_order_of_impressions_does_not_change_a_single_bit():
    rng = np.random.default_rng(0)
    shown = [*impressions(rng, 50, "a"), *impressions(rng, 50, "b", 1.0, 0.03), *impressions(rng, 9, "c", 0, 0.5)]
    one = updated(Posterior(), shown)
    for _ in range(5):
        rng.shuffle(shown)
        assert encode(updated(Posterior(), [Shown(*row) for row in shown])) == encode(one)


def test_many_small_updates_end_near_one_large_one():
    shown = impressions(np.random.default_rng(1), 200, offset=0.7)
    posterior = Posterior()
    for one in shown:
        posterior = updated(posterior, [one], 0.5)
    whole = updated(Posterior(), shown, 0.5).arms[0]
    assert posterior.arms[0].mean == pytest.approx(whole.mean, abs=0.1)
    assert posterior.arms[0].variance == pytest.approx(whole.variance, rel=0.1)


def test_an_arm_never_seen_is_as_unknown_as_the_prior_says_and_equal_names_share_a_number():
    posterior = updated(Posterior(), impressions(np.random.default_rng(0), 40, "a"))
    arm, mean, variance = posterior.beliefs(["new", "a", "new"], 0.7)
    assert arm[0] == arm[2] != arm[1]
    assert (mean[0], variance[0]) == (0.0, 0.7)
    assert variance[1] < 0.25


@pytest.mark.parametrize("chance", [0.0, 1.0, 1e-300])
@pytest.mark.parametrize("clicked", [True, False])
@pytest.mark.parametrize("variance", [1e-6, 100.0])
def test_a_model_that_was_sure_and_wrong_leaves_a_belief_in_range(chance, clicked, variance):
    posterior = Posterior()
    for _ in range(20):
        posterior = updated(posterior, [Shown("a", chance, clicked)] * 50, variance)
    assert decode(encode(posterior)) == posterior


@pytest.mark.parametrize("chance", [np.nan, -0.1, 1.1, np.inf])
def test_a_chance_that_is_no_probability_is_passed_over(chance):
    assert updated(Posterior(), [Shown("a", chance, True)]) == Posterior()


def test_the_arms_seen_longest_ago_are_forgotten_first():
    posterior = updated(Posterior(), [Shown(f"{n:04}", 0.1, False) for n in range(MAX_ARMS)])
    posterior = updated(posterior, [Shown("new", 0.1, True), Shown("0255", 0.1, True)])
    names = [arm.name for arm in posterior.arms]
    assert len(names) == MAX_ARMS
    assert {"new", "0000", "0255"} <= set(names)
    assert "0254" not in names
    assert names == sorted(names)
    assert len(encode(posterior)) < 12_000


def test_arms_that_left_the_catalogue_are_forgotten():
    posterior = updated(Posterior(), [Shown("a", 0.1, False), Shown("b", 0.1, False)])
    assert [arm.name for arm in posterior.kept({"b", "c"}).arms] == ["b"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode(Posterior())[:-1],
        encode(Posterior(arms=(Arm("a", float("nan"), 1.0, 0),))),
        encode(Posterior(arms=(Arm("a", 0.0, 0.0, 0),))),
        encode(Posterior(arms=(Arm("a", 0.0, float("inf"), 0),))),
        encode(Posterior(arms=(Arm("a", 99.0, 1.0, 0),))),
        encode(Posterior(arms=(Arm("a", 0.0, 1.0, 0),) * (MAX_ARMS + 1))),
    ],
)
def test_damaged_bytes_are_told_and_never_believed(data):
    with pytest.raises(DeviceError):
        decode(data)


def test_no_prior_variance_is_a_programmers_mistake():
    with pytest.raises(ValueError, match="prior variance"):
        updated(Posterior(), [], 0.0)
