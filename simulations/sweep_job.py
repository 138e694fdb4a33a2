"""One job of a sweep, and the process that does one after the other: a run from its folder to its figures.

A worker loads the data once. It hears that it should stop between two rounds, so that no round is cut off: that would
be spent for nothing. It hears the same when the process that started it is gone.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.errors import SottovoceError
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import DataSource, Experiment
from sottovoce.simulations.folder import Point, RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.loading import load
from sottovoce.simulations.results import baselines, finish
from sottovoce.simulations.run import nodes, train
from sottovoce.simulations.sweep_folder import require_same
from sottovoce.simulations.threads import torch_threads
from sottovoce.simulations.tuning_folder import sweep_record


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker does in one piece.

    Attributes:
        name: to speak of it.
        path: the folder of the run; for baselines the file they are written to.
        experiment: of the run; None for the baselines.
        assumes: what the run must say of itself, a line each.
    """

    name: str
    path: Path
    experiment: Experiment | None
    assumes: tuple[str, ...] = ()


class StopAskedError(Exception):
    """The sweep ends: not a failure."""


def carry_out(job: Job, dataset: Dataset, on_round: Callable[[int], None]) -> None:
    """Do a job: begin or continue its run and judge it, or judge the baselines.

    Raises:
        SottovoceError: see `train` and `finish`; the run's folder is whole and can be continued.
    """
    if job.experiment is None:
        write_atomically(job.path, msgspec.json.format(msgspec.json.encode(baselines(dataset)), indent=2))
        return
    experiment, place = job.experiment, RunFolder(job.path)
    if place.experiment_file.exists():
        require_same(place, experiment)
    else:
        for left in place.path.glob(f".{place.experiment_file.name}.*"):
            left.unlink()  # of a worker that was killed while it wrote
        place.create(experiment)
    if job.assumes and not sweep_record(place).exists():
        write_atomically(sweep_record(place), tomli_w.dumps({"assumes": list(job.assumes)}).encode())

    def advance(point: Point) -> None:
        on_round(point.record.round)

    model = train(InProcessGrid(nodes(experiment, dataset), 1), experiment, dataset, place, advance)
    found, _ = place.audit()
    finish(experiment, dataset, place, model, found, with_baselines=False)


def serve(connection: Any, source: DataSource, data_dir: Path | None) -> None:
    """A worker's life: load the data, then take jobs until there are none, or nobody is there to give them."""

    def listen() -> None:
        # Nothing is sent during a job but the wish to stop; a closed connection says the same.
        if connection.poll():
            raise StopAskedError

    def tell(kind: str, *details: object) -> None:
        try:
            connection.send((kind, *details))
        except OSError:
            raise StopAskedError from None

    def advance(number: int) -> None:
        tell("round", number)
        listen()

    with suppress(StopAskedError, EOFError), torch_threads(1):
        dataset = None
        while (job := connection.recv()) is not None:
            try:
                listen()
                dataset = dataset or load(source, data_dir, None)
                listen()
                carry_out(job, dataset, advance)
                tell("done")
            except StopAskedError:
                tell("stopped")
                return
            except SottovoceError as error:
                tell("failed", error.what, error.todo)
            except MemoryError:
                tell("failed", "not enough memory", "take fewer --workers, or a smaller model")
            except OSError as error:
                tell("failed", f"{error.filename}: {error.strerror}", "free space, or choose another folder")
