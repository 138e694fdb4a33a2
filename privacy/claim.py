"""What may be said about privacy: an epsilon together with everything that gives it a meaning.

A bare epsilon means nothing: it depends on delta, on what one protected unit is, on which two data sets are compared,
on what the attacker sees and on how it was computed. The two claims below carry all of that and print all of it. They
are different types on purpose: a record-level figure must never be handed to somebody who asked for a device-level one.
"""

import math
from dataclasses import dataclass
from typing import Literal

Observer = Literal["outsider", "knows_cohorts"]

WARNING = "SIMULATION: NO GUARANTEE"
"""Stamp of every figure whose noise or sampling an attacker could reproduce, or that has no noise at all."""


def _figure(epsilon: float) -> str:
    """`epsilon` to four decimals, never smaller than it is."""
    if math.isinf(epsilon):
        return "infinite"
    return f"{math.ceil(epsilon * 1e4 - 1e-9) / 1e4:.4f}"


def _check(epsilon: float, delta: float) -> None:
    """Refuse figures that no accountant can have produced."""
    if not epsilon >= 0 or not 0 <= delta <= 1:
        raise ValueError(f"a claim needs epsilon >= 0 and 0 <= delta <= 1, got {epsilon} and {delta}")


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    """Device-level privacy: the unit is everything one device ever contributed.

    Attributes:
        epsilon: privacy loss bound, `inf` when the run had no noise.
        delta: probability with which the bound may fail.
        adjacency: `zero_out`: two data sets are neighbours when one device's contribution is replaced by zero. The
            number of enrolled devices is public.
        observer: `outsider` sees every released model but not who took part; `knows_cohorts` also knows in which rounds
            a device took part, so that sampling hides nothing from them.
        accountant: how epsilon was computed.
        guarantee: False when noise or sampling can be reproduced (seeded) or when there is no noise.
    """

    epsilon: float
    delta: float
    adjacency: Literal["zero_out"] = "zero_out"
    observer: Observer = "outsider"
    accountant: str = "PLD"
    guarantee: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible figures, and a guarantee that guarantees nothing."""
        _check(self.epsilon, self.delta)
        if self.guarantee and math.isinf(self.epsilon):
            raise ValueError("an infinite epsilon guarantees nothing")

    @property
    def unit(self) -> str:
        """What is protected: always `device`."""
        return "device"

    def __str__(self) -> str:
        seen = {
            "outsider": "an outsider who sees every release but not who took part",
            "knows_cohorts": "an observer who knows in which rounds a device took part",
        }[self.observer]
        text = (
            f"epsilon {_figure(self.epsilon)} at delta {self.delta:g} per device ({self.adjacency} adjacency), "
            f"against {seen}, by {self.accountant}"
        )
        return text if self.guarantee else f"{WARNING}: {text}"


@dataclass(frozen=True, slots=True)
class RecordClaim:
    """Record-level privacy on one device: the unit is a single row of that device's history.

    It says nothing about a device as a whole: a device with many rows is far less protected. Never comparable with a
    `DeviceClaim`. What the same noise is worth to several rows of one device, and to all of them, is printed with it.

    Attributes:
        epsilon: privacy loss bound for `records` rows together.
        delta: probability with which the bound may fail.
        adjacency: `add_remove`: neighbours differ by the presence of one row.
        accountant: how epsilon was computed.
        guarantee: False when noise or sampling can be reproduced (seeded) or when there is no noise.
        records: how many rows of the device are protected together; 1 is the guarantee, more its conversion.
        together: the honest conversion: pairs of a number of rows and their epsilon at the same delta, rising.
        whole: whether the last pair is the device as a whole.
    """

    epsilon: float
    delta: float
    adjacency: Literal["add_remove"] = "add_remove"
    accountant: str = "PLD"
    guarantee: bool = False
    records: int = 1
    together: tuple[tuple[int, float], ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible figures, and a guarantee that guarantees nothing."""
        _check(self.epsilon, self.delta)
        if self.guarantee and math.isinf(self.epsilon):
            raise ValueError("an infinite epsilon guarantees nothing")
        if self.records < 1:
            raise ValueError(f"a claim is about one record or more, got {self.records}")

    @property
    def unit(self) -> str:
        """What is protected: always `record`."""
        return "record"

    def __str__(self) -> str:
        unit = "record" if self.records == 1 else f"record group of {self.records:,}"
        text = (
            f"epsilon {_figure(self.epsilon)} at delta {self.delta:g} per {unit}, not per device "
            f"({self.adjacency} adjacency), against whoever sees the device's update, by {self.accountant}; "
            f"{self._conversion()}"
        )
        return text if self.guarantee else f"{WARNING}: {text}"

    def _conversion(self) -> str:
        """What a reader must know who takes one record for one person."""
        if not self.together:
            return "several records of one device together are protected less, a whole device far less"
        told = [f"{count:,} records {_figure(epsilon)}" for count, epsilon in self.together]
        if self.whole:
            count, epsilon = self.together[-1]
            told[-1] = f"as a whole device of {count:,} records: epsilon {_figure(epsilon)}"
        return "the same noise for records of one device together: " + ", ".join(told)
