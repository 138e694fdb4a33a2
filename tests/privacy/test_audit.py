"""An audit needs nothing but the ledger, changes nothing, and never reports too little."""

import json
import math
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import msgspec
import pytest

from sottovoce.privacy.accountant import epsilon_pld, epsilon_without_sampling
from sottovoce.privacy.audit import audit
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.ledger import Ledger, Realised
from sottovoce.privacy.plan import MechanismPlan

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

PLAN = MechanismPlan(population=6040, sampling_rate=0.02, clip_norm=1.0, noise_multiplier=1.0, rounds=200, delta=1e-5)


def run(path, rounds, epsilon=4.0, plan=PLAN, noise="secure"):
    with Ledger.open(path, create=True) as ledger:
        budget = Budget(epsilon, 1e-5, ledger)
        for round in range(rounds):
            ledger.commit(budget.reserve(plan, "run", round, noise), "ab" * 32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


def test_the_reference_run_gives_the_published_figures(path):
    run(path, 200)
    report = audit(path, max_participations=13)
    assert report.epsilon == pytest.approx(1.8527, abs=1e-4)
    assert report.cross_check == pytest.approx(
        {"pld": 1.8527, "rdp": 2.2298, "opacus_prv": 1.8629, "opacus_rdp": 2.2298}, abs=2e-4
    )
    assert report.epsilon_known_cohort == pytest.approx(21.220, abs=1e-3)
    assert (report.delta, report.unit, report.adjacency, report.accountant) == (1e-5, "device", "zero_out", "PLD")
    assert (report.rounds, report.population, report.budget_epsilon, report.noise) == (200, 6040, 4.0, "secure")
    assert report.purposes == {"train": 200}
    assert report.entries == {"COMMITTED": 200, "RESERVED": 0, "SPENT_ON_CRASH": 0, "VOID": 0}
    assert report.ledger_ok
    assert report.guarantee
    assert report.findings == []
    assert report.head.length == 402
    assert all("NO GUARANTEE" not in claim for claim in report.claims)


def test_without_a_count_every_device_may_have_been_in_every_round(path):
    run(path, 5)
    report = audit(path)
    assert report.max_participations == 5
    assert report.epsilon_known_cohort == epsilon_without_sampling({PLAN.event(): 5}, 1e-5)


def test_the_report_is_json_and_infinity_is_null(path):
    run(path, 3, math.inf, replace(PLAN, noise_multiplier=0.0), "secure")
    report = audit(path)
    assert (report.epsilon, report.private, report.guarantee, report.noise) == (None, False, False, "none")
    assert report.findings[0].startswith("SIMULATION: NO GUARANTEE: 3 of 3 releases had no noise")
    assert json.loads(msgspec.json.encode(report))["epsilon"] is None
    assert json.loads(msgspec.json.encode(report))["cross_check"]["pld"] is None


def test_seeded_noise_is_accounted_but_guarantees_nothing(path):
    run(path, 3, noise="seeded")
    report = audit(path)
    assert report.epsilon_outsider == epsilon_pld({PLAN.event(): 3}, 1e-5)
    assert report.epsilon == report.epsilon_known_cohort > report.epsilon_outsider
    assert report.observer == "knows_cohorts"
    assert "seed" in report.fallback[0]
    assert (report.private, report.guarantee, report.noise, report.ledger_ok) == (True, False, "seeded", True)
    assert report.findings[0].startswith("SIMULATION: NO GUARANTEE")
    assert report.claims[0].startswith("SIMULATION: NO GUARANTEE")


def test_crashed_and_unsettled_rounds_count(path):
    run(path, 2)
    with Ledger.open(path) as ledger:
        budget = Budget(4.0, 1e-5, ledger)
        budget.reserve(PLAN, "run", 2, "secure")
        ledger.recover()
        budget.reserve(PLAN, "run", 3, "secure")
        ledger.void(budget.reserve(PLAN, "run", 4, "secure"), "nobody was contacted")
    report = audit(path)
    assert report.entries == {"COMMITTED": 2, "RESERVED": 1, "SPENT_ON_CRASH": 1, "VOID": 1}
    assert report.rounds == 4
    assert report.epsilon == epsilon_pld({PLAN.event(): 4}, 1e-5)
    assert len(report.findings) == 2
    assert report.guarantee


def test_a_missing_debit_cannot_make_epsilon_smaller_than_what_was_reserved(path):
    """Planted bug: a coordinator that releases without settling. The debit came first, so it counts."""
    with Ledger.open(path, create=True) as ledger:
        budget = Budget(4.0, 1e-5, ledger)
        for round in range(10):
            budget.reserve(PLAN, "run", round, "secure")
    assert audit(path).epsilon == epsilon_pld({PLAN.event(): 10}, 1e-5)


def test_a_changed_row_is_reported_by_number_and_no_epsilon_is_stated(path):
    run(path, 3)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP TRIGGER entries_keep")
        raw.execute("UPDATE entries SET body = CAST(replace(body, '0.02', '0.01') AS BLOB) WHERE seq = 5")
    report = audit(path)
    assert not report.ledger_ok
    assert not report.guarantee
    assert report.epsilon is None
    assert report.epsilon_known_cohort is None
    assert "row 5" in report.findings[0]
    assert report.claims == []
    assert report.head.length == 4


def test_an_older_copy_is_reported_when_the_head_is_known(path, tmp_path):
    run(path, 2)
    shutil.copy(path, tmp_path / "old.db")
    with Ledger.open(path) as ledger:
        ledger.commit(Budget(4.0, 1e-5, ledger).reserve(PLAN, "run", 2, "secure"), "ab" * 32)
        pinned = ledger.head()
    assert audit(path, pinned).ledger_ok
    report = audit(tmp_path / "old.db", pinned)
    assert not report.ledger_ok
    assert "rolled back" in report.findings[0]


def test_an_overspent_ledger_is_reported(path):
    """Planted bug: somebody reserves without asking the budget. Without a plan nothing better than Renyi DP holds."""
    with Ledger.open(path, create=True) as ledger:
        ledger.open_campaign(1.0, 1e-5, 6040)
        for round in range(200):
            ledger.reserve("run", round, PLAN.event(), PLAN.digest(), "train", "secure")
    report = audit(path)
    assert any(finding.startswith("overspent: epsilon 2.2298") for finding in report.findings)
    assert report.accountant == "Renyi DP, no filter"
    assert not report.guarantee


def test_a_plan_made_after_the_first_release_turns_the_figure_into_the_budget(path):
    run(path, 2)
    run(path, 2, plan=replace(PLAN, noise_multiplier=2.0, purpose="eval"))
    report = audit(path)
    assert report.plans == 2
    assert report.purposes == {"eval": 2, "train": 2}
    assert report.adaptive
    assert (report.epsilon, report.guarantee) == (4.0, True)
    assert report.accountant.startswith("a Renyi filter of order")
    assert any("not planned before the first release" in finding for finding in report.findings)


def test_plans_made_before_the_first_release_are_composed_by_pld(path):
    other = replace(PLAN, noise_multiplier=2.0, purpose="eval", rounds=2)
    with Ledger.open(path, create=True) as ledger:
        budget = Budget(4.0, 1e-5, ledger)
        budget.register(PLAN, other)
        for plan in (PLAN, other):
            for round in range(2):
                ledger.commit(budget.reserve(plan, "run", round, "secure"), "ab" * 32)
    report = audit(path)
    assert not report.adaptive
    assert report.epsilon == epsilon_pld({PLAN.event(): 2, other.event(): 2}, 1e-5)
    assert report.findings == []
    assert [(row.purpose, row.count) for row in report.releases] == [("eval", 2), ("train", 2)]
    assert report.releases[1].epsilon_alone == epsilon_pld({PLAN.event(): 2}, 1e-5)


def test_visible_cohorts_fall_back_and_the_cap_bounds_them(path):
    plan = replace(PLAN, cohorts="visible", max_participations=4, rounds=10)
    run(path, 10, epsilon=12.0, plan=plan)
    report = audit(path)
    assert report.epsilon == pytest.approx(9.997, abs=1e-3)
    assert (report.observer, report.max_participations, report.guarantee) == ("knows_cohorts", 4, True)
    assert any("visible" in reason for reason in report.fallback)
    assert len(report.claims) == 1


def record(path, cohorts, population=6040, busiest=1, plan=PLAN):
    with Ledger.open(path, create=True) as ledger:
        budget = Budget(4.0, 1e-5, ledger)
        for round, cohort in enumerate(cohorts):
            told = Realised(population=population, cohort=cohort, answered=cohort, busiest=busiest, salt="00")
            budget.commit(budget.reserve(plan, "run", round, "secure"), "ab" * 32, told)


def test_the_known_cohort_figure_goes_by_the_busiest_device_when_every_round_was_counted(path):
    record(path, [121] * 50, busiest=4)
    report = audit(path)
    assert report.max_participations == 4
    assert report.epsilon_known_cohort == pytest.approx(9.997, abs=1e-3)
    with Ledger.open(path) as ledger:
        Budget(4.0, 1e-5, ledger).reserve(PLAN, "run", 50, "secure")  # lost: it may have asked the busiest device
        ledger.recover()
    assert audit(path).max_participations == 5


def test_a_rate_above_the_planned_one_raises_an_alarm_and_amplification_is_not_counted(path):
    record(path, [121] * 50)
    honest = audit(path)
    assert honest.realised[0].alarms == []
    assert honest.observer == "outsider"
    assert honest.realised[0].sampling_rate_observed == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize(
    ("cohorts", "population", "named"),
    [([242] * 50, 6040, "understated"), ([60] * 50, 6040, "fewer"), ([121] * 50, 3020, "assumes 6,040 devices")],
)
def test_a_plan_that_assumed_something_else_raises_an_alarm(path, cohorts, population, named):
    record(path, cohorts, population)
    report = audit(path)
    assert any(named in alarm for alarm in report.realised[0].alarms)
    assert any(named in finding for finding in report.findings)
    assert (report.observer == "knows_cohorts") == ("understated" in " ".join(report.realised[0].alarms))


def test_an_altered_restricted_record_is_found(path):
    record(path, [121] * 3)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE restricted SET body = CAST(replace(body, '121', '120') AS BLOB) WHERE seq = 6")
    report = audit(path)
    assert not report.ledger_ok
    assert "row 6" in report.findings[0]


def test_withheld_restricted_records_leave_the_public_figures_as_they_are(path):
    record(path, [121] * 3)
    before = audit(path)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DELETE FROM restricted")
    after = audit(path)
    assert after.realised == []
    assert (after.epsilon, after.head) == (before.epsilon, before.head)
    assert after.epsilon_known_cohort >= before.epsilon_known_cohort


def test_the_curve_rises_to_the_published_figure(path):
    run(path, 100)
    report = audit(path)
    figures = [point.epsilon_outsider for point in report.curve]
    assert report.curve[-1].releases == 100
    assert figures == sorted(figures)
    assert report.epsilon <= figures[-1] <= report.epsilon + 2e-3
    assert report.curve[-1].epsilon_known_cohort == report.epsilon_known_cohort
    deltas = [point.epsilon_outsider for point in report.by_delta]
    assert deltas == sorted(deltas)
    assert report.epsilon in deltas


def test_every_failed_assumption_costs_and_dropouts_do_not(path):
    run(path, 20)
    report = audit(path)
    rows = {row.assumption: row.epsilon for row in report.sensitivity}
    honest = rows.pop("as recorded")
    assert honest == pytest.approx(report.epsilon, abs=2e-3)
    for assumption, epsilon in rows.items():
        assert (epsilon == honest) if "drops out" in assumption else (epsilon > honest), assumption


def test_an_audit_changes_nothing_on_disk(path, tmp_path):
    run(path, 3)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    assert audit(path) == audit(path)
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()} == before


def test_an_empty_ledger_spent_nothing_and_claims_nothing(path):
    Ledger.open(path, create=True).close()
    report = audit(path)
    assert (report.epsilon, report.rounds, report.delta, report.claims) == (0.0, 0, None, [])
    assert report.ledger_ok
    assert not report.guarantee


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_bytes(b"not a ledger" * 99)])
def test_what_is_no_ledger_is_not_audited(path, make):
    make(path)
    with pytest.raises(LedgerError) as caught:
        audit(path)
    assert caught.value.todo
