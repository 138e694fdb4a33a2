"""One ad request as the model sees it, and the rule that turns scores into a choice.

Both are shared by the release gates, the golden vectors and whoever scores on a device, so that "picks the same ad"
means the same thing everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sottovoce.models.schema import Feature, FeatureSchema, Ids

Scores = npt.NDArray[np.float32]

GRID = 1e-6
"""Scores are rounded to multiples of this before they are compared: runtimes differ in the last bits of a float32."""

INPUTS = ("context", "events", "outcomes", "ad")
"""Names of the inputs of an exported model, in order."""

OUTPUT = "scores"
"""Name of its one output."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request and its N candidates; ids are rows of the schema's embedding table.

    Attributes:
        context: (1, context features) int32.
        events: (E, history features) int32, past impressions, newest last; E is the schema's history length.
        outcomes: (E,) int32, outcome row of each event; 0 marks an empty place.
        ad: (N, ad features) int32.
    """

    context: Ids
    events: Ids
    outcomes: Ids
    ad: Ids


Scorer = Callable[[Request], Scores]
"""Scores of one request, shape (N, heads)."""


def winner(scores: Scores) -> int:
    """Index of the candidate that would be shown: highest product of its heads on the grid, lowest index on a tie.

    Args:
        scores: (N, heads) probabilities, N at least 1; the product is the probability of the last event of the funnel.
    """
    product = scores.astype(np.float64).prod(-1)
    return int(np.argmax(np.rint(product / GRID)))


def without_twins(ad: Ids) -> tuple[Ids, npt.NDArray[np.intp]]:
    """Each different row once, in order of first appearance, and for every row the place of its like.

    Args:
        ad: (N, ad features), N at least 1.
    """
    rows = np.ascontiguousarray(ad).view(np.dtype((np.void, ad.dtype.itemsize * ad.shape[1])))[:, 0]
    _, first, place = np.unique(rows, return_index=True, return_inverse=True)
    if len(first) == len(ad):
        return ad, np.arange(len(ad))
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return ad[first[order]], rank[place]


def random_requests(
    schema: FeatureSchema, count: int, candidates: int, rng: np.random.Generator
) -> tuple[Request, ...]:
    """Requests of valid ids drawn at random, in no relation to any person.

    Features take each of their rows, or "missing", with equal chance. Histories have any length from none to full, and
    half of their places repeat a candidate's values, so that the interest counts are exercised.

    Args:
        schema: whose ids to draw.
        count: how many requests.
        candidates: N of each.
        rng: the source of the draws.
    """
    return tuple(_random_request(schema, candidates, rng) for _ in range(count))


def _random_request(schema: FeatureSchema, candidates: int, rng: np.random.Generator) -> Request:
    length, fields = schema.history_length, len(schema.history)
    ad = _columns(schema, schema.ad, candidates, rng)
    events = _columns(schema, schema.history, length, rng)
    repeated = rng.random(length) < 0.5
    events[repeated] = ad[rng.integers(0, candidates, int(repeated.sum())), :fields]
    first, last = schema.outcome_row("seen"), schema.rows
    outcomes = rng.integers(first, last, length, dtype=np.int32)
    empty = length - int(rng.integers(0, length + 1))
    events[:empty] = 0
    outcomes[:empty] = 0
    return Request(_columns(schema, schema.context, 1, rng), events, outcomes, ad)


def _columns(schema: FeatureSchema, features: tuple[Feature, ...], rows: int, rng: np.random.Generator) -> Ids:
    """Random ids, shape (rows, features); each feature's draw -1 means missing."""
    drawn = np.zeros((rows, len(features)), np.int32)
    for column, feature in enumerate(features):
        bucket = rng.integers(-1, feature.buckets, rows)
        drawn[:, column] = np.where(bucket < 0, 0, schema.offsets[feature.name] + bucket)
    return drawn
