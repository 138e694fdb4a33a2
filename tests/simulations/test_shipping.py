"""What ships is what the ledger paid for, and the passport says what the ledger proves."""

import dataclasses
from datetime import datetime, timedelta

import numpy as np
import pytest

from sottovoce.models.passport import SIMULATION, releasable
from sottovoce.privacy.audit import audit
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import GateError, LedgerError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations import market
from sottovoce.simulations.issuing import passport
from sottovoce.simulations.run import Trained
from sottovoce.simulations.shipping import CANDIDATES, DRAWN, age_days, comparison_requests, require_committed

PLAN = MechanismPlan(100, 0.2, 0.5, 2.0, 3, 1e-3)
DIGEST = "ab" * 32


def spend(path, noise="secure", commits=3):
    """A ledger that reserved three rounds of the plan and committed some of them."""
    with Ledger.open(path, create=True) as ledger:
        budget = Budget(100.0, PLAN.delta, ledger)
        for round in range(1, 4):
            paid = budget.reserve(PLAN, "run", round, noise)
            if round <= commits:
                ledger.commit(paid, DIGEST if round == 3 else f"{round:064x}")
    return path


def model(sha256=DIGEST):
    return Trained({}, 3, sha256, ())


def test_the_passport_repeats_the_audit_and_the_plan(tmp_path):
    found = audit(spend(tmp_path / "ledger.db", commits=1))
    proof = passport(found, PLAN)
    releasable(proof)
    assert (proof.epsilon, proof.epsilon_known_cohort, proof.delta) == (
        found.epsilon,
        found.epsilon_known_cohort,
        PLAN.delta,
    )
    assert (proof.ledger_head, proof.ledger_length) == (found.head.hash, found.head.length)
    assert (proof.rounds, proof.releases, proof.population) == (3, {"train": 3}, 100)
    assert (proof.sampling_rate, proof.noise_multiplier, proof.clip_norm) == (0.2, 2.0, 0.5)
    assert proof.label == "; ".join(found.claims)


def test_the_passport_names_the_sampling_and_the_noise_of_the_plan(tmp_path):
    plan = dataclasses.replace(PLAN, sampling="truncated_poisson", cap=60, noise="discrete_gaussian")
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        Budget(100.0, PLAN.delta, ledger).reserve(plan, "run", 1, "secure")
    proof = passport(audit(tmp_path / "ledger.db"), plan, ["the moon is made of cheese"])
    assert (proof.sampling, proof.mechanism, proof.accountant) == ("truncated_poisson", "discrete_gaussian", "PLD")
    assert proof.label.endswith("; the moon is made of cheese")


def test_a_run_with_seeded_noise_is_labelled_and_cannot_be_released(tmp_path):
    proof = passport(audit(spend(tmp_path / "ledger.db", "seeded")), PLAN)
    assert proof.label == SIMULATION
    with pytest.raises(GateError, match="seeded"):
        releasable(proof)


def test_one_seeded_round_is_enough_to_lose_the_guarantee(tmp_path):
    path = spend(tmp_path / "ledger.db")
    with Ledger.open(path) as ledger:
        Budget(100.0, PLAN.delta, ledger).reserve(PLAN, "run", 4, "seeded")
    with pytest.raises(GateError, match="seeded"):
        releasable(passport(audit(path), PLAN))


def test_a_broken_ledger_and_an_empty_one_give_no_passport(tmp_path):
    path = spend(tmp_path / "ledger.db")
    data = path.read_bytes()
    assert data.count(b'"round":2') == 1
    path.write_bytes(data.replace(b'"round":2', b'"round":9'))
    with pytest.raises(GateError, match="does not hold"):
        passport(audit(path), PLAN)
    with pytest.raises(LedgerError):
        require_committed(path, model())
    Ledger.open(tmp_path / "empty.db", create=True).close()
    with pytest.raises(GateError, match="does not hold"):
        passport(audit(tmp_path / "empty.db"), PLAN)


def test_a_ledger_that_lacks_the_pinned_row_gives_no_passport(tmp_path):
    path = spend(tmp_path / "ledger.db")
    head = audit(path).head
    with pytest.raises(GateError):
        passport(audit(path, pinned=head._replace(hash="0" * 64)), PLAN)
    with pytest.raises(GateError):
        passport(audit(path, pinned=head._replace(length=head.length + 1)), PLAN)


def test_only_weights_whose_digest_is_committed_pass(tmp_path):
    path = spend(tmp_path / "ledger.db")
    require_committed(path, model())
    require_committed(path, model(f"{1:064x}"))  # an earlier round was released too
    with pytest.raises(GateError, match="round 3 is not a release"):
        require_committed(path, model("cd" * 32))


def test_the_age_of_weights_counts_from_their_commit(tmp_path):
    path = spend(tmp_path / "ledger.db")
    committed = require_committed(path, model())
    then = datetime.fromisoformat(committed)
    assert age_days(committed, then + timedelta(days=3, hours=12)) == 3.5
    assert age_days(committed, then) == 0.0


@pytest.mark.parametrize("time", ["", "yesterday", "2026-11-25T07:00:00", "2999-01-01T00:00:00+00:00"])
def test_a_time_that_cannot_be_or_is_still_to_come_gives_no_age(time):
    assert age_days(time, datetime.fromisoformat("2026-11-25T08:00:00+00:00")) is None


def test_a_reserved_round_that_was_never_committed_does_not_pass(tmp_path):
    with pytest.raises(GateError, match="not a release"):
        require_committed(spend(tmp_path / "ledger.db", commits=2), model())


def test_checking_a_ledger_does_not_touch_it(tmp_path):
    path = spend(tmp_path / "ledger.db")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    require_committed(path, model())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_scorers_are_compared_on_real_and_on_drawn_requests_alike():
    dataset = market.load(60, 0, 10)
    asked = comparison_requests(dataset)
    busy = np.diff(dataset.valid.offsets)
    assert len(asked) == int(((busy > 1) & (busy <= CANDIDATES)).sum()) + sum(DRAWN.values())
    assert all(1 <= len(request.ad) <= max(CANDIDATES, *DRAWN) for request in asked)
    again = comparison_requests(dataset)
    assert all(np.array_equal(one.ad, other.ad) for one, other in zip(asked, again, strict=True))


def test_a_data_set_whose_devices_hold_one_row_each_is_compared_on_drawn_requests():
    dataset = market.load(60, 0, 10)
    valid = dataset.valid
    owners = np.flatnonzero(np.diff(valid.offsets))
    rows = valid.offsets[owners]
    counts = np.zeros(valid.devices, np.int64)
    counts[owners] = 1
    single = dataclasses.replace(
        valid,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        context=valid.context[rows],
        ad=valid.ad[rows],
        labels=valid.labels[rows],
        match=valid.match[rows],
    )
    assert len(comparison_requests(dataclasses.replace(dataset, valid=single, truth=None))) == sum(DRAWN.values())
