"""The fleet against its peers on the same work, measured side by side in one run.

=================  ==================================================================  =================
contender          what runs                                                           cores
=================  ==================================================================  =================
fleet              the cohort dealt to one node per core, as on the in-process grid    all
fleet_one_thread   the same on one node                                                one
flower             Flower's simulation runtime, see `peer_flower`                      all
pfl                pfl-research's simulated backend, see `peer_pfl`                    one: one process
loop               one device after the other, see `peer_loop`                         one
=================  ==================================================================  =================

Everybody trains every device of the cohort with the same model code, rows, local steps, clipping and amount of noise,
and first shows the sum of the clipped updates without noise. Repetitions alternate, so that a busy hour of the machine
is everybody's. Flower has to be started: half of its rounds come before the others' and half after them.
"""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from importlib.metadata import version
from importlib.util import find_spec
from typing import Protocol

import msgspec
import numpy as np

from sottovoce.client.fleet import fleet_update
from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.fleet_work import PARAMETERS, ROWS, Total, Work, fleet_work
from sottovoce.simulations.grid import CORES
from sottovoce.simulations.peer_loop import Loop

PEERS: Mapping[str, tuple[str, ...]] = {"flower": ("flwr", "ray"), "pfl": ("pfl",), "loop": ()}
"""What the fleet can be measured against, and the modules that each needs."""

PASSES = 3
"""Rounds that the fleet does in each of its turns, of which the median counts: one alone is short for a clock."""

Range = tuple[float, float]


class FleetBench(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        ms_per_device_round: median wall milliseconds per device and round, by contender.
        ms_range: least and most.
        ratio: by peer, its median over the fleet's.
        ratio_range: its least over the fleet's most, and its most over the fleet's least.
        ratio_per_core: its median times the cores it used, over the median of the fleet on one thread.
        cores: that each contender used.
        max_abs_diff: largest difference between an entry of the fleet's sum of clipped updates and a peer's.
        difference: the same by peer.
        largest_entry: of the fleet's sum, to compare the differences with.
        devices: in the cohort; everybody trains all of them in every round.
        clipped: how many of them were scaled down.
        parameters: of the ranker, the embedding table included.
        examples_per_device: all of them in every local step.
        local_steps: of each device.
        clip_norm: C.
        noise_multiplier: z.
        repeats: timed rounds of each contender.
        start_up_s: seconds until Flower's first timed round: Ray, its actors and the round without noise. Part of no
            other figure.
        versions: of the libraries that took part.
    """

    ms_per_device_round: dict[str, float]
    ms_range: dict[str, Range]
    ratio: dict[str, float]
    ratio_range: dict[str, Range]
    ratio_per_core: dict[str, float]
    cores: dict[str, int]
    max_abs_diff: float
    difference: dict[str, float]
    largest_entry: float
    devices: int
    clipped: int
    parameters: int
    examples_per_device: int
    local_steps: int
    clip_norm: float
    noise_multiplier: float
    repeats: int
    start_up_s: dict[str, float]
    versions: dict[str, str]


class Contender(Protocol):
    """Whoever does the work in this process."""

    def total(self) -> Total:
        """The sum of the clipped updates, without noise."""

    def round(self) -> None:
        """A whole round, with noise and division."""


class Fleet:
    """The cohort dealt to nodes, a thread each.

    Args:
        work: what to do.
        nodes: how many; at most as many as devices.
        accelerator: where the arithmetic happens.

    Attributes:
        clipped: devices scaled down in the last round.
    """

    def __init__(self, work: Work, nodes: int, accelerator: str = "cpu") -> None:
        self.clipped, self._accelerator = 0, accelerator
        self._work, self._rng = work, np.random.default_rng(0)
        self._shares = np.array_split(np.arange(work.devices), nodes)

    def total(self) -> Total:
        """The sum of the clipped updates, without noise."""
        work = self._work
        with ThreadPoolExecutor(len(self._shares)) as pool:
            asked = [
                pool.submit(
                    fleet_update,
                    work.parameters,
                    work.examples,
                    work.schema,
                    work.config,
                    work.training,
                    work.clip_norm,
                    share,
                    device=self._accelerator,
                )
                for share in self._shares
            ]
        updates = [future.result() for future in asked]
        self.clipped = sum(update.clipped for update in updates)
        return {name: np.add.reduce([update.total[name] for update in updates]) for name in work.parameters}

    def round(self) -> None:
        """The noisy mean."""
        self._work.noisy_mean(self.total(), self._rng)


def parse_peers(text: str) -> tuple[str, ...]:
    """The peers named in a comma list, each once.

    Raises:
        ConfigError: a name is unknown, or what the peer needs is not installed.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"--against: there is no peer {name!r}", f"choose from {', '.join(PEERS)}")
        missing = [module for module in PEERS[name] if find_spec(module) is None]
        if missing:
            raise ConfigError(
                f"--against {name}: {' and '.join(missing)} not installed",
                'pip install "sottovoce[peers]", in an environment of its own: pfl wants an older dp-accounting',
            )
    return names


