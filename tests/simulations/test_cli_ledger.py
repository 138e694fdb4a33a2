"""`sottovoce ledger` on files and servers: what it says, and that a refusal leaves everything as it was."""

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace

import pytest

from sottovoce.privacy.budget import Budget
from sottovoce.privacy.ledger import Ledger, Realised
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.store import open_store

pytest.importorskip("dp_accounting", reason="accounting is part of the [train] extra")

PLAN = MechanismPlan(6040, 0.02, 1.0, 1.0, 50, 1e-5)
CAPPED = replace(PLAN, cohorts="visible", max_participations=3, noise_multiplier=4.0, purpose="metric")
GOOD = ("--epsilon", "4", "--delta", "1e-5", "--population", "6040")
DRAWN = Realised(population=6040, cohort=118, answered=101, busiest=2, salt="5a" * 16)


def refused(told, *words):
    """A refusal: exit code 1, nothing on standard output, what and what to do in a line each."""
    code, out, err = told
    assert (code, out) == (1, "")
    what, todo = err.splitlines()
    assert what.startswith("error: ")
    assert todo.startswith("  -> ")
    for word in words:
        assert word in what


@pytest.fixture
def used(address):
    """A campaign with spending, a crash and an open reservation."""
    with Ledger.open(address, create=True) as ledger:
        budget = Budget(4.0, 1e-5, ledger, {"purpose:metric": 2.0, "querier:*": 1.0})
        budget.register(PLAN, CAPPED)
        for round in range(3):
            budget.commit(budget.reserve(PLAN, "first", round, "secure"), "ab" * 32, DRAWN)
        ledger.void(budget.reserve(PLAN, "first", 3, "secure"), "nobody was contacted")
        budget.commit(budget.reserve(CAPPED, "first", 0, "secure", querier="analyst"), "cd" * 32)
        budget.reserve(PLAN, "second", 7, "secure")
    return address


def content(address):
    with closing(open_store(address, create=False, readonly=True)) as store:
        return list(store.rows(0)), store.restricted(), store.highest()


# open


def test_a_campaign_is_opened_before_any_run_and_only_once(call, address):
    code, out, err = call("ledger", "open", address, *GOOD, "--share", "purpose:metric=0.5", "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["campaign"]["epsilon"] == 4.0
    assert told["campaign"]["shares"] == {"purpose:metric": 500_000}
    assert told["campaign"]["filter_order"] > 1
    before = content(address)
    code, out, _ = call("ledger", "open", address, *GOOD)
    assert code == 0
    assert "epsilon 4 at delta 1e-05" in out
    assert content(address) == before
    with Ledger.open(address) as ledger:
        Budget.of(ledger).reserve(PLAN, "run", 0, "secure")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--delta", "1e-3"), "below 1/population"),
        (("--delta", str(1 / 6040)), "below 1/population"),
        (("--delta", "0"), "delta = 0"),
        (("--delta", "nan"), "delta = nan"),
        (("--epsilon", "0"), "epsilon = 0"),
        (("--epsilon", "-1"), "epsilon = -1"),
        (("--epsilon", "nan"), "epsilon = nan"),
        (("--population", "0"), "population = 0"),
        (("--share", "purpose=1"), "'purpose' names neither"),
        (("--share", "purpose:metric"), "is not NAME=EPS"),
        (("--share", "purpose:metric=x"), "is not NAME=EPS"),
        (("--share", "querier:a=-1"), "querier:a = -1"),
    ],
)
def test_a_campaign_that_promises_nothing_is_refused_and_no_ledger_is_made(call, tmp_path, options, said):
    refused(call("ledger", "open", tmp_path / "ledger.db", *GOOD, *options), said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--epsilon", "5"), "has epsilon = 4"),
        (("--delta", "1e-6"), "has delta = 1e-05"),
        (("--population", "6041"), "has population = 6040"),
        (("--share", "purpose:eval=1"), "other shares"),
    ],
)
def test_another_campaign_is_refused_and_the_ledger_stays_as_it_was(call, used, options, said):
    before = content(used)
    refused(call("ledger", "open", used, *GOOD, *options), said)
    assert content(used) == before


def foreign_database(path):
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE cats (name TEXT)")


