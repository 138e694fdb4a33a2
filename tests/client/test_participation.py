"""Devices keep the cap themselves: a coordinator that forgets its promise gets zeros."""

import numpy as np
import pytest

from sottovoce.client.participation import RUNS, Participation


@pytest.mark.parametrize(
    ("cap", "limit", "rounds"), [(2, None, 2), (None, 3, 3), (5, 3, 3), (2, 7, 2), (None, None, 9)]
)
def test_the_smaller_of_both_caps_holds(cap, limit, rounds):
    node = Participation(4, limit)
    everyone = np.arange(4)
    joined = [len(node.admit("run", everyone, cap)) for _ in range(9)]
    assert joined == [4] * rounds + [0] * (9 - rounds)
    assert node.asked("run").tolist() == [rounds] * 4


def test_each_device_has_a_count_of_its_own():
    node = Participation(3)
    node.admit("run", np.array([0]), 1)
    assert node.admit("run", np.array([0, 2]), 1).tolist() == [2]
    assert node.asked("run").tolist() == [1, 0, 1]


def test_runs_are_counted_apart_and_the_oldest_is_forgotten_first():
    node = Participation(1)
    for run in range(RUNS + 1):
        assert len(node.admit(f"run-{run}", np.array([0]), 1)) == 1
    assert len(node.admit(f"run-{RUNS}", np.array([0]), 1)) == 0
    assert node.asked("run-0").tolist() == [0]
