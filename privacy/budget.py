"""The budget of a campaign: every release asks it first, and the one that would overspend is refused.

The rule is epsilon by PLD of everything spent so far and of this release <= budget, checked and written under one
lock, so that several coordinators cannot overspend together. PLD is too slow for every round, so three shortcuts stand
before it; none of them allows more or less than the rule does:

1. Epsilon only grows with more releases. What was found within the budget covers everything with fewer releases of each
   kind, and what was found beyond it rules out everything with more. When PLD is asked, it is asked for many rounds at
   once, so that one answer serves a whole run.
2. Renyi DP is an upper bound too: what it finds within the budget is within it. It never refuses.
3. Without a limit (an infinite budget, for runs without noise) nothing needs to be computed.

PLD is valid because the parameters of a plan are fixed before its first release; stopping early is free. A plan must
not be chosen after seeing what another plan of the same campaign released: `audit` says so when there are several.
"""

import math
from collections import Counter

from sottovoce.privacy import accountant
from sottovoce.privacy.chain import Book
from sottovoce.privacy.claim import DeviceClaim
from sottovoce.privacy.errors import BudgetError, ConfigError
from sottovoce.privacy.events import Event, NoiseKind
from sottovoce.privacy.ledger import Ledger, Reservation
from sottovoce.privacy.plan import MechanismPlan


class Budget:
    """What one campaign may spend, on one ledger.

    Args:
        epsilon: most that may be spent, above 0; `inf` for a campaign that is not private.
        delta: probability with which the guarantee may fail.
        ledger: open for writing, or read-only to look.

    Raises:
        ConfigError: a value is out of range, or the ledger was opened with other values.
    """

    def __init__(self, epsilon: float, delta: float, ledger: Ledger) -> None:
        if not epsilon > 0:
            raise ConfigError(f"epsilon = {epsilon} is not a budget", "set epsilon above 0, or infinite for no privacy")
        if not 0 < delta < 1:
            raise ConfigError(f"delta = {delta} is not between 0 and 1", "set delta below 1 / population")
        self.epsilon = epsilon
        self.delta = delta
        self._ledger = ledger
        self._within: list[Counter[Event]] = []
        self._beyond: list[Counter[Event]] = []
        self._same_campaign(ledger.book(), None)

    def admits(self, plan: MechanismPlan) -> int:
        """How many more rounds of `plan` the budget allows now, at most `plan.rounds`; nothing is written.

        Raises:
            ConfigError: see `reserve`.
        """
        book = self._ledger.book()
        self._same_campaign(book, plan)
        return self._reach(book.spent, plan.event(), plan.rounds)

    def reserve(self, plan: MechanismPlan, run_id: str, round: int, noise_kind: NoiseKind) -> Reservation:
        """Debit one round of `plan`; on return it is on disk, and only then may the cohort be drawn.

        Args:
            plan: what will be released.
            run_id: which run.
            round: which round of it; doing a round again is another release and is debited again.
            noise_kind: `secure` or `seeded`; recorded as `none` for a plan without noise.

        Raises:
            BudgetError: this release would overspend; nothing was written.
            ConfigError: the plan's delta or population is not that of the campaign.
            LedgerError: the ledger cannot be read or written.
            ValueError: `none` for a plan that has noise.
        """
        if plan.noise_multiplier == 0:
            noise_kind = "none"
        elif noise_kind == "none":
            raise ValueError("a plan with noise needs secure or seeded noise")
        event = plan.event()
        self._same_campaign(self._ledger.book(), plan)
        # Whatever is slow is computed here once and remembered, so that nobody waits for it at the lock.
        self._allows(self._ledger.book().spent, event, plan.rounds)
        with self._ledger.exclusive() as book:
            self._same_campaign(book, plan)
            if not self._allows(book.spent, event, plan.rounds):
                raise BudgetError(
                    f"round {round} of run {run_id} would exceed epsilon {self.epsilon:g} at delta {self.delta:g}: "
                    f"{sum(book.spent.values())} releases spent {self._epsilon(book.spent):.4f}",
                    "stop here and release the last model, or start a campaign on devices that were in none",
                )
            if book.campaign is None:
                limit = None if math.isinf(self.epsilon) else self.epsilon
                self._ledger.open_campaign(limit, self.delta, plan.population)
            return self._ledger.reserve(run_id, round, event, plan.digest(), plan.purpose, noise_kind)

    def spent(self) -> DeviceClaim:
        """What everything in the ledger cost so far, as published; about 0.1 s when something was added."""
        book = self._ledger.book()
        return self._claim(book, self._epsilon(book.spent), "PLD")

    def running(self) -> DeviceClaim:
        """Like `spent`, by PLD on a ten times coarser grid: an upper bound too, for progress displays, about 15 ms."""
        book = self._ledger.book()
        rough = accountant.epsilon_pld(book.spent, self.delta, accountant.COARSE)
        return self._claim(book, min(rough, self.epsilon), "PLD (coarse grid)")

    @property
    def remaining(self) -> float:
        """Budget minus spent epsilon; the cost of further rounds is usually less than their sum."""
        return (
            math.inf if math.isinf(self.epsilon) else max(0.0, self.epsilon - self._epsilon(self._ledger.book().spent))
        )

    def _claim(self, book: Book, epsilon: float, name: str) -> DeviceClaim:
        sure = not (book.noise["seeded"] or book.noise["none"]) and epsilon < math.inf
        return DeviceClaim(epsilon, self.delta, accountant=name, guarantee=sure)

    def _epsilon(self, counts: Counter[Event]) -> float:
        return accountant.epsilon_pld(counts, self.delta)

    def _same_campaign(self, book: Book, plan: MechanismPlan | None) -> None:
        """Refuse to mix campaigns on one ledger."""
        wanted = {"epsilon": self.epsilon, "delta": self.delta}
        found = dict(wanted)
        if plan is not None:
            wanted |= {"delta": plan.delta, "population": plan.population}
            found |= {"population": plan.population}
        if (campaign := book.campaign) is not None:
            limit = math.inf if campaign.epsilon is None else campaign.epsilon
            found = {"epsilon": limit, "delta": campaign.delta, "population": campaign.population}
        for name, value in wanted.items():
            if found[name] != value:
                raise ConfigError(
                    f"{name} = {value:g}, but the campaign of this ledger has {name} = {found[name]:g}",
                    "use the same values, or another ledger for another campaign",
                )

    def _allows(self, spent: Counter[Event], event: Event, ahead: int) -> bool:
        """Whether one more `event` stays within the budget; asks PLD for up to `ahead` more of every kind at once."""
        after = spent + Counter({event: 1})
        if math.isinf(self.epsilon) or any(after <= known for known in self._within):
            return True
        if any(after >= known for known in self._beyond):
            return False
        if accountant.epsilon_rdp(after, self.delta) <= self.epsilon:
            return True
        while ahead > 1:
            if self._fits(after + Counter(dict.fromkeys(after, ahead - 1))):
                return True
            ahead //= 4
        return self._fits(after)

    def _reach(self, spent: Counter[Event], event: Event, ahead: int) -> int:
        """How many more `event` stay within the budget, at most `ahead`."""
        if self._fits(spent + Counter({event: ahead})):
            return ahead
        good, bad = 0, ahead
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if self._fits(spent + Counter({event: middle})) else (good, middle)
        return good

    def _fits(self, counts: Counter[Event]) -> bool:
        """The rule itself, by PLD; the answer is remembered for everything smaller or larger."""
        fits = self._epsilon(counts) <= self.epsilon
        (self._within if fits else self._beyond).append(counts)
        return fits
