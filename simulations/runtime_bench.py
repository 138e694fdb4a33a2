"""LiteRT, ONNX Runtime and torch on the same model: time per request, cold start and memory, in one run on one core."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec
import numpy as np
import torch

from sottovoce.models import ranker
from sottovoce.models.bundle import unpack
from sottovoce.models.onnx_export import to_onnx
from sottovoce.models.parity import module_scorer
from sottovoce.models.quantize import QuantizedRanker, quantize
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.request import random_requests
from sottovoce.models.schema import FeatureSchema, load_schema
from sottovoce.models.tflite_export import to_tflite
from sottovoce.privacy.errors import DeviceError
from sottovoce.simulations import kuairand
from sottovoce.simulations.cold_start import ENGINES, ColdStart
from sottovoce.simulations.latency import SIZES, Table, measure
from sottovoce.simulations.runtimes import callers
from sottovoce.simulations.torch_module import module_of, weights_of

Kind = Literal["ranker", "linear"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        name: in words.
        schema: of its inputs.
        onnx: exported file.
        tflite: exported file.
        module: the same model in torch.
        bundle_bytes: of the bundle; without one, of both files and the schema.
    """

    name: str
    schema: FeatureSchema
    onnx: bytes
    tflite: bytes
    module: QuantizedRanker
    bundle_bytes: int


class RuntimeBench(msgspec.Struct, frozen=True, kw_only=True):
    """How the engines compare.

    Attributes:
        model: what was measured.
        parameters: values in it, codes counted once per plane.
        bundle_bytes: see `Subject`.
        core: the one it ran on; None where the system does not let a process choose.
        calls: of each engine and size.
        preempted: share of calls left out because the kernel ran somebody else meanwhile.
        p50_us: medians in microseconds, by engine and number of candidates, of calls that follow one like them.
        p99_us: 99th percentiles of these.
        p50_cold_us: medians of calls that follow those of another engine or size.
        p99_cold_us: 99th percentiles of these.
        litert_to_onnxruntime: ratio of `p50_us`, by number of candidates.
        litert_to_onnxruntime_cold: ratio of `p50_cold_us`.
        starts: fresh processes of each engine.
        cold_start_ms: import of the engine, loading of the model and first scores; median. Python, numpy and this
            package were imported before.
        cold_start_range_ms: least and most.
        peak_rss_mib: of the whole process after that; median.
        before_engine_mib: the same before the engine was imported: Python, numpy and this package.
    """

    model: str
    parameters: int
    bundle_bytes: int
    core: int | None
    calls: int
    preempted: float
    p50_us: Table
    p99_us: Table
    p50_cold_us: Table
    p99_cold_us: Table
    litert_to_onnxruntime: dict[str, float]
    litert_to_onnxruntime_cold: dict[str, float]
    starts: int
    cold_start_ms: dict[str, float]
    cold_start_range_ms: dict[str, tuple[float, float]]
    peak_rss_mib: dict[str, float]
    before_engine_mib: float


def from_bundle(data: bytes, name: str) -> Subject:
    """A bundle's model; its signature is not checked, so only measure what you trust.

    Raises:
        BundleError: not a bundle.
        DeviceError: its model is not a ranker.
    """
    files = unpack(data)
    schema = load_schema(files["schema.json"])
    module = module_of(weights_of(files["model.onnx"]), schema)
    sort = "ranker" if module.planes else "linear model"
    return Subject(f"{sort} of {name}", schema, files["model.onnx"], files["model.tflite"], module, len(data))


