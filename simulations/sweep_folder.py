"""The folder a sweep leaves behind: what was asked for, a run folder for every run, and what they came to.

The question is written before the first run and never changes: the same question finds its finished runs there and goes
on with the others; another one is refused.
"""

import hashlib
import math
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.errors import ConfigError, SottovoceError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.store import is_address
from sottovoce.server import checkpoint
from sottovoce.simulations.experiment import Experiment, read
from sottovoce.simulations.folder import RunFolder, locked
from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.results import read_results
from sottovoce.simulations.sweep import Sweep, SweptRun
from sottovoce.simulations.sweep_summary import Outcome
from sottovoce.simulations.tuning_folder import assumptions


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`sweep.toml`."""

    epsilon: tuple[float, ...]
    seeds: int
    budget: float | None = None
    vary: dict[str, list[Any]] = {}
    experiment: Experiment


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Paths of a sweep.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def record_file(self) -> Path:
        """What was asked for."""
        return self.path / "sweep.toml"

    @property
    def baselines_file(self) -> Path:
        """Figures of the baselines."""
        return self.path / "baselines.json"

    def run(self, name: str) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / "runs" / name)

    def ledger(self, sweep: Sweep) -> Path | str | None:
        """The ledger that all runs share; None where each has its own."""
        named = sweep.base.privacy.ledger
        if named:
            return named if is_address(named) else Path(named)
        return None if sweep.budget is None else self.path / "ledger.db"

    def runs(self, sweep: Sweep) -> list[SweptRun]:
        """Every run of the sweep, with the ledger that pays for it."""
        return sweep.runs(str(self.ledger(sweep) or ""))

    def sweep(self) -> Sweep:
        """What was asked for.

        Raises:
            ConfigError: no sweep lies there, or its record was damaged.
        """
        if not self.record_file.is_file():
            raise ConfigError(f"{self.path}: no sweep.toml there", "name a folder that `sottovoce sweep` made")
        try:
            told = msgspec.convert(read(self.record_file), _Asked)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{self.record_file}: {error}", "restore the file from a copy") from None
        return Sweep(told.experiment, told.epsilon, told.seeds, told.vary, told.budget)

    def require(self, sweep: Sweep) -> None:
        """Refuse a folder that holds anything but this sweep.

        Raises:
            ConfigError: what it holds, and in what it differs.
        """
        if not self.record_file.exists():
            try:
                # What a crash leaves of a record that was being written is nothing.
                taken = self.path.exists() and any(
                    not file.name.startswith(f".{self.record_file.name}.") for file in self.path.iterdir()
                )
            except OSError as error:
                raise ConfigError(f"{self.path}: {error.strerror}", "choose another folder") from error
            if taken:
                raise ConfigError(f"{self.path} is not empty, and holds no sweep", "choose another --out")
            return
        there, asked = read(self.record_file), tomllib.loads(_told(sweep))
        if there != asked:
            differs = ", ".join(_differences(there, asked, ""))
            raise ConfigError(
                f"{self.path} holds another sweep: {differs} differ",
                f"go on with that one by --resume {self.path}, or choose another --out",
            )

    def create(self, sweep: Sweep) -> None:
        """Write down what is asked for, unless it stands there.

        Raises:
            ConfigError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.record_file.exists():
                write_atomically(self.record_file, _told(sweep).encode())
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}", "choose a folder you may write to") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep another sweep out of this folder.

        Raises:
            ConfigError: one is at work there.
        """
        with locked(self.record_file, f"{self.path}: another process sweeps there"):
            yield

    def begun(self, runs: Sequence[SweptRun]) -> list[RunFolder]:
        """The runs that may have released something, finished or not."""
        return [place for run in runs if (place := self.run(run.name)).experiment_file.is_file()]

    def outcome(self, run: SweptRun) -> Outcome | None:
        """What a run came to; None while it is not finished.

        Raises:
            SottovoceError: its folder holds another experiment, or was damaged.
        """
        place = self.run(run.name)
        if not place.results_file.is_file():
            return None
        require_same(place, run.experiment)
        results, points = read_results(place), place.points()
        return Outcome(
            run=run.name,
            setting=run.setting.number,
            seed=run.seed,
            metrics=results.metrics,
            rounds=results.rounds,
            seconds=sum(point.record.seconds for point in points),
            noise_multiplier=_noise(place),
            experiment_sha256=hashlib.sha256(place.experiment_file.read_bytes()).hexdigest(),
            notes=tuple(note for note in results.notes if note not in assumptions(place)),
        )

    def baselines(self) -> dict[str, Metrics] | None:
        """Figures of the baselines; None while there are none."""
        try:
            return msgspec.json.decode(self.baselines_file.read_bytes(), type=dict[str, Metrics])
        except (OSError, msgspec.DecodeError):
            return None  # made anew: nothing private is spent on them

    def write(self, name: str, data: bytes) -> Path:
        """Write one of the sweep's artefacts, whole or not at all.

        Raises:
            SottovoceError: it cannot be written.
        """
        path = self.path / name
        try:
            write_atomically(path, data)
        except OSError as error:
            raise SottovoceError(f"{path}: {error.strerror}", "free space, then run the command again") from error
        return path


def require_same(place: RunFolder, experiment: Experiment) -> None:
    """Refuse the run folder of another experiment.

    Raises:
        ConfigError: it was changed since the sweep began.
    """
    if place.experiment() != experiment:
        raise ConfigError(
            f"{place.experiment_file}: not the experiment that this sweep asks for",
            f"restore the file, or remove {place.path}: what it spent on these devices stays spent",
        )


def _noise(place: RunFolder) -> float:
    """The noise multiplier that a run's ledger planned."""
    facts = checkpoint.newest(place.checkpoints).facts
    with Ledger.open(place.ledger, readonly=True) as ledger:
        planned = ledger.book().plans.get(facts.plan_hash)
    return MechanismPlan.read(planned.plan).noise_multiplier if planned else math.nan


def _told(sweep: Sweep) -> str:
    """The record: every setting, defaults filled in."""
    experiment = msgspec.to_builtins(sweep.base)
    if experiment["local"]["record"] is None:
        del experiment["local"]["record"]
    told: dict[str, Any] = {"epsilon": list(sweep.epsilons), "seeds": sweep.seeds}
    if sweep.budget is not None:
        told["budget"] = sweep.budget
    told["vary"] = {key: list(values) for key, values in sweep.vary.items()}
    return tomli_w.dumps({**told, "experiment": experiment})


def _differences(there: Any, asked: Any, key: str) -> Iterator[str]:
    """Dotted keys of what differs."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for name in sorted({*there, *asked}):
            yield from _differences(there.get(name), asked.get(name), f"{key}.{name}" if key else name)
    elif there != asked:
        yield key
