"""How long one decision's scores take on each runtime, measured side by side."""

import os
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

SIZES = (1, 16, 64, 256, 1024)
"""Numbers of candidates that are measured."""

Table = dict[str, dict[str, float]]


class Latency(msgspec.Struct, frozen=True):
    """Microseconds per call, by engine and number of candidates.

    Attributes:
        p50_us: medians of calls made right after one of the same kind, so that caches hold what they need.
        p99_us: 99th percentiles of these; an upper bound on a machine with other work.
        p50_cold_us: medians of calls made after those of another engine or size, which is nearer to a phone that shows
            an ad now and then.
        p99_cold_us: 99th percentiles of these.
        calls: of each kind, before preempted ones are left out.
        preempted: share of calls left out because the kernel ran somebody else meanwhile.
    """

    p50_us: Table
    p99_us: Table
    p50_cold_us: Table
    p99_cold_us: Table
    calls: int
    preempted: float


def measure(calls: Mapping[str, Mapping[int, Callable[[], object]]], rounds: int, rng: np.random.Generator) -> Latency:
    """Call everything in turn, in a new random order each round; a turn is two calls, each timed.

    Args:
        calls: by engine and number of candidates; each was called before, so that nothing is loaded under the clock.
        rounds: turns of each.
        rng: for the order.
    """
    everything = [(engine, size) for engine, by_size in calls.items() for size in by_size]
    cold: dict[tuple[str, int], list[float]] = {one: [] for one in everything}
    warm: dict[tuple[str, int], list[float]] = {one: [] for one in everything}
    dropped = 0
    for _ in range(rounds):
        for place in rng.permutation(len(everything)):
            engine, size = everything[place]
            call = calls[engine][size]
            for times in (cold, warm):
                switches = _switches()
                began = time.perf_counter_ns()
                call()
                took = time.perf_counter_ns() - began
                if _switches() != switches:
                    dropped += 1
                else:
                    times[engine, size].append(took / 1000)

    def table(times: Mapping[tuple[str, int], Sequence[float]], rank: float) -> Table:
        return {
            engine: {str(size): round(_percentile(times[engine, size], rank), 1) for size in by_size}
            for engine, by_size in calls.items()
        }

    return Latency(
        p50_us=table(warm, 50),
        p99_us=table(warm, 99),
        p50_cold_us=table(cold, 50),
        p99_cold_us=table(cold, 99),
        calls=rounds,
        preempted=dropped / (2 * rounds * len(everything)),
    )


def _percentile(values: Sequence[float], rank: float) -> float:
    return float(np.percentile(values, rank)) if values else float("nan")


def _switches() -> int:
    """Involuntary context switches of this thread so far, where the system tells."""
    if os.name != "posix":
        return 0
    import resource

    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nivcsw