def untrained(kind: Kind) -> Subject:
    """A model of real size with random weights, which cost as much time as trained ones: KuaiRand's features.

    Args:
        kind: the ranker of the default sizes, or first-order weights alone, as trained at a small epsilon.
    """
    config = ranker.RankerConfig() if kind == "ranker" else ranker.RankerConfig(embedding_width=0)
    schema, generator = kuairand.SCHEMA, torch.Generator().manual_seed(0)
    parameters = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in ranker.initial(schema, config, 0).items()
    }
    parameters["table"][0] = 0.0
    module = quantize(parameters, schema, config)
    onnx, tflite = to_onnx(module, schema), to_tflite(module, schema)
    sort = f"ranker, embeddings of {config.embedding_width}" if kind == "ranker" else "linear model"
    name = f"{sort}, random weights, KuaiRand's features: {schema.rows:,} rows, {schema.history_length} past events"
    return Subject(name, schema, onnx, tflite, module, len(onnx) + len(tflite) + len(schema.canonical()))


def bench(subject: Subject, rounds: int, starts: int, say: Callable[[str], None]) -> RuntimeBench:
    """Measure one model.

    Args:
        subject: the model.
        rounds: turns of each engine and number of candidates, in a new random order each round.
        starts: fresh processes of each engine, at least 1.
        say: progress.

    Raises:
        DeviceError: the engines do not score alike, or one does not start.
    """
    rng = np.random.default_rng(0)
    asked = {size: random_requests(subject.schema, 1, size, rng)[0] for size in SIZES}
    with _one_core() as core:
        say(f"{rounds} rounds of {2 * len(ENGINES) * len(SIZES)} calls")
        with quiet_stderr():
            calls = callers(subject.tflite, subject.onnx, asked, module_scorer(subject.module))
        found = measure(calls, rounds, rng)
        say(f"{starts} starts of each engine")
        cold = _cold_starts(subject, starts, rng)
    before = [one.before_mib for runs in cold.values() for one in runs]
    return RuntimeBench(
        model=subject.name,
        parameters=sum(value.numel() for value in subject.module.buffers()),
        bundle_bytes=subject.bundle_bytes,
        core=core,
        calls=rounds,
        preempted=round(found.preempted, 4),
        p50_us=found.p50_us,
        p99_us=found.p99_us,
        p50_cold_us=found.p50_cold_us,
        p99_cold_us=found.p99_cold_us,
        litert_to_onnxruntime=_ratios(found.p50_us),
        litert_to_onnxruntime_cold=_ratios(found.p50_cold_us),
        starts=starts,
        cold_start_ms={engine: round(median(one.ms for one in runs), 1) for engine, runs in cold.items()},
        cold_start_range_ms={
            engine: (round(min(one.ms for one in runs), 1), round(max(one.ms for one in runs), 1))
            for engine, runs in cold.items()
        },
        peak_rss_mib={engine: round(median(one.peak_rss_mib for one in runs), 1) for engine, runs in cold.items()},
        before_engine_mib=round(median(before), 1),
    )


def _ratios(table: Table) -> dict[str, float]:
    return {size: round(value / table["onnxruntime"][size], 3) for size, value in table["litert"].items()}


def _cold_starts(subject: Subject, starts: int, rng: np.random.Generator) -> Mapping[str, list[ColdStart]]:
    found: dict[str, list[ColdStart]] = {engine: [] for engine in ENGINES}
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "schema.json").write_bytes(subject.schema.canonical())
        (folder / "model.tflite").write_bytes(subject.tflite)
        (folder / "model.onnx").write_bytes(subject.onnx)
        np.savez(folder / "weights.npz", allow_pickle=False, **weights_of(subject.onnx))
        for _ in range(starts):
            for engine in rng.permutation(ENGINES).tolist():
                command = [sys.executable, "-m", "sottovoce.simulations.cold_start", engine, place]
                done = subprocess.run(command, capture_output=True, check=False)
                if done.returncode:
                    told = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
                    raise DeviceError(f"{engine} does not start: {''.join(told)}", "install sottovoce[train]")
                found[engine].append(msgspec.json.decode(done.stdout, type=ColdStart))
    return found


@contextmanager
def _one_core() -> Iterator[int | None]:
    """This thread and the processes it starts, on the last core they may use, then as before."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)
