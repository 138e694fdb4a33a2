"""The Open Bandit Dataset, small version: fashion recommendations logged by two policies with their propensities.

The same shop ran a uniformly random policy and Bernoulli Thompson sampling side by side. So the value of either,
estimated from the log of the other, can be held against what it really earned.

What Thompson sampling would have shown in place of a random row is not logged. It is taken to be, for each position,
the mean of the propensities it logged for each item, scaled to add up to 1. That is an approximation: it changed
within the week, and rows where an item was likely are over-represented among its rows.

Source: Saito et al. 2021, "Open Bandit Dataset and Pipeline", NeurIPS Datasets and Benchmarks, arXiv:2008.07146.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.errors import DataError
from sottovoce.simulations.columns import read
from sottovoce.simulations.off_policy import Floats, Logged

Policy = Literal["random", "bts"]
Part = Literal["men", "women"]
Whole = npt.NDArray[np.int64]

FOLDER = "open_bandit_small"
THANKS = "Open Bandit Dataset, ZOZO, Inc., Apache-2.0; Saito et al. 2021, arXiv:2008.07146"

STRENGTH = 100.0
"""Rows with the mean click rate that the prediction of each item starts from."""


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """The log of one policy for one part of the shop.

    Attributes:
        item: (rows,) from 0.
        position: (rows,) from 0.
        click: (rows,) 0.0 or 1.0.
        propensity: (rows,) probability of the item at that position.
    """

    item: Whole
    position: Whole
    click: Floats
    propensity: Floats


def load(data: Path, policy: Policy, part: Part) -> Feed:
    """One log.

    Args:
        data: folder of the public data sets.
        policy: which ran.
        part: of the shop.

    Raises:
        DataError: the file is missing or a column is not as it must be.
    """
    path = data / FOLDER / policy / part / f"{part}.csv"
    if not path.is_file():
        raise DataError(f"{path}: no such file", "put the small Open Bandit Dataset into the data folder")
    table = read(path, ["item_id", "position", "click", "propensity_score"])
    item, position = table.integers("item_id"), table.integers("position") - 1
    click = table.integers("click")
    try:
        told = table.complete("propensity_score", "take the official file").to_numpy(zero_copy_only=False)
        propensity = np.asarray(told, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: propensity_score holds no numbers", "take the official file") from error
    if item.min() < 0 or position.min() < 0 or not np.isin(click, (0, 1)).all():
        raise DataError(f"{path}: an item, position or click is out of range", "take the official file")
    return Feed(item, position, click.astype(np.float64), propensity)


def shows(feed: Feed, policy: Policy, items: int, positions: int) -> Floats:
    """How often the policy shows each item, shape (positions, items); every row with any adds up to 1.

    Args:
        feed: its log.
        policy: `random` shows every item equally often, by its own account.
        items: number of items of the part.
        positions: number of positions.
    """
    if policy == "random":
        return np.full((positions, items), 1.0 / items)
    cell = feed.position * items + feed.item
    rows = np.bincount(cell, minlength=positions * items)
    mean = np.bincount(cell, feed.propensity, positions * items) / np.maximum(rows, 1)
    table = mean.reshape(positions, items)
    return np.asarray(table / np.maximum(table.sum(1, keepdims=True), 1e-300))


def logged(behaviour: Feed, target: Feed, policy: Policy) -> Logged:
    """Rows of the log of one policy with what the other would have done, and predicted clicks.

    A row's prediction is its item's click rate in the other half of the log, drawn towards the mean: a prediction that
    has seen the row itself would not be independent of its reward.

    Args:
        behaviour: the log that is used.
        target: the log of the policy to be evaluated; only its propensities are read, no click.
        policy: its name.
    """
    items = int(max(behaviour.item.max(), target.item.max())) + 1
    positions = int(max(behaviour.position.max(), target.position.max())) + 1
    table = shows(target, policy, items, positions)
    half = np.arange(len(behaviour.item)) % 2
    rates = np.stack([_rates(behaviour, half != part, items) for part in (0, 1)])
    return Logged(
        reward=behaviour.click,
        propensity=behaviour.propensity,
        new=table[behaviour.position, behaviour.item],
        predicted=rates[half, behaviour.item],
        expected=(rates @ table.T)[half, behaviour.position],
    )


def _rates(feed: Feed, rows: npt.NDArray[np.bool_], items: int) -> Floats:
    """Click rate by item over some rows, drawn towards their mean."""
    item, click = feed.item[rows], feed.click[rows]
    mean = click.mean() if len(click) else 0.0
    return np.asarray(
        (np.bincount(item, click, items) + STRENGTH * mean) / (np.bincount(item, minlength=items) + STRENGTH)
    )
