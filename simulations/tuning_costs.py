"""What tuning costs: some runs added up, beside a random number of runs of which only the best is seen."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from sottovoce.privacy.accountant import published
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.selection import SelectionPlan

RUNS = (2, 3, 4, 5, 10, 20)
"""Rows of the table."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Two ways to pay for tuning with the same noise.

    Attributes:
        runs: how many; for random stopping their expected number.
        added_up: epsilon of that many runs, each of them seen, by PLD.
        random_stopping: epsilon of the selection, by Renyi DP.
    """

    runs: int
    added_up: float
    random_stopping: float

    @property
    def cheaper(self) -> Literal["adding up", "random stopping"]:
        """The way that costs less."""
        return "random stopping" if self.random_stopping < self.added_up else "adding up"

    def __str__(self) -> str:
        """In one line."""
        return (
            f"{self.runs} runs added up cost epsilon {self.added_up:.4f} at this noise (PLD), random stopping with "
            f"{self.runs} expected runs {self.random_stopping:.4f} (Renyi DP): {self.cheaper} is cheaper"
        )


def cost(run: MechanismPlan, runs: int) -> Cost:
    """Both prices of `runs` runs.

    Args:
        run: the mechanism of one run, with noise.
        runs: 2 or more.
    """
    (event,), (rounds,) = run.charged(), run.charged().values()
    return Cost(
        runs=runs,
        added_up=published({event: runs * rounds}, run.delta)[0],
        random_stopping=published(SelectionPlan(run, runs).charged(), run.delta)[0],
    )


def costs(run: MechanismPlan, runs: Sequence[int] = RUNS) -> list[Cost]:
    """The table."""
    return [cost(run, number) for number in runs]
