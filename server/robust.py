"""Rules that add up single updates so that a few bad ones do little harm; off unless asked for, and never private.

They look at updates one by one. A private sum bounds what one device can do by its clip norm and hides it by noise made
for that bound; a median, a trimmed mean or a choice of updates can move by more than that, so the noise of the plan
would hide the wrong thing. Where updates are hidden from the coordinator, as secure aggregation does, there is nothing
to look at. A node of many devices answers with their sum: the rules would see nodes, and one bad device would spoil the
whole of its node. They are therefore for nodes of one device, in runs without noise.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.client.wire import FloatArrays
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.plan import MechanismPlan

Matrix = npt.NDArray[np.float64]
Rule = Literal["sum", "norm_filter", "median", "trimmed_mean", "multi_krum"]

LONGEST = 2.0
"""Times the median length that `norm_filter` lets through."""

_ROUNDING = 1e-9
"""A fifth of a hundred is twenty, whatever floating point makes of it."""


class Robust(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How single updates are added up.

    Attributes:
        rule: `sum` adds them all. `norm_filter` leaves out what is longer than twice the median of those that are not
            zero. `median`, coordinate by coordinate (Yin et al. 2018, arXiv:1803.01498). `trimmed_mean` leaves out as
            many of the largest and of the smallest values of each coordinate as there may be attackers (same paper).
            `multi_krum` takes the mean of those that lie closest to their neighbours, as many as are not attackers
            (Blanchard et al. 2017, arXiv:1703.02757, section 4).
        attackers: share of the devices asked that may be bad, below one half; `norm_filter` and `median` need none.
    """

    rule: Rule = "sum"
    attackers: Annotated[float, msgspec.Meta(ge=0, lt=0.5)] = 0.2

    def require(self, plan: MechanismPlan) -> None:
        """Refuse a rule in a private run.

        Raises:
            ConfigError: the plan adds noise.
        """
        if self.rule != "sum" and plan.noise_multiplier:
            raise ConfigError(
                f"robust.rule {self.rule} in a private run: its noise is made for a sum of clipped updates",
                "set robust.rule to sum, or train without privacy: privacy.noise none and privacy.epsilon inf",
            )

    def require_single(self, most: int) -> None:
        """Refuse a rule where updates are sums of several devices.

        Args:
            most: devices of the largest node.

        Raises:
            ConfigError: a node hosts more than one.
        """
        if self.rule != "sum" and most > 1:
            raise ConfigError(
                f"robust.rule {self.rule} compares single updates, and a node answers with the sum of {most} devices",
                "host one device on each node, or set robust.rule to sum",
            )

    def bad(self, asked: int, answered: int) -> int:
        """How many attackers are reckoned with: all of those asked answer, and they are never the majority.

        Args:
            asked: devices.
            answered: devices, at least one and at most `asked`.
        """
        return min(math.ceil(self.attackers * asked - _ROUNDING), (answered - 1) // 2)

    def total(
        self, updates: Sequence[FloatArrays], like: FloatArrays, asked: int
    ) -> dict[str, npt.NDArray[np.float64]]:
        """What takes the place of the sum: the rule's mean, times the number of updates.

        Args:
            updates: one for each device that answered, finite, in the order of the nodes.
            like: names and shapes; zeros of them where there is no update.
            asked: devices.
        """
        total = {name: np.zeros(value.shape) for name, value in like.items()}
        if self.rule == "sum" or not updates:
            for update in updates:
                for name, value in update.items():
                    total[name] += value
            return total
        flat = np.stack([np.concatenate([one[name].ravel() for name in total]) for one in updates]).astype(np.float64)
        whole = self.mean(flat, self.bad(asked, len(flat))) * len(flat)
        start = 0
        for place in total.values():
            place += whole[start : start + place.size].reshape(place.shape)
            start += place.size
        return total

    def mean(self, updates: Matrix, bad: int) -> npt.NDArray[np.float64]:
        """The rule's estimate of the mean update, shape (values,).

        Args:
            updates: (devices, values), at least one.
            bad: how many may be, fewer than half.
        """
        if self.rule == "norm_filter":
            return _filtered(updates)
        if self.rule == "median":
            return _median(updates)
        if self.rule == "trimmed_mean":
            return np.sort(updates, axis=0)[bad : len(updates) - bad].mean(axis=0)  # type: ignore[no-any-return]
        if self.rule == "multi_krum":
            return _krum(updates, bad)
        return updates.mean(axis=0)  # type: ignore[no-any-return]


def _median(updates: Matrix) -> npt.NDArray[np.float64]:
    return np.median(updates, axis=0)


def _filtered(updates: Matrix) -> npt.NDArray[np.float64]:
    """Mean of those that are not far longer than most; devices without rows send zeros and set no standard."""
    lengths = np.linalg.norm(updates, axis=1)
    usual = np.median(lengths[lengths > 0]) if lengths.any() else 0.0
    return updates[lengths <= LONGEST * usual].mean(axis=0)  # type: ignore[no-any-return]


def _krum(updates: Matrix, bad: int) -> npt.NDArray[np.float64]:
    """Mean of the n - f updates whose n - f - 2 nearest others are nearest.

    The paper asks for n > 2f + 2; below that attackers can be their own neighbours. The median stands in there.
    """
    count = len(updates)
    if count <= 2 * bad + 2:
        return _median(updates)
    # Near the middle, squares are no larger than the distances that are taken from them.
    rest = updates - _median(updates)
    squares = np.einsum("ij,ij->i", rest, rest)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * rest @ rest.T, 0.0)
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : count - bad - 2].sum(axis=1)
    chosen = np.argsort(scores, kind="stable")[: count - bad]
    return updates[np.sort(chosen)].mean(axis=0)  # type: ignore[no-any-return]


ADD_ALL = Robust()
"""The ordinary sum."""
