"""The on-device model behind one protocol: LiteRT by default, ONNX Runtime on request.

Both read the same inputs as `models.request` names them, run on one thread and load from bytes, so that a caller can
check a signature before any model parser sees a byte. Neither can leave the device: no paths, no external data.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sottovoce.client.litert_call import signature_call
from sottovoce.client.runtimes import interpreter_class, onnx_module
from sottovoce.models.request import INPUTS, OUTPUT, Request, Scores, without_twins
from sottovoce.models.request import Scorer as RequestScorer
from sottovoce.models.schema import Ids
from sottovoce.privacy.errors import DeviceError

_SIGNATURE = "rank_"
_CALL = 16
"""A call by itself takes about as long as scoring so many candidates."""

LONGEST_FAULT = 200
"""Characters that are kept of what an exception says."""
_RELEASE = "load the last bundle that worked"


class Scorer(Protocol):
    """Scores candidates of one request."""

    def scores(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        """Probabilities, shape (N, heads): click, and conversion given a click.

        Args:
            context: (1, context features) int32.
            events: (E, history features) int32, newest last, zeros in front.
            outcomes: (E,) int32, 0 marks an empty place.
            ad: (N, ad features) int32, N at least 1.

        Raises:
            DeviceError: the model cannot score these inputs.
        """
        ...


def said(error: Exception) -> str:
    """What an exception says, shortened; its type where it cannot say anything."""
    try:
        told = error.what if isinstance(error, DeviceError) else f"{type(error).__name__}: {error}"
        return str(told)[:LONGEST_FAULT]
    except Exception:
        return type(error).__name__


def request_scorer(scorer: Scorer) -> RequestScorer:
    """The model as golden requests and release gates ask it: what they judge is then what a device runs."""

    def score(one: Request) -> Scores:
        return scorer.scores(one.context, one.events, one.outcomes, one.ad)

    return score


def checked(scores: Any, candidates: int) -> Scores:
    """The scores, if they are probabilities of that many candidates.

    Raises:
        DeviceError: another shape, NaN, infinity, or a value outside 0 ... 1.
    """
    try:
        array: npt.NDArray[np.float32] = np.asarray(scores, np.float32)
    except (TypeError, ValueError) as error:
        raise DeviceError(f"the model answered no numbers: {error}", _RELEASE) from error
    if array.ndim != 2 or array.shape[0] != candidates or array.shape[1] not in (1, 2):
        raise DeviceError(f"the model answered shape {array.shape} for {candidates} candidates", _RELEASE)
    # Written so that NaN fails too: it is what min and max of anything with a NaN in it are.
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise DeviceError("the model answered scores that are no probabilities (NaN, infinite, negative)", _RELEASE)
    return array


def ask(
    scorer: Scorer, context: Ids, events: Ids, outcomes: Ids, ad: Ids, like: npt.NDArray[np.intp] | None = None
) -> Scores:
    """Scores from any scorer, with whatever goes wrong in it as a DeviceError.

    Ads with the same features are scored once: a runtime may score the same row differently in the last digit at
    different places of a batch, and then two runtimes would break the tie differently. A scorer may be somebody else's
    code around a native library, so every exception counts as its failure.

    Args:
        scorer: any.
        context: see `Scorer.scores`, as the next three.
        events: past impressions.
        outcomes: what became of them.
        ad: candidates.
        like: (N,) equal numbers for equal rows of `ad`, where the caller knows them; it saves a search.

    Raises:
        DeviceError: the scorer failed or its scores are unusable.
    """
    try:
        distinct, place = without_twins(ad) if like is None else _told_apart(ad, like)
        scores = scorer.scores(context, events, outcomes, distinct)
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(f"the model failed: {said(error)}", _RELEASE) from error
    return checked(scores, len(distinct))[place]


def _told_apart(ad: Ids, like: npt.NDArray[np.intp]) -> tuple[Ids, npt.NDArray[np.intp]]:
    """`without_twins` by numbers that are given."""
    count = len(like)
    first = np.full(int(like.max()) + 1, count, np.intp)
    np.minimum.at(first, like, np.arange(count))
    kept = first[like] == np.arange(count)
    if kept.all():
        return ad, np.arange(count)
    return ad[kept], (np.cumsum(kept) - 1)[first[like]]


class LiteRTScorer:
    """A TFLite file with the signatures rank_1, rank_16, rank_64, rank_256, rank_1024, or some of these.

    Candidates fill one signature or several; the last call is padded. Runs on
    ai-edge-litert or, where only that is installed, tflite-runtime.

    Args:
        model: the file.

    Raises:
        DeviceError: neither is installed; not a model, or one without such signatures.
    """

    def __init__(self, model: bytes) -> None:
        interpreter = interpreter_class()
        try:
            # The calls point into the interpreter, which must live as long as they do.
            self._interpreter = interpreter(model_content=model, num_threads=1)
            names = [name for name in self._interpreter.get_signature_list() if name.startswith(_SIGNATURE)]
            sizes = {int(name.removeprefix(_SIGNATURE)): name for name in names}
            self._calls = {size: signature_call(self._interpreter, sizes[size]) for size in sorted(sizes)}
        except Exception as error:
            raise DeviceError(f"model.tflite cannot be loaded: {error}", _RELEASE) from error
        if not self._calls:
            raise DeviceError("model.tflite has no signature rank_N", "export it with `models.tflite_export`")

    def scores(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        """See `Scorer.scores`."""
        parts, start = [], 0
        while start < len(ad):
            count = self._count(len(ad) - start)
            parts.append(self._part(context, events, outcomes, ad[start : start + count]))
            start += count
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _count(self, left: int) -> int:
        """How many of the candidates that are left go into the next call.

        All, when the padding is small: at most half of them, or what a call costs by itself; else as many as fill the
        largest signature that they fill.
        """
        above = next((size for size in self._calls if size >= left), None)
        below = max((size for size in self._calls if size <= left), default=None)
        if below is None or (above is not None and above - left <= max(left // 2, _CALL)):
            return left
        return below

    def _part(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        size = next(size for size in self._calls if size >= len(ad))
        if len(ad) < size:
            padded = np.zeros((size, ad.shape[1]), np.int32)
            padded[: len(ad)] = ad
        else:
            padded = ad
        try:
            answer = self._calls[size](context, events, outcomes, padded)[: len(ad)]
        except Exception as error:
            raise DeviceError(f"LiteRT cannot run these inputs: {error}", _RELEASE) from error
        return checked(answer, len(ad))


class OnnxScorer:
    """An ONNX file with a free number of candidates.

    Args:
        model: the file.

    Raises:
        DeviceError: ONNX Runtime is not installed, or not a model.
    """

    def __init__(self, model: bytes) -> None:
        onnxruntime = onnx_module()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DeviceError(f"model.onnx cannot be loaded: {error}", _RELEASE) from error

    def scores(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        """See `Scorer.scores`."""
        inputs = dict(zip(INPUTS, (context, events, outcomes, ad), strict=True))
        try:
            answer = self._session.run([OUTPUT], inputs)[0]
        except Exception as error:
            raise DeviceError(f"ONNX Runtime cannot run these inputs: {error}", _RELEASE) from error
        return checked(answer, len(ad))
