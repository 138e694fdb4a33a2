"""What the runs of a sweep cost the devices together, and the sentences that say so.

Where each run has a ledger of its own, what they spent is added up here and told, and covers nothing: it is what
whoever publishes the best of them would have to answer for. Where one campaign pays, its ledger says.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from sottovoce.privacy.accountant import epsilon_without_sampling, published
from sottovoce.privacy.audit import audit
from sottovoce.privacy.claim import DeviceClaim
from sottovoce.privacy.events import Event, NoiseKind, NonPrivate
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations.sweep import Sweep

LOOKED_AT = (
    "the figures were read without noise from held-out rows and from histories, TAKEN AS PUBLIC DATA: no epsilon "
    "covers what a choice by them tells about the devices"
)
"""What holds for every sweep, one campaign or not."""

UNCOVERED = "publishing the best of them is not covered by any one run's epsilon"


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What the runs of a sweep cost together so far.

    Attributes:
        runs: made, finished or not.
        epsilon: of everything together, for an outsider; None for no finite figure.
        delta: at which.
        accountant: how it was computed.
        covered: whether one campaign pays for all runs, so that `epsilon` may be published with any of their models.
        noiseless: runs without noise.
        noisy_epsilon: of the other runs alone; None where there are none.
        guarantee: whether noise was secure in every run, and the figure is finite.
        budget: of the campaign; None without one, or without a limit.
        claims: of the campaign's ledger, in words.
    """

    runs: int
    epsilon: float | None
    delta: float
    accountant: str = "PLD"
    covered: bool
    noiseless: int = 0
    noisy_epsilon: float | None = None
    guarantee: bool
    budget: float | None = None
    claims: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The sentence that every artefact carries."""
        return f"{self.runs} run{' was' if self.runs == 1 else 's were'} made on these devices; {self._cost()}"

    @property
    def forecast(self) -> str:
        """The same before the first run."""
        return f"{self.runs} run{' is' if self.runs == 1 else 's are'} planned on these devices; {self._cost()}"

    def _cost(self) -> str:
        if self.covered:
            figure = "infinite epsilon" if self.epsilon is None else f"epsilon {rounded_up(self.epsilon)}"
            limit = "" if self.budget is None else f" of a budget of {self.budget:g}"
            return f"one campaign covers the models of all of them with {figure}{limit} at delta {self.delta:g}"
        if self.epsilon is not None:
            cost = f"epsilon {rounded_up(self.epsilon)} at delta {self.delta:g}"
        elif self.noisy_epsilon is None:
            cost = "infinite epsilon: no run had noise"
        else:
            cost = (
                f"infinite epsilon, since {self.noiseless} had no noise; the other {self.runs - self.noiseless} cost "
                f"epsilon {rounded_up(self.noisy_epsilon)} at delta {self.delta:g}"
            )
        return f"{UNCOVERED}; together they cost {cost}"

    def lines(self) -> list[str]:
        """Everything that has to be said, a sentence each."""
        return [self.headline, LOOKED_AT, *self.claims]


def rounded_up(epsilon: float) -> str:
    """A figure that never says less than is true."""
    return f"{math.ceil(epsilon * 1e4 - 1e-9) / 1e4:.4f}"


def charged(plans: Iterable[Sequence[MechanismPlan]]) -> Counter[Event]:
    """What runs with these plans are charged together."""
    return sum((Counter(plan.charged()) for own in plans for plan in own), Counter())


def planned_price(sweep: Sweep, plans: Sequence[Sequence[MechanismPlan]]) -> Price:
    """What the runs will cost together if each makes the rounds and measurements that it plans."""
    delta = sweep.base.privacy.delta
    spent = charged(plans)
    noiseless = sum(any(isinstance(event, NonPrivate) for event in charged([own])) for own in plans)
    noisy = _noisy(spent)
    return Price(
        runs=len(plans),
        epsilon=published(spent, delta)[0] if not noiseless else None,
        delta=delta,
        covered=sweep.shared,
        noiseless=noiseless,
        noisy_epsilon=published(noisy, delta)[0] if noisy else None,
        guarantee=not noiseless and sweep.base.privacy.noise != "seeded",
        budget=sweep.budget,
    )


def price(ledgers: Iterable[Path | str], shared: Path | str | None, runs: int, delta: float) -> Price:
    """What was spent so far, recomputed from the ledgers.

    Args:
        ledgers: one for each run that was begun; each is counted once.
        shared: the campaign's ledger, where one pays for all.
        runs: how many were begun.
        delta: at which to add up.

    Raises:
        LedgerError: a ledger does not hold.
    """
    if shared is not None:
        found = audit(shared)
        return Price(
            runs=runs,
            epsilon=found.epsilon,
            delta=delta,
            accountant=found.accountant,
            covered=True,
            guarantee=found.guarantee,
            budget=found.budget_epsilon,
            claims=(*found.claims, *found.findings),
        )
    spent: Counter[Event] = Counter()
    exposed: Counter[Event] = Counter()
    noise: Counter[NoiseKind] = Counter()
    noiseless = 0
    for ledger in ledgers:
        with Ledger.open(ledger, readonly=True) as opened:
            book = opened.book()
        spent += book.spent
        exposed += book.exposure()
        noise += book.noise
        noiseless += any(isinstance(event, NonPrivate) for event in book.spent)
    epsilon, accountant = published(spent, delta)
    noisy = _noisy(spent)
    sure = math.isfinite(epsilon) and not noise["seeded"]
    return Price(
        runs=runs,
        epsilon=epsilon if math.isfinite(epsilon) else None,
        delta=delta,
        accountant=accountant,
        covered=False,
        noiseless=noiseless,
        noisy_epsilon=published(noisy, delta)[0] if noisy else None,
        guarantee=sure,
        claims=_claims(exposed, delta, noise),
    )


def _noisy(spent: Counter[Event]) -> Counter[Event]:
    """What had noise."""
    return Counter({event: count for event, count in spent.items() if not isinstance(event, NonPrivate)})


def _claims(exposed: Counter[Event], delta: float, noise: Counter[NoiseKind]) -> tuple[str, ...]:
    """What else the sum of separate ledgers says: the figure for somebody who knows who took part."""
    inside = epsilon_without_sampling(exposed, delta)
    if math.isinf(inside) or not exposed:
        return ()
    sure = not (noise["seeded"] or noise["none"])
    claim = DeviceClaim(
        inside, delta, observer="knows_cohorts", accountant="the exact Gaussian formula", guarantee=sure
    )
    return (f"together they cost {claim}",)
