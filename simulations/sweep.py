"""What a sweep trains: every epsilon, every combination of settings, every seed.

A sweep is fixed before its first run: nothing is chosen along the way, so that its cost is known beforehand. Runs of
one sweep are compared on one set of devices, on one chart and at one delta; what would break that may not vary.
"""

import itertools
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.experiment import Experiment, composed, parse_override

FIXED: Mapping[str, str] = {
    "data": "all runs are compared on the same devices: sweep each data set by itself",
    "seed": "give --seeds",
    "nodes": "each run trains on one node, and runs side by side with others: give --workers",
    "privacy.epsilon": "give --epsilon",
    "privacy.noise": "give --noise",
    "privacy.delta": "all runs are compared at one delta: give --delta",
    "privacy.ledger": "give --ledger: all runs share it",
}
"""What may not vary, and what to do instead."""

MOST = 1_000
"""Runs of one sweep."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of the sweep, trained once with every seed.

    Attributes:
        number: from 1, in the order of the table.
        epsilon: of each of its runs; `inf` trains without noise.
        choice: what else differs from the base, by dotted key.
    """

    number: int
    epsilon: float
    choice: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """In words."""
        noise = "no noise" if math.isinf(self.epsilon) else f"epsilon {self.epsilon:g}"
        return ", ".join([noise, *(f"{key} = {value}" for key, value in self.choice.items())])


@dataclass(frozen=True, slots=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
        setting: what it trains with.
        seed: of its initial weights; of its noise too where noise is seeded.
        name: of its folder.
        experiment: everything about it.
    """

    setting: Setting
    seed: int
    name: str
    experiment: Experiment


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was asked for.

    Attributes:
        base: the experiment; its epsilon, noise, seed and nodes are replaced in every run.
        epsilons: rising.
        seeds: how many runs each setting gets, with seeds 0 ... seeds - 1.
        vary: values by dotted key.
        budget: epsilon of one campaign that pays for all runs; None without one, or where `base` names its ledger.
    """

    base: Experiment
    epsilons: tuple[float, ...]
    seeds: int
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    budget: float | None = None

    @property
    def shared(self) -> bool:
        """Whether one campaign pays for all runs."""
        return self.budget is not None or bool(self.base.privacy.ledger)

    def settings(self) -> Iterator[Setting]:
        """Combination by combination, each by rising epsilon."""
        numbers = itertools.count(1)
        for values in itertools.product(*self.vary.values()):
            for epsilon in self.epsilons:
                yield Setting(next(numbers), epsilon, dict(zip(self.vary, values, strict=True)))

    def runs(self, ledger: str = "") -> list[SweptRun]:
        """Every run: first seed 0 of each setting, so that a sweep that is cut short has a figure for each.

        Args:
            ledger: that all of them share; empty where each has its own, or where `base` names it.

        Raises:
            ConfigError: a setting is unknown or impossible.
        """
        told = msgspec.to_builtins(self.base)
        return [self._run(told, setting, seed, ledger) for seed in range(self.seeds) for setting in self.settings()]

    def _run(self, told: Mapping[str, Any], setting: Setting, seed: int, ledger: str) -> SweptRun:
        noise = self.base.privacy.noise
        if math.isinf(setting.epsilon):
            noise = "none"
        elif noise == "none":
            noise = "secure"
        changes = {
            **setting.choice,
            "privacy.epsilon": setting.epsilon,
            "privacy.noise": noise,
            "privacy.ledger": ledger or self.base.privacy.ledger,
            "seed": seed,
            "nodes": 1,
        }
        number = f"{setting.number:03d}-" if self.vary else ""
        return SweptRun(
            setting=setting,
            seed=seed,
            name=f"{number}epsilon-{setting.epsilon:g}-seed-{seed}",
            experiment=composed(told, changes.items()),
        )


def sweep_of(
    base: Experiment, epsilons: Iterable[float], seeds: int, vary: Iterable[str], budget: float | None
) -> Sweep:
    """A sweep that can be run.

    Args:
        base: the experiment.
        epsilons: in any order.
        seeds: at least 1.
        vary: texts `KEY=V1,V2,...`.
        budget: see `Sweep`.

    Raises:
        ConfigError: a value is given twice, a key may not vary, a combination is impossible, or there are too many.
    """
    rising = tuple(sorted(epsilons))
    if twice := _twice([f"{epsilon:g}" for epsilon in rising]):
        raise ConfigError(f"epsilon {twice} is given twice", "leave one of the two out")
    varied = [parse_vary(text) for text in vary]
    if twice := _twice([key for key, _ in varied]):
        raise ConfigError(f"--vary {twice} is given twice", f"write --vary {twice}=V1,V2,...")
    made = Sweep(base, rising, seeds, dict(varied), budget)
    count = len(rising) * seeds * math.prod(len(values) for _, values in varied)
    if count > MOST:
        raise ConfigError(f"{count:,} runs, more than {MOST:,}", "leave values or seeds out")
    made.runs()
    return made


def parse_vary(text: str) -> tuple[str, list[Any]]:
    """`KEY=V1,V2,...` as typed; values are TOML, or else plain text.

    Raises:
        ConfigError: not of that form, or the key may not vary.
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not key or not values:
        raise ConfigError(
            f"--vary {text}: not KEY=V1,V2,...", "write for example --vary server.learning_rate=0.02,0.05"
        )
    for fixed, todo in FIXED.items():
        if key == fixed or key.startswith(f"{fixed}."):
            raise ConfigError(f"--vary {key}: may not vary within a sweep", todo)
    try:
        found: list[Any] = tomllib.loads(f"value = [{values}]")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        found = [parse_override(f"{key}={value.strip()}")[1] for value in values.split(",")]
    if twice := _twice([repr(value) for value in found]):
        raise ConfigError(f"--vary {key}: {twice} is given twice", "leave one of the two out")
    return key, found


def _twice(values: Sequence[str]) -> str | None:
    """The first value that stands there more than once."""
    return next((value for index, value in enumerate(values) if value in values[:index]), None)
