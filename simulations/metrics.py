"""How well scores rank and predict: the figures every run and every baseline is judged by.

The ranking figures follow the public KuaiRand-Pure task: GAUC weighs a device by its positives, nDCG@5 is the mean
over all devices, `primary` is the mean of the two. Equal scores are never resolved by file order: every figure is the
expectation under a random order of the tied rows, so constant scores get exactly what chance gives.
"""

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.privacy.errors import DataError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

DEPTH = 5
"""Places of a device's ranking that count in nDCG."""

CLIP = 1e-7
"""Log loss treats a probability closer than this to 0 or 1 as this close."""


class Metrics(msgspec.Struct, frozen=True):
    """The figures of one model on one file; all but the counts lie in 0 ... 1, log loss from 0 up.

    Attributes:
        auc: chance that a random positive row scores above a random negative one; a tie counts one half.
        gauc: mean of the devices' own AUC, weighted by their positives; devices with one class do not count.
        ndcg_at_5: mean over all devices of nDCG at 5; a device without positives counts 0. JSON key `ndcg@5`.
        primary: mean of `gauc` and `ndcg_at_5`.
        log_loss: mean negative log likelihood in nats.
        calibration_error: expected calibration error over ten bins of equal mass.
        devices: devices in the file.
        rows: rows in the file.
    """

    auc: float
    gauc: float
    ndcg_at_5: float = msgspec.field(name="ndcg@5")
    primary: float
    log_loss: float
    calibration_error: float
    devices: int
    rows: int


class Runs(NamedTuple):
    """Rows of one group with one score, taken together; ordered by group, then by rising score.

    Attributes:
        start: (runs,) rows before the run.
        rows: (runs,) rows in the run.
        positives: (runs,) positive rows in the run.
        group: (runs,) number of the run's group, 0 ... groups - 1.
    """

    start: Counts
    rows: Counts
    positives: Counts
    group: Counts


def evaluate(scores: Floats, labels: npt.NDArray[np.int8], device: Counts) -> Metrics:
    """Judge predicted probabilities against what happened.

    =========================================  ====================================
    input                                      result
    =========================================  ====================================
    all scores equal                           AUC and GAUC 0.5, nDCG as by chance
    rows in another order                      the same figures, to rounding
    no rows                                    DataError
    labels of one class, or not 0 and 1        DataError
    no device with both classes                DataError: GAUC would have no meaning
    a score that is NaN or outside 0 ... 1     DataError naming the first such row
    =========================================  ====================================

    Args:
        scores: (rows,) predicted probabilities.
        labels: (rows,) 0 or 1.
        device: (rows,) any numbers that tell devices apart, in any order.

    Raises:
        DataError: as in the table.
        ValueError: the three columns differ in length.

    Source: nDCG after Järvelin and Kekäläinen 2002, ties after McSherry and Najork 2008, section 2; weights and mean
    of the public KuaiRand-Pure within-user ranking task.
    """
    check(scores, labels)
    if len(device) != len(scores):
        raise ValueError(f"{len(scores)} scores but {len(device)} devices")
    everywhere = tied_runs(scores, labels)
    by_device = tied_runs(scores, labels, device)
    aucs, positives = areas(by_device)
    mixed = ~np.isnan(aucs)
    if not mixed.any():
        raise DataError(
            "no device has both a positive and a negative row, so ranking within devices cannot be judged",
            "evaluate on a file with more rows per device",
        )
    gauc = float(np.average(aucs[mixed], weights=positives[mixed]))
    ndcg = float(gains(by_device).mean())
    sure = np.clip(scores, CLIP, 1.0 - CLIP)
    points = curve(scores, everywhere, 10)
    return Metrics(
        auc=float(areas(everywhere)[0][0]),
        gauc=gauc,
        ndcg_at_5=ndcg,
        primary=(gauc + ndcg) / 2,
        log_loss=-float(np.log(np.where(labels == 1, sure, 1.0 - sure)).mean()),
        calibration_error=sum(rows * abs(mean - observed) for mean, observed, rows in points) / len(scores),
        devices=len(aucs),
        rows=len(scores),
    )


