"""Do the trained ranker, its quantized form and both exported files agree, in score and in the ad they pick?

The same requests go through four scorers: the float32 ranker, the quantized torch module, ONNX Runtime and LiteRT. What
quantization costs is measured against the float32 ranker, what an export costs against the quantized module.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import torch

from sottovoce.models import ranker
from sottovoce.models.batch import Batch, interest
from sottovoce.models.quantize import QuantizedRanker
from sottovoce.models.ranker import Parameters, RankerConfig
from sottovoce.models.request import GRID, INPUTS, Request, Scorer, Scores, winner
from sottovoce.models.schema import Feature, FeatureSchema

SAME_WORTH = 3 * GRID
"""Two ads whose scores by the module are no further apart are worth the same, whichever of them a runtime shows.

Scores of real numbers have edges on any grid: two that lie on either side of one, however near, may swap when a runtime
changes their last bits. How often that happens is chance, and no fault of an export. One cell of the grid, and 1e-6 for
each of the two scores, is all that runtimes within their tolerance can swap; a real fault moves far more.
"""

MOST_VALUES = 16
"""A device feature with more values than this is not a slice."""

CATEGORIES = ("category", "tag")
"""Ad features that say what an ad is about, best first."""

CANDIDATES = (4, 16, 64, 256)
"""Upper ends of the slices by number of candidates."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Changed decisions among requests that have something in common.

    Attributes:
        name: what they have in common, as "candidates 17-64" or "category 12"; the number of a feature's value is its
            bucket in the schema.
        requests: how many.
        decision_change: share of them, as in `ParityReport`.
        runtime_decision_change: likewise.
        swaps: likewise.
    """

    name: str
    requests: int
    decision_change: float
    runtime_decision_change: float
    swaps: float


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far the four scorers are apart.

    Attributes:
        requests: how many were scored.
        candidates: over all requests.
        quantization_error: largest score difference between the quantized module and the float32 ranker.
        onnx_difference: largest score difference between ONNX Runtime and the quantized module.
        tflite_difference: the same for LiteRT.
        runtime_difference: largest score difference between any two of module, ONNX Runtime and LiteRT.
        decision_change: share of requests whose winner is not the float32 ranker's, for any of the three; swaps apart.
        runtime_decision_change: share of requests where a runtime shows an ad that is not worth what the module's is.
        swaps: share of requests where a runtime shows another ad than the module, of the same worth: see `SAME_WORTH`.
        slices: the same three shares by slice, worst first, then largest first; empty where no schema was given. A
            slice is smaller than the whole, so one changed decision weighs more: the gates judge the whole.
    """

    requests: int
    candidates: int
    quantization_error: float
    onnx_difference: float
    tflite_difference: float
    runtime_difference: float
    decision_change: float
    runtime_decision_change: float
    swaps: float
    slices: tuple[Slice, ...] = ()


def parity(
    reference: Scorer,
    module: Scorer,
    onnx: Scorer,
    tflite: Scorer,
    requests: Sequence[Request],
    schema: FeatureSchema | None = None,
) -> ParityReport:
    """Score every request four times and compare.

    A score that is not finite counts as an infinite difference.

    Args:
        reference: from `float_scorer`.
        module: from `module_scorer`.
        onnx: the exported ONNX file, on the runtime that devices use.
        tflite: the exported TFLite file, likewise.
        requests: at least one.
        schema: of the requests, to report by slice as well: see `slices_of`.

    Raises:
        ValueError: there is no request.
    """
    if not requests:
        raise ValueError("parity needs at least one request")
    worst = dict.fromkeys(("quantization", "onnx", "tflite", "runtimes"), 0.0)
    whole = [0, 0, 0]
    tally: dict[str, list[int]] = {}
    for request in requests:
        exact, quantized, by_onnx, by_tflite = (score(request) for score in (reference, module, onnx, tflite))
        for name, one, other in (
            ("quantization", exact, quantized),
            ("onnx", by_onnx, quantized),
            ("tflite", by_tflite, quantized),
            ("runtimes", by_onnx, by_tflite),
        ):
            worst[name] = max(worst[name], _difference(one, other))
        right, chosen = winner(exact), winner(quantized)
        others = {winner(scores) for scores in (by_onnx, by_tflite)} - {chosen}
        wrong = {one for one in others if not _same_worth(quantized, chosen, one)}
        counted = (bool({chosen, *wrong} - {right}), bool(wrong), bool(others - wrong))
        names = slices_of(request, right, schema) if schema is not None else ()
        for counts in (whole, *(tally.setdefault(name, [0, 0, 0, 0]) for name in names)):
            for place, more in enumerate(counted):
                counts[place] += more
        for name in names:
            tally[name][3] += 1
    changed, split, swapped = (count / len(requests) for count in whole)
    return ParityReport(
        requests=len(requests),
        candidates=sum(len(request.ad) for request in requests),
        quantization_error=worst["quantization"],
        onnx_difference=worst["onnx"],
        tflite_difference=worst["tflite"],
        runtime_difference=max(worst["onnx"], worst["tflite"], worst["runtimes"]),
        decision_change=changed,
        runtime_decision_change=split,
        swaps=swapped,
        slices=_worst_first(tally),
    )


