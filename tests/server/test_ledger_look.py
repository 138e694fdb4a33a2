import math
import sqlite3

import pytest

from sottovoce.privacy.audit import audit
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.ledger_look import LedgerWatch, look

PLAN = MechanismPlan(2000, 0.1, 1.0, 1.5, 5, 1e-4, max_participations=3)


@pytest.fixture
def spent(tmp_path):
    """A ledger with five releases."""
    path = tmp_path / "ledger.db"
    with Ledger.open(path, create=True) as ledger:
        budget = Budget(8.0, 1e-4, ledger)
        budget.register(PLAN)
        for number in range(1, 6):
            budget.commit(budget.reserve(PLAN, "run", number, "secure"), "0" * 64)
    return path


def test_a_look_says_what_an_audit_finds(spent):
    seen, found = look(spent), audit(spent)
    assert (seen.problem, seen.rows, seen.budget, seen.agree) == ("", found.head.length, 8.0, True)
    assert seen.outsider == pytest.approx(found.epsilon_outsider, abs=0.01)
    assert seen.outsider >= found.epsilon_outsider - 1e-6
    assert seen.knows_cohorts == pytest.approx(found.epsilon_known_cohort)


def test_a_changed_row_gives_a_problem_and_no_epsilon(spent):
    with sqlite3.connect(spent) as database:
        database.execute("DROP TRIGGER entries_keep")
        database.execute("UPDATE entries SET body = CAST(replace(body, '0', '1') AS BLOB) WHERE seq = 4")
    database.close()
    seen = look(spent)
    assert "4" in seen.problem
    assert math.isnan(seen.outsider)


def test_a_missing_ledger_is_a_problem_and_is_not_made(tmp_path):
    assert look(tmp_path / "none.db").problem
    assert not (tmp_path / "none.db").exists()


def test_a_ledger_is_not_read_more_often_than_it_must(spent):
    now = [0.0]
    watch = LedgerWatch(spent, 5.0, lambda: now[0])
    first = watch()
    now[0] = 4.9
    assert watch() is first
    now[0] = 5.0
    assert watch() is not first
    assert watch() == first
