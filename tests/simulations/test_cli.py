"""The command line as people and scripts meet it: exit codes, one line what, one line what to do, one JSON object."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sottovoce.models.signing import generate_key, save_private_key, save_public_key
from sottovoce.simulations.cli import COMMANDS, run

SMALL = ["--devices", "200", "--rounds", "2", "--delta", "1e-3", "--no-baselines"]
SMALL += ["--set", "data.rows_per_device=8", "--set", "privacy.sampling_rate=0.3"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished private run."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert run(["simulate", *SMALL, "--out", str(path)]) == 0
    return path


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="session")
def released(finished, tmp_path_factory):
    """A released copy of it, and what a phone holds: made once, it takes seconds."""
    path = shutil.copytree(finished, tmp_path_factory.mktemp("released") / "run")
    assert run(["release", str(path)]) == 0
    assert run(["data", "device", "--out", str(path / "phone"), "--device", "11"]) == 0
    return path


def refused(told, *words):
    """A refusal: exit code 1, nothing on standard output, what and what to do in a line each."""
    code, out, err = told
    assert code == 1
    assert out == ""
    assert "Traceback" not in err
    lines = err.splitlines()
    assert lines[-2].startswith("error: "), err
    assert lines[-1].startswith("  -> "), err
    for word in words:
        assert word in err, err
    return lines


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Wrong usage


USAGE = [
    ["nonsense"],
    ["simulate", "--nope"],
    ["simulate", "--epsilon", "abc"],
    ["simulate", "--noise", "loud"],
    ["simulate", "--resume", "run", "--rounds", "3"],
    ["simulate", "--resume", "run", "--out", "elsewhere"],
    ["simulate", "--resume", "run", "--set", "seed=3"],
    ["tune"],
    ["tune", "grid.toml", "--runs", "1"],
    ["evaluate"],
    ["evaluate", "run", "--bootstrap", "99"],
    ["release", "run", "--version", "0"],
    ["release", "run", "--expires-days", "0"],
    ["release", "run", "--expires-days", "1000000000"],
    ["release", "run", "--model-id", "../up\nlog line"],
    ["pick", "bundle"],
    ["pick", "b", "--key", "k", "--catalogue", "c", "--request", "r", "--trusted-version", "-1"],
    ["pick", "b", "--key", "k", "--catalogue", "c", "--request", "r", "--now", "yesterday"],
    ["pick", "b", "--key", "k", "--catalogue", "c", "--request", "r", "--draw", "1"],
    ["device"],
    ["device", "d", "--now", "yesterday"],
    ["bench", "picker", "--decisions", "1"],
    ["data", "describe", "nothing"],
    ["data", "device", "--out", "x", "--seed", "-1"],
    ["data", "device", "--out", "x", "--rows-per-device", "1"],
    ["data", "device", "--out", "x", "--device", "-1"],
    ["bench", "fleet", "--devices", "1"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage_ends_with_2_and_touches_nothing(call, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: sottovoce" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=str
)
def test_help_is_given_by_every_command(call, arguments):
    code, out, err = call(*arguments)
    assert code == (0 if arguments else 2)
    assert out or err


# simulate


SIMULATE = {
    "missing file": (["missing.toml"], "missing.toml"),
    "folder as file": (["."], "directory"),
    "no TOML": (["bad.toml"], "bad.toml"),
    "unknown key": (["unknown.toml"], "roundz"),
    "no rounds": (["--rounds", "0"], "rounds"),
    "rounds without end": (["--rounds", "9" * 25], "rounds"),
    "epsilon below 0": (["--epsilon", "-1"], "epsilon = -1"),
    "epsilon 0": (["--epsilon", "0"], "epsilon = 0"),
    "epsilon NaN": (["--epsilon", "nan"], "epsilon = nan"),
    "epsilon minus infinity": (["--epsilon", "-inf"], "epsilon = -inf"),
    "infinite epsilon and noise": (["--epsilon", "inf", "--noise", "secure"], "go together"),
    "delta 0": (["--delta", "0"], "delta = 0"),
    "delta too small": (["--delta", "1e-300"], "delta = 1e-300"),
    "delta at 1 / devices": (["--delta", "0.005"], "below 1/population"),
    "nobody": (["--devices", "0"], "devices"),
    "one device without a past": (["--devices", "1"], "no training rows"),
    "labels of one class": (["--devices", "3", "--delta", "1e-4"], "labels are 0"),
    "table without file": (["--data", "table"], "data.file"),
    "table that is missing": (
        ["--data", "table", "--set", "data.file=no.csv", "--set", "data.schema=no.toml"],
        "no.toml",
    ),
    "no such data folder": (["--data", "kuairand", "--data-dir", "nowhere"], "nowhere"),
    "override without value": (["--set", "rounds"], "KEY=VALUE"),
    "override of nothing": (["--set", "a.b=3"], "unknown field"),
    "run that is none": (["--resume", "."], "experiment.toml"),
}


@pytest.mark.parametrize(("arguments", "word"), SIMULATE.values(), ids=SIMULATE.keys())
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(call, tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("rounds = [")
    (tmp_path / "unknown.toml").write_text("roundz = 3")
    before = files(tmp_path)
    resumes = "--resume" in arguments
    refused(call("simulate", *([] if resumes else SMALL), *arguments), word)
    assert files(tmp_path) == before
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_taken_is_left_alone(call, finished):
    before = files(finished)
    refused(call("simulate", *SMALL, "--out", finished), "not empty", "--resume")
    assert files(finished) == before


def test_a_folder_that_cannot_be_made_is_refused(call, tmp_path):
    (tmp_path / "file").write_text("")
    refused(call("simulate", *SMALL, "--out", tmp_path / "file" / "run"))


def test_a_finished_run_resumes_to_the_same_figures_and_costs_nothing(call, copied):
    before = files(copied)
    code, out, err = call("simulate", "--resume", copied, "--no-baselines", "--json")
    assert code == 0
    after = files(copied)
    assert {path for path in before if before[path] != after.get(path)} <= {
        path for path in before if path.name in {"report.html", "results.json"}
    }
    assert json.loads(out)["notes"] == []
    assert "200 devices" in err


def test_simulate_prints_one_json_object_and_its_progress_elsewhere(call, tmp_path):
    code, out, err = call("simulate", *SMALL, "--noise", "seeded", "--json", "--out", tmp_path / "run")
    told = json.loads(out)
    assert code == 0
    assert told.keys() == {
        "data", "rounds", "epsilon", "delta", "guarantee", "metrics", "baselines", "notes", "run", "seconds"
    }  # fmt: skip
    assert (told["rounds"], told["guarantee"], told["delta"]) == (2, False, 1e-3)
    assert told["epsilon"] > 4.0  # whoever has the seed knows the cohorts: sampling is not counted
    assert "NO GUARANTEE" in err
    assert "round 2/2" in err


def test_the_experiment_is_shown_and_nothing_is_run(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("simulate", *SMALL, "--show-config")
    assert (code, err) == (0, "")
    (tmp_path / "again.toml").write_text(out)
    assert call("simulate", "again.toml", "--show-config") == (0, out, "")
    code, told, _ = call("simulate", "again.toml", "--show-config", "--json")
    assert json.loads(told)["data"]["devices"] == 200
    assert [path.name for path in tmp_path.iterdir()] == ["again.toml"]


def test_text_is_not_wrapped_where_no_terminal_is(finished, call, copied):
    _, out, _ = call("simulate", "--resume", copied, "--no-baselines")
    assert re.search(r"^epsilon \d\.\d+ at delta 0\.001 per device .*, by PLD$", out, re.MULTILINE)


def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(call, copied):
    last = copied / "checkpoints" / "round-000002.safetensors"
    last.write_bytes(last.read_bytes()[:-9])
    code, _, err = call("evaluate", copied, "--json")
    assert code == 0
    assert "note:" in err
    assert last.name in err
    refused(call("release", copied), "round 1", "--resume")
    assert not list(copied.glob("*.pem"))


def test_a_run_under_way_is_not_joined_by_a_second_process(call, copied):
    fcntl = pytest.importorskip("fcntl", reason="no such lock there")
    with (copied / "experiment.toml").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(call("simulate", "--resume", copied), "another process")


# audit


def test_an_audit_tells_scripts_what_they_need(call, finished):
    code, out, err = call("audit", finished, "--ledger-only", "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert {"epsilon", "delta", "unit", "adjacency", "accountant", "rounds", "ledger_ok"} <= told.keys()
    assert (told["rounds"], told["unit"], told["adjacency"], told["ledger_ok"]) == (2, "device", "zero_out", True)
    assert 0 < told["epsilon"] <= 4.0
    code, alone, err = call("audit", finished / "ledger.db", "--ledger-only", "--json")
    assert (code, err) == (0, "")
    assert json.loads(alone) | {"about": told["about"]} == told


def test_an_audit_speaks_to_people_too_and_measures_the_mechanism(call, copied):
    code, out, _ = call("audit", copied)
    assert code == 0
    for said in ("ledger: whole", "COMMITTED 2", "checks passed over 2 rounds", "no violation detected at this power"):
        assert said in out
    assert "8 of 8 planted bugs caught, 0 false alarms in 2 clean runs" in out
    assert "verified" not in out
    assert {"audit.html", "audit.json", "deployment.yaml"} <= {path.name for path in copied.iterdir()}
    kept = json.loads((copied / "audit.json").read_text())
    assert kept["self_test"]["caught"] == 8
    assert kept["empirical"]["verdict"] == "no violation detected at this power"


def test_the_documents_of_an_audit_go_where_they_are_wanted_with_the_publisher_that_is_given(call, finished, tmp_path):
    told = tmp_path / "publisher.toml"
    told.write_text('name = "Example Media"\nkind = "Nonprofit"\nregion = "EU"\nauthors = ["A. Example"]\n')
    code, out, _ = call("audit", finished, "--ledger-only", "--out", tmp_path, "--publisher", told)
    assert code == 0
    assert "Example Media" in (tmp_path / "deployment.yaml").read_text()
    assert "data_curator_name: not stated" not in out
    told.write_text("name = 3")
    refused(call("audit", finished, "--ledger-only", "--out", tmp_path, "--publisher", told), "publisher.toml")
    refused(call("audit", finished, "--ledger-only", "--publisher", tmp_path / "none.toml"), "none.toml")
    refused(call("audit", finished, "--ledger-only", "--out", tmp_path / "missing"), "missing")


def edit(copied):
    file = copied / "ledger.db"
    data = file.read_bytes()
    assert data.count(b'"round":2') == 1
    file.write_bytes(data.replace(b'"round":2', b'"round":3'))


def cut(copied):
    import sqlite3

    with sqlite3.connect(copied / "ledger.db") as ledger:
        ledger.execute("DROP TRIGGER entries_stay")
        ledger.execute("DELETE FROM entries WHERE seq > 3")
        ledger.execute("UPDATE sqlite_sequence SET seq = 3")
    ledger.close()


@pytest.mark.parametrize("damage", [edit, cut], ids=["a row edited", "rows cut off at the end, cleanly"])
def test_a_ledger_that_does_not_hold_has_no_epsilon_and_ends_with_1(call, copied, damage):
    damage(copied)
    code, out, err = call("audit", copied, "--ledger-only", "--json")
    told = json.loads(out)
    assert code == 1
    assert (told["ledger_ok"], told["epsilon"]) == (False, None)
    assert "error:" in err
    before = files(copied)
    refused(call("simulate", "--resume", copied))
    refused(call("release", copied), "ledger")
    assert files(copied) == before


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 99], ids=["missing", "empty", "garbage"])
def test_what_is_no_ledger_is_refused(call, tmp_path, content):
    file = tmp_path / "ledger.db"
    if content is not None:
        file.write_bytes(content)
    refused(call("audit", file))
    refused(call("audit", tmp_path), "experiment.toml")


def test_a_run_without_its_ledger_is_refused_everywhere(call, copied):
    (copied / "ledger.db").unlink()
    before = files(copied)
    for command in (["audit"], ["release"], ["simulate", "--resume"]):
        refused(call(*command, copied), "ledger.db")
    assert files(copied) == before


# evaluate


def test_evaluate_prints_exactly_the_metrics(call, finished):
    code, out, err = call("evaluate", finished, "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told.keys() == {"auc", "gauc", "ndcg@5", "primary", "log_loss", "calibration_error", "devices", "rows"}
    results = json.loads((finished / "results.json").read_bytes())
    assert told == results["metrics"]


def test_evaluate_gives_an_interval_around_each_figure_and_the_same_one_again(call, finished):
    code, out, err = call("evaluate", finished, "--bootstrap", "200", "--json")
    told = json.loads(out)
    assert (code, err, told["resamples"]) == (0, "", 200)
    plain = json.loads(call("evaluate", finished, "--json")[1])
    assert {key: told[key] for key in plain} == plain
    assert set(told["intervals"]) == set(plain) - {"devices", "rows"}
    for key in ("auc", "gauc", "ndcg@5", "primary", "log_loss"):
        found = told["intervals"][key]
        assert found["low"] < told[key] < found["high"]
    code, out, _ = call("evaluate", finished, "--bootstrap", "200")
    low, high = told["intervals"]["primary"]["low"], told["intervals"]["primary"]["high"]
    assert f"primary           {told['primary']:.4f}  {low:.4f} to {high:.4f}" in out
    assert "drawing the devices 200 times" in out


def test_evaluate_refuses_what_it_cannot_score(call, finished, tmp_path):
    refused(call("evaluate", tmp_path), "experiment.toml")
    refused(call("evaluate", finished, "--impressions", tmp_path / "no.csv"), "no.csv")
    (tmp_path / "some.csv").write_text("a,b\n1,2\n")
    refused(call("evaluate", finished, "--impressions", tmp_path / "some.csv"), "no impressions files")


LAYOUT = """
[data]
name = "diary"
device = "person"
time = "day"
held_out = 0.3
[labels]
click = "clicked"
[[features]]
name = "town"
source = "device"
kind = "hash"
buckets = 8
[[features]]
name = "ad"
source = "ad"
kind = "hash"
buckets = 32
"""


def diary(path, people=40, column="clicked", label=lambda row: int(row % 3 == 0)):
    lines = [f"person,day,town,ad,{column}"]
    lines += [
        f"p{row % people},{row // people},t{row % people % 5},ad{row % 7},{label(row)}" for row in range(people * 10)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_ones_own_table_is_trained_on_and_another_file_of_it_scored(call, tmp_path):
    layout = tmp_path / "diary.toml"
    layout.write_text(LAYOUT)
    settings = ["--data=table", f"--set=data.file={diary(tmp_path / 'diary.csv')}", f"--set=data.schema={layout}"]
    settings += ["--delta=1e-3", "--noise=seeded", "--rounds=2", "--no-baselines"]
    folder = tmp_path / "run"
    assert call("simulate", *settings, "--out", folder)[0] == 0
    told = [
        json.loads(call("evaluate", folder, "--json", "--impressions", diary(tmp_path / "more.csv", label=label))[1])
        for label in (lambda row: int(row % 3 == 0), lambda row: int(row % 3 != 0))
    ]
    assert told[0]["rows"] == told[1]["rows"] == 400
    assert told[0]["auc"] + told[1]["auc"] == pytest.approx(1.0)  # turned labels turn the figure, not the scores
    for name, bent in {
        "column.csv": {"column": "seen"},
        "label.csv": {"label": lambda row: 2},
        "class.csv": {"label": lambda row: 0},
        "stranger.csv": {"people": 41},
    }.items():
        refused(call("evaluate", folder, "--impressions", diary(tmp_path / name, **bent)))
    (tmp_path / "empty.csv").write_text("")
    refused(call("evaluate", folder, "--impressions", tmp_path / "empty.csv"), "empty.csv")
    (tmp_path / "diary.csv").unlink()
    refused(call("evaluate", folder), "diary.csv")


def test_a_public_file_of_ones_own_table_chooses_the_winner_of_a_selection(call, tmp_path):
    layout, grid = tmp_path / "diary.toml", tmp_path / "grid.toml"
    layout.write_text(LAYOUT)
    grid.write_text("[grid]\nlocal.steps = [1, 2]")
    settings = ["--data=table", f"--set=data.file={diary(tmp_path / 'diary.csv')}", f"--set=data.schema={layout}"]
    settings += [
        "--delta=1e-3",
        "--noise=seeded",
        "--rounds=2",
        "--no-baselines",
        "--runs=2",
        "--out",
        tmp_path / "run",
    ]
    refused(
        call("tune", grid, *settings, "--score-on", diary(tmp_path / "class.csv", label=lambda row: 0)), "class.csv"
    )
    refused(call("tune", grid, *settings, "--score-on", tmp_path / "none.csv"), "none.csv")
    assert not (tmp_path / "run").exists()  # nothing was paid
    code, out, err = call("tune", grid, *settings, "--score-on", diary(tmp_path / "public.csv"), "--json")
    assert code == 0
    assert "ASSUMPTION" not in err
    assert "trial: local.steps" in err
    assert json.loads(out)["notes"] == []


# release


def test_a_run_that_promises_nothing_is_not_released_and_leaves_no_keys(call, tmp_path):
    for name, arguments in {"open": ["--epsilon", "inf"], "seeded": ["--noise", "seeded"]}.items():
        folder = tmp_path / name
        assert call("simulate", *SMALL, "--out", folder, *arguments)[0] == 0
        before = files(folder)
        refused(call("release", folder), "NO GUARANTEE")
        assert files(folder) == before


def test_an_unfinished_run_is_not_released(call, copied):
    (copied / "results.json").unlink()
    before = files(copied)
    refused(call("release", copied), "not finished", "--resume")
    assert files(copied) == before


def test_an_experiment_that_was_edited_after_training_is_not_released(call, copied):
    file = copied / "experiment.toml"
    file.write_text(file.read_text().replace("clip_norm = ", "clip_norm = 1"))
    before = files(copied)
    refused(call("release", copied), "another experiment")
    assert files(copied) == before


def test_weights_that_the_ledger_never_saw_are_not_released(call, copied):
    from sottovoce.server import checkpoint

    kept = checkpoint.newest(copied / "checkpoints")
    kept.state["parameters/table"][1] += 1.0
    checkpoint.write(copied / "checkpoints", kept.state, kept.facts)
    before = files(copied)
    refused(call("release", copied), "not a release the ledger knows")
    assert files(copied) == before


@pytest.mark.parametrize(
    ("option", "word"),
    [
        (["--key", "no.pem"], "no.pem"),
        (["--gates", "no.toml"], "no.toml"),
        (["--out", "no/where/x.svb"], "no/where"),
        (["--parent", "no.svb"], "no.svb"),
    ],
)
def test_a_release_with_a_file_that_is_missing_is_refused(call, copied, tmp_path, monkeypatch, option, word):
    monkeypatch.chdir(tmp_path)
    before = files(copied)
    refused(call("release", copied, *option), word)
    assert files(copied) == before


def test_a_key_or_gates_of_garbage_are_refused(call, copied, tmp_path):
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\xff\x00")
    refused(call("release", copied, "--key", garbage), "garbage")
    refused(call("release", copied, "--gates", garbage), "release.toml")


def test_a_release_keeps_its_keys_private_and_says_where_the_public_one_is(released):
    assert (released / "bundle.svb").is_file()
    assert (released / "signing.pem").stat().st_mode & 0o077 == 0
    assert "PUBLIC KEY" in (released / "signing.pub.pem").read_text()
    results = json.loads((released / "results.json").read_bytes())
    assert results["release"]["bundle_bytes"] == (released / "bundle.svb").stat().st_size
    assert all(gate["passed"] for gate in results["release"]["gates"])


def test_a_released_bundle_is_what_its_ledger_paid_for_and_its_checkpoint_quantizes_to(call, released):
    newest = max((released / "checkpoints").iterdir())
    key = released / "signing.pub.pem"
    verify = ("bundle", "verify", released / "bundle.svb", "--key", key, "--ledger", released, "--checkpoint", newest)
    code, out, err = call(*verify)
    assert (code, err) == (0, "")
    assert f"tables are what the weights of {newest.name} quantize to" in out
    assert "committed the checkpoint" in out


def test_resuming_a_released_run_keeps_the_release_in_its_report(call, released, tmp_path):
    path = shutil.copytree(released, tmp_path / "run")
    assert call("simulate", "--resume", path, "--no-baselines")[0] == 0
    assert json.loads((path / "results.json").read_bytes())["release"] is not None
    assert "Nothing was exported" not in (path / "report.html").read_text()


@pytest.fixture
def quick_release(released, monkeypatch):
    """Figures to start from; exports and the cross-check are those of the same run, and fewer requests are compared."""
    from sottovoce.models.bundle import unpack
    from sottovoce.models.manifest import load_manifest
    from sottovoce.privacy import audit as audit_module
    from sottovoce.server import release as release_module
    from sottovoce.simulations import shipping, slices

    exported = unpack((released / "bundle.svb").read_bytes())
    monkeypatch.setattr(release_module, "to_onnx", lambda *_: exported["model.onnx"])
    monkeypatch.setattr(release_module, "to_tflite", lambda *_: exported["model.tflite"])
    # Fewer requests may be content with fewer planes than the exports have, and the run's noise is new each time.
    planes = int(re.search(r"(\d) int8", load_manifest(exported["manifest.json"]).quantization)[1])
    for module, name, value in (
        (release_module, "PLANES", (planes,)),
        (shipping, "REAL", 10),
        (shipping, "DRAWN", {16: 10}),
        (slices, "SLICE_ROWS", 10),
        (slices, "SLICE_CLASS", 1),
    ):
        monkeypatch.setattr(module, name, value)
    results = json.loads((released / "results.json").read_bytes())
    monkeypatch.setattr(audit_module, "cross_check", lambda *_: results["audit"]["cross_check"])
    return {
        "version": results["release"]["version"],
        "bundle_bytes": results["release"]["bundle_bytes"],
        "epsilon": results["audit"]["epsilon"],
        "epsilon_known_cohort": results["audit"]["epsilon_known_cohort"],
        "auc": results["metrics"]["auc"],
        "calibration_error": results["metrics"]["calibration_error"],
    }


PARITY = ("runtime_difference", "runtime_decision_change", "quantization_error", "decision_change")


@pytest.mark.parametrize(
    "gate",
    [
        *(f"max_{figure}" for figure in PARITY),
        *("max_bundle_bytes", "max_epsilon", "max_epsilon_known_cohort", "min_auc", "max_calibration_error"),
        *("max_latency_ratio", "max_fairness_gap", "max_age_days"),
    ],
)
def test_a_gate_that_is_just_missed_is_named_and_nothing_is_written(call, copied, quick_release, monkeypatch, gate):
    import msgspec

    from sottovoce.server import release as release_module

    figure, more = gate.partition("_")[2], ""
    if figure in PARITY:
        limit, compare = 0.01, release_module.parity
        monkeypatch.setattr(
            release_module, "parity", lambda *given: msgspec.structs.replace(compare(*given), **{figure: limit * 1.001})
        )
    elif gate == "max_latency_ratio":
        limit = 3.0
        monkeypatch.setattr(release_module, "latency_ratio", lambda *_: limit * 1.001)
    elif gate == "max_bundle_bytes":
        limit = quick_release[figure] - 20  # the signature is a few bytes shorter or longer each time
    elif figure in quick_release:
        limit = quick_release[figure] * (1.001 if gate.startswith("min") else 0.999)
    else:
        limit, more = 0.0, 'fairness_feature = "device_class"\n' if gate == "max_fairness_gap" else ""
    gates = copied.parent / "release.toml"
    gates.write_text(f"{gate} = {limit}\n{more}")
    before = files(copied)
    again = ("--version", quick_release["version"])  # the golden requests, and so their size, depend on it
    told = refused(call("release", copied, "--gates", gates, *again), f"error: {gate}: ", " misses ", " by ")
    assert ";" not in told[-2]
    assert files(copied) == before


@pytest.mark.usefixtures("quick_release")
def test_every_gate_asked_for_is_judged_on_a_figure_of_its_own(call, copied):
    from sottovoce.server.gates import LIMITS

    gates = copied.parent / "release.toml"
    gates.write_text(
        "max_latency_ratio = 1e6\nmax_fairness_gap = 1.0\nfairness_feature = 'connection'\nmax_age_days = 1\n"
        "min_auc = 0\nmax_calibration_error = 1\nmax_epsilon_known_cohort = 1e6\n"
    )
    code, out, err = call("release", copied, "--gates", gates, "--json")
    assert (code, err) == (0, "")
    judged = {gate["name"]: gate["measured"] for gate in json.loads(out)["gates"]}
    assert list(judged) == list(LIMITS)
    assert None not in judged.values()
    assert judged["max_latency_ratio"] > 0
    gates.write_text("max_fairness_gap = 1.0\nfairness_feature = 'colour'\n")
    refused(call("release", copied, "--gates", gates), "colour", "device_class")


def test_a_gap_between_slices_too_small_to_tell_is_not_measured_and_fails(call, copied, quick_release, monkeypatch):
    from sottovoce.simulations import slices

    monkeypatch.setattr(slices, "SLICE_ROWS", 10**6)
    gates = copied.parent / "release.toml"
    gates.write_text("max_fairness_gap = 1.0\nfairness_feature = 'connection'\n")
    refused(call("release", copied, "--gates", gates), "max_fairness_gap: nothing measured, limit 1")


# pick


def picking(released, **changes):
    phone = released / "phone"
    given = {
        "key": released / "signing.pub.pem",
        "catalogue": phone / "catalogue.json",
        "log": phone / "events.jsonl",
        "consent": phone / "consent.json",
        "request": phone / "request.json",
    }
    given |= changes
    return ["pick", given.pop("bundle", released / "bundle.svb")] + [
        part for name, value in given.items() for part in (f"--{name}", value)
    ]


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
def test_a_pick_is_one_json_object(call, released, runtime):
    code, out, err = call(*picking(released), "--runtime", runtime, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out).keys() == {"decision", "explanation"}


def test_a_bundle_is_believed_from_its_signer_only_whole_and_not_twice(call, released, tmp_path):
    from sottovoce.models.signing import generate_key, save_public_key

    stranger = tmp_path / "stranger.pem"
    save_public_key(generate_key().public_key(), stranger)
    refused(call(*picking(released, key=stranger)), "keys signed")
    refused(call(*picking(released, key=released / "signing.pem")), "public key")
    data = (released / "bundle.svb").read_bytes()
    for content in (b"", data[:-1], data + b"\0", data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]):
        bent = tmp_path / "bent.svb"
        bent.write_bytes(content)
        refused(call(*picking(released, bundle=bent)))
    version = json.loads((released / "results.json").read_bytes())["release"]["version"]
    refused(call(*picking(released), "--trusted-version", version), "already trusted")
    assert call(*picking(released), "--trusted-version", version - 1)[0] == 0


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[]", b'{"a":' * 3000, None], ids=["bytes", "list", "deep", "missing"]
)
@pytest.mark.parametrize("name", ["catalogue", "log", "consent", "request"])
def test_garbage_on_the_phone_is_named(call, released, tmp_path, name, content):
    file = tmp_path / "garbage"
    if content is not None:
        file.write_bytes(content)
    refused(call(*picking(released, **{name: file})), "garbage")


def test_a_pick_follows_controls_policy_and_draw(call, released, tmp_path):
    def picked(*options):
        code, out, err = call(*picking(released), *options, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)["decision"]

    first = picked()["winner"]["crid"]
    for name, content in (("c.json", f'{{"muted_crids": ["{first}"]}}'), ("c.toml", f'muted_crids = ["{first}"]')):
        (tmp_path / name).write_text(content)
        assert picked("--controls", tmp_path / name)["winner"]["crid"] != first
    (tmp_path / "p.toml").write_text("[page]\nper_day = 0\n")
    assert picked("--policy", tmp_path / "p.toml")["nbr_words"] == "enough ads were shown in the last day"
    (tmp_path / "e.toml").write_text("[exploration]\nmethod = 'epsilon'\nepsilon = 1.0\n")
    drawn = [picked("--policy", tmp_path / "e.toml", "--draw", draw) for draw in (0.0, 0.99)]
    assert [one["draw"] for one in drawn] == [0.0, 0.99]
    assert drawn[0]["winner"]["crid"] != drawn[1]["winner"]["crid"]
    (tmp_path / "wrong.toml").write_text("per_minute = 1\n")
    for option in ("--controls", "--policy"):
        refused(call(*picking(released), option, tmp_path / "wrong.toml"), "per_minute")
        refused(call(*picking(released), option, tmp_path / "missing"), "missing")


def test_a_trace_replays_and_what_is_not_the_one_of_then_is_named(call, released, tmp_path):
    traces, phone, now = tmp_path / "t.jsonl", released / "phone", ("--now", "2026-11-18T12:00:00Z")
    for _ in range(2):
        assert call(*picking(released), *now, "--trace", traces)[0] == 0
    assert {path.stat().st_mode & 0o777 for path in (traces, tmp_path / "t.secret")} == {0o600}
    assert len(traces.read_bytes().splitlines()) == 2

    def again(*changes, **files):
        given = {"catalogue": phone / "catalogue.json", "log": phone / "events.jsonl"} | files
        named = [part for name, value in given.items() for part in (f"--{name}", value)]
        secret = () if "--secret" in changes else ("--secret", tmp_path / "t.secret")
        key = released / "signing.pub.pem"
        return call("replay", traces, released / "bundle.svb", "--key", key, *named, *secret, *changes)

    code, out, _ = again()
    assert (code, out.count("identical; every input is the one of then")) == (0, 2)
    told = json.loads(again("--json")[1])
    assert [one["replayed"]["changed"] for one in told] == [[], []]
    changed = json.loads((phone / "catalogue.json").read_bytes())
    for campaign in changed["campaigns"]:
        campaign["price"] *= 2
    dearer = tmp_path / "dearer.json"
    dearer.write_text(json.dumps(changed))
    code, out, err = again(catalogue=dearer)
    assert code == 1
    assert "not the one of then: catalogue" in out
    assert "2 of 2 decisions are not the ones of then" in err
    shorter = tmp_path / "shorter.jsonl"
    shorter.write_bytes(b"".join((phone / "events.jsonl").read_bytes().splitlines(True)[1:]))
    assert "not the one of then: log" in again(log=shorter)[1]
    (tmp_path / "p.toml").write_text("[exploration]\nmethod = 'epsilon'\nepsilon = 1.0\n[quality]\nrepeat_cost = 1\n")
    (tmp_path / "c.json").write_text('{"muted_seats": ["advertiser-1"]}')
    policy, traces = ("--policy", tmp_path / "p.toml"), tmp_path / "drawn.jsonl"
    for draw in (0.1, 0.5, 0.9):
        settings = (*policy, "--draw", draw, "--controls", tmp_path / "c.json", "--trace", traces)
        assert call(*picking(released), *now, *settings, "--secret", tmp_path / "t.secret")[0] == 0
    assert again(*policy)[1].count("identical; every input is the one of then") == 3
    assert again()[1].count("not the one of then: policy") == 3
    short = tmp_path / "short"
    short.write_bytes(b"1")
    refused(again("--secret", short), "no secret")
    traces.write_bytes(b"")
    refused(again(), "no trace")


@pytest.mark.parametrize("deadline", [1, 500])
def test_a_device_whose_model_was_slow_replays_as_it_was(call, released, tmp_path, monkeypatch, deadline):
    folder, traces, policy = (
        shutil.copytree(released / "phone", tmp_path / "phone"),
        tmp_path / "t.jsonl",
        tmp_path / "p",
    )
    policy.write_text(json.dumps({"deadline_ms": deadline, "exploration": {"method": "thompson"}}))
    talk = "page sports\nclick\npage food\nwhat-if\npage sports\nwhy not a5\npage games\npage food\nwhy\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(talk.encode())))
    key, options = ("--key", released / "signing.pub.pem"), ("--policy", policy, "--trace", traces)
    code, out, err = call("device", folder, "--bundle", released / "bundle.svb", *key, *options)
    assert (code, err) == (0, "")
    assert deadline == 1 or out.count("chosen by model") >= 4
    code, out, err = call("replay", traces, "--device", folder, "--policy", policy)
    assert (code, err, out.count("identical; every input is the one of then")) == (0, "", 5)


def test_an_ad_is_asked_about_and_what_would_change_it_was_tried(call, released):
    shown = json.loads(call(*picking(released), "--json")[1])["decision"]
    crid = shown["losers"][0]["crid"]
    told = json.loads(call(*picking(released), "--about", crid, "--json")[1])["about"]
    assert (told["why_not"]["crid"], told["why_not"]["shown"]) == (crid, False)
    assert {one["change"]["type"] for one in told["would_change"]} >= {"bid"}
    assert {one["winner"] for one in told["would_change"]} == {crid}
    assert f"{crid} was not shown" in call(*picking(released), "--about", crid)[1]
    won = json.loads(call(*picking(released), "--about", shown["winner"]["crid"], "--json")[1])["about"]
    assert won["why_not"]["shown"]
    assert {one["change"]["type"] for one in won["would_change"]} >= {"floor", "mute"}
    refused(call(*picking(released), "--about", "nonsense"), "no ad 'nonsense'")


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "flwr", "opacus", "rich", "pyarrow", "safetensors", "dp_accounting"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from sottovoce.simulations.cli import main
main()
"""


