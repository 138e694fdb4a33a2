"""The log of decisions that a new ranker is judged from: one JSON object a line.

    {"chosen": "a1", "reward": 0, "candidates": {"a1": 0.9, "a2": 0.1}, "new": {"a2": 1.0}}
    {"chosen": "a1", "reward": 1, "propensity": 0.9, "new": 0.25}

`candidates` or `propensity` is what the decision stored; `new` is what the new ranker gives, for each candidate or for
the chosen one alone; `predicted`, optional, is the expected reward of each candidate, for the doubly robust estimate.
Real decisions stay on the device: such a file is written by a simulation, or by an app that tests with people who
agreed.
"""

from collections.abc import Sequence
from math import isclose
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from sottovoce.privacy.errors import DataError
from sottovoce.simulations.off_policy import Floats, Logged

MAX_BYTES = 1024**3
"""Largest log that is read."""

Ad = Annotated[str, Meta(min_length=1, max_length=128)]
By = Annotated[dict[Ad, float], Meta(min_length=1, max_length=1024)]


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One decision and what came of it.

    Attributes:
        chosen: the ad that was shown.
        reward: clicks, conversions or money; at least 0.
        new: probability with which the new ranker shows the chosen one, or each of the candidates.
        propensity: probability the chosen one was drawn with; not needed with `candidates`.
        candidates: probability of each.
        predicted: reward expected of each candidate; needs `new` by candidate.
        request: of the decision, not read.
    """

    chosen: Ad
    reward: float
    new: float | By
    propensity: float | None = None
    candidates: By | None = None
    predicted: By | None = None
    request: str = ""


_decoder = msgspec.json.Decoder(Row)


def decode(data: bytes, name: str = "log.jsonl") -> Logged:
    """The rows of a log; empty lines are skipped.

    Args:
        data: JSON lines.
        name: of the file, for messages.

    Raises:
        DataError: too large, no row, or a line that is no row or contradicts itself; the message names the line.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "evaluate a part of the log")
    rows: list[Row] = []
    found: list[tuple[float, float]] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{name}, line {number}: {error}", "correct or remove that line") from error
        try:
            found.append(_probabilities(row))
        except DataError as error:
            raise DataError(f"{name}, line {number}: {error.what}", error.todo) from error
        rows.append(row)
    if not rows:
        raise DataError(f"{name}: no rows", "write one JSON object a line")
    propensity, new = np.array(found, np.float64).T
    reward = np.array([row.reward for row in rows], np.float64)
    return Logged(reward, propensity, new, *_predictions(rows))


def _probabilities(row: Row) -> tuple[float, float]:
    """Of the chosen one: what it was drawn with, and what the new ranker gives it."""
    if row.candidates is None and row.propensity is None:
        raise DataError("no propensity", "log the probability that the ad was drawn with")
    drawn = row.propensity if row.candidates is None else row.candidates.get(row.chosen)
    if drawn is None:
        raise DataError(f"{row.chosen!r} was shown and is no candidate", "log all candidates")
    if row.propensity is not None and row.propensity != drawn:
        raise DataError(f"propensity {row.propensity} but {drawn} among the candidates", "log the one that was used")
    for told, probabilities in (("candidates", row.candidates), ("new", row.new)):
        if isinstance(probabilities, dict):
            if not isclose(sum(probabilities.values()), 1.0, abs_tol=1e-6):
                raise DataError(f"{told} add up to {sum(probabilities.values())}, not to 1", "log every candidate")
            if min(probabilities.values()) < 0:
                raise DataError(f"{told} hold a negative probability", "log the one that was used")
    if isinstance(row.new, dict):
        if row.candidates is not None and not row.new.keys() <= row.candidates.keys():
            raise DataError("new names an ad that is no candidate", "rank the candidates that were logged")
        return drawn, row.new.get(row.chosen, 0.0)
    return drawn, row.new


def _predictions(rows: Sequence[Row]) -> tuple[Floats | None, Floats | None]:
    """Predicted reward of the chosen one and of the new ranker's choice; None unless every row allows it."""
    both: list[tuple[float, float]] = []
    for row in rows:
        if row.predicted is None or not isinstance(row.new, dict) or row.chosen not in row.predicted:
            return None, None
        if not row.new.keys() <= row.predicted.keys():
            return None, None
        mean = sum(share * row.predicted[ad] for ad, share in row.new.items())
        both.append((row.predicted[row.chosen], mean))
    predicted, expected = np.array(both, np.float64).T
    return predicted, expected
