"""The README's commands are real: small ones are run as they stand, the others must at least parse."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sottovoce.simulations.cli import cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def commands(block):
    """Commands after `$ ` in the fenced blocks of a kind, continued lines joined."""
    text = "\n".join(re.findall(rf"^```{block}\n(.*?)^```", README, re.M | re.S))
    return [line[2:] for line in text.replace("\\\n", " ").splitlines() if line.startswith("$ ")]


def test_the_commands_of_the_walk_through_run_one_after_the_other(tmp_path):
    walk = commands("console run")
    assert len(walk) >= 6
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    for command in walk:
        done = subprocess.run(shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout


@pytest.mark.parametrize("command", [c for c in commands("console") if c.startswith("sottovoce ")])
def test_every_other_command_has_the_options_it_names(command):
    words = shlex.split(command, comments=True)[1:]
    found: click.Command = cli
    context = click.Context(cli)
    while isinstance(found, click.Group):
        name = words.pop(0)
        step = found.get_command(context, name)
        assert step is not None, f"no command {name!r}"
        found = step
    with found.make_context(found.name, words, resilient_parsing=False):
        pass


def test_every_make_target_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (Path(__file__).parents[1] / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z-]+)`", README)) | {
        c.split()[1] for c in commands("console") if c.startswith("make ")
    }
    assert named
    assert named <= targets


def test_every_path_named_exists():
    root = Path(__file__).parents[1]
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / path).exists(), path
