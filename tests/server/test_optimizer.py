"""What happens to a sum between the devices and the weights: noise first, then units, rate and shrinkage."""

import math

import numpy as np
import pytest
import torch

from sottovoce.privacy.budget import Budget
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.optimizer import PrivateStep, ServerOptimizer

DEVICES, ROUNDS = 8, 4
PLAIN = {"kind": "fedavg", "learning_rate": 0.7, "averaging": 0.0}


def plan(noise=0.0, rate=1.0, clip=0.5):
    return MechanismPlan(DEVICES, rate, clip, noise, ROUNDS, 1e-2)


@pytest.fixture
def rounds(tmp_path):
    """Lets a step take rounds, numbered, with the same sum; the seeded noise goes by the number."""
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:

        def go(step, private, numbers, total):
            budget = Budget(math.inf, private.delta, ledger)
            for number in numbers:
                paid = budget.reserve(private, "run", number, "seeded")
                step.step(total, paid, SeededEntropy(1).generator("noise", number))
            return step.parameters

        yield go


def begin(weights, private, scales=None, **changes):
    return PrivateStep(weights, ServerOptimizer(**(PLAIN | changes)), private, "run", scales=scales)


def ones(rows, **more):
    return {"table": torch.ones(rows, 1), **more}


def zeros(like):
    return {name: np.zeros(value.shape) for name, value in like.items()}


def test_noise_is_added_in_the_units_of_the_sum_and_scaled_with_it(rounds):
    """5,000 numbers a unit: the bound is five standard errors, 5 %; noise before or without scaling is 4 times off."""
    private = plan(noise=2.0)
    weights = {"table": torch.zeros(10_001, 1), "head.bias": torch.zeros(1, 5_000)}
    scales = {"table": torch.ones(10_001, 1), "head.bias": torch.full((1, 5_000), 3.0)}
    scales["table"][5_001:] = 0.25
    total = {"table": np.full((10_001, 1), 4.0), "head.bias": np.full((1, 5_000), 4.0)}
    moved = rounds(begin(weights, private, scales), private, [0], total)
    table = moved["table"][:, 0].double().numpy()
    parts = ((table[1:5_001], 1.0), (table[5_001:], 0.25), (moved["head.bias"][0].double().numpy(), 3.0))
    for part, scale in parts:
        std = 2.0 * 0.5 / DEVICES * scale * 0.7
        assert abs(part.std() / std - 1) < 5 / math.sqrt(2 * len(part))
        assert abs(part.mean() - 4.0 / DEVICES * scale * 0.7) < 5 * std / math.sqrt(len(part))
    assert table[0] == 0.0


def test_where_a_weight_has_no_unit_named_it_is_its_own(rounds):
    private = plan(noise=1.0)
    weights = ones(9, other=torch.ones(1, 3))
    total = {"table": np.ones((9, 1)), "other": np.ones((1, 3))}
    plain = rounds(begin(weights, private), private, [0], total)
    part = rounds(begin(weights, private, {"table": torch.full((9, 1), 0.5)}), private, [0], total)
    torch.testing.assert_close(part["other"], plain["other"], rtol=0, atol=0)
    torch.testing.assert_close((part["table"] - 1)[1:], (plain["table"] - 1)[1:] / 2)


def test_a_linear_schedule_falls_in_equal_steps_to_the_last_round_and_stays_there(rounds):
    private = plan()
    step, total = begin(ones(3), private, schedule="linear"), {"table": np.full((3, 1), float(DEVICES))}
    seen = [1.0]
    for number in range(ROUNDS + 1):
        seen.append(rounds(step, private, [number], total)["table"][1, 0].item())
    # One round more than planned, as after a crash.
    np.testing.assert_allclose(np.diff(seen), 0.7 * np.array([4, 3, 2, 1, 1]) / 10, atol=1e-6)


@pytest.mark.parametrize("kind", ["fedavg", "momentum", "fedadam"])
def test_a_restored_step_goes_on_at_the_rate_where_it_stopped(rounds, kind):
    private, settings = plan(noise=1.0), {"kind": kind, "schedule": "linear", "shrinkage": 0.01}
    scales, total = {"table": torch.full((9, 1), 0.5)}, {"table": np.ones((9, 1))}
    straight = rounds(begin(ones(9), private, scales, **settings), private, range(4), total)
    first = begin(ones(9), private, scales, **settings)
    rounds(first, private, range(2), total)
    second = begin(ones(9), private, scales, **settings)
    second.restore(first.state())
    torch.testing.assert_close(rounds(second, private, range(2, 4), total), straight, rtol=0, atol=0)


@pytest.mark.parametrize(("noise", "rate", "kept"), [(2.0, 1.0, 0.9), (2.0, 0.5, 0.6), (1.0, 1.0, 0.975)])
def test_shrinkage_takes_its_share_of_the_table_by_the_variance_of_the_noise(rounds, noise, rate, kept):
    private, weights = plan(noise, rate), ones(9, bias=torch.ones(1, 2))
    left = rounds(begin(weights, private), private, [0], zeros(weights))
    shrunk = rounds(begin(weights, private, shrinkage=0.1 * ROUNDS), private, [0], zeros(weights))
    torch.testing.assert_close(shrunk["table"], kept * left["table"])
    torch.testing.assert_close(shrunk["bias"], left["bias"], rtol=0, atol=0)
    assert left["table"][1:].abs().min() > 0


def test_shrinkage_takes_at_most_everything(rounds):
    private, weights = plan(noise=10.0), ones(9)
    shrunk = rounds(begin(weights, private, shrinkage=1.0), private, [0], zeros(weights))
    assert not shrunk["table"].any()


def test_without_noise_nothing_shrinks(rounds):
    private, weights = plan(noise=0.0), ones(9)
    left = rounds(begin(weights, private, shrinkage=1.0), private, range(3), zeros(weights))
    assert left["table"][1:].unique().tolist() == [1.0]


def test_padding_stays_zero_under_noise_units_and_shrinkage(rounds):
    private = plan(noise=3.0)
    step = begin(ones(9), private, {"table": torch.full((9, 1), 2.0)}, shrinkage=0.05, schedule="linear")
    for number in range(3):
        moved = rounds(step, private, [number], {"table": np.ones((9, 1))})
        assert not moved["table"][0].any()
        assert not step.averaged["table"][0].any()
        assert moved["table"][1:].all()
