"""How long one decision's scores take on each runtime, measured side by side."""

import os
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

SIZES = (1, 16, 64, 256, 1024)
"""Numbers of candidates that are measured."""


class Latency(msgspec.Struct, frozen=True):
    """Microseconds per call, by engine and number of candidates.

    Attributes:
        p50_us: medians.
        p99_us: 99th percentiles; an upper bound on a machine with other work.
        calls: counted calls of each.
        preempted: share of calls left out because the kernel ran somebody else meanwhile.
    """

    p50_us: dict[str, dict[str, float]]
    p99_us: dict[str, dict[str, float]]
    calls: int
    preempted: float


def measure(calls: Mapping[str, Mapping[int, Callable[[], object]]], rounds: int, rng: np.random.Generator) -> Latency:
    """Call everything in turn, in a new random order each round, and time each call.

    Args:
        calls: by engine and number of candidates; each was called before, so that nothing is loaded under the clock.
        rounds: calls of each.
        rng: for the order.
    """
    everything = [(engine, size) for engine, by_size in calls.items() for size in by_size]
    times: dict[tuple[str, int], list[float]] = {one: [] for one in everything}
    dropped = 0
    for _ in range(rounds):
        for place in rng.permutation(len(everything)):
            engine, size = everything[place]
            call = calls[engine][size]
            switches = _switches()
            began = time.perf_counter_ns()
            call()
            took = time.perf_counter_ns() - began
            if _switches() != switches:
                dropped += 1
            else:
                times[engine, size].append(took / 1000)

    def table(rank: float) -> dict[str, dict[str, float]]:
        return {
            engine: {str(size): round(_percentile(times[engine, size], rank), 1) for size in by_size}
            for engine, by_size in calls.items()
        }

    return Latency(table(50), table(99), rounds, dropped / (rounds * len(everything)))


def _percentile(values: Sequence[float], rank: float) -> float:
    return float(np.percentile(values, rank)) if values else float("nan")


def _switches() -> int:
    """Involuntary context switches of this thread so far, where the system tells."""
    if os.name != "posix":
        return 0
    import resource

    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nivcsw
