"""A stranger recomputes epsilon from the export with stock dp-accounting, and finds what `sottovoce audit` finds."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sottovoce.privacy.audit import audit
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.events import Pure, RepeatAndSelect
from sottovoce.privacy.filter import spent_epsilon
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

SCRIPT = Path(__file__).parents[1] / "docs" / "replay_ledger.py"
POISSON = MechanismPlan(600, 0.02, 1.0, 1.0, 200, 1e-5)
TRUNCATED = replace(POISSON, sampling="truncated_poisson", cap=40, rounds=10, purpose="metric")
VISIBLE = replace(POISSON, cohorts="visible", max_participations=3, noise_multiplier=3.0, rounds=50, purpose="eval")
BARE = replace(POISSON, noise_multiplier=0.0)

BLOCKED = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sottovoce", "opacus", "torch", "flwr", "msgspec"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
script, *files = sys.argv[1:]
for file in files:
    sys.argv = [script, file]
    runpy.run_path(script, run_name="__main__")
assert not [name for name in sys.modules if name.partition(".")[0] == "sottovoce"]
"""


def replayed(*files):
    return subprocess.run([sys.executable, "-c", BLOCKED, SCRIPT, *files], capture_output=True, text=True, check=False)


def spend(ledger, *plans, rounds, epsilon=20.0, register=True):
    """Register all plans but use them unevenly, with a crash, a void and two runs."""
    budget = Budget(epsilon, 1e-5, ledger)
    if register:
        budget.register(*plans)
    for plan in plans:
        for round in range(rounds):
            paid = budget.reserve(plan, f"run-{round % 2}", round, "secure")
            if round % 5 == 0:
                ledger.void(paid, "nobody was contacted")
            elif round % 5 != 1:
                ledger.commit(paid, "ab" * 32)
    ledger.recover()


def selected(ledger):
    """Random stopping, which only Renyi DP knows."""
    best = RepeatAndSelect(event=POISSON.event(), rounds=20, mean=5.0, shape=0.0)
    ledger.open_campaign(100.0, 1e-5, 600)
    ledger.plan({"selection": 1}, best, 1)
    ledger.plan(TRUNCATED.settings(), TRUNCATED.event(), 1)
    (chosen, cut) = ledger.book().plans
    ledger.reserve("run", 0, best, chosen, "tuning", "secure")
    ledger.reserve("run", 1, TRUNCATED.event(), cut, "metric", "secure")


def pure(ledger):
    event = Pure(micro_epsilon=250_000)
    ledger.open_campaign(20.0, 1e-5, 600)
    ledger.plan({"counts": 1}, event, 9)
    ledger.plan(VISIBLE.settings(), VISIBLE.event(), 50, "visible", 3)
    (counts, visible) = ledger.book().plans
    for round in range(4):
        ledger.reserve("run", round, event, counts, "analytics", "secure")
        ledger.reserve("run", round, VISIBLE.event(), visible, "eval", "secure")


def planned_over_budget(ledger):
    """Plans that do not fit together leave a choice, which only a filter can judge."""
    ledger.open_campaign(2.0, 1e-5, 600, filter_order=8.0)
    for plan in (POISSON, VISIBLE):
        ledger.plan(plan.settings(), plan.event(), plan.rounds, plan.cohorts, plan.max_participations)
        ledger.reserve("run", 0, plan.event(), plan.digest(), plan.purpose, "secure")


CASES = {
    "nothing": lambda ledger: ledger.open_campaign(4.0, 1e-5, 600),
    "one plan": lambda ledger: spend(ledger, POISSON, rounds=200),
    "truncated": lambda ledger: spend(ledger, TRUNCATED, rounds=10),
    "visible, capped": lambda ledger: spend(ledger, VISIBLE, rounds=30),
    "together": lambda ledger: spend(ledger, POISSON, TRUNCATED, VISIBLE, rounds=10),
    "adaptive": lambda ledger: spend(ledger, POISSON, VISIBLE, rounds=10, register=False),
    "no noise": lambda ledger: spend(ledger, BARE, rounds=3, epsilon=float("inf")),
    "selected": selected,
    "pure": pure,
    "planned over budget": planned_over_budget,
}


AUDITED = ("one plan", "adaptive", "pure")
"""Cases whose whole audit is quick enough; it publishes the same figure in the others."""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A folder with a ledger per case, and what the script says of each; one process, because it loads for seconds."""
    folder = tmp_path_factory.mktemp("ledgers")
    for case, fill in CASES.items():
        with Ledger.open(folder / f"{case}.db", create=True) as ledger:
            fill(ledger)
            ledger.export_jsonl(folder / f"{case}.jsonl")
    run = replayed(*(folder / f"{case}.jsonl" for case in CASES))
    assert run.returncode == 0, run.stderr
    return folder, dict(zip(CASES, run.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_the_script_finds_what_the_audit_finds_without_this_library(told, case):
    folder, lines = told
    words = lines[case].split()
    with Ledger.open(folder / f"{case}.db", readonly=True) as ledger:
        expected = spent_epsilon(ledger.book())[0]
        assert words[-1] == ledger.head().hash
    # The library computes cut cohorts on a coarser grid, which is looser by less than 1e-4.
    assert float(words[1]) == pytest.approx(expected, abs=1e-4 if case in ("truncated", "together") else 1e-6)
    if case in AUDITED:
        assert audit(folder / f"{case}.db").epsilon_outsider == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: lines[:2] + lines[3:], "row 3 does not hold"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "row 1 does not hold"),
        (lambda lines: [line.replace("secure", "seeded") for line in lines], "row 3 does not hold"),
    ],
    ids=["deleted", "swapped", "edited"],
)
def test_the_script_refuses_an_export_that_was_changed(tmp_path, damage, said):
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        spend(ledger, POISSON, rounds=4)
        ledger.export_jsonl(tmp_path / "ledger.jsonl")
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    (tmp_path / "changed.jsonl").write_text("\n".join(damage(lines)) + "\n")
    run = replayed(tmp_path / "changed.jsonl")
    assert run.returncode == 1
    assert said in run.stderr
    assert run.stdout == ""


def test_an_event_that_is_not_in_the_script_s_table_ends_it(tmp_path):
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        spend(ledger, POISSON, rounds=2)
        ledger.export_jsonl(tmp_path / "ledger.jsonl")
    source = SCRIPT.read_text().replace('"poisson_gaussian": lambda', '"other": lambda')
    (tmp_path / "replay.py").write_text(source)
    run = subprocess.run(
        [sys.executable, tmp_path / "replay.py", tmp_path / "ledger.jsonl"], capture_output=True, check=False
    )
    assert run.returncode == 1
    assert b"epsilon" not in run.stdout
    assert b"KeyError: 'poisson_gaussian'" in run.stderr
