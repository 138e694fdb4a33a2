"""docs/creative.md is real: its files and edits are made as they stand, its commands print what is shown there."""

import re
import shlex
from pathlib import Path

from sottovoce.client.crowd import most_combinations
from sottovoce.models.signing import generate_key, save_private_key, save_public_key
from sottovoce.simulations.cli import run

PAGE = (Path(__file__).parents[1] / "docs" / "creative.md").read_text(encoding="utf-8")


def test_every_command_prints_what_the_page_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    key = generate_key()
    save_private_key(key, Path("brand.pem"))
    save_public_key(key.public_key(), Path("brand.pub.pem"))
    for name, body in re.findall(r"^```json (\S+)\n(.*?)^```", PAGE, re.M | re.S):
        Path(name).write_text(body, encoding="utf-8")
    ran = 0
    for kind, body in re.findall(r"^```(diff|console run)\n(.*?)^```", PAGE, re.M | re.S):
        if kind == "diff":
            tea, lines = Path("tea.json").read_text(encoding="utf-8"), body.splitlines()
            for old, new in zip(lines[::2], lines[1::2], strict=True):
                assert (old[0], new[0], old[1:] in tea) == ("-", "+", True)
                tea = tea.replace(old[1:], new[1:])
            Path("tea.json").write_text(tea, encoding="utf-8")
            continue
        for command, shown in re.findall(r"^\$ sottovoce ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", body, re.M):
            code = run(shlex.split(command.replace("\\\n", "")))
            printed = capsys.readouterr()
            assert printed.out + printed.err == shown
            assert code == ("error:" in shown)
            ran += 1
    assert ran == 6


def test_the_table_of_crowds_is_computed():
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \|$", PAGE, re.M)
    assert len(rows) == 5
    for devices, combinations in rows:
        assert most_combinations(int(devices.replace(",", "")), 0.1) == int(combinations)
