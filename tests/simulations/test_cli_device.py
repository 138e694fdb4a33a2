import json
import os
import pty
import select
import subprocess
import sys
import time
from datetime import UTC, datetime

import msgspec
import pytest

from sottovoce.client.approval import Approval, Approvals, digest
from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.creative import decode_creative
from sottovoce.client.provenance import SCHEME
from sottovoce.client.signed_approvals import Statement, sign_approvals
from sottovoce.models.signing import generate_key, public_pem
from sottovoce.simulations import phone as files
from sottovoce.simulations.market import Market

START = "2026-11-18T12:00:00Z"


@pytest.fixture(scope="module")
def market():
    return Market()


@pytest.fixture
def folder(tmp_path, market):
    made = tmp_path / "phone"
    made.mkdir()
    (made / "catalogue.json").write_bytes(files.catalogue_json(market))
    (made / "consent.json").write_bytes(files.consent_json(market, 3))
    (made / "request.json").write_bytes(files.request_json(market, 3))
    return made


@pytest.fixture
def talk(call, monkeypatch, folder):
    """Say lines to the device: exit code, and one answer for each as JSON or all of them as text."""

    def said(*lines, text=False, options=()):
        read, write = os.pipe()
        os.write(write, "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n")
        os.close(write)
        with os.fdopen(read) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            code, out, err = call("device", folder, "--now", START, *options, *([] if text else ["--json"]))
        assert err == ""
        return code, out if text else [json.loads(line) for line in out.splitlines()]

    return said


def winner(answer):
    return answer["decision"]["winner"]["crid"]


def test_every_command_is_followed_and_the_next_decision_knows(talk, folder, tmp_path):
    lines = [
        "page sports 300x250",
        "click",
        "why",
        "mute advertiser",
        "page sports 300x250",
        "mute category",
        "more 1551",
        "pause",
        f"request {folder / 'request.json'}",
        "resume",
        "reset",
        "controls",
        "clock +3d",
        "status",
        f"export {tmp_path / 'mine.json'}",
    ]
    code, answers = talk(*lines)
    by_line = dict(zip(lines[4:], answers[4:], strict=True))
    assert code == 0
    assert len(answers) == len(lines)
    assert winner(answers[0]) != winner(answers[4])
    assert answers[1] == {"event": "click", "crid": winner(answers[0]), "durable": True}
    assert by_line[lines[8]]["decision"]["mode_words"] == "the person paused personalisation"
    controls = by_line["controls"]["controls"]
    assert (len(controls["muted_seats"]), len(controls["muted_categories"]), controls["paused"]) == (1, 1, False)
    assert controls["interests"] == [{"category": ["1551", 8], "wish": "more"}]
    assert controls["since"].startswith("2026-11-18T12:00")
    assert by_line["status"]["now"].startswith("2026-11-21T12:00")
    assert len(json.loads((tmp_path / "mine.json").read_bytes())["events"]) == 4


def test_why_not_and_what_if_are_asked_about_the_page_that_is_open(talk):
    first = talk("page sports 300x250")[1][0]
    shown = winner(first)
    answers = talk(
        "delete all",
        "page sports 300x250",
        "why not a4",
        "why a4",
        "what-if",
        "what-if a4",
        "why not",
        "what-if a4 a5",
        "what-if nonsense",
        "why not nonsense",
        f"why not {shown}",
    )[1]
    why_not, same, lose, win, *refused, why = answers[2:]
    assert why_not == same
    assert (why_not["why_not"]["crid"], why_not["why_not"]["shown"]) == ("a4", False)
    assert why_not["why_not"]["against"][0]["reason"] == 521
    assert {one["change"]["type"] for one in lose["would_change"]} >= {"mute"}
    assert shown not in {one["winner"] for one in lose["would_change"]}
    assert {one["winner"] for one in win["would_change"]} <= {"a4"}
    assert all("error" in one for one in refused)
    assert why["sentence"].startswith("The ads take turns")
    text = talk("delete all", "page sports 300x250", "what-if", text=True)[1]
    assert f"If you muted the ad {shown}, " in text


