"""A ratio of two medians, taken in turns; no test here depends on how fast the machine is."""

from collections import Counter

import pytest

from sottovoce.server.latency_ratio import CALLS, interleaved_ratio


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


def test_the_ratio_is_that_of_the_medians_and_a_few_slow_calls_do_not_count():
    clock, calls = Clock(), Counter()

    def slow():
        calls["slow"] += 1
        clock.now += 30_000 if calls["slow"] % 10 else 5_000_000

    def quick():
        calls["quick"] += 1
        clock.now += 10_000

    assert interleaved_ratio(slow, quick, clock) == pytest.approx(3.0)
    assert interleaved_ratio(quick, slow, clock) == pytest.approx(1 / 3)
    assert calls == {"slow": 2 * CALLS, "quick": 2 * CALLS}


def test_the_two_take_turns_and_turns_at_going_first():
    order = []
    interleaved_ratio(lambda: order.append("a"), lambda: order.append("b"), Clock())
    pairs = Counter(zip(order[::2], order[1::2], strict=True))
    assert pairs == {("a", "b"): CALLS // 2, ("b", "a"): CALLS // 2}
