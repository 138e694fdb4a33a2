"""Off-policy evaluation: what another ranker would have earned, from the log of the one that ran.

Every row holds the reward of what was shown, the probability it was shown with, and the probability with which the new
ranker would have shown the same. Their ratio is the row's weight w.

* IPS: mean of w * reward. Unbiased when the logged probabilities are the ones that were used.
* SNIPS: sum of w * reward over sum of w. Slightly biased, steadier, and never outside the range of rewards.
* DR: mean of q(new) + w * (reward - q(shown)), with predicted rewards q. Unbiased when either the logged probabilities
  or the predictions are right.

An estimate is refused rather than given when the log cannot carry it:

====================================================  =====================================================
case                                                  test
====================================================  =====================================================
a probability is missing, 0, above 1, or no number    each row; the new ranker's may be 0
too few rows count                                    Kish's size (sum w)**2 / sum w**2 below `least_size`
the logged probabilities are not those in use         the mean weight is 1 if they are; refused when it lies
                                                      more than 5 standard errors, and more than 2 %, away
====================================================  =====================================================

The last test finds a log that is wrong by a common factor. It cannot find a new ranker that shows what the log never
shows: then the mean weight is below 1 rightly, and IPS counts what is missing as 0; it is refused as well.

Intervals: the Bernstein one holds for any number of rows, given the greatest weight and the greatest reward that can
occur; it is wide. The normal one is the usual one, from the central limit theorem.

Source: Horvitz and Thompson 1952; Swaminathan and Joachims 2015, NeurIPS (SNIPS); Dudik, Langford and Li 2011,
arXiv:1103.4601 (DR); Kish 1965; Maurer and Pontil 2009, arXiv:0907.3740, theorem 4.
"""

from dataclasses import dataclass
from math import inf, log, sqrt

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.privacy.errors import DataError

Floats = npt.NDArray[np.float64]

LEAST_SIZE = 200.0
"""Effective rows below which no value is told."""

STANDARD_ERRORS = 5.0
"""How far from 1 the mean weight may lie: chance alone goes further once in 1.7 million logs."""

SLACK = 0.02
"""How far it may lie however sure that is: logged probabilities are rounded, and policies change within a log."""

_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """Rows of a log, with what the new ranker would have done.

    Attributes:
        reward: (rows,) of what was shown, at least 0.
        propensity: (rows,) probability it was shown with.
        new: (rows,) probability with which the new ranker shows the same.
        predicted: (rows,) predicted reward of what was shown; None without predictions.
        expected: (rows,) predicted reward of the new ranker's choice, on average; None without predictions.
    """

    reward: Floats
    propensity: Floats
    new: Floats
    predicted: Floats | None = None
    expected: Floats | None = None


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """One estimate.

    Attributes:
        value: reward per decision.
        low: end of the normal 95 % interval.
        high: the other end.
        bernstein_low: end of the 95 % interval that needs no limit theorem; None for SNIPS, which is no mean.
        bernstein_high: the other end.
    """

    value: float
    low: float
    high: float
    bernstein_low: float | None
    bernstein_high: float | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What a log says about a new ranker.

    Attributes:
        rows: of the log.
        effective_size: rows that would tell as much, had the new ranker run itself.
        mean_weight: 1 when the logged probabilities are right.
        weight_error: its distance from 1 in standard errors.
        largest_weight: before clipping.
        clipped: share of rows whose weight was cut.
        logged: mean reward of the ranker that ran.
        ips: by inverse propensities.
        snips: self-normalised.
        dr: doubly robust; None without predictions.
    """

    rows: int
    effective_size: float
    mean_weight: float
    weight_error: float
    largest_weight: float
    clipped: float
    logged: float
    ips: Value
    snips: Value
    dr: Value | None


def evaluate(
    logged: Logged, *, clip: float = inf, least_size: float = LEAST_SIZE, largest_weight: float | None = None
) -> Evaluation:
    """The new ranker's value by every estimator the rows allow.

    Args:
        logged: at least two rows.
        clip: weights above it count as it: less noise, and a value that is too low where rewards are at least 0. The
            tests look at the weights before.
        least_size: see `LEAST_SIZE`.
        largest_weight: greatest weight the logging rule can give, for example K / epsilon of `client.exploration`; the
            Bernstein intervals rest on it, and on rewards of at most 1 or the largest one seen. The largest weight
            seen, if not stated.

    Raises:
        DataError: the log cannot carry an estimate; the message says which test failed.
        ValueError: columns differ in length, or `clip` or `least_size` is not above 0.
    """
    if not clip > 0 or not least_size > 0:
        raise ValueError(f"clip and least_size must be above 0, got {clip} and {least_size}")
    checked(logged)
    weight = logged.new / logged.propensity
    size, mean, errors = diagnosed(weight, least_size)
    cut = np.minimum(weight, clip)
    bound = min(clip, float(weight.max()) if largest_weight is None else largest_weight)
    reward = logged.reward
    most = max(1.0, float(reward.max()))
    snips = float((cut * reward).sum() / cut.sum())
    # The delta method: the error of a ratio of two means.
    spread = len(cut) * cut * (reward - snips) / cut.sum()
    robust = None
    if logged.predicted is not None and logged.expected is not None:
        rest = cut * (reward - logged.predicted)
        above = max(0.0, most - float(logged.predicted.min()))
        below = max(0.0, float(logged.predicted.max()))
        robust = _value(logged.expected + rest, bound * (above + below) + float(np.ptp(logged.expected)))
    return Evaluation(
        rows=len(reward),
        effective_size=size,
        mean_weight=mean,
        weight_error=errors,
        largest_weight=float(weight.max()),
        clipped=float((weight > clip).mean()),
        logged=float(reward.mean()),
        ips=_value(cut * reward, bound * most),
        snips=_normal(snips, spread),
        dr=robust,
    )


def effective_size(weight: Floats) -> float:
    """Kish's effective number of rows; 0 when every weight is 0."""
    total = float((weight**2).sum())
    return float(weight.sum()) ** 2 / total if total else 0.0


