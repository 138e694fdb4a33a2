"""The sum's noise is what was promised, whoever stays, and its epsilon is never below that of the central noise."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

from sottovoce.privacy.accountant import published
from sottovoce.privacy.distributed_noise import GRID_BITS, Encoding
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import Gaussian, PoissonGaussian
from sottovoce.privacy.masks import MOST_BITS
from sottovoce.privacy.near_gaussian import worth


def encoding(nodes=10, parts=7, size=100_000, noise=1.0, devices=10, phones=True):
    return Encoding(size, 1.0, noise, nodes, parts, devices, phones)


def shares(one, nodes):
    """What each node sends whose devices have nothing to say, in weight units."""
    entropy = SeededEntropy(0)
    sources = [(entropy.generator("rounding", node), entropy.generator("noise", node)) for node in range(nodes)]
    return [one.decode(one.encode(np.zeros(one.size), *both, 1)) for both in sources]


def test_the_noise_is_as_promised_at_the_worst_dropout_and_more_when_fewer_are_lost():
    # 1,000,000 numbers: the standard error of the deviation is 0.07 %.
    first, second, third = shares(encoding(nodes=3, parts=2, size=1_000_000, noise=2.0, devices=3), 3)
    assert abs((first + second).std() / 2.0 - 1) < 0.01
    assert abs((first + second + third).std() / (2.0 * math.sqrt(3 / 2)) - 1) < 0.01
    # One more lost than tolerated is noticed.
    assert third.std() < 2.0 * 0.72


@pytest.mark.parametrize("phones", [True, False])
@pytest.mark.parametrize(("nodes", "parts", "noise"), [(3, 2, 0.3), (10, 7, 1.0), (1000, 700, 1.0), (100, 51, 8.0)])
def test_what_one_device_moves_is_hidden_by_no_less_than_the_promised_noise(nodes, parts, noise, phones):
    one = encoding(nodes, parts, 20_000, noise, nodes, phones)
    assert worth(one.moved, 2.0**one.scale_bits, parts, one.size) >= noise
    assert one.std >= 2**GRID_BITS
    # And next to nothing is wasted: 0.5 % on phones, 2 % where a node rounds the sum of several.
    assert one.std * one.width <= noise * (1.005 if phones else 1.02)


def test_the_modulus_holds_the_longest_sum_and_noise_of_eight_deviations():
    for nodes in (3, 10, 100, 1000):
        one = encoding(nodes, nodes // 2 + 1, devices=nodes)
        reach = nodes * (one.norm + 1) + 8 * math.sqrt(nodes) * 2.0**one.scale_bits
        assert reach < 2 ** (one.bits - 1) <= 4 * reach


def test_epsilon_is_not_below_that_of_the_central_discrete_gaussian():
    # The least noise of a sum, drawn centrally, at a scale small enough for the accountant to add up.
    central = privacy_loss_distribution.from_discrete_gaussian_mechanism(
        sigma=256, sensitivity=256, value_discretization_interval=1e-4
    ).self_compose(3)
    value = worth(256.0, 256 / math.sqrt(7), 7, 1)
    # Three neighbours in the accountant's own grid are what the two may differ by.
    assert published({Gaussian(noise_multiplier=value): 3}, 1e-5)[0] >= central.get_epsilon_for_delta(1e-5) - 3e-4
    half = Gaussian(noise_multiplier=value * 1.05)
    assert published({half: 3}, 1e-5)[0] < central.get_epsilon_for_delta(1e-5) - 3e-4


def test_noise_multipliers_one_and_two_cost_the_published_figures():
    for noise, epsilon in ((1.0, 4.3772), (2.0, 1.9931)):
        one = encoding(noise=noise)
        value = worth(one.moved, 2.0**one.scale_bits, one.parts, one.size)
        assert published({Gaussian(noise_multiplier=value): 1}, 1e-5)[0] == pytest.approx(epsilon, abs=2e-4)


def test_shares_that_were_not_provisioned_for_lost_nodes_cost_as_much_as_published():
    # With all of it epsilon is 1.85; 30 % of the nodes are lost, and nobody made up for them.
    value = worth(2.0**16, 2.0**16 / 10, 70, 1000)
    event = PoissonGaussian(sampling_rate=0.02, noise_multiplier=value)
    assert published({event: 200}, 1e-5)[0] == pytest.approx(2.90, abs=0.015)


def test_updates_and_plans_that_cannot_be_encoded_are_refused():
    one = encoding(size=4)
    sources = [SeededEntropy(0).generator(name, 1) for name in ("a", "b")]
    for wrong in (np.full(4, np.nan), np.full(4, np.inf), np.full(4, 0.51), np.zeros(3)):
        with pytest.raises(ValueError, match=r"norm|expected"):
            one.encode(wrong, *sources, 1)
    with pytest.raises(ConfigError, match="no room"):
        encoding(noise=2.0**GRID_BITS)
    with pytest.raises(ConfigError, match="bits"):
        encoding(devices=2**50)
    with pytest.raises(ConfigError, match="nobody can encode"):
        encoding(nodes=3, parts=4)
    assert encoding(devices=2**40).bits <= MOST_BITS


def test_without_noise_the_sum_is_that_of_the_rounded_updates():
    one = encoding(size=3, noise=0.0)
    sources = [SeededEntropy(0).generator(name, 1) for name in ("a", "b")]
    update = np.array([0.5, -0.25, 0.0])
    np.testing.assert_allclose(one.decode(one.encode(update, *sources, 1)), update, atol=one.width)