@pytest.mark.parametrize(
    ("make", "said"),
    [(foreign_database, "is not a ledger"), (lambda path: path.write_bytes(b"garbage" * 99), "not a database")],
)
def test_a_foreign_file_is_refused_by_every_command_and_left_alone(call, tmp_path, make, said):
    path = tmp_path / "ledger.db"
    make(path)
    before = path.read_bytes(), sorted(tmp_path.iterdir())
    for command in (("open", path, *GOOD), ("show", path), ("verify", path), ("export", path, "--out", tmp_path / "x")):
        refused(call("ledger", *command), "ledger.db", said)
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


def test_a_foreign_schema_is_refused_by_every_command_and_left_alone(call, postgres, tmp_path):
    database = postgres.new_database()
    postgres.execute("CREATE TABLE cats (name text)", database=database)
    address = postgres.address(database)
    for command in (("open", address, *GOOD), ("show", address), ("verify", address)):
        told = call("ledger", *command)
        refused(told, "is not a ledger")
        assert postgres.password not in told[2]
    assert postgres.execute("SELECT count(*) FROM pg_class WHERE relname ~ 'sotto'", database=database) == [(0,)]


def test_a_full_disk_refuses_in_two_lines_and_keeps_the_ledger(call, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", place]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        (place / "ballast").write_bytes(bytes(36_000))
        refused(call("ledger", "open", place / "ledger.db", *GOOD), "ledger.db")
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become somebody else")
def test_a_file_that_may_not_be_written_is_shown_but_not_opened(call, tmp_path):
    path = tmp_path / "ledger.db"
    assert call("ledger", "open", path, *GOOD)[0] == 0
    before = path.read_bytes()
    for folder in (tmp_path, *tmp_path.parents[:-2]):  # all that pytest made, whoever shares the work
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        shown = call("ledger", "show", path)
        told = call("ledger", "open", path, *GOOD)
    finally:
        os.seteuid(0)
    assert shown[0] == 0
    refused(told, "ledger.db")
    assert path.read_bytes() == before


# show, verify


def test_show_tells_scripts_everything(call, used):
    code, out, err = call("ledger", "show", used, "--json", "--last", "4")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["releases"] == 5
    assert told["states"] == {"COMMITTED": 4, "RESERVED": 1, "VOID": 1}
    assert 0 < told["epsilon"] < 4
    assert [(plan["planned"], plan["released"], plan["max_participations"]) for plan in told["plans"]] == [
        (50, 4, None),
        (50, 1, 3),
    ]
    accounts = {one["name"]: (one["releases"], one["share"]) for one in told["accounts"]}
    assert accounts == {
        "purpose:train": (4, None),
        "purpose:metric": (1, 2.0),
        "querier:analyst": (1, 1.0),
        "querier:*": (0, 1.0),
    }
    assert all(one["epsilon_alone"] > 0 for one in told["accounts"] if one["releases"])
    assert [(one["round"], one["run_id"]) for one in told["open"]] == [(7, "second")]
    assert [entry["seq"] for entry in told["last"]] == [told["head"][0] - 3 + n for n in range(4)]


def test_show_speaks_to_people_and_writes_nothing(call, used):
    before = content(used)
    code, out, err = call("ledger", "show", used)
    assert (code, err) == (0, "")
    for part in ("campaign: epsilon 4", "at most 3 rounds per device", "purpose:metric: 1 releases", "open since"):
        assert part in out
    assert content(used) == before


def test_a_ledger_without_a_campaign_is_shown_as_such(call, address):
    Ledger.open(address, create=True).close()
    code, out, _ = call("ledger", "show", address)
    assert code == 0
    assert "no campaign is open" in out


def test_verify_checks_all_rows_and_the_head_that_was_kept_elsewhere(call, used):
    code, out, _ = call("ledger", "verify", used, "--json")
    told = json.loads(out)
    head = f"{told['length']}:{told['hash']}"
    assert (code, told["ledger_ok"]) == (0, True)
    with Ledger.open(used) as ledger:
        ledger.recover()
    assert call("ledger", "verify", used, "--head", head)[0] == 0
    refused(
        call("ledger", "verify", used, "--head", f"{told['length']}:{'0' * 64}"), f"row {told['length']}:", "rewritten"
    )
    refused(call("ledger", "verify", used, "--head", f"99:{'0' * 64}"), "rolled back")
    refused(call("ledger", "verify", used, "--head", "what"), "is not LENGTH:HASH")


EDITS = {
    "entries": "UPDATE {}entries SET body = {} WHERE seq = 5",
    "restricted": "UPDATE {}restricted SET body = {} WHERE seq = 5",
}


@pytest.mark.parametrize("table", EDITS)
def test_verify_names_the_row_that_was_changed(call, used, request, table):
    if isinstance(used, str):
        database = used.rpartition("?")[0].rpartition("/")[2]
        change = EDITS[table].format("sottovoce_", "'{}'")
        disable = "ALTER TABLE sottovoce_entries DISABLE TRIGGER ALL"
        request.getfixturevalue("postgres").execute(disable, change, database=database)
    else:
        with closing(sqlite3.connect(used)) as raw, raw:
            raw.execute("DROP TRIGGER entries_keep")
            raw.execute(EDITS[table].format("", "CAST('{}' AS BLOB)"))
    refused(call("ledger", "verify", used), "row 5:")


# export, audit


def test_the_public_export_holds_no_restricted_record(call, used, tmp_path):
    public, secret = tmp_path / "ledger.jsonl", tmp_path / "restricted.jsonl"
    code, out, _ = call("ledger", "export", used, "--out", public, "--json")
    assert code == 0
    assert json.loads(out)["restricted"] is None
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["ledger.jsonl"]
    assert call("ledger", "export", used, "--out", public, "--restricted", secret)[0] == 0
    text = public.read_text()
    for word in ('cohort\\"', "answered", "busiest", "5a" * 16):
        assert word not in text
    records = [json.loads(line)["record"] for line in secret.read_text().splitlines()]
    assert [record["cohort"] for record in records] == [118] * 3


def test_an_export_that_cannot_be_written_leaves_nothing(call, used, tmp_path):
    refused(call("ledger", "export", used, "--out", tmp_path / "no" / "x.jsonl"), "x.jsonl", "No such file")
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    refused(call("ledger", "export", used, "--out", folder), "folder.jsonl")
    assert not list(tmp_path.glob(".*"))


def test_an_audit_reads_a_server_as_it_reads_a_file(call, used):
    code, out, _ = call("audit", used, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["ledger_ok"]
    assert told["rounds"] == 5
    assert told["entries"]["RESERVED"] == 1


def test_a_run_folder_stands_for_the_ledger_in_it(call, tmp_path):
    assert call("ledger", "open", tmp_path, *GOOD)[0] == 0
    assert (tmp_path / "ledger.db").is_file()
    assert call("ledger", "verify", tmp_path)[0] == 0


def test_an_address_with_a_password_is_shown_without_it(call):
    pytest.importorskip("psycopg", reason="ledgers on PostgreSQL are part of the [postgres] extra")
    for command in (("show",), ("verify",), ("open", *GOOD), ("export", "--out", "x.jsonl")):
        told = call("ledger", command[0], "postgresql://ann:hunter2@127.0.0.1:1/db", *command[1:])
        refused(told, "postgresql://ann@127.0.0.1:1/db")
        assert "hunter2" not in told[2]
    told = call("audit", "postgresql://ann:hunter2@127.0.0.1:1/db")
    refused(told)
    assert "hunter2" not in told[2]


RUN = ("--data", "market", "--rounds", "5", "--epsilon", "1", "--delta", "1e-5", "--set", "measure.quality=1")


def test_runs_planned_together_are_verified_together_and_written_down(call, tmp_path):
    place = tmp_path / "team.db"
    assert call("ledger", "open", place, *GOOD)[0] == 0
    code, out, err = call("ledger", "plan", place, *RUN, "--runs", "2", "--json")
    assert (code, err) == (0, "")
    assert sorted(plan["planned"] for plan in json.loads(out)["plans"]) == [1, 1, 5, 5]
    with Ledger.open(place) as ledger:
        assert sorted(ledger.book().fixed.values()) == [2, 10]
        before = ledger.head()
    refused(call("ledger", "plan", place, *RUN, "--runs", "40"), "would exceed epsilon 4")
    refused(call("ledger", "plan", tmp_path / "none.db", *RUN), "none.db")
    with Ledger.open(place) as ledger:
        assert ledger.head() == before


def test_a_campaign_must_be_open_before_runs_are_planned(call, tmp_path):
    Ledger.open(tmp_path / "empty.db", create=True).close()
    refused(call("ledger", "plan", tmp_path / "empty.db", *RUN), "no campaign")
