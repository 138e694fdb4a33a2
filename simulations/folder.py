"""The folder a run leaves behind: what is in it, and how its parts are read and written."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.audit import AuditReport, audit
from sottovoce.privacy.errors import CheckpointError, ConfigError, SottovoceError
from sottovoce.privacy.store import is_address
from sottovoce.server import checkpoint
from sottovoce.server.round import RoundRecord
from sottovoce.simulations.experiment import Experiment, compose
from sottovoce.simulations.metrics import Metrics


class Point(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `metrics.jsonl`: a round, and from time to time a point of the learning curve.

    Attributes:
        record: what happened. Cohort sizes are for the simulation to look at; real deployments keep them secret.
        epsilon: spent so far, for an outsider; None without noise.
        metrics: on held-out rows, of the averaged model.
    """

    record: RoundRecord
    epsilon: float | None
    metrics: Metrics | None = None


@contextmanager
def locked(file: Path, refusal: str) -> Iterator[None]:
    """Keep other processes out; the system lifts the lock when the process ends.

    Raises:
        ConfigError: another process holds the lock, which `refusal` says, or the file cannot be read.
    """
    if sys.platform == "win32":  # it has no such lock; there the ledger alone keeps two coordinators apart
        yield
        return
    import fcntl

    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", "make the file readable") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(refusal, "wait for it, or end it") from None
        yield
    finally:
        os.close(handle)


class ModuleFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which module of one's own a run trains, as kept in `module.json`; nothing is ever loaded because of it.

    Attributes:
        name: of its class.
        values: weights in all.
        sha256: digest of the names and shapes of its weights, and of its buffers.
    """

    name: str
    values: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def experiment_file(self) -> Path:
        """The exact configuration, defaults filled in."""
        return self.path / "experiment.toml"

    @property
    def metrics_file(self) -> Path:
        """One line a round."""
        return self.path / "metrics.jsonl"

    @property
    def ledger(self) -> Path | str:
        """The budget: the run's own, or one that several runs share.

        Raises:
            ConfigError: not a run folder.
        """
        shared = self.experiment().privacy.ledger
        if is_address(shared):
            return shared
        return Path(shared) if shared else self.path / "ledger.db"

    @property
    def module_file(self) -> Path:
        """Which module of one's own the run trains; not there for the built-in ranker."""
        return self.path / "module.json"

    @property
    def participation_file(self) -> Path:
        """How often each device was asked; as secret as the cohorts."""
        return self.path / "restricted" / "participation.safetensors"

    @property
    def diary_file(self) -> Path:
        """Replies and seconds of each round; as secret as the cohorts."""
        return self.path / "restricted" / "rounds.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Weights, with the ledger head of their round."""
        return self.path / "checkpoints"

    @property
    def measurements(self) -> Path:
        """What was measured of the devices, one file a release."""
        return self.path / "measurements"

    @property
    def results_file(self) -> Path:
        """Final figures, from which the report is drawn."""
        return self.path / "results.json"

    @property
    def report_file(self) -> Path:
        """Everything in one page."""
        return self.path / "report.html"

    @property
    def bundle_file(self) -> Path:
        """What ships."""
        return self.path / "bundle.svb"

    def require_free(self) -> None:
        """Refuse a folder that holds anything; nothing is made.

        Raises:
            ConfigError: not empty, not a folder, or not readable.
        """
        try:
            taken = self.path.exists() and any(self.path.iterdir())
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}", "choose another folder") from error
        if taken:
            raise ConfigError(
                f"{self.path} is not empty", f"continue that run with --resume {self.path}, or choose another --out"
            )

    def create(self, experiment: Experiment, module: ModuleFacts | None = None) -> None:
        """Make the folder and write the experiment; refuses to touch a folder that holds anything.

        Args:
            experiment: all settings.
            module: of one's own, where there is one.

        Raises:
            ConfigError: the folder is not empty or cannot be made.
        """
        self.require_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if module is not None:
                write_atomically(self.module_file, msgspec.json.format(msgspec.json.encode(module), indent=2))
            write_atomically(self.experiment_file, experiment.to_toml().encode())
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}", "choose a folder you may write to") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder; the system lifts the lock when the process ends.

        Raises:
            ConfigError: another process trains here.
        """
        with locked(self.experiment_file, f"{self.path}: another process trains there"):
            yield

    def experiment(self) -> Experiment:
        """What the run was asked to do.

        Raises:
            ConfigError: not a run folder.
        """
        if not self.experiment_file.is_file():
            raise ConfigError(f"{self.path}: no experiment.toml there", "name a folder that `sottovoce simulate` made")
        return compose(self.experiment_file, ())

    def module(self) -> ModuleFacts | None:
        """The module of one's own that the run trains, or None for the built-in ranker.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            return msgspec.json.decode(self.module_file.read_bytes(), type=ModuleFacts)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{self.module_file}: {error}", "restore it from a copy") from None

    def require_module(self, given: ModuleFacts | None) -> None:
        """Refuse another model than the one that the run trains.

        Args:
            given: the module at hand; None for the built-in ranker.

        Raises:
            ConfigError: there should be one, there should be none, or it is another one.
        """
        trained = self.module()
        if trained == given:
            return
        if trained is None:
            raise ConfigError(f"{self.path} trains the built-in ranker", "leave --module out")
        if given is None:
            raise ConfigError(
                f"{self.path} trains a module of its user's own, {trained.name}, whose code is not in the folder",
                "name it again, with --module FILE.py:FACTORY where the command takes it",
            )
        raise ConfigError(
            f"{self.path} trains {trained.name} with {trained.values:,} weights, digest {trained.sha256[:12]}; "
            f"given is {given.name} with {given.values:,}, digest {given.sha256[:12]}",
            "give the module that the run was begun with: same name, same shapes, same buffers",
        )

    def audit(self) -> tuple[AuditReport, tuple[str, ...]]:
        """What the run's ledger proves, held against the newest readable checkpoint; and which could not be read.

        Raises:
            LedgerError: there is no ledger, or the file is not one. A ledger with changed rows is reported.
        """
        try:
            kept = checkpoint.newest(self.checkpoints)
        except CheckpointError as error:
            return audit(self.ledger), (error.what,)
        return audit(self.ledger, pinned=kept.facts.ledger_head), kept.problems

    def append(self, point: Point) -> None:
        """Add a line to `metrics.jsonl`."""
        try:
            with self.metrics_file.open("ab") as file:
                file.write(msgspec.json.encode(point) + b"\n")
        except OSError as error:
            raise SottovoceError(
                f"{self.metrics_file}: {error.strerror}", "free space, then continue with --resume"
            ) from error

    def rewind(self, rounds: int) -> None:
        """Keep the points up to round `rounds`, so that what follows them follows whole lines."""
        kept = [point for point in self.points() if point.record.round <= rounds]
        lines = b"".join(msgspec.json.encode(point) + b"\n" for point in kept)
        try:
            if self.metrics_file.is_file() and self.metrics_file.read_bytes() != lines:
                write_atomically(self.metrics_file, lines)
        except OSError as error:
            raise SottovoceError(
                f"{self.metrics_file}: {error.strerror}", "free space, then continue with --resume"
            ) from error

    def points(self) -> list[Point]:
        """The learning curve so far, one point a round, by rising number. A last line cut short by a crash is left out.

        Raises:
            CheckpointError: a line in the middle cannot be read.
        """
        if not self.metrics_file.is_file():
            return []
        try:
            lines = self.metrics_file.read_bytes().split(b"\n")
        except OSError as error:
            raise CheckpointError(f"{self.metrics_file}: {error.strerror}", "make the file readable") from error
        found: dict[int, Point] = {}
        for number, line in enumerate(lines, 1):
            try:
                point = msgspec.json.decode(line, type=Point) if line else None
            except msgspec.DecodeError as error:
                if number == len(lines):
                    break
                raise CheckpointError(
                    f"{self.metrics_file}: line {number}: {error}", "remove that line; the ledger is not concerned"
                ) from None
            if point is not None:
                found[point.record.round] = point
        return [found[number] for number in sorted(found)]