def test_pick_runs_where_only_the_device_runtime_is_installed_and_the_others_say_what_is_missing(released, tmp_path):
    def there(*arguments):
        command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    picked = there(*picking(released), "--json")
    assert (picked.returncode, picked.stderr) == (0, "")
    assert json.loads(picked.stdout)["decision"]
    phone = there("device", shutil.copytree(released / "phone", tmp_path / "phone"), "--json")
    assert (phone.returncode, phone.stdout, phone.stderr) == (0, "", "")
    for arguments in (["simulate"], ["audit", released], ["release", released], ["bench", "fleet"]):
        told = there(*arguments)
        refused((told.returncode, told.stdout, told.stderr), "not installed", "sottovoce[train]")


NO_NETWORK = Path(__file__).parents[1] / "no_network.py"
"""Runs a program that the kernel kills when it makes a socket."""

MAIN = "from sottovoce.simulations.cli import main\nmain()"
TELLS = """
import socket
from sottovoce.client import picker
pick = picker.Picker.pick
def tells(*arguments, **named):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return pick(*arguments, **named)
picker.Picker.pick = tells
"""


def without_network(code, *arguments):
    if sys.platform != "linux":
        pytest.skip("the filter is Linux's")
    command = [sys.executable, NO_NETWORK, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 77 or "takes no filter" in done.stderr:
        pytest.skip("no such filter on this machine")
    return done


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
def test_a_pick_is_the_same_to_the_byte_where_a_socket_is_death(call, released, runtime):
    arguments = [*picking(released), "--runtime", runtime, "--json", "--now", "2026-11-20T12:00:00Z"]
    code, out, _ = call(*arguments)
    denied = without_network(MAIN, *arguments)
    assert (code, denied.returncode, denied.stderr) == (0, 0, "")
    assert denied.stdout == out
    assert json.loads(out)["decision"]["fallback"] == "model"


def test_a_picker_that_opens_a_socket_does_not_survive_it(released):
    """The control of the test above."""
    denied = without_network(TELLS + MAIN, *picking(released))
    assert (denied.returncode, denied.stdout) == (-signal.SIGSYS, "")


STORE = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from sottovoce.client.event_store import EventStore
from sottovoce.client.events import decode_log
from sottovoce.client.keystore import FileKeystore
from sottovoce.client.personal_data import export
folder, now = Path(sys.argv[1]), datetime(2026, 11, 20, tzinfo=timezone.utc)
store = EventStore(folder / "store", FileKeystore(folder / "keys" / "key"), now)
for event in decode_log(Path(sys.argv[2]).read_bytes()).events:
    store.append(event, now, wait=False)
assert store.flush() and export(store, now)
store.delete_all(now)
store.close()
"""


def test_the_store_of_the_device_opens_writes_exports_and_deletes_where_a_socket_is_death(released, tmp_path):
    done = without_network(STORE, tmp_path, released / "phone" / "events.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "store").is_dir()


# data and bench


def test_what_a_phone_holds_is_written_and_only_the_time_is_printed(call, tmp_path):
    code, out, err = call("data", "device", "--out", tmp_path / "phone", "--device", 3)
    assert code == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n", out)
    assert "device 3" in err
    assert sorted(os.listdir(tmp_path / "phone")) == ["catalogue.json", "consent.json", "events.jsonl", "request.json"]
    (tmp_path / "file").write_text("")
    refused(call("data", "device", "--out", tmp_path / "file"), "file")


def test_a_data_set_is_described_to_people_and_to_scripts(call):
    code, out, err = call("data", "describe", "market", "--devices", 50)
    assert (code, err) == (0, "")
    assert "  devices        50 " in out
    assert all(len(line) < 160 for line in out.splitlines())
    code, out, _ = call("data", "describe", "market", "--devices", 50, "--json")
    assert json.loads(out)["devices"] == 50


def test_data_that_is_not_there_is_refused(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(call("data", "describe", "table"), "data.file")
    refused(call("data", "describe", "kuairand", "--data-dir", "nowhere"), "nowhere")
    refused(call("data", "fetch", "kuairand"), "kuairand")
    refused(call("data", "fetch", "movietweetings", "--mirror", "ftp://files.example"), "http")


def test_the_runtimes_are_measured_side_by_side_as_one_json_object(call, released):
    bundle = released / "bundle.svb"
    code, out, err = call("bench", "runtime", bundle, "--rounds", 10, "--starts", 1, "--json")
    assert code == 0
    assert all(line.startswith("... ") for line in err.splitlines())
    told = json.loads(out)
    assert told["bundle_bytes"] == bundle.stat().st_size
    assert "bundle.svb" in told["model"]
    for table in (told["p50_us"], told["p99_us"], told["p50_cold_us"]):
        assert table.keys() == {"litert", "onnxruntime", "torch"}
        assert all(row.keys() == {"1", "16", "64", "256", "1024"} for row in table.values())
    for size, ratio in told["litert_to_onnxruntime"].items():
        assert ratio == pytest.approx(told["p50_us"]["litert"][size] / told["p50_us"]["onnxruntime"][size], abs=1e-3)
    # Whatever the machine does meanwhile: torch is a hundred times the code.
    assert told["cold_start_ms"]["torch"] > told["cold_start_ms"]["litert"] > 0
    assert told["peak_rss_mib"]["torch"] > told["peak_rss_mib"]["onnxruntime"] > told["before_engine_mib"] > 5


def test_bench_refuses_what_is_no_bundle(call, tmp_path):
    refused(call("bench", "runtime", tmp_path / "no.svb"), "no.svb")
    (tmp_path / "bad.svb").write_bytes(b"\0" * 100)
    refused(call("bench", "runtime", tmp_path / "bad.svb"))


def test_the_fleet_is_measured_against_the_loop_as_one_json_object(call):
    code, out, err = call("bench", "fleet", "--devices", 20, "--repeats", 1, "--json")
    told = json.loads(out)
    assert code == 0
    assert all(line.startswith("... ") for line in err.splitlines())
    assert told["ms_per_device_round"].keys() == {"fleet", "fleet_one_thread", "loop"}
    assert told["ratio"].keys() == {"loop"}
    assert told["max_abs_diff"] < 1e-4


# The process


def process(*arguments):
    command = [sys.executable, "-m", "sottovoce.simulations.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="no such signal there")
def test_ctrl_c_in_training_is_one_clear_line_and_the_run_can_be_resumed(tmp_path):
    path = tmp_path / "run"
    settings = ["--set", "privacy.noise='seeded'", "--set", "evaluate_every=1000"]
    running = process("simulate", *SMALL, *settings, "--rounds", 1000, "--out", path)
    deadline = time.monotonic() + 60
    while not list(path.glob("checkpoints/round-000002*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    lines = refused((running.returncode, out, err), "interrupted")
    assert lines[-1] == f"  -> continue with: sottovoce simulate --resume {path}"
    assert run(["audit", str(path), "--ledger-only"]) == 0


LOADING = """
import importlib, os, signal
from sottovoce.simulations import cli
def load(name):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("initialization failed")  # what compiled libraries make of it
importlib.import_module = load
cli.main(["audit"])
"""


@pytest.mark.skipif(os.name == "nt", reason="no such signal there")
def test_ctrl_c_while_libraries_load_is_one_clear_line():
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True)
    assert len(refused((done.returncode, done.stdout, done.stderr), "interrupted")) == 2


def test_a_reader_that_leaves_early_is_not_an_error_with_a_traceback():
    running = process("--help")
    running.stdout.close()
    err = running.stderr.read()
    running.stderr.close()
    assert running.wait() in (0, 1)
    assert "Traceback" not in err


# update


@pytest.fixture
def served(tmp_path):
    """A folder, and the address at which the standard library's web server serves it."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_release_is_published_taken_by_a_device_and_widened_step_by_step(
    call, copied, quick_release, served, tmp_path
):
    folder, address = served
    ask = ("update", address, "--store", tmp_path / "device", "--key", copied / "signing.pub.pem", "--json")

    def publish(number, *options):
        version = quick_release["version"] + number
        code, _, err = call("release", copied, "--version", version, *options)
        assert code == 0, err
        assert call("publish", copied / "bundle.svb", "--to", folder)[0] == 0
        return version

    first = publish(0)
    for outcome in ("installed", "current"):
        code, out, err = call(*ask)
        assert (code, json.loads(out)["outcome"], json.loads(out)["version"]) == (0, outcome, first), err
    publish(1, "--rollout-percent", "0", "--rollout-salt", "spring")
    told = json.loads(call(*ask)[1])
    assert (told["outcome"], told["version"]) == ("held back", first)
    assert call("keys", "new", tmp_path / "second.pem")[0] == 0
    both = ("--key", copied / "signing.pem", "--key", tmp_path / "second.pem", "--key-threshold", 1)
    wide = publish(2, "--rollout-percent", "100", "--rollout-salt", "spring", *both)
    publics = ("--key", copied / "signing.pub.pem", "--key", tmp_path / "second.pub.pem")
    shown = json.loads(call("bundle", "show", copied / "bundle.svb", *publics, "--json")[1])
    assert (shown["signatures"], len(shown["signed_by"]), shown["manifest"]["key_threshold"]) == (2, 2, 1)
    told = json.loads(call(*ask)[1])
    assert (told["outcome"], told["version"], told["by"]) == ("installed", wide, "patch")
    assert told["received"] < (copied / "bundle.svb").stat().st_size / 4
    code, out, err = call("update", address, "--store", tmp_path / "other", "--key", other_key(tmp_path))
    assert (code, out) == (1, "")
    assert "keys signed" in err