def test_a_talk_leaves_traces_that_replay_from_the_folder_of_the_device(talk, call, folder, market, tmp_path):
    traces = tmp_path / "t.jsonl"
    (folder / "events.jsonl").write_bytes(files.events_jsonl(market, 3))
    lines = [line for place in ("sports", "food", "sports") for line in (f"page {place} 300x250", "click")]
    code, _ = talk(*lines, "mute advertiser", "consent page", *lines, options=("--trace", traces))
    assert code == 0
    assert len(traces.read_bytes().splitlines()) == 6
    assert (tmp_path / "t.secret").stat().st_mode & 0o777 == 0o600
    assert b'"click"' not in traces.read_bytes()
    talk("page games", "clock +1d", "page")
    code, out, err = call("replay", traces, "--device", folder, "--now", START)
    assert (code, err, out.count("identical; every input is the one of then; no model was asked as then")) == (0, "", 6)
    (tmp_path / "p.toml").write_text("[page]\nper_day = 0\n")
    code, out, err = call("replay", traces, "--device", folder, "--now", START, "--policy", tmp_path / "p.toml")
    assert (code, out.count("not the one of then: policy")) == (1, 6)
    talk("delete all")
    code, out, err = call("replay", traces, "--device", folder, "--now", START)
    assert (code, out.count("not the one of then: log")) == (1, 6)
    for wrong in (("--device", tmp_path / "missing"), ("--device", folder, "--key", folder / "key"), ()):
        code, out, err = call("replay", traces, *wrong)
        assert (code, out) == (1, "")
        assert "->" in err


