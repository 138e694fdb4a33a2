"""What a round costs as the population grows: time by the cohort, memory by the cohort, and what is left to it.

A market is generated and written down once per size, and opened memory-mapped by a process of its own, whose peak of
memory is then that of its rounds and of nothing else. A round here is all that grows: drawing the cohort, writing down
who was asked, splitting it up by node, and training it. Noise, checkpoint and ledger are left out: they do not know how
many devices there are.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar

import msgspec
import numpy as np

from sottovoce.client.fleet import LocalTraining, fleet_update
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.privacy.entropy import OsSource
from sottovoce.privacy.sampling import PoissonSampler
from sottovoce.server.cohort import Population
from sottovoce.server.participation import Participation
from sottovoce.simulations import market
from sottovoce.simulations.dataset import open_memory_mapped, save
from sottovoce.simulations.loading import partition
from sottovoce.simulations.peak_rss import peak_rss_mib
from sottovoce.simulations.threads import torch_threads

P = ParamSpec("P")
T = TypeVar("T")

COHORT = 10_000
"""Devices of a round, as far as there are as many."""

ROUNDS = 5
"""Rounds timed, after one that is not."""

NODES = 2
"""Nodes that share the population; they train one after the other, so that one thread's time is measured."""


class ScalePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One population.

    Attributes:
        devices: in the population.
        rows: that they may train on.
        cohort: median size of a round's cohort.
        ms_per_device_round: median over rounds of the processor time, one thread.
        ms_range: least and most.
        round_s: median of a whole round by the clock.
        population_ms: median of what a round spends by population: drawing, counting and splitting the cohort.
        peak_rss_mib: of the process that opened the data and ran the rounds.
        build_peak_rss_mib: of the process that generated and wrote the data.
    """

    devices: int
    rows: int
    cohort: int
    ms_per_device_round: float
    ms_range: tuple[float, float]
    round_s: float
    population_ms: float
    peak_rss_mib: int
    build_peak_rss_mib: int


def measure_scale(sizes: Sequence[int], folder: Path | None = None, rounds: int = ROUNDS) -> list[ScalePoint]:
    """One point per population size, each in processes of its own.

    Args:
        sizes: devices in each population, at least 1.
        folder: where the generated data may lie meanwhile, about half a gigabyte per million devices; the system's
            folder for temporary files by default.
        rounds: to time.
    """
    points = []
    for size in sizes:
        with TemporaryDirectory(dir=folder, prefix="sottovoce-scale-") as place:
            built = _in_a_fresh_process(build, Path(place), size)
            points.append(_in_a_fresh_process(measure_rounds, Path(place), rounds, built))
    return points


def _in_a_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def build(place: Path, size: int) -> int:
    """Generate a market and write it down; returns the peak of memory in MiB."""
    save(market.load(size, seed=0), place / "market")
    return int(peak_rss_mib())


def measure_rounds(place: Path, rounds: int, built: int) -> ScalePoint:
    """Rounds over the market that `build` wrote to `place`; `built` is the peak of memory that building it took."""
    dataset = open_memory_mapped(place / "market")
    nodes = [partition(dataset.train, number, NODES) for number in range(NODES)]
    first = np.concatenate([[0], np.cumsum([node.devices for node in nodes])]).astype(np.int64)
    population = Population(tuple(range(NODES)), first)
    sampler = PoissonSampler(population.devices, min(1.0, COHORT / population.devices))
    participation = Participation.begin(place / "participation.safetensors", population.devices, 1_000_000)
    config, training = RankerConfig(), LocalTraining()
    parameters = initial(dataset.schema, config, seed=0)
    cohorts, spent, whole, before = [], [], [], []
    with torch_threads(1):
        for _ in range(rounds + 1):
            began, busy = time.perf_counter(), time.process_time()
            asked = participation.admit(sampler.draw(OsSource()))
            by_node = list(population.split(asked))
            before.append(time.perf_counter() - began)
            for node, devices in by_node:
                fleet_update(parameters, nodes[node], dataset.schema, config, training, 1.0, devices)
            whole.append(time.perf_counter() - began)
            spent.append(time.process_time() - busy)
            cohorts.append(len(asked))
    each = 1e3 * np.array(spent[1:]) / np.maximum(cohorts[1:], 1)
    return ScalePoint(
        devices=population.devices,
        rows=dataset.train.rows,
        cohort=int(np.median(cohorts[1:])),
        ms_per_device_round=round(float(np.median(each)), 4),
        ms_range=(round(float(each.min()), 4), round(float(each.max()), 4)),
        round_s=round(float(np.median(whole[1:])), 3),
        population_ms=round(1e3 * float(np.median(before[1:])), 1),
        peak_rss_mib=int(peak_rss_mib()),
        build_peak_rss_mib=built,
    )
