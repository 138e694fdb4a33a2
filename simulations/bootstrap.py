"""How far the figures of one model would move with other devices: bootstrap intervals over devices.

A file with few positives gives a figure that looks exact and is not. Devices are drawn with replacement, as many as
there are, and every figure is computed anew from the rows of those drawn; a device drawn twice counts as two devices.
Devices, not rows, are drawn, since rows of one device resemble each other. What is not covered: another training run
would give another model.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", sections 8.3 (clusters) and 13.3 (percentiles).
"""

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.simulations.metrics import CLIP, Counts, Floats, areas, evaluate, gains, tied_runs

FIGURES = ("auc", "gauc", "ndcg@5", "primary", "log_loss", "calibration_error")
"""Columns of what is resampled, by their keys in JSON."""

BINS = 10
"""Of the calibration error, as in `evaluate`."""

CELLS = 300_000
"""Rows times resamples that are worked on at once: as much as a core's cache holds. Changes nothing."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """The middle of the resampled figures.

    Attributes:
        low: below it lies half of what the level leaves out.
        high: above it lies the other half.
        defined: share of the resamples that have the figure at all: one without a positive row has no AUC. What is
            below 1 says that there are too few positives for the interval to be trusted.
    """

    low: float
    high: float
    defined: float


def intervals(
    scores: Floats,
    labels: npt.NDArray[np.int8],
    device: Counts,
    resamples: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals of every figure of `evaluate`, over devices drawn with replacement.

    Args:
        scores: (rows,) predicted probabilities.
        labels: (rows,) 0 or 1.
        device: (rows,) any numbers that tell devices apart.
        resamples: how many times devices are drawn, at least 1; 1,000 for two digits.
        rng: draws the devices.
        level: share of the resamples that an interval holds, above 0 and below 1.

    Raises:
        DataError: see `evaluate`.
        ValueError: columns differ in length, or resamples or level is out of range.
    """
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"needs resamples >= 1 and 0 < level < 1, got {resamples} and {level}")
    evaluate(scores, labels, device)
    devices = len(np.unique(device))
    step = max(1, CELLS // max(len(scores), devices))
    drawn = (drawings(devices, min(step, resamples - done), rng) for done in range(0, resamples, step))
    found = resampled(scores, labels, device, drawn)
    tail = (1 - level) / 2
    return {name: _interval(column, tail) for name, column in zip(FIGURES, found.T, strict=True)}


def _interval(values: Floats, tail: float) -> Interval:
    kept = values[np.isfinite(values)]
    low, high = np.quantile(kept, (tail, 1 - tail)) if len(kept) else (np.nan, np.nan)
    return Interval(low=float(low), high=float(high), defined=len(kept) / len(values))


def drawings(devices: int, resamples: int, rng: np.random.Generator) -> Counts:
    """How often each device is drawn, shape (resamples, devices); every row adds up to `devices`."""
    drawn = rng.integers(0, devices, (resamples, devices))
    drawn += np.arange(resamples)[:, None] * devices
    return np.bincount(drawn.ravel(), minlength=resamples * devices).reshape(resamples, devices)


def resampled(scores: Floats, labels: npt.NDArray[np.int8], device: Counts, drawn: Iterator[Counts]) -> Floats:
    """The figures of `evaluate` with every device's rows repeated as often as it was drawn, shape (resamples, 6).

    Args:
        scores: (rows,) predicted probabilities.
        labels: (rows,) 0 or 1.
        device: (rows,) any numbers that tell devices apart.
        drawn: parts of shape (some, devices), devices by rising number.

    Returns:
        Columns as `FIGURES`; NaN where a resample leaves a figure without meaning.
    """
    _, owner = np.unique(device, return_inverse=True)
    by_device = tied_runs(scores, labels, owner)
    aucs, positives = areas(by_device)
    mixed = np.where(np.isnan(aucs), 0, positives)
    sure = np.clip(scores, CLIP, 1.0 - CLIP)
    losses = np.bincount(owner, -np.log(np.where(labels == 1, sure, 1.0 - sure)))
    # Sums over devices are one product: their own figures do not change, only how often each counts.
    sums = np.stack([mixed * np.nan_to_num(aucs), mixed, gains(by_device), losses, np.bincount(owner)], axis=1)
    order = np.argsort(scores, kind="stable")
    everywhere = _Everywhere(scores[order], labels[order].astype(np.float64), owner[order])
    return np.concatenate([_figures(part.astype(np.float64), sums, everywhere) for part in drawn])


def _figures(times: Floats, sums: Floats, everywhere: "_Everywhere") -> Floats:
    """The figures of some resamples."""
    wins, mixed, gain, loss, rows = (times @ sums).T
    auc, calibration = everywhere.figures(times)
    with np.errstate(divide="ignore", invalid="ignore"):
        gauc = wins / mixed
    ndcg = gain / times.sum(1)
    return np.stack([auc, gauc, ndcg, (gauc + ndcg) / 2, loss / rows, calibration], axis=1)


class _Everywhere:
    """What depends on the order of all rows: AUC and the bins of calibration.

    Args:
        scores: (rows,) rising.
        labels: (rows,) as floats.
        owner: (rows,) number of the row's device.
    """

    def __init__(self, scores: Floats, labels: Floats, owner: npt.NDArray[np.intp]) -> None:
        self._labels = labels
        self._owner = owner
        self._start = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
        self._values = scores[self._start]

    def figures(self, times: Floats) -> tuple[Floats, Floats]:
        """AUC and calibration error by resample, from how often each device was drawn."""
        weight = times[:, self._owner]
        rows = np.add.reduceat(weight, self._start, axis=1)
        weight *= self._labels
        positives = np.add.reduceat(weight, self._start, axis=1)
        return _areas(rows, positives), self._calibration(rows, positives)

    def _calibration(self, rows: Floats, positives: Floats) -> Floats:
        """As `metrics.curve` bins: by the middle of each run of equal scores."""
        total = rows.sum(1, keepdims=True)
        before = np.cumsum(rows, axis=1) - rows
        # A run that was not drawn weighs nothing; after the last one its place would be one too far.
        place = np.minimum(((2 * before + rows) * BINS) // (2 * total), BINS - 1).astype(np.int64)
        place += np.arange(len(rows))[:, None] * BINS
        gap = np.bincount(place.ravel(), (self._values * rows - positives).ravel(), minlength=len(rows) * BINS)
        return np.asarray(np.abs(gap.reshape(len(rows), BINS)).sum(1) / total[:, 0])


def _areas(rows: Floats, positives: Floats) -> Floats:
    """AUC by resample from the runs of equal scores, as `metrics.areas`; NaN where a class is missing."""
    negatives = rows - positives
    lower = np.cumsum(negatives, axis=1) - negatives
    wins = (positives * (lower + negatives / 2)).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(wins / (positives.sum(1) * negatives.sum(1)))