def test_what_is_learnt_counts_in_traces_and_they_replay_from_the_folder_of_the_device(talk, call, folder, tmp_path):
    made = decode_catalogue((folder / "catalogue.json").read_bytes())
    ink = {"kind": "data", "type": 2, "color": "#000000", "background": "#ffffff"}
    source = {"digital_source_type": SCHEME + "digitalCreation", "human_oversight": "edited"}
    texts = [{"id": f"c{n}", "text": f"Text {n}", "provenance": source} for n in range(2)]
    lists = []
    (folder / "creatives").mkdir()
    for ad in made.ads:
        one = {"version": 1, "crid": ad.crid, "template": {"id": "t", "slots": [{"id": "s", **ink}]}}
        data = msgspec.json.encode({**one, "components": {"s": texts}, "audience": 10**8})
        (folder / "creatives" / f"{ad.crid}.json").write_bytes(data)
        creative = decode_creative(data)
        begins, ends = datetime(2026, 11, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
        told = "brand/Ada", begins, ends
        lists += [Approval(ad.crid, name, digest(creative, name), 3, *told) for name in ("frame", *creative.part)]
    key = generate_key()
    statement = Statement(version=1, expires=ends, approvals=Approvals(1, tuple(lists)))
    (folder / "approvals.signed").write_bytes(sign_approvals(statement, [key]))
    (tmp_path / "brand.pem").write_bytes(public_pem(key.public_key()))
    assert talk("page sports 300x250")[1][0]["decision"]["winner"] is None
    traces = tmp_path / "t.jsonl"
    lines = [line for _ in range(4) for line in ("page sports 300x250", "click", "clock +1h")]
    options = ("--approver", tmp_path / "brand.pem", "--trace", traces)
    answers = talk(*lines, "pause", "page", "resume", "learnt", "clock -215m", "page", options=options)[1]
    assert [one["decision"]["combination"]["among"] for one in answers[:12:3]] == [2, 2, 2, 2]
    assert len(answers[-3]["parts"]["weights"]) > 3
    assert "parts of creatives:" in talk("clock +1d", "page sports 300x250", "learnt", text=True)[1]
    learnt = [bool(json.loads(line)["parts"]) for line in traces.read_bytes().splitlines()]
    assert learnt == [False, True, True, True, False, False]
    code, out, err = call("replay", traces, "--device", folder, "--now", START)
    assert (code, err, out.count("identical; every input is the one of then")) == (0, "", 6)


def test_a_device_says_which_gate_keeps_it_from_training(talk, folder, market):
    (folder / "events.jsonl").write_bytes(files.events_jsonl(market, 3))

    def closed(answer):
        assert answer["joins"] == (not answer["holds"])
        return {one["code"] for one in answer["holds"]}

    code, answers = talk(
        "train?",
        "power on",
        "battery 10",
        "idle on",
        "network unmetered",
        "train?",
        "heat hot",
        "power off",
        "network metered",
        "idle off",
        "train?",
        "consent page",
        "pause",
        "train?",
    )
    first, resting, busy, private = (closed(one) for one in answers if "holds" in one)
    assert code == 0
    assert first == {"in_use", "metered", "other_schema", "untried", "too_little"}
    assert resting == first - {"in_use", "metered"}
    assert busy == first | {"power", "hot"}
    assert {"no_consent", "paused"} <= private
    assert answers[3]["condition"] == {"battery": 0.1, "charging": True, "idle": True, "unmetered": False, "thermal": 0}
    text = talk("train?", text=True)[1]
    assert "it would not answer:\n    " in text
    assert "in_use: somebody is using it" in text


def test_what_was_deleted_does_not_come_back_with_the_log_it_came_from(talk, folder, market):
    (folder / "events.jsonl").write_bytes(files.events_jsonl(market, 3))
    before = talk("status")[1][0]["events"]
    assert before > 10
    assert talk("status")[1][0]["events"] == before
    assert not (folder / "events.jsonl").exists()
    talk("delete all")
    assert talk("status")[1][0]["events"] == 0


@pytest.mark.parametrize(
    "line",
    [
        "fly",
        "click",
        "why",
        "why nothing at all",
        "page 'unclosed",
        "page " + "x" * 200,
        "page sports 99999x1",
        "request",
        "request /nowhere",
        "request /",
        "consent maybe",
        "mute",
        "mute everything",
        "mute ad ''",
        "more",
        "delete",
        "delete ad",
        "export /nowhere/at/all",
        "clock",
        "clock yesterday",
        "clock +1e999d",
        "clock +99999999d",
        "clock +nand",
        "history 999999999999999999999999",
        "power",
        "power maybe",
        "idle on off",
        "battery 101",
        "battery ²",
        "\udcff\udcfe",
        "\0",
        "mute ad " + "a" * 200,
    ],
)
def test_a_line_that_cannot_be_followed_is_one_clear_line_and_the_talk_goes_on(talk, line):
    code, answers = talk(line, "status")
    assert answers[-1]["ads"] == 288
    if "history" not in line:
        assert (code, len(answers)) == (1, 2)
        assert answers[0]["error"]
        assert "\n" not in answers[0]["error"]
    code, out = talk(line, text=True)
    assert "Traceback" not in out


def test_a_title_cannot_steer_the_terminal(talk, folder):
    whole = decode_catalogue((folder / "catalogue.json").read_bytes())
    ads = tuple(msgspec.structs.replace(ad, title="\x1b[2Jgone\u202e") for ad in whole.ads)
    (folder / "catalogue.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(whole, ads=ads)))
    assert "?[2Jgone?" in talk("page", text=True)[1]


@pytest.mark.parametrize("option", ["--bundle", "--key", "--catalogue", "--consent", "--log", "--policy"])
def test_a_file_that_is_not_there_is_refused(call, folder, option):
    code, out, err = call("device", folder, option, folder / "missing")
    assert (code, out, "Traceback" in err) == (1, "", False)
    assert "missing" in err


def test_a_policy_counts_as_json_and_as_toml(talk, tmp_path):
    (tmp_path / "p.toml").write_text("[page]\nper_hour = 1\n")
    (tmp_path / "p.json").write_text('{"page": {"wait_s": 60}}')
    for name, words in (("p.toml", "enough ads were shown in the last hour"), ("p.json", "the last ad was shown")):
        answers = talk("delete all", "page", "page", options=("--policy", tmp_path / name))[1]
        assert answers[1]["decision"]["winner"]
        assert words in answers[2]["decision"]["nbr_words"]


def test_a_terminal_is_greeted_asked_and_left_cleanly(folder):
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "sottovoce.simulations.cli", "device", str(folder), "--now", START]
    running = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    seen = b""

    def until(text):
        nonlocal seen
        deadline = time.monotonic() + 20
        while text not in seen and time.monotonic() < deadline:
            if select.select([screen], [], [], 0.1)[0]:
                try:
                    seen += os.read(screen, 4096)
                except OSError:  # the other end is closed
                    break
        assert text in seen
        found, _, seen = seen.partition(text)
        return found + text

    greeting = until(b"sottovoce> ").decode()
    assert len(greeting.strip().splitlines()) == 6
    for line, answer in (
        (b"page sports 300x250\n", b"chosen by"),
        (b"help\n", b"clock +3d"),
        (b"nonsense\n", b"error:"),
    ):
        os.write(screen, line)
        until(answer)
        until(b"sottovoce> ")
    os.write(screen, b"\x04")
    assert running.wait(20) == 0
    os.close(screen)


@pytest.mark.parametrize("command", ["device", "replay"])
def test_a_name_that_was_mistyped_makes_no_phone(command, talk, call, tmp_path):
    traces = tmp_path / "traces.jsonl"
    talk("page sports 300x250", options=("--trace", traces))
    for place in (tmp_path / "mistyped", tmp_path / "empty"):
        if place.name == "empty":
            place.mkdir()
        words = ("device", place) if command == "device" else ("replay", traces, "--device", place)
        code, _, err = call(*words, "--now", START)
        assert code == 1
        assert "phone" in err
        assert not place.exists() or not list(place.iterdir())
