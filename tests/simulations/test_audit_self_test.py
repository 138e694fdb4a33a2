"""The audit audited: each planted bug raises the alarm it should, sound mechanisms none."""

import json

import pytest

from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations import cli_audit
from sottovoce.simulations.audit_block import Parts
from sottovoce.simulations.audit_self_test import SelfTest, self_test
from sottovoce.simulations.cli import run
from sottovoce.simulations.planted_bugs import OTHERS, REQUIRED

PLAN = MechanismPlan(6040, 0.04, 1.0, 1.0, 60, 1e-5)

CAUGHT_BY = {
    "half the noise": "noise size",
    "no clipping": "clip norm",
    "fixed-size cohorts": "cohort size spread",
    "missing debit": "debit",
    "repeated seed": "repeated noise",
    "cohort used twice": "rounds in common",
    "favoured devices": "spread between devices",
    "mean over those who answered": "denominator",
}


@pytest.fixture(scope="module")
def tested():
    return self_test(clean_runs=2, plan=PLAN, canaries=200, entropy=lambda number: SeededEntropy(number))


def test_every_planted_bug_is_caught_by_the_check_that_is_for_it(tested):
    assert set(CAUGHT_BY) == {*REQUIRED, *OTHERS}
    for name, check in CAUGHT_BY.items():
        assert check in tested.details[name]
    assert (tested.planted_bugs, tested.caught) == (8, 8)


def test_sound_runs_raise_no_alarm_with_seeded_randomness_either(tested):
    assert (tested.clean_runs, tested.false_alarms) == (2, 0)
    assert tested.passed


def test_subtle_bugs_are_caught_by_one_check_alone(tested):
    """Each is invisible to all others: without its own check it would go unseen."""
    alone = [name for name, found in tested.details.items() if len(found) == 1]
    assert {"fixed-size cohorts", "missing debit", "repeated seed", "cohort used twice"} <= set(alone)


def test_a_bug_that_is_none_is_counted_as_missed():
    found = self_test(0, PLAN, 20, lambda number: SeededEntropy(number), {"nothing": Parts()})
    assert (found.planted_bugs, found.caught) == (1, 0)
    assert not found.passed


def test_the_fields_come_in_the_promised_order():
    assert SelfTest.__struct_fields__[:4] == ("planted_bugs", "caught", "clean_runs", "false_alarms")


def test_the_command_prints_one_json_object(monkeypatch, capsys, tested):
    monkeypatch.setattr(cli_audit, "self_test", lambda: tested)
    assert run(["audit", "--self-test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["caught"] == 8


def test_a_missed_bug_is_an_error_that_says_what_was_missed(monkeypatch, capsys):
    missed = SelfTest(planted_bugs=1, caught=0, clean_runs=0, false_alarms=0, details={"no clipping": []})
    monkeypatch.setattr(cli_audit, "self_test", lambda: missed)
    assert run(["audit", "--self-test"]) == 1
    told = capsys.readouterr()
    assert "no clipping: NOT CAUGHT" in told.out
    assert "failed its own test" in told.err


def test_without_a_run_or_a_self_test_the_command_asks_for_one(capsys):
    assert run(["audit"]) == 2
    assert "--self-test" in capsys.readouterr().err


@pytest.mark.soak
def test_the_whole_self_test_with_secure_randomness_catches_all_and_never_cries_wolf():
    found = self_test()
    assert (found.planted_bugs, found.caught, found.clean_runs, found.false_alarms) == (8, 8, 20, 0)
