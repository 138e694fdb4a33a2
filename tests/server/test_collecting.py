"""When a round closes: by its deadline whoever is silent, early only where epsilon does not rest on who was drawn."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.collecting import Collecting
from sottovoce.simulations.faults import Rates
from sottovoce.simulations.marked_run import marked_run
from sottovoce.simulations.markers import TABLE, Markers


class Run:
    """Marker devices on a disturbed grid, under a collecting of one's own."""

    def __init__(self, folder, rates, rounds=6, hosted=(1,) * 20, noise=0.0, seed=0, **collecting):
        self.ledger = Ledger.open(folder / "ledger.db", create=True)
        self.markers = Markers(hosted, rounds)
        plan = MechanismPlan(self.markers.population, 1.0, 1.0, noise, rounds, 1e-3, sampling="none")
        run = marked_run(folder, self.ledger, plan, self.markers, rates, seed, SeededEntropy(seed))
        chosen = Collecting(**{"deadline_s": 60.0, **collecting})
        self.coordinator = replace(run.coordinator, collecting=chosen)
        self.clock = run.coordinator.clock
        self.grid = run.grid
        self.records = []

    def go(self, pause_s=0.0):
        def keep(record):
            self.records.append(record)
            self.clock.sleep(pause_s)

        assert self.coordinator.run(0, keep) is None
        return self.records

    def counted(self):
        table = self.coordinator.step.parameters[TABLE].numpy().astype(float)
        return self.markers.read(table * self.coordinator.plan.expected_cohort)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.ledger.close()


def test_a_round_of_which_nobody_answers_closes_at_its_deadline(tmp_path):
    with Run(tmp_path, Rates(silence=1.0)) as run:
        records = run.go()
    assert [record.seconds for record in records] == [60.0] * 6
    assert [(record.answered, record.silent, record.skipped) for record in records] == [(0, 20, False)] * 6


def test_a_round_of_which_all_answer_does_not_wait_for_its_deadline(tmp_path):
    with Run(tmp_path, Rates()) as run:
        records = run.go()
        assert all(record.seconds <= 30.5 and record.silent == 0 for record in records)
        np.testing.assert_allclose(run.counted(), 1.0, atol=1e-4)


def test_stragglers_are_counted_and_are_in_no_round(tmp_path):
    with Run(tmp_path, Rates(delay=1.0)) as run:
        records = run.go(pause_s=30.0)
        counted = run.counted()
    np.testing.assert_allclose(counted.sum(1), [record.answered for record in records], atol=1e-3)
    assert np.all((np.abs(counted) < 1e-3) | (np.abs(counted - 1) < 1e-3))
    assert 20 < sum(record.silent for record in records) < 100
    assert sum(record.late for record in records) > 0
    assert all(record.late <= before.silent for before, record in pairwise(records))


def test_a_goal_closes_the_round_and_the_denominator_stays(tmp_path):
    with Run(tmp_path, Rates(), noise=0.0, goal=5) as run:
        records = run.go()
        counted = run.counted()
    assert [record.answered for record in records] == [5] * 6
    assert all(record.seconds < 30 for record in records)
    np.testing.assert_allclose(counted.sum(1), 5.0, atol=1e-3)


def test_a_skipped_round_is_paid_for_says_so_and_leaves_the_model_as_it_was(tmp_path):
    with Run(tmp_path, Rates(dropout=0.5), noise=1.0, rounds=12, minimum=11) as run:
        models = [run.coordinator.step.parameters[TABLE].numpy().copy()]

        def keep(record):
            run.records.append(record)
            models.append(run.coordinator.step.parameters[TABLE].numpy().copy())

        assert run.coordinator.run(0, keep) is None
        skipped = [record.skipped for record in run.records]
        assert skipped == [record.answered < 11 for record in run.records]
        assert 0 < sum(skipped) < 12
        still = [np.array_equal(one, other) for one, other in pairwise(models)]
        assert still == skipped
        book = run.ledger.book()
        assert book.spent[run.coordinator.plan.event()] == 12
        assert book.states["COMMITTED"] == 12


REFUSED = {"goal": {"goal": 5}, "minimum": {"minimum": 1}}


@pytest.mark.parametrize("wanted", REFUSED.values(), ids=REFUSED.keys())
def test_what_lets_the_number_of_answers_decide_is_refused_where_cohorts_must_stay_secret(wanted):
    def plan(**changes):
        return MechanismPlan(20, 0.5, 1.0, 1.0, 3, 1e-3, **changes)

    for secret in (plan(), plan(sampling="truncated_poisson", cap=15)):
        with pytest.raises(ConfigError, match="secret cohorts"):
            Collecting(**wanted).require(secret)
    Collecting().require(plan())
    for open_ in (plan(cohorts="visible"), MechanismPlan(20, 1.0, 1.0, 1.0, 3, 1e-3, sampling="none")):
        Collecting(**wanted).require(open_)
    with pytest.raises(ConfigError, match="20 are enrolled"):
        Collecting(minimum=21).require(plan(cohorts="visible"))
    with pytest.raises(ValueError, match="every round would be skipped"):
        Collecting(goal=2, minimum=3)


@settings(max_examples=25, deadline=None)
@given(
    rates=st.fixed_dictionaries({name: st.sampled_from([0.0, 0.1, 0.5, 1.0]) for name in Rates.__struct_fields__}),
    seed=st.integers(0, 2**32),
)
def test_whatever_goes_wrong_every_round_does_exactly_what_it_has_to(rates, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    markers = Markers((1, 4, 0, 2, 1, 3), 2)
    plan = MechanismPlan(markers.population, 1.0, 1.0, 0.0, 4, 1e-2, sampling="none")
    with Ledger.open(folder / "ledger.db", create=True) as ledger:
        run = marked_run(folder, ledger, plan, markers, Rates(**rates), seed, SeededEntropy(seed))
        run.go()
    assert run.violations == []
    assert run.closed == 4
