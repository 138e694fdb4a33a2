"""What a model must beat before it is worth any privacy budget: chance and popularity.

Popularity counts clicks per ad over all devices without noise, so it is a yardstick for a simulation and not
something that could be released as it is.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from sottovoce.client.examples import Examples
from sottovoce.privacy.errors import DataError

PRIOR_ROWS = 20.0
"""Default strength of the prior: an ad counts as shown this often at the average rate. Fixed, never tuned."""


def random_scores(rows: int, seed: int) -> npt.NDArray[np.float64]:
    """Scores that know nothing, shape (rows,), uniform in 0 ... 1.

    Their log loss and calibration error say nothing about anything: only the ranking figures are of use.

    Args:
        rows: how many.
        seed: of the generator; the same seed gives the same scores.
    """
    return np.random.default_rng(seed).random(rows)


@dataclass(frozen=True, slots=True)
class Popularity:
    """The smoothed positive rate of every ad.

    Attributes:
        rates: (A,) float64, by index into the catalogue it was fitted on; an ad never shown has the average rate.
    """

    rates: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, train: Examples, smoothing: float = PRIOR_ROWS) -> Self:
        """Count the first head's positives per ad: (positives + smoothing * average) / (rows + smoothing).

        Args:
            train: rows to count; nothing else is looked at.
            smoothing: rows of prior, above 0. The default is a plain choice, not tuned on any file.

        Raises:
            DataError: there are no rows.
            ValueError: smoothing is not above 0.
        """
        if not smoothing > 0:
            raise ValueError(f"smoothing must be above 0, got {smoothing}")
        if train.rows == 0:
            raise DataError("there are no training rows to count clicks in", "give a training file with rows")
        clicks = train.labels[:, 0]
        shown = np.bincount(train.ad, minlength=len(train.catalogue))
        positive = np.bincount(train.ad, clicks, minlength=len(train.catalogue))
        return cls((positive + smoothing * clicks.mean()) / (shown + smoothing))

    def score(self, examples: Examples) -> npt.NDArray[np.float64]:
        """The rate of each row's ad, shape (rows,).

        Raises:
            ValueError: the examples point into another catalogue.
        """
        if len(examples.catalogue) != len(self.rates):
            raise ValueError(f"fitted on {len(self.rates)} ads, asked about {len(examples.catalogue)}")
        return self.rates[examples.ad]
