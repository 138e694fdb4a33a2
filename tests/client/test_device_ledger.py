"""The device keeps its own books: it refuses in time, remembers across restarts, and gets nothing back."""

from dataclasses import replace

import numpy as np
import pytest

from sottovoce.client.device_ledger import DeviceLedger
from sottovoce.privacy.audit import audit
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.claim import RecordClaim
from sottovoce.privacy.errors import ConfigError, LedgerError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.record import RecordPlan

PLAN = RecordPlan(
    records=64, sampling_rate=0.25, clip_norm=1.0, noise_multiplier=2.0, steps=4, participations=50, delta=1e-5
)
UPDATE = {"w": np.ones(3, np.float32)}


@pytest.fixture
def device(tmp_path):
    made = DeviceLedger(tmp_path / "device.db", epsilon=3.0, delta=1e-5, records=1000)
    made.enrol()
    return made


def trained(device, plan=PLAN, run="run", most=100):
    """Rounds until the device refuses."""
    for round in range(1, most + 1):
        paid = device.reserve(plan, run, round)
        if paid is None:
            return round - 1
        assert len(paid) == plan.steps
        device.commit(paid, UPDATE)
    return most


def test_the_round_that_would_overspend_is_refused_whole_and_no_sooner(device):
    rounds = trained(device)
    assert 1 < rounds < 50
    assert device.participations() == rounds
    assert device.spent().epsilon <= 3.0
    assert replace(PLAN, records=1000).claim(rounds).epsilon == pytest.approx(device.spent().epsilon)
    assert replace(PLAN, records=1000).claim(rounds + 1).epsilon > 3.0
    with Ledger.open(device.path, readonly=True) as ledger:
        book = ledger.book()
    assert book.releases == rounds * PLAN.steps  # no step of the refused round
    assert book.campaign.unit == "record"
    assert book.campaign.adjacency == "add_remove"
    assert {event.adjacency for event in book.spent} == {"add_remove"}


def test_a_restart_a_crash_and_another_run_remember_what_was_spent(device):
    first = trained(device, most=3)
    assert device.reserve(PLAN, "run", 4) is not None  # and the process ends before its update is sent
    again = DeviceLedger(device.path, 3.0, 1e-5, 1000)
    again.enrol()  # enrolling twice makes nothing new
    assert again.participations() == first + 1
    rest = trained(again, run="another run")
    alone = DeviceLedger(device.path.with_name("other.db"), 3.0, 1e-5, 1000)
    alone.enrol()
    assert first + 1 + rest == trained(alone)


def test_a_coordinator_that_changes_its_plan_is_held_to_the_same_budget(device):
    trained(device, most=2)
    louder = replace(PLAN, noise_multiplier=1.5)
    rounds = trained(device, louder, run="second")
    assert rounds < trained_alone(louder, device.path.with_name("alone.db"))
    assert device.spent().epsilon <= 3.0


def trained_alone(plan, path):
    other = DeviceLedger(path, 3.0, 1e-5, 1000)
    other.enrol()
    return trained(other, plan)


def test_a_coordinator_cannot_loosen_delta_or_the_number_of_records(device):
    loose = replace(PLAN, records=2, delta=0.4)
    assert trained(device, loose) == trained_alone(PLAN, device.path.with_name("alone.db"))


def test_without_its_ledger_a_device_stays_silent(device, tmp_path):
    device.path.unlink()
    for side in ("-wal", "-shm"):
        device.path.with_name(device.path.name + side).unlink(missing_ok=True)
    assert device.reserve(PLAN, "run", 1) is None
    assert not device.path.exists()  # and does not make a fresh one, which would refill the budget
    broken = DeviceLedger(tmp_path / "broken.db", 3.0, 1e-5, 1000)
    broken.path.write_bytes(b"not a ledger")
    assert broken.reserve(PLAN, "run", 1) is None
    with pytest.raises(LedgerError):
        broken.spent()


def test_a_larger_budget_than_the_one_enrolled_with_is_not_believed(device):
    assert replace(device, epsilon=30.0).reserve(PLAN, "run", 1) is None
    with pytest.raises(ConfigError, match="epsilon"):
        replace(device, epsilon=30.0).enrol()


def test_what_was_spent_is_told_by_record_with_its_conversion_and_never_as_a_device_figure(device):
    trained(device, most=2)
    claim = device.spent()
    assert isinstance(claim, RecordClaim)
    assert claim.guarantee
    assert "as a whole device of 1,000 records" in str(claim)
    with Ledger.open(device.path) as ledger:
        with pytest.raises(ConfigError, match="records of one device"):
            Budget.of(ledger).spent()
        with pytest.raises(ConfigError, match="unit"):
            Budget.of(ledger).reserve(MechanismPlan(1000, 0.25, 1.0, 2.0, 5, 1e-5), "run", 1, "secure")


def test_seeded_noise_guarantees_nothing(device):
    device.reserve(PLAN, "run", 1, "seeded")
    assert str(device.spent()).startswith("SIMULATION: NO GUARANTEE")


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon": float("inf")}, {"delta": 0.001}, {"records": 0}])
def test_a_budget_that_means_nothing_is_refused(device, wrong):
    with pytest.raises(ConfigError):
        replace(device, **wrong)


def test_an_audit_of_a_device_ledger_speaks_of_a_record_only(device):
    trained(device, most=1)
    (claim,) = audit(device.path).claims
    assert "per record, not per device" in claim
    assert "as a whole device of 1,000 records" in claim
