"""Options that several commands share, and how they print."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from sottovoce.privacy.store import is_address

PATH = click.Path(path_type=Path)


def as_json(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`: one JSON object on standard output and nothing else there."""
    return click.option("--json", "json_output", is_flag=True, help="Print one JSON object.")(command)


def data_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data-dir`: where the public data sets lie."""
    return click.option(
        "--data-dir",
        type=PATH,
        envvar="SOTTOVOCE_DATA",
        help="Folder that holds kuairand_pure/ and the others. [env: SOTTOVOCE_DATA; else ../shared/data]",
    )(command)


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--device`: where the arithmetic happens. A matter of the machine, so it is in no experiment file."""
    return click.option(
        "--device",
        "accelerator",
        default="cpu",
        show_default=True,
        help="Where devices train, by torch's name: cpu, cuda, mps.",
    )(command)


def module_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--module`: a model of one's own, named by whoever types the command and never by a file."""
    return click.option(
        "--module",
        metavar="FILE.py:FACTORY",
        help="Train a torch.nn.Module of your own: FACTORY(schema) makes it. Runs the code in FILE.py.",
    )(command)


def model_line(context: click.Context, option: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001 - click's
    """A name that can stand in a file name, a log line and an address."""
    if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise click.BadParameter("use 1 to 64 letters, digits, dots, dashes and underscores")
    return value


def ledger_place(
    context: click.Context,  # noqa: ARG001 - click's
    parameter: click.Parameter,  # noqa: ARG001 - click's
    value: str | None,
) -> Path | str | None:
    """A ledger's file; or its address on a server, which is no path and must stay as it is."""
    if value is None:
        return None
    path = Path(value)
    if is_address(value) or not path.is_dir():
        return value if is_address(value) else path
    if not (path / "experiment.toml").is_file():
        return path / "ledger.db"
    from sottovoce.simulations.folder import RunFolder  # loads torch, which only training needs

    return RunFolder(path).ledger


def print_json(value: Any) -> None:
    """`value` as one indented JSON object; infinities become null."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
