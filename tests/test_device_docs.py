"""docs/device.md is real: its session runs as it stands and prints what is shown there."""

import io
import re
import shlex
import sys
from pathlib import Path

from sottovoce.simulations.cli import run

PAGE = (Path(__file__).parents[1] / "docs" / "device.md").read_text(encoding="utf-8")


def test_the_session_prints_what_the_page_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (session,) = re.findall(r"^```text session.txt\n(.*?)^```", PAGE, re.M | re.S)
    (printed,) = re.findall(r"^```text printed\n(.*?)^```", PAGE, re.M | re.S)
    (commands,) = re.findall(r"^```console run\n(.*?)^```", PAGE, re.M | re.S)
    for line in commands.splitlines():
        command, _, source = line.removeprefix("$ sottovoce ").partition(" < ")
        assert source in ("", "session.txt")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(session.encode() if source else b"")))
        assert run(shlex.split(command)) == 0
        told = capsys.readouterr()
    assert told.out == printed
    assert not Path("phone/events.jsonl").exists()
