"""`creative`: a team is told everything that is wrong, and nothing is approved by accident."""

import json

import msgspec
import pytest

from sottovoce.client.approval import decode_approvals
from sottovoce.client.combination import MOST_TRIED
from sottovoce.simulations.cli import run

AT = ["--at", "2026-11-20T12:00:00Z"]
URI = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCreation"
PROVENANCE = {"digital_source_type": URI, "human_oversight": "edited"}


def written(path, slots=1, components=2, **changes):
    """A creative file with `components` ** `slots` combinations."""
    ink = {"kind": "data", "type": 2, "color": "#000000", "background": "#ffffff"}
    parts = [{"id": f"c{n}", "text": f"Text {n}", "provenance": PROVENANCE} for n in range(components)]
    names = [f"s{n}" for n in range(slots)]
    made = {"version": 1, "crid": "a1", "template": {"id": "t", "slots": [{"id": name, **ink} for name in names]}}
    made |= {"components": dict.fromkeys(names, parts), "audience": 10**8}
    path.write_bytes(msgspec.json.encode(made | changes))
    return str(path)


@pytest.fixture
def files(tmp_path):
    return written(tmp_path / "creative.json"), str(tmp_path / "approvals.json")


def approve(files, *more):
    return run(["creative", "approve", files[0], "--approvals", files[1], "--by", "brand/Ada", *AT, *more])


def checked(files, capsys, *more):
    capsys.readouterr()
    code = run(["creative", "check", files[0], "--approvals", files[1], "--json", *AT, *more])
    return code, json.loads(capsys.readouterr().out)


def test_approving_one_by_one_shows_more_and_more(files, capsys):
    assert approve(files, "--subject", "frame", "--subject", "s0/c0") == 0
    code, facts = checked(files, capsys)
    assert (code, [one["parts"] for one in facts["combinations"]]) == (0, [["s0/c0"]])
    assert facts["standings"]["s0/c1"]["status"] == 1
    assert approve(files, "--all") == 0
    assert "1 records added" in capsys.readouterr().out  # what stands approved is not approved again
    assert len(checked(files, capsys)[1]["combinations"]) == 2
    assert approve(files, "--subject", "s0/c0", "--deny", "--note", "off brand") == 0
    code, facts = checked(files, capsys)
    assert facts["standings"]["s0/c0"]["status"] == 4
    assert checked(files, capsys, "--role", "legal")[0] == 1
    assert approve(files, "--all") == 0
    assert checked(files, capsys)[1]["standings"]["s0/c0"]["status"] == 4  # --all takes no denial back


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ([], "name each --subject"),
        (["--all", "--subject", "frame"], "name each --subject"),
        (["--subject", "s0/none"], "s0/none"),
        (["--subject", "frame", "--note", "x" * 513], "$.note"),
    ],
)
def test_nothing_is_approved_by_accident(files, capsys, more, named):
    assert approve(files, *more) == 1
    told = capsys.readouterr().err
    assert named in told
    with pytest.raises(FileNotFoundError):
        open(files[1]).close()


def test_a_damaged_list_is_kept_as_it_is(files, tmp_path, capsys):
    (tmp_path / "approvals.json").write_text("{")
    assert approve(files, "--all") == 1
    assert (tmp_path / "approvals.json").read_text() == "{"


def test_many_combinations_are_counted_and_not_all_printed(tmp_path, capsys):
    files = written(tmp_path / "creative.json", 6, 5, apart=[["s0/c0", "s1/c0"]]), str(tmp_path / "approvals.json")
    assert approve(files, "--all") == 0
    assert len(decode_approvals((tmp_path / "approvals.json").read_bytes()).records) == 31
    capsys.readouterr()
    assert run(["creative", "check", files[0], "--approvals", files[1], *AT]) == 0
    told = capsys.readouterr().out
    assert f"15,625 possible, {MOST_TRIED:,} tried" in told
    assert "more, see --json" in told
    assert len(told.splitlines()) < 90


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["check", "missing.json"], 1),
        (["check", "creative.json", "--at", "yesterday"], 2),
        (["check", "creative.json", "--at", "2026-11-20T12:00:00"], 2),
        (["sign", "missing.json", "--key", "k", "--version", "1", "--out", "o"], 1),
        (["approve", "creative.json", "--approvals", "no/where.json", "--by", "x", "--all"], 1),
    ],
)
def test_wrong_use_is_told_in_a_line(tmp_path, monkeypatch, capsys, arguments, code):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "creative.json")
    assert run(["creative", *arguments]) == code
    assert "Traceback" not in capsys.readouterr().err
