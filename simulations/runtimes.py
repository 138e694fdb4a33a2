"""One prepared call per runtime and number of candidates, for measuring."""

from collections.abc import Callable, Mapping

import numpy as np

from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, Scorer, checked
from sottovoce.models.golden import TOLERANCE
from sottovoce.models.request import Request, Scores
from sottovoce.models.request import Scorer as Score
from sottovoce.privacy.errors import DeviceError

Calls = Mapping[str, Mapping[int, Callable[[], Scores]]]
"""By engine, then by number of candidates."""


def callers(tflite: bytes, onnx: bytes, asked: Mapping[int, Request], module: Score | None = None) -> Calls:
    """Calls that score each request on LiteRT, on ONNX Runtime and maybe on torch; each has been made once.

    Every call checks its scores as a device does, so that the engines are measured with the same work around them.

    Args:
        tflite: the exported file.
        onnx: the exported file.
        asked: a request for each number of candidates.
        module: the same model in torch, from `parity.module_scorer`.

    Raises:
        DeviceError: two engines do not score alike, so that their times cannot be compared.
    """
    scorers: dict[str, Scorer] = {"litert": LiteRTScorer(tflite), "onnxruntime": OnnxScorer(onnx)}
    made = {name: {size: _call(scorer, one) for size, one in asked.items()} for name, scorer in scorers.items()}
    if module is not None:
        made["torch"] = {size: _module_call(module, one) for size, one in asked.items()}
    for size in asked:
        first = made["litert"][size]()
        for name, by_size in made.items():
            off = float(np.abs(by_size[size]() - first).max())
            if off > TOLERANCE:
                raise DeviceError(f"{name} scores {size} candidates by {off:.1e} otherwise", "export the model again")
    return made


def _call(scorer: Scorer, one: Request) -> Callable[[], Scores]:
    return lambda: scorer.scores(one.context, one.events, one.outcomes, one.ad)


def _module_call(module: Score, one: Request) -> Callable[[], Scores]:
    return lambda: checked(module(one), len(one.ad))
