"""How differently a model serves slices of the held-out impressions, such as cheap phones and dear ones."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from sottovoce.client.examples import Examples
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.metrics import Floats, areas, check, tied_runs

SLICE_ROWS = 200
"""Fewest rows of a slice that counts: below, chance alone makes gaps."""

SLICE_CLASS = 20
"""Fewest rows of each class in a slice whose AUC counts."""


def slice_of(rows: Examples, schema: FeatureSchema, feature: str) -> npt.NDArray[np.int32]:
    """The value of one device or context feature in every row, shape (rows,), as a row of the schema's table.

    Raises:
        ConfigError: the schema has no such feature.
    """
    names = [known.name for known in schema.context]
    if feature not in names:
        raise ConfigError(
            f"fairness_feature {feature!r} is no device or context feature of this model",
            f"use one of {', '.join(names)}",
        )
    place = names.index(feature)
    of_device = rows.device.shape[1]
    return rows.device[rows.owners, place] if place < of_device else rows.context[:, place - of_device]


def gap(
    scores: Floats,
    labels: npt.NDArray[np.int8],
    slices: npt.NDArray[np.int32],
    figure: Literal["auc", "calibration"],
) -> float | None:
    """Largest difference of a figure between two slices; None with fewer than two slices that count.

    Args:
        scores: (rows,) predicted probabilities.
        labels: (rows,) 0 or 1.
        slices: (rows,) equal in the rows of a slice; a missing value is one like any other.
        figure: `auc`; or `calibration`, the mean prediction minus the observed rate.

    Raises:
        DataError: a score is no probability, or all labels are of one class.
    """
    check(scores, labels)
    found = []
    for value in np.unique(slices):
        inside = slices == value
        positives = int(np.count_nonzero(labels[inside]))
        count = int(np.count_nonzero(inside))
        if count < SLICE_ROWS:
            continue
        if figure == "calibration":
            found.append(float(scores[inside].mean()) - positives / count)
        elif min(positives, count - positives) >= SLICE_CLASS:
            found.append(float(areas(tied_runs(scores[inside], labels[inside]))[0][0]))
    return max(found) - min(found) if len(found) > 1 else None
