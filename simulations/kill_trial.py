"""A coordinator killed again and again: does the same command always go on, and does nothing count twice?

Each life is a process that runs `run.train`, the function behind `sottovoce simulate`, on the same folder, and ends by
SIGKILL: at a chosen line of the code that writes ledger, checkpoint and counts, or at a random instant. Only the nodes
are special: their devices send markers. The noise is seeded, so that it can be taken out of a checkpoint again; what is
left shows which device entered in which round.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from sottovoce.models import atomic
from sottovoce.privacy import ledger as ledger_module
from sottovoce.privacy import sqlite
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.ledger import Ledger, Reservation
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server import checkpoint, participation
from sottovoce.server import round as round_module
from sottovoce.simulations import folder as folder_module
from sottovoce.simulations import run as run_module
from sottovoce.simulations.experiment import Experiment, compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.loading import load
from sottovoce.simulations.markers import TABLE, Markers
from sottovoce.simulations.planning import entropy_of
from sottovoce.simulations.run import train

MARKERS = Markers((3, 0, 5), 500)
"""Eight devices on three nodes, in at most 500 rounds."""

_WRITERS = (ledger_module, sqlite, checkpoint, participation, atomic, round_module, folder_module, run_module)
"""What writes, and what decides when."""

_LONGEST_ROUNDS = 3
"""A life whose line never comes is ended after so many rounds."""

_PATIENCE_S = 60.0
"""Longest life."""

_START_S, _ROUNDS_S = 0.6, 0.1
"""Random instants lie within these: after the start of a process, and after its first closed round."""

_CONTEXT = multiprocessing.get_context("forkserver")

_SLOW_TO_LOAD = ("scipy.special", "dp_accounting.rdp", "dp_accounting.pld.privacy_loss_distribution")

Line = tuple[str, int]
"""File and line number."""


class Killed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a trial.

    Attributes:
        kills: lives that ended by SIGKILL.
        at_lines: of those, at a chosen line of code that writes.
        lines: different lines at which one ended.
        resumes: lives that went on where the one before was killed, and closed a round.
        rounds: in the model in the end.
        double_counts: markers of a device and round found twice, over all checkpoints looked at.
        wrong_rounds: markers missing, or of a round that is not in the model yet.
        epsilon_fell: times that the ledger's epsilon was lower after a resume than before.
        problems: a line for each thing that went wrong otherwise.
        epsilon: spent in the end.
        recovery_p50_s: from the start of a process to its first closed round, imports done.
        recovery_p95_s: likewise.
        seconds_per_kill: of the whole trial.
    """

    kills: int
    at_lines: int
    lines: int
    resumes: int
    rounds: int
    double_counts: int
    wrong_rounds: int
    epsilon_fell: int
    problems: list[str]
    epsilon: float
    recovery_p50_s: float
    recovery_p95_s: float
    seconds_per_kill: float


def experiment() -> Experiment:
    """A small market, a seeded run of many rounds, and weights that are the plain sum of all updates."""
    return compose(
        None,
        [
            ("data.devices", MARKERS.population),
            ("data.rows_per_device", 4),
            ("rounds", MARKERS.rounds),
            ("nodes", len(MARKERS.hosted)),
            ("evaluate_every", 100_000),
            ("privacy.epsilon", 50.0),
            ("privacy.delta", 1e-2),
            ("privacy.noise", "seeded"),
            ("privacy.sampling", "none"),
            ("model.embedding_width", 8),
            ("model.tower_width", 1),
            ("model.hidden_width", 1),
            ("model.cross_layers", 0),
            ("server.kind", "fedavg"),
            ("server.learning_rate", 1.0),
            ("server.averaging", 0.0),
        ],
    )


@dataclass(frozen=True, slots=True)
class FailPoint:
    """Where a process kills itself.

    Attributes:
        line: of the code, before it is run.
        later: not before a round was closed.
    """

    line: Line
    later: bool


def live(path: Path, dies: FailPoint | None, listing: bool, told: Connection) -> None:
    """One life of the coordinator; it ends by a signal.

    Args:
        path: of the run folder.
        dies: where; None to be killed from outside.
        listing: after a few rounds, say every line of the code that writes, and whether it was passed in a later round.
        told: gets "begun", the number of each closed round, and lines.
    """
    torch.set_num_threads(1)
    chosen = experiment()
    folder = RunFolder(path)
    dataset = load(chosen.data, None, None)
    passed: dict[Line, bool] = {}
    closed = 0

    def on_line(line: Line) -> None:
        passed[line] = closed > 0
        if dies is not None and line == dies.line and (closed or not dies.later):
            told.send(line)
            os.kill(os.getpid(), signal.SIGKILL)

    def on_point(point: folder_module.Point) -> None:
        nonlocal closed
        closed += 1
        told.send(point.record.round)
        if listing and closed == _LONGEST_ROUNDS:
            told.send(passed)
            signal.pause()

    told.send("begun")
    if dies is not None or listing:
        sys.settrace(_tracer({module.__file__ or "" for module in _WRITERS}, on_line))
    train(InProcessGrid(MARKERS.app(), chosen.nodes), chosen, dataset, folder, on_point)


