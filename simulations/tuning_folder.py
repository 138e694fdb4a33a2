"""The folder of a selection: what is said of it, where its trials hide, and how the best of them becomes the run."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.errors import ConfigError, SottovoceError
from sottovoce.server import checkpoint
from sottovoce.simulations.experiment import Experiment, read
from sottovoce.simulations.folder import RunFolder

HELD_OUT = (
    "the winner was chosen on the run's held-out rows, TAKEN AS PUBLIC DATA: epsilon does not cover what the choice "
    "tells about them"
)
"""What must be said where no public file was given."""


def interrupted(folder: RunFolder) -> SottovoceError:
    """What Ctrl-C cost."""
    if checkpoint.present(folder.checkpoints):
        return SottovoceError(
            f"interrupted; {folder.path} holds the winner and its ledger is honest",
            f"make its report with: sottovoce simulate --resume {folder.path}",
        )
    if not record_file(folder).exists():
        return SottovoceError("interrupted before anything was paid for", f"remove {folder.path} and start again")
    return SottovoceError(
        "interrupted: the selection was paid for as a whole, so its budget is spent; its trials are removed",
        "start anew with another --out; what was spent on these devices stays spent",
    )


def require_untouched(folder: RunFolder) -> None:
    """Refuse a folder in which a selection was paid for, finished or not; trials left by a crash are removed.

    Raises:
        ConfigError: this one, or one that holds anything else.
    """
    if record_file(folder).exists():
        with folder.locked():
            shutil.rmtree(trials_folder(folder), ignore_errors=True)
        ended = "finished" if checkpoint.present(folder.checkpoints) else "cut off"
        raise ConfigError(
            f"{folder.path}: a selection was {ended} there, and paid for as a whole",
            "it cannot be continued or repeated on its budget; start anew with another --out",
        )
    folder.require_free()


def assumptions(folder: RunFolder) -> tuple[str, ...]:
    """What the epsilon of a selection, or of one run of a sweep, rests on besides the ledger's assumptions.

    Empty for any other run.

    Raises:
        ConfigError: the record of the selection or of the sweep cannot be read.
    """
    found: list[str] = []
    for file in (record_file(folder), sweep_record(folder)):
        if not file.exists():
            continue
        told = read(file).get("assumes")
        if not isinstance(told, list) or not all(isinstance(line, str) for line in told):
            raise ConfigError(f"{file}: assumes is not a list of lines", "restore the file from a copy")
        found += told
    return tuple(found)


def sweep_record(folder: RunFolder) -> Path:
    """What a run of a sweep must say of itself: that others were made beside it."""
    return folder.path / "swept.toml"


def record_file(folder: RunFolder) -> Path:
    """What the selection was asked to do; there from the moment at which it may have been paid for."""
    return folder.path / "tuning.toml"


def trials_folder(folder: RunFolder) -> Path:
    """Where the runs of a selection train: for nobody else's eyes, and gone at the end."""
    return folder.path / "trials"


def write_record(folder: RunFolder, grid: Mapping[str, Sequence[Any]], expected_runs: float, public: bool) -> None:
    """Say what was asked for, before it is paid for: only the expected number of runs is public.

    Args:
        folder: of the selection.
        grid: values by dotted key.
        expected_runs: mean of the law of their number.
        public: whether a public file chooses the winner; if not, held-out rows do.

    Raises:
        ConfigError: the file cannot be written; nothing was paid.
    """
    told = {"expected_runs": expected_runs, "assumes": [] if public else [HELD_OUT], "grid": dict(grid)}
    try:
        write_atomically(record_file(folder), tomli_w.dumps(told).encode())
    except OSError as error:
        raise ConfigError(f"{folder.path}: {error.strerror}", "choose a folder you may write to") from error


def make_private(path: Path) -> Path:
    """A new folder that nobody else on this machine may look into.

    Raises:
        SottovoceError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise SottovoceError(
            f"{path}: {error.strerror}", "free space and start anew; the selection is spent"
        ) from error
    return path


def promote(trial: RunFolder, chosen: Experiment, folder: RunFolder) -> None:
    """Make a trial, which had the settings `chosen`, the run in `folder`. Checkpoints come last: they make it one.

    Raises:
        SottovoceError: a file cannot be written or moved.
    """
    try:
        write_atomically(folder.experiment_file, chosen.to_toml().encode())
        # It tells how long each round took, and with that when the trial ran.
        trial.diary_file.unlink(missing_ok=True)
        with folder.locked():  # the file that is locked is a new one
            for file in (trial.metrics_file, trial.participation_file.parent, trial.checkpoints):
                os.replace(file, folder.path / file.name)
    except OSError as error:
        raise SottovoceError(f"{folder.path}: {error.strerror}", "the selection is spent; start anew") from error


def backdate(folder: RunFolder, began: float) -> None:
    """Give every file the time at which the selection began.

    Raises:
        SottovoceError: the times cannot be set.
    """
    try:
        for path in (folder.path, *folder.path.rglob("*")):
            os.utime(path, (began, began))
    except OSError as error:
        raise SottovoceError(
            f"{folder.path}: {error.strerror}", "the run is whole; its files' times tell how long the selection took"
        ) from error
