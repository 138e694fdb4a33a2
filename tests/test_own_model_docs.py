"""docs/own-model.md is real: its files are written as they stand, its commands and its script run."""

import re
import runpy
import shlex
from pathlib import Path

from sottovoce.simulations.cli import run

PAGE = (Path(__file__).parents[1] / "docs" / "own-model.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


def test_the_example_runs_as_written(tmp_path, monkeypatch, capsys):
    (module,), (console,), (script,) = blocks("python"), blocks("console run"), blocks("python run")
    (tmp_path / "wide_and_deep.py").write_text(module, encoding="utf-8")
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    commands = [shlex.split(line) for line in console.splitlines()]
    assert [command[:3] for command in commands] == [["$", "sottovoce", "simulate"], ["$", "sottovoce", "evaluate"]]
    for _, _, *arguments in commands:
        assert run(arguments) == 0, capsys.readouterr().err
        assert capsys.readouterr().out
    runpy.run_path("train.py", run_name="__main__")
    auc, epsilon = map(float, capsys.readouterr().out.split())
    assert 0.4 < auc < 0.8
    assert 0 < epsilon <= 4
