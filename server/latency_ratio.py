"""How long LiteRT takes for a request, in times of ONNX Runtime: a ratio, since a release is timed on no phone."""

import time
from collections.abc import Callable
from statistics import median

from sottovoce.client.scorer import LiteRTScorer, OnnxScorer
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.request import Request

CALLS = 300
"""Timed calls of each runtime."""


def latency_ratio(tflite: bytes, onnx: bytes, one: Request, clock: Callable[[], int] = time.perf_counter_ns) -> float:
    """Median time of a call on LiteRT over that on ONNX Runtime, on one thread.

    Args:
        tflite: the exported file.
        onnx: the exported file.
        one: request that is scored again and again.
        clock: nanoseconds, rising.
    """
    with quiet_stderr():  # LiteRT announces itself when a model is first run
        scorers = (LiteRTScorer(tflite), OnnxScorer(onnx))
        for scorer in scorers:
            scorer.scores(one.context, one.events, one.outcomes, one.ad)

    def call(place: int) -> None:
        scorers[place].scores(one.context, one.events, one.outcomes, one.ad)

    return interleaved_ratio(lambda: call(0), lambda: call(1), clock)


def interleaved_ratio(first: Callable[[], None], second: Callable[[], None], clock: Callable[[], int]) -> float:
    """Median time of `first` over that of `second`; they take turns, and turns at going first.

    What slows the machine down for a while then falls on both.
    """
    times: tuple[list[int], list[int]] = ([], [])
    for turn in range(CALLS):
        for place in (0, 1) if turn % 2 else (1, 0):
            began = clock()
            (first, second)[place]()
            times[place].append(clock() - began)
    return median(times[0]) / max(median(times[1]), 1)
