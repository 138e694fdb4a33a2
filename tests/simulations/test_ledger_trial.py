"""Killed and competing writers lose nothing that was acknowledged and cannot overspend, on either database."""

import pytest

from sottovoce.privacy.ledger import Ledger
from sottovoce.simulations import ledger_trial
from sottovoce.simulations.ledger_trial import plan_for, trial

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")


def held(outcome):
    assert outcome.acknowledged > outcome.allowed
    assert outcome.acknowledged_lost == 0
    assert outcome.released == outcome.allowed


def test_four_writers_through_twenty_kills(address):
    outcome = trial(address, kills=20, writers=4, allowed=600)
    held(outcome)
    assert outcome.kills == 20
    with Ledger.open(address) as ledger:
        assert len(ledger.recover()) <= 20


@pytest.mark.soak
def test_eight_writers_through_a_hundred_kills(address):
    outcome = trial(address, kills=100, writers=8, allowed=4000)
    held(outcome)
    assert outcome.kills == 100


def test_a_lost_or_changed_row_would_be_counted(address):
    plan = plan_for(10)
    with Ledger.open(address, create=True) as ledger:
        ledger.open_campaign(1.0, plan.delta, plan.population)
        row = ledger.reserve("run", 0, plan.event(), plan.digest(), "train", "secure")
    told = {row.seq: row.hash, 1: "f" * 64, 9: row.hash}
    outcome = ledger_trial._outcome(address, plan, told, kills=0, writers=1, allowed=10)
    assert (outcome.acknowledged, outcome.acknowledged_lost, outcome.released) == (3, 2, 1)
