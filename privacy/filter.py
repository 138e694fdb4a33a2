"""Whether one more release stays within a limit, answered in microseconds and never wrongly.

The rule is a figure of everything charged so far and of this release <= the limit. Which figure depends on whether the
releases were fixed beforehand:

* Everything was planned before the first release, and the whole plan was within the budget: the published figure (PLD).
  Stopping early is free.
* Something was chosen after seeing a release: only filters hold against an adaptive choice, and PLD has none. Renyi DP
  at one order that was fixed beforehand has (Feldman and Zrnic 2021, arXiv:2008.11193); it is looser.
* Nothing but pure releases: their sum, in whole millionths.

Computing PLD takes a tenth of a second. Two shortcuts stand before it; neither allows more or less than the rule does.
Epsilon only grows with more releases: what was found within the limit covers everything with fewer of each kind, what
was found beyond it rules out everything with more; and each question is asked for many releases at once, so that one
answer serves a whole run. Renyi DP is an upper bound too, a thousand times faster: what it finds within the limit is
within it.
"""

import math
from collections import Counter

from sottovoce.privacy import accountant, renyi
from sottovoce.privacy.book import Book
from sottovoce.privacy.events import MICRO, Event, Pure


class Filter:
    """One limit on what may be charged.

    Args:
        epsilon: the limit; `inf` lets everything pass.
        delta: probability with which the guarantee may fail.
    """

    def __init__(self, epsilon: float, delta: float) -> None:
        self.epsilon = epsilon
        self._delta = delta
        self._within: list[Counter[Event]] = []
        self._beyond: list[Counter[Event]] = []

    def allows(self, spent: Counter[Event], event: Event, ahead: int = 1, order: float | None = None) -> bool:
        """Whether one more `event` stays within the limit.

        Args:
            spent: charged so far.
            event: of the release.
            ahead: how many more like it are expected; PLD is then asked for up to so many at once.
            order: Renyi order of the rule for adaptive choices; None when all was fixed beforehand.
        """
        after = spent + Counter({event: 1})
        if math.isinf(self.epsilon):
            return True
        if order is not None:
            return renyi.epsilon_at_order(after, self._delta, order) <= self.epsilon
        if all(isinstance(kind, Pure) for kind in after):
            return pure_sum(after) <= round(self.epsilon * MICRO)
        if any(after <= known for known in self._within):
            return True
        if any(after >= known for known in self._beyond):
            return False
        steps = _fewer(ahead)
        return any(self._fits_renyi(after + Counter({event: more})) for more in steps) or any(
            self._fits(after + Counter({event: more})) for more in steps
        )

    def reach(self, spent: Counter[Event], event: Event, ahead: int, order: float | None = None) -> int:
        """How many more `event` stay within the limit, at most `ahead`."""
        if ahead < 1:
            return 0

        def fits(count: int) -> bool:
            return self.allows(spent + Counter({event: count - 1}), event, 1, order)

        if fits(ahead):
            return ahead
        good, bad = 0, ahead
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if fits(middle) else (good, middle)
        return good

    def _fits_renyi(self, counts: Counter[Event]) -> bool:
        """The quick upper bound; only a yes means anything, and is remembered for everything smaller."""
        return renyi.epsilon_rdp(counts, self._delta) <= self.epsilon and self._remember(counts)

    def _fits(self, counts: Counter[Event]) -> bool:
        """The rule itself; the answer is remembered for everything smaller or larger."""
        if any(counts >= known for known in self._beyond):
            return False
        if accountant.published(counts, self._delta)[0] <= self.epsilon:
            return self._remember(counts)
        self._beyond = [known for known in self._beyond if not known >= counts] + [counts]
        return False

    def _remember(self, counts: Counter[Event]) -> bool:
        self._within = [known for known in self._within if not known <= counts] + [counts]
        return True


def _fewer(ahead: int) -> list[int]:
    """How many releases more to ask for beyond the next: many first, then fewer, none in the end."""
    steps = []
    while ahead > 1:
        steps.append(ahead - 1)
        ahead //= 4
    return [*steps, 0]


def fixed_beforehand(book: Book, charge: Counter[Event] | None = None) -> bool:
    """Whether everything charged, and `charge`, was planned before the first release.

    With several kinds of events the whole plan must have been within the budget as well: else which of them were
    released, and how often, may have been chosen along the way.
    """
    after = book.spent + (charge or Counter())
    if not after <= book.fixed:
        return False
    campaign = book.campaign
    if campaign is None or campaign.epsilon is None or sum(count > 0 for count in after.values()) < 2:
        return True
    return accountant.published(book.fixed, campaign.delta)[0] <= campaign.epsilon


def pure_sum(counts: Counter[Event]) -> int:
    """Millionths of epsilon of the pure releases among `counts`, added up exactly."""
    return sum(count * event.micro_epsilon for event, count in counts.items() if isinstance(event, Pure))


def spent_epsilon(book: Book, finest: float = accountant.FINE) -> tuple[float, str]:
    """What everything charged costs against an outsider, and by which accountant.

    A filter promises its limit, not what was charged when it happened to stop: with adaptive choices the figure is the
    budget of the campaign, or more where more was charged.
    """
    campaign = book.campaign
    if campaign is None:
        return 0.0, "PLD"
    if fixed_beforehand(book):
        return accountant.published(book.spent, campaign.delta, finest)
    if campaign.filter_order is None or campaign.epsilon is None:
        # No filter stood guard. What Renyi DP says of the sum is the best there is; `audit` says that it is no proof.
        return renyi.epsilon_rdp(book.spent, campaign.delta), "Renyi DP, no filter"
    charged = renyi.epsilon_at_order(book.spent, campaign.delta, campaign.filter_order)
    return max(campaign.epsilon, charged), f"a Renyi filter of order {campaign.filter_order:g}"
