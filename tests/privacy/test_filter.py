"""The shortcuts of a filter never change its answer."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy import filter as filters
from sottovoce.privacy.accountant import published
from sottovoce.privacy.events import Gaussian, PoissonGaussian
from sottovoce.privacy.filter import Filter

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

EVENTS = (Gaussian(noise_multiplier=20.0), PoissonGaussian(sampling_rate=0.1, noise_multiplier=2.0))
LIMIT, DELTA = 1.0, 1e-5


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from(EVENTS), st.integers(1, 100)), max_size=8
    )
)
@settings(max_examples=15, deadline=None)
def test_whatever_was_asked_before_the_answer_is_that_of_the_rule(questions):
    kept = Filter(LIMIT, DELTA)
    for first, second, event, ahead in questions:
        spent = Counter({EVENTS[0]: first, EVENTS[1]: second})
        rule = published(spent + Counter({event: 1}), DELTA)[0] <= LIMIT
        assert kept.allows(spent, event, ahead) == rule


def test_a_whole_run_asks_the_accountants_only_a_few_times(monkeypatch):
    asked = Counter()

    def counting(name, function):
        def count(*arguments):
            asked[name] += 1
            return function(*arguments)

        return count

    monkeypatch.setattr(filters.accountant, "published", counting("pld", filters.accountant.published))
    monkeypatch.setattr(filters.renyi, "epsilon_rdp", counting("renyi", filters.renyi.epsilon_rdp))
    kept, event, spent = Filter(LIMIT, DELTA), EVENTS[0], Counter()
    while kept.allows(spent, event, 1000):
        spent[event] += 1
    assert spent[event] > 15
    assert published(spent, DELTA)[0] <= LIMIT < published(spent + Counter({event: 1}), DELTA)[0]
    asked.clear()
    kept = Filter(2 * published({event: 3000}, DELTA)[0], DELTA)
    for done in range(0, 3000, 7):
        assert kept.allows(Counter({event: done}), event, 3000)
    assert asked["renyi"] < 40
    assert asked["pld"] < 10
