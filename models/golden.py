"""Golden requests: what the model scored where it was evaluated, to be scored again on the very device.

Three runtimes are known to give silently wrong scores for some quantized models. A device that scores these requests
first notices. They are drawn at random: a request of a real person must never travel inside a bundle.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from sottovoce.models.request import Request, Scorer, random_requests, winner
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import BundleError, GoldenError

TOLERANCE = 1e-5
"""Largest difference of a score. Runtimes differ by about 1e-7; known silent faults by 1e-2 and more."""

SIZES = (1, 5, 16, 40)
"""Candidates of the golden requests: signatures of a TFLite file met exactly and padded."""

TRIES = 32
"""Requests drawn for each one that is kept."""

Row = tuple[int, ...]
KEEP = "keep the bundle in use"


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One request with what it must score.

    Attributes:
        context: ids of the context features.
        events: past events, newest last, each its ids.
        outcomes: outcome row of each event, 0 for an empty place.
        ad: candidates, each its ids.
        scores: (N, heads) probabilities.
        winner: index of the candidate to show.
    """

    context: Row
    events: tuple[Row, ...]
    outcomes: Row
    ad: Annotated[tuple[Row, ...], msgspec.Meta(min_length=1, max_length=1024)]
    scores: tuple[tuple[float, ...], ...]
    winner: int

    def request(self) -> Request:
        """The request as arrays, shapes as in `Request`."""
        return Request(
            np.asarray([self.context], np.int32),
            np.asarray(self.events, np.int32),
            np.asarray(self.outcomes, np.int32),
            np.asarray(self.ad, np.int32),
        )


def draw_golden(schema: FeatureSchema, scorer: Scorer, rng: np.random.Generator) -> tuple[Golden, ...]:
    """Random requests, one for each of `SIZES`, whose winner is clear by the widest margin among a few tries.

    A clear winner keeps the last bits of a float from deciding.

    Args:
        schema: whose ids to draw.
        scorer: the quantized model where it is evaluated.
        rng: the source of the draws.
    """
    kept = []
    for size in SIZES:
        tried = [(request, scorer(request)) for request in random_requests(schema, TRIES, size, rng)]
        request, scores = max(tried, key=lambda pair: _margin(pair[1]))
        kept.append(
            Golden(
                context=tuple(request.context[0].tolist()),
                events=tuple(map(tuple, request.events.tolist())),
                outcomes=tuple(request.outcomes.tolist()),
                ad=tuple(map(tuple, request.ad.tolist())),
                scores=tuple(map(tuple, scores.tolist())),
                winner=winner(scores),
            )
        )
    return tuple(kept)


def write_golden(golden: Sequence[Golden]) -> bytes:
    """The content of `golden.json`."""
    return msgspec.json.encode(golden, order="sorted")


def load_golden(data: bytes, schema: FeatureSchema) -> tuple[Golden, ...]:
    """The golden requests written by `write_golden`, with every id inside the schema's table.

    Raises:
        BundleError: not JSON, none at all, or a request that does not fit the schema.
    """
    try:
        golden = msgspec.json.decode(data, type=tuple[Golden, ...])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"golden.json cannot be read: {error}", KEEP) from error
    if not golden or not all(_fits(one, schema) for one in golden):
        raise BundleError("golden.json holds no request, or one that does not fit schema.json", KEEP)
    return golden


def check_scores(golden: Sequence[Golden], scorer: Scorer) -> None:
    """Let a model pass that scores every golden request as it did where it was evaluated.

    Args:
        golden: at least one.
        scorer: the model on this device.

    Raises:
        GoldenError: a score has the wrong shape, is not finite or is off by more than `TOLERANCE`, or another
            candidate wins.
    """
    for place, one in enumerate(golden):
        scores = np.asarray(scorer(one.request()))
        expected = np.asarray(one.scores, np.float32)
        if scores.shape != expected.shape or not np.isfinite(scores).all():
            raise GoldenError(f"golden request {place}: scores of shape {scores.shape}, or not finite", KEEP)
        off = float(np.abs(scores.astype(np.float64) - expected).max())
        if off > TOLERANCE or winner(scores) != one.winner:
            raise GoldenError(
                f"golden request {place}: scores differ by {off:.1e}, candidate {winner(scores)} wins and not"
                f" {one.winner}",
                KEEP,
            )


def _margin(scores: np.ndarray) -> float:
    """How far the winner is ahead; infinite for a single candidate."""
    ranked = np.sort(scores.astype(np.float64).prod(-1))
    return float(ranked[-1] - ranked[-2]) if len(ranked) > 1 else float("inf")


def _fits(one: Golden, schema: FeatureSchema) -> bool:
    """Whether every list has the schema's length, every id is a table row and the winner exists."""
    length, fields, ads = schema.history_length, len(schema.history), len(schema.ad)
    ids = [*one.context, *one.outcomes, *(i for row in (*one.events, *one.ad) for i in row)]
    return (
        len(one.context) == len(schema.context)
        and len(one.events) == len(one.outcomes) == length
        and all(len(row) == fields for row in one.events)
        and all(len(row) == ads for row in one.ad)
        and len(one.scores) == len(one.ad)
        and all(len(row) == len(schema.heads) for row in one.scores)
        and all(0 <= i < schema.rows for i in ids)
        and all(0.0 <= score <= 1.0 for row in one.scores for score in row)
        and 0 <= one.winner < len(one.ad)
    )
