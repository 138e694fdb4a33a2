"""The budget of a campaign: every release asks it first, and the one that would overspend is refused.

A campaign is one epsilon, one delta and one population; training, metrics, tuning, calibration and analytics all draw
on it. Whole plans are verified and written down before the first release. Each release is then checked against the
whole budget and against the shares of its purpose and its querier, all or nothing, and debited under one lock, so that
several coordinators cannot overspend together.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Self

from sottovoce.privacy import accountant, renyi
from sottovoce.privacy.book import Book
from sottovoce.privacy.campaign import check_campaign, in_micro, share_of
from sottovoce.privacy.claim import DeviceClaim
from sottovoce.privacy.errors import BudgetError, ConfigError
from sottovoce.privacy.events import MICRO, Event, NoiseKind, NonPrivate, RepeatAndSelect
from sottovoce.privacy.filter import Filter, fixed_beforehand, spent_epsilon
from sottovoce.privacy.ledger import Ledger, Realised, Reservation
from sottovoce.privacy.planned import Plan

FEW_RUNS = 3
"""Tuning runs that are cheaper added up than with random stopping."""


class Budget:
    """What one campaign may spend, on one ledger.

    Args:
        epsilon: most that may be spent, above 0; `inf` for a campaign that is not private.
        delta: probability with which the guarantee may fail.
        ledger: open for writing, or read-only to look.
        shares: most that may be spent on one purpose or for one querier, as epsilon, by `purpose:NAME`, `querier:NAME`
            or `querier:*` for all others. They take effect when the campaign is opened and cannot be changed later.

    Raises:
        ConfigError: a value is out of range, or the ledger was opened with other values.
    """

    def __init__(self, epsilon: float, delta: float, ledger: Ledger, shares: Mapping[str, float] | None = None) -> None:
        check_campaign(epsilon, delta, shares=shares)
        self.epsilon = epsilon
        self.delta = delta
        self._ledger = ledger
        self._shares = {name: in_micro(name, share) for name, share in (shares or {}).items()}
        self._filters = {"": Filter(epsilon, delta)}
        self._same_campaign(ledger.book(), None)

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        """The budget of a campaign that is open already.

        Raises:
            ConfigError: no campaign is open on this ledger.
        """
        campaign = ledger.book().campaign
        if campaign is None:
            raise ConfigError("no campaign is open on this ledger", "open one with `sottovoce ledger open`")
        return cls(math.inf if campaign.epsilon is None else campaign.epsilon, campaign.delta, ledger)

    def open(self, population: int, *plans: Plan) -> None:
        """Open the campaign for `population` devices, unless it is open.

        `plans` choose the order of its filter; without any it is the one that lets most Gaussian releases through.

        Raises:
            ConfigError: delta is not below 1 / population, or the campaign is open with other values.
            LedgerError: the ledger cannot be read or written.
        """
        check_campaign(self.epsilon, self.delta, population)
        with self._ledger.exclusive() as book:
            if book.campaign is not None:
                self._same_campaign(book, None, population)
                return
            counts: Counter[Event] = sum((Counter(plan.charged()) for plan in plans), Counter())
            limit = None if math.isinf(self.epsilon) else self.epsilon
            order = None
            if limit is not None:
                order = renyi.best_order(counts, self.delta) or renyi.widest_order(limit, self.delta)
            self._ledger.open_campaign(limit, self.delta, population, filter_order=order, shares=self._shares)

    def register(self, *plans: Plan) -> None:
        """Verify that whole plans fit together into what is left, and write them down; opens the campaign if need be.

        Until the first release, plans are verified together with those that were registered before; what those cover
        already is not verified again. Register everything that a campaign will release before its first release: what
        is planned later counts as chosen after seeing results, and costs more.

        Raises:
            BudgetError: together they would overspend; nothing was written.
            ConfigError: a plan's delta or population is not that of the campaign.
            LedgerError: the ledger cannot be read or written.
        """
        for plan in plans:
            self._same_campaign(self._ledger.book(), plan)
        with self._ledger.exclusive() as book:
            self.open(plans[0].population, *plans)
            new = [plan for plan in plans if plan.digest() not in book.plans]
            charge: Counter[Event] = sum((Counter(plan.charged()) for plan in new), Counter())
            beyond = charge - (book.fixed - book.spent)
            if not book.releases:
                charge = beyond + book.fixed
            for plan in plans:
                self._write(plan)
            refused = next(self._refusals(book, charge, {"": 1}), None) if beyond else None
            if refused:
                raise BudgetError(
                    f"{sum(plan.rounds for plan in new)} planned releases would exceed {refused}",
                    "plan fewer rounds, more noise or smaller cohorts; nothing was released",
                )

    def admits(self, plan: Plan) -> int:
        """How many more rounds of `plan` the budget allows now, of those that it plans; nothing is written.

        Raises:
            ConfigError: see `reserve`.
        """
        book, event = self._ledger.book(), plan.event()
        self._same_campaign(book, plan)
        left = plan.rounds
        if plan.digest() in book.plans:
            left = max(0, min(left, book.fixed[event] - book.spent[event]))
        order = self._order(book, Counter({event: left})) if book.releases else None
        return self._filters[""].reach(book.spent, event, left, order)

    def reserve(self, plan: Plan, run_id: str, round: int, noise_kind: NoiseKind, querier: str = "") -> Reservation:
        """Debit one round of `plan`; on return it is on disk, and only then may the cohort be drawn.

        Args:
            plan: what will be released.
            run_id: which run.
            round: which round of it; doing a round again is another release and is debited again.
            noise_kind: `secure` or `seeded`; recorded as `none` for a plan without noise.
            querier: on whose behalf, for their share.

        Raises:
            BudgetError: this release would overspend; nothing was written.
            ConfigError: the plan's delta or population is not that of the campaign.
            LedgerError: the ledger cannot be read or written.
            ValueError: `none` for a plan that has noise.
        """
        if isinstance(plan.event(), NonPrivate):
            noise_kind = "none"
        elif noise_kind == "none":
            raise ValueError("a plan with noise needs secure or seeded noise")
        book, event, plan_hash = self._ledger.book(), plan.event(), plan.digest()
        self._same_campaign(book, plan)
        if fixed_beforehand(book):
            # Whatever is slow is computed here once and remembered, so that nobody waits for it at the lock.
            self._filters[""].allows(book.spent, event, plan.rounds)
        ahead = {"": plan.rounds, f"purpose:{plan.purpose}": plan.rounds}
        if querier:
            ahead[f"querier:{querier}"] = plan.rounds
        with self._ledger.exclusive() as book:
            self._same_campaign(book, plan)
            self.open(plan.population, plan)
            self._write(plan)
            charge = Counter({event: book.charge(run_id, plan_hash, event)})
            refused = next(self._refusals(book, charge, ahead), None) or self._too_many_runs(book, plan, run_id)
            if refused:
                raise BudgetError(
                    f"round {round} of run {run_id} would exceed {refused}",
                    "stop here and release the last model, or start a campaign on devices that were in none",
                )
            return self._ledger.reserve(run_id, round, event, plan_hash, plan.purpose, noise_kind, querier)

    def commit(self, paid: Reservation, artifact_sha256: str, realised: Realised | None = None) -> None:
        """Record that a release happened; see `Ledger.commit`."""
        self._ledger.commit(paid, artifact_sha256, realised)

    def spent(self) -> DeviceClaim:
        """What everything in the ledger cost so far, as published; about 0.1 s when something was added."""
        return self._claim(self._ledger.book(), accountant.FINE)

    def running(self) -> DeviceClaim:
        """Like `spent`, by PLD on a ten times coarser grid: an upper bound too, for progress displays, about 15 ms."""
        return self._claim(self._ledger.book(), accountant.COARSE)

    @property
    def remaining(self) -> float:
        """Budget minus spent epsilon; the cost of further rounds is usually less than their sum."""
        return math.inf if math.isinf(self.epsilon) else max(0.0, self.epsilon - self.spent().epsilon)

    def _claim(self, book: Book, grid: float) -> DeviceClaim:
        if book.campaign is not None and book.campaign.unit != "device":
            raise ConfigError("this ledger is about the records of one device", "ask its `DeviceLedger` what was spent")
        epsilon, name = spent_epsilon(book, grid)
        if grid != accountant.FINE:
            # The budget was kept by the fine grid; the coarse one may lie a little above it.
            epsilon, name = min(epsilon, self.epsilon), f"{name} (coarse grid)"
        sure = not (book.noise["seeded"] or book.noise["none"]) and epsilon < math.inf
        return DeviceClaim(epsilon, self.delta, accountant=name, guarantee=sure)

    def _write(self, plan: Plan) -> None:
        self._ledger.plan(plan.settings(), plan.event(), plan.rounds, plan.cohorts, plan.max_participations)

    def _order(self, book: Book, charge: Counter[Event]) -> float | None:
        """The Renyi order to judge by, or None while everything was planned before the first release.

        Raises:
            BudgetError: a filter is needed, but none was declared when the campaign was opened.
        """
        if math.isinf(self.epsilon) or fixed_beforehand(book, charge):
            return None
        order = book.campaign.filter_order if book.campaign else None
        if order is None:
            raise BudgetError(
                "this release was not planned before the first one, and the campaign has no filter for such choices",
                "plan everything before the first release, or start a new campaign",
            )
        return order

    def _refusals(self, book: Book, charge: Counter[Event], ahead: Mapping[str, int]) -> Iterator[str]:
        """Every limit that `charge` would break, in words; `ahead` names those to ask, with the releases expected."""
        order = self._order(book, charge)
        if not self._fits("", self.epsilon, book.spent, charge, order, ahead[""]):
            spent, _ = spent_epsilon(book)
            yield (
                f"epsilon {self.epsilon:g} at delta {self.delta:g}: {book.releases} releases spent {spent:.4f}"
                + ("" if order is None else f", and what was not planned before the first is judged at order {order:g}")
            )
        limits = book.campaign.shares if book.campaign else {}
        for name in ahead:
            limit = share_of(limits, name)
            if limit is None or self._fits(name, limit / MICRO, book.shares[name], charge, order, ahead[name]):
                continue
            yield f"the share of {name}, epsilon {limit / MICRO:g}"

    def _fits(
        self, name: str, limit: float, spent: Counter[Event], charge: Counter[Event], order: float | None, ahead: int
    ) -> bool:
        """Whether the whole of `charge` stays within one limit."""
        if name not in self._filters:
            self._filters[name] = Filter(limit, self.delta)
        last = next((event for event, count in charge.items() if count), None)
        if last is None:
            return True
        return self._filters[name].allows(spent + charge - Counter({last: 1}), last, ahead, order)

    def _too_many_runs(self, book: Book, plan: Plan, run_id: str) -> str | None:
        """Refuse a fourth tuning run: from there on random stopping costs less and must be used."""
        if plan.purpose != "tuning":
            return None
        runs = {run for (run, _, purpose, _), count in book.uses.items() if purpose == "tuning" and count}
        if isinstance(plan.event(), RepeatAndSelect) or run_id in runs or len(runs) < FEW_RUNS:
            return None
        return f"{FEW_RUNS} tuning runs, which are in this campaign already: more need random stopping (`Selection`)"

    def _same_campaign(self, book: Book, plan: Plan | None, population: int | None = None) -> None:
        """Refuse to mix campaigns on one ledger."""
        campaign = book.campaign
        unit = "device" if campaign is None else campaign.unit
        if plan is not None and (getattr(plan.event(), "adjacency", None) == "add_remove") != (unit == "record"):
            raise ConfigError(
                f"the unit of this ledger's campaign is one {unit}, that of the plan is not",
                "use another ledger: a device's records and whole devices are never added up",
            )
        if campaign is None:
            if plan is not None and plan.delta != self.delta:
                raise _another("delta", plan.delta, self.delta)
            return
        limit = math.inf if campaign.epsilon is None else campaign.epsilon
        people = population if plan is None else plan.population
        for name, value, found in (
            ("epsilon", self.epsilon, limit),
            ("delta", self.delta if plan is None else plan.delta, campaign.delta),
            ("population", campaign.population if people is None else people, campaign.population),
        ):
            if value != found:
                raise _another(name, value, found)
        if self._shares and self._shares != campaign.shares:
            raise ConfigError(
                "the campaign of this ledger keeps other shares, or none",
                "leave the shares out, or use another ledger for another campaign",
            )


def _another(name: str, value: float, found: float) -> ConfigError:
    return ConfigError(
        f"{name} = {value:g}, but the campaign of this ledger has {name} = {found:g}",
        "use the same values, or another ledger for another campaign",
    )