def checked(logged: Logged) -> None:
    """Refuse rows that no estimator can use.

    Raises:
        DataError: the message names the first such row, counted from 1.
        ValueError: columns differ in length.
    """
    columns = [logged.reward, logged.propensity, logged.new, logged.predicted, logged.expected]
    given = [column for column in columns if column is not None]
    if len({len(column) for column in given}) != 1:
        raise ValueError(f"columns differ in length: {[len(column) for column in given]}")
    if len(logged.reward) < 2:
        raise DataError(f"the log has {len(logged.reward)} rows", "evaluate with two rows at least")
    log_them = "log the probability that each ad was drawn with"
    # Each written so that NaN counts as wrong.
    _all(logged.propensity > 0, "propensity is missing or 0: what was shown cannot have been impossible", log_them)
    _all(logged.propensity <= 1, "propensity is above 1", log_them)
    _all((logged.new >= 0) & (logged.new <= 1), "probability of the new ranker is not in 0 ... 1", "compute it again")
    _all((logged.reward >= 0) & (logged.reward < inf), "reward is below 0 or no number", "write 0 for no reward")
    for column in (logged.predicted, logged.expected):
        if column is not None:
            _all(np.isfinite(column), "predicted reward is no number", "predict a reward for every row, or for none")


def _all(right: npt.NDArray[np.bool_], what: str, todo: str) -> None:
    if not right.all():
        raise DataError(f"row {int(np.argmin(right)) + 1}: the {what}", todo)


def diagnosed(weight: Floats, least_size: float) -> tuple[float, float, float]:
    """Effective size, mean weight, and the distance of that mean from 1 in standard errors.

    Raises:
        DataError: too few rows count, or the mean is not 1.
    """
    size, mean = effective_size(weight), float(weight.mean())
    error = float(weight.std(ddof=1)) / sqrt(len(weight))
    away = (mean - 1.0) / error if error else 0.0 if mean == 1.0 else float(np.copysign(inf, mean - 1.0))
    if not size >= least_size:
        raise DataError(
            f"{len(weight):,} rows count like {size:.1f}, the largest weight is {weight.max():,.0f}: too few to tell",
            f"log with more exploration, collect more rows, or ask for less than {least_size:g} with --least-size",
        )
    if abs(away) > STANDARD_ERRORS and abs(mean - 1.0) > SLACK:
        raise DataError(
            f"the mean weight is {mean:.3f} and should be 1 ({away:+.1f} standard errors): the logged probabilities "
            "are not those that were used, or the new ranker shows what the log never does",
            "log the probability that each ad was drawn with, over the candidates that both rankers may show",
        )
    return size, mean, away


def _normal(value: float, terms: Floats) -> Value:
    half = _NORMAL_95 * float(terms.std(ddof=1)) / sqrt(len(terms))
    return Value(value=value, low=value - half, high=value + half, bernstein_low=None, bernstein_high=None)


def _value(terms: Floats, span: float) -> Value:
    """The mean of the terms with both intervals; `span` is the width of the range they come from."""
    rows, mean = len(terms), float(terms.mean())
    # Two one-sided bounds at 2.5 % each: ln(2 / 0.025).
    ln = log(80.0)
    wide = sqrt(2.0 * float(terms.var(ddof=1)) * ln / rows) + 7.0 * span * ln / (3.0 * (rows - 1))
    close = _normal(mean, terms)
    return Value(value=mean, low=close.low, high=close.high, bernstein_low=mean - wide, bernstein_high=mean + wide)
