"""Many rounds with every fault at once, and rounds with ever more dropouts: does each do what it must?"""

import os
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from sottovoce.privacy.entropy import OsEntropy, SeededEntropy
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.round import RoundRecord
from sottovoce.simulations.faults import Rates
from sottovoce.simulations.marked_run import marked_run
from sottovoce.simulations.markers import Markers

DROPOUTS = (0.0, 0.05, 0.2, 0.5, 0.9)

_PHONES, _FLEET = 0.05, 19
"""A twentieth of the devices are nodes of their own; the others live in fleets of so many."""

_WARM = 0.2
"""Share of the rounds before memory is watched."""

_BLOCKS = 16


class Slope(msgspec.Struct, frozen=True, kw_only=True):
    """How something grows.

    Attributes:
        per_1000_rounds: least-squares slope over means of blocks of rounds, after a fifth of the rounds.
        error: its standard error.
        least: smallest value seen.
        most: largest value seen.
    """

    per_1000_rounds: float
    error: float
    least: float
    most: float


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """What became of many rounds.

    Attributes:
        rounds: asked for.
        closed: that ended by their deadline, five seconds of grace included.
        devices: in each.
        faults: how often each struck.
        violations: a line for each promise that was broken.
        rss_kib: resident memory; None where the system does not tell.
        open_files: likewise.
    """

    rounds: int
    closed: int
    devices: int
    faults: dict[str, int]
    violations: list[str]
    rss_kib: Slope | None
    open_files: Slope | None


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """What became of rounds in which a share of the nodes was silent.

    Attributes:
        dropout: share.
        rounds: asked for.
        closed: that ended by their deadline.
        answered: mean share of the devices that did answer.
        noise_ratio: standard deviation of the noise in the weights / the promised one.
        error: standard error of it.
        draws: numbers that it was measured on.
    """

    dropout: float
    rounds: int
    closed: int
    answered: float
    noise_ratio: float
    error: float
    draws: int


def hosted(devices: int) -> tuple[int, ...]:
    """Phones and fleets with so many devices in all."""
    phones = max(1, round(_PHONES * devices))
    fleets, left = divmod(devices - phones, _FLEET)
    return (1,) * (phones + left) + (_FLEET,) * fleets


def soak(rounds: int, devices: int, rate: float, seed: int = 0) -> Soak:
    """`rounds` rounds of everybody with every fault at `rate`, without noise, each held against what it had to do."""
    markers = Markers(hosted(devices), 2)
    plan = MechanismPlan(devices, 1.0, 1.0, 0.0, rounds, 0.5 / devices, sampling="none")
    watched: list[tuple[int, int]] = []

    def watch(_: RoundRecord) -> None:
        found = _resources()
        if found is not None:
            watched.append(found)

    with tempfile.TemporaryDirectory() as name, Ledger.open(Path(name) / "ledger.db", create=True) as ledger:
        run = marked_run(Path(name), ledger, plan, markers, Rates.every(rate), seed, SeededEntropy(seed))
        run.on_round = watch
        run.go()
    rss, files = np.array(watched, np.float64).T if watched else (np.zeros(0), np.zeros(0))
    return Soak(
        rounds=rounds,
        closed=run.closed,
        devices=devices,
        faults=dict(run.grid.struck),
        violations=run.violations,
        rss_kib=slope(rss),
        open_files=slope(files),
    )


def dropped(rate: float, rounds: int, devices: int, places: int, seed: int = 0) -> Dropped:
    """`rounds` rounds with noise in which a share `rate` of the nodes is silent.

    Args:
        rate: of silence.
        rounds: how many.
        devices: nodes of one device each.
        places: sets of coordinates; the noise is measured on `places` * `devices` * `rounds` numbers.
        seed: of the faults; noise is the operating system's.
    """
    markers = Markers((1,) * devices, places)
    plan = MechanismPlan(devices, 1.0, 1.0, 2.0, rounds, 0.5 / devices, sampling="none")
    answered = []
    with tempfile.TemporaryDirectory() as name, Ledger.open(Path(name) / "ledger.db", create=True) as ledger:
        run = marked_run(Path(name), ledger, plan, markers, Rates(dropout=rate), seed, OsEntropy())
        run.on_round = lambda record: answered.append(record.answered)
        run.go()
    squares, draws = run.noise
    ratio = float(np.sqrt(squares / draws))
    return Dropped(
        dropout=rate,
        rounds=rounds,
        closed=run.closed,
        answered=float(np.mean(answered)) / devices,
        noise_ratio=ratio,
        error=float(ratio / np.sqrt(2 * draws)),
        draws=draws,
    )


def slope(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Slope | None:
    """How a series grows with its index; None where it is too short to tell.

    Neighbouring rounds are alike, so that single rounds would make the error look smaller than it is; means of long
    blocks are nearly independent.
    """
    warm = values[int(len(values) * _WARM) :]
    if len(warm) < 2 * _BLOCKS:
        return None
    blocks = np.array_split(warm, _BLOCKS)
    y = np.array([block.mean() for block in blocks])
    x = np.cumsum([len(block) for block in blocks]) / 1000.0
    x = x - x.mean()
    rate = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - rate * x
    error = float(np.sqrt((rest * rest).sum() / (_BLOCKS - 2) / (x * x).sum()))
    return Slope(per_1000_rounds=rate, error=error, least=float(warm.min()), most=float(warm.max()))


def _resources() -> tuple[int, int] | None:
    """Resident memory in KiB and open files of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024, len(os.listdir("/proc/self/fd"))
    except (OSError, ValueError):
        return None