def _tracer(files: set[str], on_line: Callable[[Line], None]) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that reports the lines of some files, before each is run."""

    def lines(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            on_line((frame.f_code.co_filename, frame.f_lineno))
        return lines

    def calls(frame: FrameType, _: str, __: Any) -> Any:
        return lines if frame.f_code.co_filename in files else None

    return calls


@dataclass(slots=True)
class _Witness:
    """What can be seen of a run folder between two lives."""

    path: Path
    plan: MechanismPlan | None = None
    epsilon: float = 0.0
    rounds: int = 0
    double_counts: int = 0
    wrong_rounds: int = 0
    epsilon_fell: int = 0
    problems: list[str] = field(default_factory=list)
    _noise: npt.NDArray[np.float64] | None = None
    _noisy: int = 0

    def look(self) -> None:
        """Compare ledger and checkpoint with what was seen before."""
        folder = RunFolder(self.path)
        try:
            opened = Ledger.open(folder.ledger, readonly=True)
        except LedgerError as error:
            if self.plan is not None:
                self.problems.append(error.what)
            return  # killed while it was made: whoever comes next has to make it
        with opened as ledger:
            book = ledger.book()
            if book.campaign is None:
                return
            spent = Budget.of(ledger).running().epsilon
            for planned in book.plans.values():
                self.plan = MechanismPlan.read(planned.plan)
        self.epsilon_fell += spent < self.epsilon
        self.epsilon = spent
        if not checkpoint.present(folder.checkpoints) or self.plan is None:
            return
        kept = checkpoint.newest(folder.checkpoints)
        self.problems += kept.problems
        if kept.facts.round < self.rounds:
            self.problems.append(f"the model fell from round {self.rounds} to {kept.facts.round}")
        self.rounds = kept.facts.round
        found = self._markers(kept.state)
        expected = np.zeros_like(found)
        expected[: self.rounds] = 1.0
        self.double_counts += int((found > 1.5).sum())
        self.wrong_rounds += int((np.abs(found - expected) > 0.5).sum() - (found > 1.5).sum())

    def _markers(self, state: dict[str, torch.Tensor]) -> npt.NDArray[np.float64]:
        """(rounds, devices): the model less where it began and less the noise of its rounds."""
        if self.plan is None:
            raise ValueError("no plan was seen yet")
        chosen = experiment()
        schema = load(chosen.data, None, None).schema
        initial = chosen.model.initial(schema, chosen.seed)
        sizes = {name: value.numel() for name, value in initial.items()}
        if self._noise is None:
            self._noise = np.zeros(sum(sizes.values()))
        while self._noisy < self.rounds:
            self._noisy += 1
            paid = Reservation(1, "", "", self._noisy, self.plan.digest())
            source = entropy_of(chosen).generator("noise", self._noisy)
            self._noise += self.plan.summed_noise().release(np.zeros(len(self._noise)), paid, source)
        start = sum(size for name, size in sizes.items() if list(sizes).index(name) < list(sizes).index(TABLE))
        # An update is a negative gradient, so noise is taken away where it was added.
        noise = self._noise[start : start + sizes[TABLE]].reshape(initial[TABLE].shape)
        moved = (state[f"parameters/{TABLE}"] - initial[TABLE]).numpy().astype(np.float64)
        return MARKERS.read((moved * self.plan.expected_cohort + noise) / self.plan.clip_norm)


@dataclass(slots=True)
class _Lives:
    """One folder, and everything that lived and died on it."""

    path: Path
    witness: _Witness
    kills: int = 0
    at_lines: int = 0
    resumes: int = 0
    unresumed: int = 0
    ended: set[Line] = field(default_factory=set)
    recoveries: list[float] = field(default_factory=list)

    def live(self, dies: FailPoint | None = None, after_s: float | None = None, later: bool = False) -> None:
        """A life that ends by a kill: at a line, or after so long; `later` counts from the first closed round."""
        lines = self._live(dies, after_s, later, listing=False)
        self.kills += 1
        self.unresumed += 1
        self.at_lines += len(lines)
        self.ended.update(lines)
        self.witness.look()

    def rehearse(self) -> dict[Line, bool]:
        """The lines that a life passes, and whether also after its first closed round; no kill of the trial."""
        (lines,) = self._live(None, None, False, listing=True)
        self.witness.look()
        return lines  # type: ignore[no-any-return]

    def finish(self) -> None:
        """A last life, for as long as it needs to close a round; no kill of the trial."""
        self._live(None, 0.0, True, listing=False)
        self.witness.look()

    def _live(self, dies: FailPoint | None, after_s: float | None, later: bool, listing: bool) -> list[Any]:
        """What a life said besides its rounds."""
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        began = time.monotonic()
        child = _CONTEXT.Process(target=live, args=(self.path, dies, listing, sender), daemon=True)
        child.start()
        sender.close()
        death = began + _PATIENCE_S
        closed, said = 0, []
        while receiver.poll(max(0.0, death - time.monotonic())):
            try:
                one = receiver.recv()
            except EOFError:
                break
            now = time.monotonic()
            if isinstance(one, int):
                closed += 1
                if closed == 1:
                    self.recoveries.append(now - began)
                    self.resumes, self.unresumed = self.resumes + self.unresumed, 0
            elif one != "begun":
                said.append(one)
            if after_s is not None and (one == "begun" or closed == 1) and (closed > 0 or not later):
                death = min(death, now + after_s)
            if said if listing else closed >= _LONGEST_ROUNDS:
                break
        child.kill()
        child.join()
        if child.exitcode != -signal.SIGKILL:
            self.witness.problems.append(f"a life ended by itself with exit code {child.exitcode}")
        receiver.close()
        child.close()
        return said


def trial(kills: int, seed: int = 0, say: Callable[[str], None] = lambda _: None) -> Killed:
    """Kill a coordinator `kills` times, and go on with the same command each time.

    A tenth of the kills end the very first life of a run. The others fall on one run: half at lines of the code that
    writes, half at random instants; half of either while it still takes up its work, half in the middle of it.

    Args:
        kills: how many.
        seed: of lines and instants.
        say: told how it goes.
    """
    _CONTEXT.set_forkserver_preload([__name__, *_SLOW_TO_LOAD])
    rng = np.random.default_rng(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:

        def fresh(number: int) -> _Lives:
            path = Path(name) / f"run-{number}"
            RunFolder(path).create(experiment())
            return _Lives(path, _Witness(path))

        main = fresh(0)
        first, again = main.rehearse(), main.rehearse()
        main.recoveries.clear()
        everywhere, steady = list(again), [line for line, later in again.items() if later]
        beginnings = list(first)
        for lines in (everywhere, steady, beginnings):
            rng.shuffle(lines)
        every = [main]
        for number in range(kills // 10):
            lives = fresh(number + 1)
            lives.live(FailPoint(beginnings[number % len(beginnings)], later=False))
            lives.finish()
            every.append(lives)
        say(f"{kills // 10} first lives killed, of {len(beginnings)} lines")
        for number in range(kills - kills // 10):
            later, at = number % 2 == 1, number // 4
            if number % 4 < 2:
                lines = steady if later else everywhere
                main.live(FailPoint(lines[at % len(lines)], later))
            else:
                main.live(after_s=float(rng.uniform(0.0, _ROUNDS_S if later else _START_S)), later=later)
            if (number + 1) % 20 == 0:
                say(f"{number + 1} kills of one run, round {main.witness.rounds}")
        main.finish()
        seen = [lives.witness for lives in every]
        recoveries = [one for lives in every for one in lives.recoveries]
        total = sum(lives.kills for lives in every)
        return Killed(
            kills=total,
            at_lines=sum(lives.at_lines for lives in every),
            lines=len(set().union(*(lives.ended for lives in every))),
            resumes=sum(lives.resumes for lives in every),
            rounds=main.witness.rounds,
            double_counts=sum(one.double_counts for one in seen),
            wrong_rounds=sum(one.wrong_rounds for one in seen),
            epsilon_fell=sum(one.epsilon_fell for one in seen),
            problems=[problem for one in seen for problem in one.problems],
            epsilon=main.witness.epsilon,
            recovery_p50_s=float(np.quantile(recoveries, 0.5)),
            recovery_p95_s=float(np.quantile(recoveries, 0.95)),
            seconds_per_kill=(time.monotonic() - began) / max(total, 1),
        )
