"""One prepared call per runtime and number of candidates, for measuring."""

from collections.abc import Callable, Mapping

from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, Scorer
from sottovoce.models.request import Request


def callers(tflite: bytes, onnx: bytes, asked: Mapping[int, Request]) -> dict[str, dict[int, Callable[[], object]]]:
    """Calls that score each request on LiteRT and on ONNX Runtime; each has been made once.

    Args:
        tflite: the exported file.
        onnx: the exported file.
        asked: a request for each number of candidates.
    """
    scorers: dict[str, Scorer] = {"litert": LiteRTScorer(tflite), "onnxruntime": OnnxScorer(onnx)}
    made = {name: {size: _call(scorer, one) for size, one in asked.items()} for name, scorer in scorers.items()}
    for by_size in made.values():
        for call in by_size.values():
            call()
    return made


def _call(scorer: Scorer, one: Request) -> Callable[[], object]:
    return lambda: scorer.scores(one.context, one.events, one.outcomes, one.ad)