def calibration_curve(scores: Floats, labels: npt.NDArray[np.int8], bins: int = 10) -> list[tuple[float, float, int]]:
    """Predicted against observed rate, in bins of about equal mass.

    Rows with the same score stay in one bin, the one that holds the middle of them; so there may be fewer bins than
    asked for, and never an empty one.

    Args:
        scores: (rows,) predicted probabilities.
        labels: (rows,) 0 or 1.
        bins: how many bins at most.

    Returns:
        One (mean prediction, share of positives, rows) per bin, by rising prediction.

    Raises:
        DataError: as `evaluate`.
        ValueError: columns differ in length, or bins below 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    check(scores, labels)
    return curve(scores, tied_runs(scores, labels), bins)


def check(scores: Floats, labels: npt.NDArray[np.int8]) -> None:
    """Refuse columns that cannot be judged."""
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} scores but {len(labels)} labels")
    if len(scores) == 0:
        raise DataError("there are no rows to evaluate", "give a file with at least one row of each class")
    foreign = (labels != 0) & (labels != 1)
    if foreign.any():
        row = int(np.argmax(foreign))
        raise DataError(f"label of row {row} is {labels[row]}, not 0 or 1", "correct the label column")
    positives = int(np.count_nonzero(labels))
    if positives in (0, len(labels)):
        raise DataError(
            f"all {len(labels)} labels are {int(positives > 0)}, so nothing can be told apart",
            "give a file with rows of both classes",
        )
    unsure = ~((scores >= 0) & (scores <= 1))
    if unsure.any():
        row = int(np.argmax(unsure))
        raise DataError(
            f"score of row {row} is {scores[row]}, not a probability",
            "if it is NaN the model diverged: lower the learning rate; otherwise apply the sigmoid first",
        )


def tied_runs(scores: Floats, labels: npt.NDArray[np.int8], group: Counts | None = None) -> Runs:
    """Sort once and fold equal scores of a group into one run; without `group` all rows are one group."""
    order = np.argsort(scores, kind="stable") if group is None else np.lexsort((scores, group))
    ranked = scores[order]
    fresh = np.ones(len(scores), bool)
    fresh[1:] = ranked[1:] != ranked[:-1]
    entered = np.zeros(len(scores), bool)
    if group is not None:
        members = group[order]
        entered[1:] = members[1:] != members[:-1]
        fresh |= entered
    start = np.flatnonzero(fresh)
    rows = np.diff(start, append=len(scores))
    positives = np.add.reduceat(labels[order], start, dtype=np.int64)
    return Runs(start, rows, positives, np.cumsum(entered[start]))


def areas(runs: Runs) -> tuple[Floats, Counts]:
    """AUC and positives of every group, shape (groups,); AUC is NaN where a class is missing.

    A positive wins against every negative of a lower run and half against those of its own: the Mann-Whitney count,
    the same as ranks with ties at their middle.
    """
    positives = np.bincount(runs.group, runs.positives)
    negatives = np.bincount(runs.group, runs.rows - runs.positives)
    own = runs.rows - runs.positives
    earlier_groups = np.cumsum(negatives) - negatives
    lower = np.cumsum(own) - own - earlier_groups[runs.group]
    wins = np.bincount(runs.group, runs.positives * (lower + own / 2))
    pairs = positives * negatives
    area = np.full(len(pairs), np.nan)
    np.divide(wins, pairs, out=area, where=pairs > 0)
    return area, positives.astype(np.int64)


def gains(runs: Runs) -> Floats:
    """Expected nDCG at `DEPTH` of every group under a random order of ties, shape (groups,); 0 without positives."""
    discounted = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(DEPTH) + 2.0))])
    ends = np.cumsum(np.bincount(runs.group, runs.rows)).astype(np.int64)
    last = ends[runs.group] - runs.start
    first = last - runs.rows
    share = discounted[np.minimum(last, DEPTH)] - discounted[np.minimum(first, DEPTH)]
    gain = np.bincount(runs.group, runs.positives / runs.rows * share)
    positives = np.bincount(runs.group, runs.positives).astype(np.int64)
    best = discounted[np.minimum(positives, DEPTH)]
    result = np.zeros(len(gain))
    np.divide(gain, best, out=result, where=positives > 0)
    return result


def curve(scores: Floats, runs: Runs, bins: int) -> list[tuple[float, float, int]]:
    """The points of `calibration_curve` from runs over one group."""
    values = np.sort(scores)[runs.start]
    place = ((2 * runs.start + runs.rows) * bins) // (2 * len(scores))
    rows = np.bincount(place, runs.rows)
    filled = rows > 0
    predicted = np.bincount(place, values * runs.rows)[filled] / rows[filled]
    observed = np.bincount(place, runs.positives)[filled] / rows[filled]
    return [(float(p), float(o), int(n)) for p, o, n in zip(predicted, observed, rows[filled], strict=True)]
