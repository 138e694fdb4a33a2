"""The price of tuning, against published figures."""

import pytest

from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations.tuning_costs import cost, costs

RUN = MechanismPlan(6040, 0.02, 1.0, 1.0, 200, 1e-5)


@pytest.mark.parametrize(("runs", "added_up", "stopping"), [(2, 2.50, 2.89), (5, 3.90, 3.37), (10, 5.62, 3.68)])
def test_both_prices_are_those_of_the_accountants(runs, added_up, stopping):
    found = cost(RUN, runs)
    assert found.added_up == pytest.approx(added_up, abs=6e-3)
    assert found.random_stopping == pytest.approx(stopping, abs=6e-3)
    assert found.cheaper == ("random stopping" if stopping < added_up else "adding up")
    assert found.cheaper in str(found)


def test_the_table_grows_with_the_number_of_runs():
    rows = costs(RUN, (2, 4))
    assert rows[0].added_up < rows[1].added_up
    assert rows[0].random_stopping < rows[1].random_stopping
