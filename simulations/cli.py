"""The command line: `sottovoce COMMAND`.

Exit codes: 0 done; 1 refused, with one line that says what happened and one that says what to do; 2 wrong usage. Each
command loads only what it needs, so that `pick` runs where nothing but the device runtime is installed.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from sottovoce.privacy.errors import SottovoceError

# Flower would send usage figures, and ask for newer versions of itself, unless told otherwise before it is loaded.
os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

INTERRUPTED = SottovoceError("interrupted", "nothing is half done: run the same command again")

COMMANDS: Mapping[str, tuple[str, str]] = {
    "simulate": ("cli_train", "Train across simulated devices under a privacy budget."),
    "sweep": ("cli_sweep", "Train with every epsilon and seed, and draw the privacy-utility frontier."),
    "tune": ("cli_tune", "Train with many settings, and keep the best, for one price."),
    "watch": ("cli_watch", "Show where a run is, on the terminal."),
    "evaluate": ("cli_train", "Score a run's model on held-out impressions."),
    "measure": ("cli_measure", "Ask the devices, within the run's budget."),
    "release": ("cli_ship", "Quantize, export, check and sign a run's model."),
    "keys": ("cli_keys", "Make signing keys, and the key sets by which devices go from old keys to new ones."),
    "publish": ("cli_update", "Write a folder that any web server can serve as an update server."),
    "update": ("cli_update", "Look for a newer bundle, as a device does."),
    "delta": ("cli_update", "Write what turns one bundle into another."),
    "off-policy": ("cli_off_policy", "Judge a ranker that never ran, from the log of one that did."),
    "pick": ("cli_ship", "Choose an ad on the device, and say why."),
    "device": ("cli_device", "Be one phone: open pages, see its ads, ask why, change what it may know."),
    "replay": ("cli_replay", "Pick again what was picked before, and name what differs."),
    "creative": ("cli_creative", "Check creatives with exchangeable parts, and approve their exact bytes."),
    "bundle": ("cli_bundle", "Show what a bundle says of itself, and hold it against the ledger."),
    "audit": ("cli_audit", "Recompute what a run spent, and measure whether it did as it says."),
    "ledger": ("cli_ledger", "Open, show, verify and export privacy ledgers."),
    "data": ("cli_data", "Describe, download and hand out data."),
    "deploy": ("cli_deploy", "Set up a federation of real machines: certificates, keys, units, commands."),
    "bench": ("cli_bench", "Measure speed, side by side."),
}


class Commands(click.Group):
    """Loads a command's module when it is called, and reports failures the same way everywhere."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, its module loaded."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        with _interruptible():
            command: click.Command = getattr(
                importlib.import_module(f"sottovoce.simulations.{module}"), cmd_name.replace("-", "_")
            )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Names and summaries without loading a module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=Commands)
@click.version_option(package_name="sottovoce")
def cli() -> None:
    """Ads chosen on the device, by a model trained across devices under a privacy budget anyone can recompute."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    code = run(sys.argv[1:] if arguments is None else arguments)
    if code:
        # After an interruption a worker may still be inside torch; the ordinary way out would then abort the process.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(0)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    try:
        code: Any = cli.main(list(arguments), prog_name="sottovoce", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return _refuse(INTERRUPTED)
    except SottovoceError as error:
        return _refuse(error)
    except MemoryError:
        return _refuse(SottovoceError("not enough memory", "take fewer devices, fewer rows or a smaller model"))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "sottovoce":
            raise
        return _refuse(
            SottovoceError(
                f"this command needs {missing}, which is not installed",
                'install everything with: pip install "sottovoce[train]"',
            )
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the process while libraries load: compiled ones would turn it into an error of theirs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signature of a signal handler
        os._exit(_refuse(INTERRUPTED))

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _refuse(error: SottovoceError) -> int:
    """What happened and what to do, one line each."""
    click.echo(f"error: {error.what}", err=True)
    if error.todo:
        click.echo(f"  -> {error.todo}", err=True)
    return 1


if __name__ == "__main__":
    main()