def _same_worth(scores: Scores, one: int, other: int) -> bool:
    """False where a score is not a number."""
    worth = scores[[one, other]].astype(np.float64).prod(-1)
    return bool(abs(worth[0] - worth[1]) <= SAME_WORTH)


def slices_of(request: Request, right: int, schema: FeatureSchema) -> tuple[str, ...]:
    """The slices that a request belongs to: each feature of the device, the winning ad's category, candidates.

    Features of the device are those whose source is the device, such as `device_class`; only those with at most
    `MOST_VALUES` values are used, because thousands of slices say nothing. The ad's category is the ad feature called
    `category` or, failing that, `tag`.

    Args:
        request: as it was scored.
        right: index of the float32 ranker's winner.
        schema: of the request.
    """
    names = []
    for column, feature in enumerate(schema.context):
        if feature.source == "device" and feature.buckets <= MOST_VALUES:
            names.append(_value(schema, feature, request.context[0, column]))
    for wanted in CATEGORIES:
        column = next((place for place, feature in enumerate(schema.ad) if feature.name == wanted), -1)
        if column >= 0:
            names.append(_value(schema, schema.ad[column], request.ad[right, column]))
            break
    count = len(request.ad)
    upper = next((size for size in CANDIDATES if size >= count), None)
    lower = max((size for size in (0, *CANDIDATES) if size < count), default=0) + 1
    names.append(f"candidates {lower} or more" if upper is None else f"candidates {lower}-{upper}")
    return tuple(names)


def _value(schema: FeatureSchema, feature: Feature, row: np.int32) -> str:
    return f"{feature.name} {int(row) - schema.offsets[feature.name]}" if row else f"{feature.name} missing"


def _worst_first(tally: Mapping[str, Sequence[int]]) -> tuple[Slice, ...]:
    slices = [
        Slice(
            name=name,
            requests=requests,
            decision_change=changed / requests,
            runtime_decision_change=split / requests,
            swaps=swapped / requests,
        )
        for name, (changed, split, swapped, requests) in tally.items()
    ]
    return tuple(
        sorted(slices, key=lambda one: (-one.decision_change, -one.runtime_decision_change, -one.swaps, -one.requests))
    )


def quantization_cost(reference: Scorer, module: Scorer, requests: Sequence[Request]) -> tuple[float, float]:
    """Largest score difference, and share of requests whose winner changes, between two scorers.

    Args:
        reference: from `float_scorer`.
        module: from `module_scorer`.
        requests: at least one.
    """
    scores = [(reference(request), module(request)) for request in requests]
    changed = sum(winner(one) != winner(other) for one, other in scores)
    return max(_difference(one, other) for one, other in scores), changed / len(requests)


def float_scorer(parameters: Parameters, schema: FeatureSchema, config: RankerConfig) -> Scorer:
    """The ranker as it was trained, in float32."""
    click_row = schema.outcome_row("click")

    def score(request: Request) -> Scores:
        context, events, outcomes, ad = _tensors(request)
        batch = Batch(context, ad, events, outcomes, (outcomes != 0).to(torch.float32).unsqueeze(0))
        with torch.inference_mode():
            logits = ranker.logits(parameters, batch, interest(batch, click_row), config)
            return ranker.probabilities(logits).numpy()

    return score


def module_scorer(module: QuantizedRanker) -> Scorer:
    """The quantized ranker, run by torch."""

    def score(request: Request) -> Scores:
        with torch.inference_mode():
            scores: Scores = module(*_tensors(request)).numpy()
            return scores

    return score


def logits_as_trained(module: QuantizedRanker) -> Scorer:
    """Logits of the quantized ranker before its calibration, run by torch."""

    def score(request: Request) -> Scores:
        with torch.inference_mode():
            logits: Scores = module.as_trained(*_tensors(request)).numpy()
            return logits

    return score


def _tensors(request: Request) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(getattr(request, name)) for name in INPUTS)


def _difference(one: Scores, other: Scores) -> float:
    """Largest absolute difference; infinite when anything is not finite."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.abs(one.astype(np.float64) - other).max())
