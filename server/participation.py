"""How often each device was asked in a run, and who is asked no more.

Epsilon against somebody who knows who took part grows with the number of rounds a device was in. The plan may cap that
number. A device at its cap is still drawn, so that the law of sampling stays as it is accounted; it is not asked, and
counts as zero. Devices keep the same count themselves (`client.participation`), since a promise of the coordinator is
not a promise of theirs.

The counts are written down before anybody is asked: a crash leaves them too high, never too low. They tell who took
part, and are as secret as the cohorts.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.errors import CheckpointError


class Participation:
    """Counts of one run. Use `begin` or `resume`.

    Args:
        file: where they are kept.
        counts: (population,) rounds that each device was asked for.
        cap: most rounds for any of them; None for no cap.
    """

    def __init__(self, file: Path, counts: npt.NDArray[np.uint32], cap: int | None) -> None:
        self._file = file
        self._counts = counts
        self._cap = cap

    @classmethod
    def begin(cls, file: Path, population: int, cap: int | None) -> "Participation":
        """Nobody was asked yet."""
        return cls(file, np.zeros(population, np.uint32), cap)

    @classmethod
    def resume(cls, file: Path, population: int, cap: int | None) -> "Participation":
        """The counts of a run that goes on.

        Raises:
            CheckpointError: they are gone, damaged or of another population; the cap could no longer be kept.
        """
        try:
            counts = load(file.read_bytes())["asked"]
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(
                f"{file}: participation counts cannot be read ({error})",
                "restore the file from a copy, or start the run again elsewhere: without them no cap can be kept",
            ) from None
        if counts.shape != (population,) or counts.dtype != np.uint32:
            raise CheckpointError(f"{file}: counts of another population", "restore the file of this run")
        return cls(file, counts, cap)

    @property
    def busiest(self) -> int:
        """Most rounds that any device was asked for."""
        return int(self._counts.max(initial=0))

    def admit(self, cohort: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Those of a cohort who are below the cap; on return they are counted, on disk.

        Raises:
            CheckpointError: the file cannot be written; nobody may be asked.
        """
        asked = cohort if self._cap is None else cohort[self._counts[cohort] < self._cap]
        counts = self._counts.copy()
        counts[asked] += 1
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._file, save({"asked": counts}))
        except OSError as error:
            raise CheckpointError(
                f"{self._file}: {error.strerror}", "free space or choose another folder, then resume the run"
            ) from error
        self._counts = counts
        return asked
