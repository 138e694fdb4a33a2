"""Options that describe an experiment: those of `simulate`, and of every command that trains."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sottovoce.privacy.store import is_address
from sottovoce.simulations.experiment import parse_override

SHORTCUTS = {
    "data": "data.name",
    "devices": "data.devices",
    "rounds": "rounds",
    "epsilon": "privacy.epsilon",
    "delta": "privacy.delta",
    "noise": "privacy.noise",
    "ledger": "privacy.ledger",
    "seed": "seed",
}
"""Options that stand for a key of the experiment."""


def _absolute(context: click.Context, option: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001 - click's
    """A path that means the same from every folder."""
    return value if value is None or is_address(value) else str(Path(value).resolve())


_OPTIONS = {
    "data": click.option(
        "--data", type=click.Choice(["market", "kuairand", "movietweetings", "completejourney", "table"])
    ),
    "devices": click.option("--devices", type=int, help="Devices of the synthetic market."),
    "rounds": click.option("--rounds", type=int),
    "epsilon": click.option(
        "--epsilon", type=float, help="Budget; the noise is found for it. inf trains without noise."
    ),
    "delta": click.option("--delta", type=float, help="Chance with which the guarantee may fail."),
    "noise": click.option("--noise", type=click.Choice(["secure", "seeded", "none"])),
    "ledger": click.option(
        "--ledger",
        metavar="LEDGER",
        callback=_absolute,
        help="Ledger of a campaign that several runs share: a file or a postgresql:// address. [default: its own]",
    ),
    "seed": click.option("--seed", type=int, help="Of the initial weights; with --noise seeded, of everything."),
    "set": click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the experiment; repeatable."
    ),
}


def experiment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Shortcuts for the usual keys, and `--set` for any; the command gets `settings` and one argument a shortcut."""
    for option in reversed(_OPTIONS.values()):
        command = option(command)
    return command


def experiment_options_without(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The same, without some shortcuts, for which a command has options of its own."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, option in reversed(_OPTIONS.items()):
            command = command if name in names else option(command)
        return command

    return decorated


def overridden(settings: Sequence[str], shortcuts: Mapping[str, str | float | None]) -> list[tuple[str, Any]]:
    """What the options of a command change in the experiment, as pairs of dotted key and value.

    Raises:
        ConfigError: a `--set` without `=`.
    """
    overrides: list[tuple[str, Any]] = [
        (SHORTCUTS[name], value) for name, value in shortcuts.items() if value is not None
    ]
    if shortcuts.get("epsilon") == float("inf") and shortcuts["noise"] is None:
        overrides.append(("privacy.noise", "none"))
    if shortcuts["noise"] == "none" and shortcuts.get("epsilon") is None:
        overrides.append(("privacy.epsilon", float("inf")))
    return overrides + [parse_override(text) for text in settings]
