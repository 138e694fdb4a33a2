"""Shapley values: how much of a change each of a few causes stands for, by a rule that has no favourites.

A cause that never changes anything gets 0; two that always do the same get the same; all shares together are exactly
the whole change; and the shares of a sum are the sums of the shares. No other division has these four properties.
A share is the mean, over all orders in which the causes could come in, of what the cause adds when it does.

With n causes the value of all 2^n coalitions must be known, so this is for groups of signals and not for single ones.

Source: Shapley 1953, "A value for n-person games"; Lundberg and Lee 2017, arXiv:1705.07874, for models.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

MOST_PLAYERS = 12

Floats = npt.NDArray[np.float64]


def shares(values: Floats | Sequence[float]) -> Floats:
    """The share of each player, shape (players,); their sum is the last value less the first, up to rounding.

    Args:
        values: (2^players,) of each coalition; player i is in coalition c where bit i of c is set, so that the first
            value is nobody's and the last one everybody's.

    Raises:
        ValueError: not 2^n values, or more than `MOST_PLAYERS` players.
    """
    worth = np.asarray(values, np.float64)
    players = len(worth).bit_length() - 1
    if players < 0 or worth.ndim != 1 or len(worth) != 1 << players or players > MOST_PLAYERS:
        raise ValueError(f"{worth.shape} values are not those of all coalitions of up to {MOST_PLAYERS} players")
    coalitions = np.arange(len(worth))
    sizes = np.asarray([int(coalition).bit_count() for coalition in coalitions])
    # In how many of all orders exactly these come first, then the player, as a share of the orders.
    weights = np.asarray([1.0 / (players * comb(players - 1, size)) for size in range(players)])
    found = np.zeros(players)
    for player in range(players):
        without = coalitions[coalitions >> player & 1 == 0]
        found[player] = weights[sizes[without]] @ (worth[without | 1 << player] - worth[without])
    return found