def bench(
    devices: int, repeats: int, against: Sequence[str], say: Callable[[str], None], accelerator: str = "cpu"
) -> FleetBench:
    """Measure the fleet and its peers. Let torch use one thread meanwhile.

    Args:
        devices: in the cohort, at least one per core.
        repeats: timed rounds of each contender.
        against: names of `PEERS`, installed.
        say: is told what begins, which takes minutes.
        accelerator: where the fleet's arithmetic happens; its peers stay on the processor.
    """
    work = fleet_work(devices)
    sums: dict[str, Total] = {}
    seconds: dict[str, list[float]] = {}
    start_up_s: dict[str, float] = {}

    def flower(rounds: int) -> None:
        if "flower" in against and rounds:
            say(f"flower: {rounds} rounds")
            done = importlib.import_module("sottovoce.simulations.peer_flower").flower_rounds(devices, rounds)
            sums["flower"] = done.total
            seconds.setdefault("flower", []).extend(done.seconds)
            start_up_s.setdefault("flower", done.start_up_s)

    flower(repeats - repeats // 2)
    with ExitStack() as stack:
        fleet = Fleet(work, CORES, accelerator)
        here: dict[str, Contender] = {"fleet": fleet, "fleet_one_thread": Fleet(work, 1, accelerator)}
        if "pfl" in against:
            pfl = importlib.import_module("sottovoce.simulations.peer_pfl").Pfl(work)
            here["pfl"] = stack.enter_context(closing(pfl))
        if "loop" in against:
            here["loop"] = Loop(work)
        say("everybody's sum without noise")
        for name, contender in here.items():
            sums[name] = contender.total()
            contender.round()
        for turn in range(repeats):
            say(f"{', '.join(here)}: round {turn + 1} of {repeats}")
            for name, contender in here.items():
                passes = PASSES if name in _OURS else 1
                took = float(np.median([_seconds(contender.round) for _ in range(passes)]))
                seconds.setdefault(name, []).append(took)
    flower(repeats // 2)
    return _compare(work, repeats, seconds, sums, fleet.clipped, start_up_s)


_OURS = ("fleet", "fleet_one_thread")


def _seconds(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _compare(
    work: Work,
    repeats: int,
    seconds: Mapping[str, Sequence[float]],
    sums: Mapping[str, Total],
    clipped: int,
    start_up_s: Mapping[str, float],
) -> FleetBench:
    ms = {name: np.array(seconds[name]) * 1e3 / work.devices for name in (*_OURS, *PEERS) if name in seconds}
    peers = [name for name in ms if name not in _OURS]
    median = {name: float(np.median(values)) for name, values in ms.items()}
    cores = {name: CORES if name in ("fleet", "flower") else 1 for name in ms}
    ours = sums["fleet"]
    difference = {
        peer: max(float(np.abs(sums[peer][name] - value).max()) for name, value in ours.items()) for peer in peers
    }
    fleet = ms["fleet"]
    libraries = (
        "torch",
        "numpy",
        *(("flwr", "ray") if "flower" in peers else ()),
        *(("pfl",) if "pfl" in peers else ()),
    )
    return FleetBench(
        ms_per_device_round={name: round(value, 4) for name, value in median.items()},
        ms_range={name: (round(float(values.min()), 4), round(float(values.max()), 4)) for name, values in ms.items()},
        ratio={peer: round(median[peer] / median["fleet"], 1) for peer in peers},
        ratio_range={
            peer: (round(float(ms[peer].min() / fleet.max()), 1), round(float(ms[peer].max() / fleet.min()), 1))
            for peer in peers
        },
        ratio_per_core={peer: round(median[peer] * cores[peer] / median["fleet_one_thread"], 1) for peer in peers},
        cores=cores,
        max_abs_diff=max(difference.values()),
        difference=difference,
        largest_entry=max(float(np.abs(value).max()) for value in ours.values()),
        devices=work.devices,
        clipped=clipped,
        parameters=PARAMETERS,
        examples_per_device=ROWS,
        local_steps=work.training.steps,
        clip_norm=work.clip_norm,
        noise_multiplier=work.noise_multiplier,
        repeats=repeats,
        start_up_s={name: round(value, 1) for name, value in start_up_s.items()},
        versions={library: version(library) for library in libraries},
    )
