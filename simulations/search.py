"""Which settings a selection may choose from: an experiment file with a table `[grid]` of lists.

Every run draws each setting uniformly and independently, with replacement: the theorem of random stopping asks that
each run be the same random algorithm, so that no walk through the grid and no learning from earlier runs is allowed.
Only settings that leave the privacy event as it is may vary. The clip norm may: noise is relative to it.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sottovoce.privacy.entropy import Source
from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.experiment import Experiment, composed, read

VARIES = ("server.", "local.", "model.")
"""Sections whose settings say how a model learns, and nothing of what is released, how often or about whom."""

RECORD = "local.record"
"""The exception among them: it decides about the record-level event, which devices account for themselves."""

MOST = 10_000
"""Combinations that are checked before anything is paid for."""


@dataclass(frozen=True, slots=True)
class Search:
    """An experiment, and what may vary in it.

    Attributes:
        told: the experiment, without the grid.
        grid: values by dotted key.
    """

    told: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]

    @property
    def base(self) -> Experiment:
        """The experiment before anything was chosen: what is charged is the same for every choice."""
        return composed(self.told, ())

    def experiment(self, choice: Mapping[str, Any]) -> Experiment:
        """The experiment with one choice of settings."""
        return composed(self.told, choice.items())

    def choices(self) -> Iterator[dict[str, Any]]:
        """Every combination, in the order of the file."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def clip_norms(self) -> list[float]:
        """Every clip norm that a run may have, rising."""
        return sorted({self.experiment(choice).privacy.clip_norm for choice in self.choices()})

    def draw(self, source: Source) -> dict[str, Any]:
        """Settings of one run, uniformly and independently."""
        chances = source.uniform53(len(self.grid))
        return {
            key: values[int(chance * len(values))]
            for (key, values), chance in zip(self.grid.items(), chances, strict=True)
        }


def read_search(file: Path, overrides: Sequence[tuple[str, Any]]) -> Search:
    """The search that a file describes; every combination of its settings can be run.

    Args:
        file: an experiment with a table `[grid]`, whose keys are dotted keys of the experiment.
        overrides: pairs of dotted key and value, for the experiment.

    Raises:
        ConfigError: the file cannot be read, there is no grid, a key may not vary, or a combination is impossible.
    """
    told = read(file)
    found = told.pop("grid", None)
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{file}: no [grid]", 'add one, for example: [grid] "server.learning_rate" = [0.02, 0.05]')
    grid = dict(_flat(found, ""))
    for key, values in grid.items():
        if (not key.startswith(VARIES) or key.startswith(RECORD)) and key != "privacy.clip_norm":
            raise ConfigError(
                f"[grid] {key}: may not vary between the runs of one selection",
                "vary server.*, local.*, model.* and privacy.clip_norm: what decides about the event, the data or the "
                "number of rounds must be the same in every run",
            )
        if not isinstance(values, list) or not values:
            raise ConfigError(f"[grid] {key} = {values!r}: not a list of values", f"write {key} = [first, second]")
    for key, _ in overrides:
        if key in grid:
            raise ConfigError(f"{key} is in the grid and was given as well", "leave one of the two out")
    combinations = math.prod(len(values) for values in grid.values())
    if combinations > MOST:
        raise ConfigError(f"[grid] has {combinations:,} combinations, more than {MOST:,}", "leave values out")
    search = Search(msgspec.to_builtins(composed(told, overrides)), grid)
    for choice in search.choices():
        search.experiment(choice)
    return search


def _flat(table: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys, whether they were quoted or written as tables."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