def test_keys_that_are_named_twice_or_cannot_reach_the_threshold_sign_nothing(call, copied, tmp_path):
    assert call("keys", "new", tmp_path / "ann.pem")[0] == 0
    ann = ("--key", tmp_path / "ann.pem")
    before = files(copied)
    for wrong in ([*ann, "--key-threshold", 2], [*ann, *ann], ["--key-threshold", 2]):
        refused(call("release", copied, *wrong), "--key-threshold")
    assert files(copied) == before


def other_key(folder):
    save_public_key(generate_key().public_key(), folder / "other.pem")
    return folder / "other.pem"


def test_the_same_run_is_released_to_the_same_bytes_in_another_folder(
    call, finished, quick_release, monkeypatch, tmp_path
):
    key = tmp_path / "key.pem"
    save_private_key(generate_key(), key)
    made = []
    for folder, epoch in (("one", "1790000000"), ("another", "1790000000"), ("later", "1790000001")):
        run = shutil.copytree(finished, tmp_path / folder / "run")
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        code, _, err = call("release", run, "--key", key)
        assert code == 0, err
        made.append((run / "bundle.svb").read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]


@pytest.mark.parametrize("told", ["", "yesterday", "9" * 30])
def test_a_release_time_that_is_none_is_refused(call, copied, monkeypatch, told):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", told)
    code, out, err = call("release", copied)
    assert (code, out) == (1, "")
    assert "SOURCE_DATE_EPOCH" in err
    assert not (copied / "bundle.svb").exists()
