"""The device's own ledger: what its updates may reveal about one of its records, over its whole life.

It lies on the device, in a file that the device chooses, and nothing of it is ever sent. A round that would overspend
is refused before any row is looked at, and the device contributes nothing: whoever asked hears neither why nor that.

The ledger counts what was released, not what is stored. Deleting rows, or the whole history, gives nothing back.
Deleting the ledger does not either: without it the device trains no more until it is enrolled anew, which only its
owner can do.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sottovoce.privacy import renyi
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.claim import RecordClaim
from sottovoce.privacy.errors import ConfigError, SottovoceError
from sottovoce.privacy.events import Gaussian, NoiseKind
from sottovoce.privacy.filter import spent_epsilon
from sottovoce.privacy.ledger import Ledger, Reservation
from sottovoce.privacy.record import RecordPlan, record_claim


@dataclass(frozen=True, slots=True)
class DeviceLedger:
    """The budget of one device for its records. The device chooses all of it; no coordinator can change it.

    Attributes:
        path: of the file, made by `enrol`.
        epsilon: most that may be revealed of one record, ever.
        delta: chance with which the guarantee may fail, below 1 / records.
        records: most records that the device will ever hold, roughly; a fixed figure, not a count.
    """

    path: Path
    epsilon: float
    delta: float
    records: int

    def __post_init__(self) -> None:
        """Refuse a budget that means nothing.

        Raises:
            ConfigError: names the value.
        """
        if not 0 < self.epsilon < math.inf:
            raise ConfigError(f"epsilon = {self.epsilon} is not a budget for a record", "set it above 0 and finite")
        if self.records < 1 or not 0 < self.delta < 1 / self.records:
            raise ConfigError(
                f"delta = {self.delta} for {self.records} records", "set delta above 0 and below 1 / records"
            )

    def enrol(self) -> None:
        """Make the ledger, unless it is there already; called once, when the device's owner agrees to train.

        Raises:
            ConfigError: the values mean nothing, or the ledger is there with others.
            LedgerError: the file cannot be made, or is something else.
        """
        with Ledger.open(self.path, create=True) as ledger:
            self._budget(ledger)

    def reserve(
        self, plan: RecordPlan, run_id: str, round: int, noise_kind: NoiseKind = "secure"
    ) -> tuple[Reservation, ...] | None:
        """Debit one round of training: all of its steps or none. On return it is on disk.

        Delta and the number of records are this ledger's: the coordinator chooses how to train, not how it is judged.

        Args:
            plan: what the instruction asks for.
            run_id: of the run.
            round: of the run; asked again for the same one, the device pays again.
            noise_kind: `secure` or `seeded`.

        Returns:
            One reservation a step, or None when the round must not take place: it would overspend, or the ledger is
            gone, full, damaged or another one's. Nothing was written then.
        """
        ours = replace(plan, records=self.records, delta=self.delta)
        try:
            with Ledger.open(self.path) as ledger:
                budget = self._budget(ledger)
                with ledger.exclusive():
                    return tuple(budget.reserve(ours, run_id, round, noise_kind) for _ in range(plan.steps))
        except SottovoceError:
            return None

    def commit(self, paid: tuple[Reservation, ...], update: Mapping[str, npt.NDArray[np.floating]]) -> None:
        """Record that an update left the device, by the digest of its values.

        Without it the round counts as spent all the same.

        Raises:
            LedgerError: the reservations are not open in this ledger, or the file cannot be written.
        """
        sha256 = hashlib.sha256()
        for name in sorted(update):
            sha256.update(f"{name} {update[name].dtype} {update[name].shape}\n".encode())
            sha256.update(np.ascontiguousarray(update[name]).tobytes())
        with Ledger.open(self.path) as ledger, ledger.exclusive():
            for one in paid:
                ledger.commit(one, sha256.hexdigest())

    def participations(self) -> int:
        """Rounds that the device paid for, in all runs; a round asked for twice counts twice.

        Raises:
            LedgerError: there is no ledger that holds.
        """
        with Ledger.open(self.path, readonly=True) as ledger:
            book = ledger.book()
            return sum(
                count // int(book.plans[plan_hash].plan["steps"] or 1)
                for (_, plan_hash, _, _), count in book.uses.items()
            )

    def spent(self) -> RecordClaim:
        """What the device revealed of one record so far, with the conversion to several and to all; for its owner.

        Raises:
            LedgerError: there is no ledger that holds.
        """
        with Ledger.open(self.path, readonly=True) as ledger:
            book = ledger.book()
            epsilon, name = spent_epsilon(book)
            sure = not (book.noise["seeded"] or book.noise["none"])
            return record_claim(book.spent, self.delta, self.records, guarantee=sure, epsilon=epsilon, by=name)

    def _budget(self, ledger: Ledger) -> Budget:
        """The budget of this ledger; opens its campaign, whose unit is a record, when it has none."""
        budget = Budget(self.epsilon, self.delta, ledger)
        with ledger.exclusive() as book:
            if book.campaign is None:
                order = renyi.best_order([(_whole(self.epsilon, self.delta), 1)], self.delta)
                ledger.open_campaign(self.epsilon, self.delta, self.records, unit="record", filter_order=order)
        return budget


def _whole(epsilon: float, delta: float) -> Gaussian:
    """One Gaussian release that costs about the whole budget: what a second plan, chosen later, is judged for.

    Source: Bun and Steinke 2016, arXiv:1605.02065, proposition 1.3 (epsilon = rho + 2 sqrt(rho log(1 / delta))).
    """
    tail = math.log(1 / delta)
    return Gaussian(noise_multiplier=math.sqrt(0.5) / (math.sqrt(tail + epsilon) - math.sqrt(tail)))
