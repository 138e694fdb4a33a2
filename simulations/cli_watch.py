"""`watch`: a run on the terminal, while it goes on and afterwards."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sottovoce.privacy.errors import ConfigError
from sottovoce.server.ledger_look import LedgerWatch
from sottovoce.simulations.cli_options import PATH, as_json, print_json
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.run_standing import Standing, standing
from sottovoce.simulations.watch_screen import line, screen


@click.command()
@click.argument("run", type=PATH)
@click.option("--once", is_flag=True, help="Show it once and stop.")
@click.option(
    "--every", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Seconds between looks."
)
@as_json
def watch(run: Path, once: bool, every: float, json_output: bool) -> None:
    """Show where a run is: rounds, quality, budget, replies, time left.

    Reads the run's folder and changes nothing; works on any run, also one that flwr started, during it and afterwards.
    On a terminal it redraws until Ctrl-C; into a pipe it writes a line for each change, until the run is finished.
    What it shows tells cohort sizes: it is for whoever operates the coordinator.
    """
    folder = RunFolder(run)
    ledger = LedgerWatch(folder.ledger)

    def look() -> Standing:
        try:
            return standing(folder, ledger(), time.time())
        except OSError as error:
            raise ConfigError(f"{run}: {error.strerror}", "name a run folder that you may read") from error

    if json_output:
        print_json(look())
    elif once:
        size = _size()
        height = size.lines if sys.stdout.isatty() else 100
        click.echo("\n".join(screen(look(), size.columns, height)))
    elif sys.stdout.isatty():
        with _own_screen():
            _redraw(look, every)
    else:
        _follow(look, every)


def _follow(look: Callable[[], Standing], every: float) -> None:
    """One line for each change, until the run is finished."""
    before = ""
    while True:
        told = look()
        now = line(told)
        if now != before:
            click.echo(now)
            sys.stdout.flush()
            before = now
        if told.state == "finished":
            return
        time.sleep(every)


def _redraw(look: Callable[[], Standing], every: float) -> None:
    """Draw over what was drawn; the end of the run, or Ctrl-C, ends it."""
    while True:
        told = look()
        size = _size()
        # The last line stays free: writing into the last column of the last line would scroll.
        drawn = "".join(f"{text}\x1b[K\n" for text in screen(told, max(1, size.columns - 1), size.lines - 1))
        sys.stdout.write(f"\x1b[H{drawn}\x1b[J")
        sys.stdout.flush()
        if told.state == "finished":
            return
        time.sleep(every)


def _size() -> os.terminal_size:
    """Of the terminal that is written to; where it has none, what the environment says, or 80 by 24."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return shutil.get_terminal_size()
    return size if size.columns and size.lines else shutil.get_terminal_size()


@contextmanager
def _own_screen() -> Iterator[None]:
    """Hide the cursor and clear; show it again whatever happens. The last picture stays."""
    sys.stdout.write("\x1b[?25l\x1b[2J")
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write("\x1b[?25h")
        sys.stdout.flush()
