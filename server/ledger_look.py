"""What the ledger says right now, for those who watch a coordinator: read-only, from the first row on, cached briefly.

Everything here follows from public rows. The restricted records beside the chain, which tell cohort sizes, are not
read: the epsilon for known cohorts goes by the cap of the plan, not by what was counted.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sottovoce.privacy import accountant
from sottovoce.privacy.book import Book
from sottovoce.privacy.cross_check import cross_check
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.filter import spent_epsilon
from sottovoce.privacy.findings import disagreements
from sottovoce.privacy.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLook:
    """One look at a ledger.

    Attributes:
        problem: why nothing can be said; empty when every row is as it was written.
        rows: of the chain; 0 with a problem.
        last_row_s: time in the last reservation, seconds since 1970; nan before the first.
        outsider: epsilon spent, against somebody who sees every release; nan with a problem.
        knows_cohorts: the same against somebody who knows who took part, by the cap of the plan.
        budget: of the campaign; `inf` without a limit, nan before it is open.
        agree: whether the independent accountants agree with the published figure.
    """

    problem: str = ""
    rows: int = 0
    last_row_s: float = math.nan
    outsider: float = math.nan
    knows_cohorts: float = math.nan
    budget: float = math.nan
    agree: bool = True


def look(address: Path | str) -> LedgerLook:
    """Read a whole ledger, hold it against its chain, and compute what it spent; never raises for a bad ledger."""
    try:
        with Ledger.open_unchecked(address) as ledger:
            book = Book()
            ledger.replay(book)
    except LedgerError as error:
        return LedgerLook(problem=error.what)
    return judged(book)


def judged(book: Book) -> LedgerLook:
    """What the rows in a book come to; about 0.2 s where PRV joins in."""
    campaign, last = book.campaign, math.nan
    if book.period:
        last = datetime.fromisoformat(book.period[-1]).timestamp()
    if campaign is None:
        return LedgerLook(rows=book.head.length, last_row_s=last, outsider=0.0, knows_cohorts=0.0)
    outside, _ = spent_epsilon(book, accountant.COARSE)
    exposure = book.exposure()
    return LedgerLook(
        rows=book.head.length,
        last_row_s=last,
        outsider=outside,
        knows_cohorts=accountant.epsilon_without_sampling(exposure, campaign.delta, sum(exposure.values())),
        budget=math.inf if campaign.epsilon is None else campaign.epsilon,
        agree=not disagreements(cross_check(book.spent, campaign.delta)) if book.releases else True,
    )


class LedgerWatch:
    """Looks at a ledger no more often than it must.

    Args:
        address: of the ledger.
        every_s: a look younger than this is given again, in seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, address: Path | str, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._address, self._every, self._clock = address, every_s, clock
        self._lock = threading.Lock()
        self._seen: tuple[float, LedgerLook] | None = None

    def __call__(self) -> LedgerLook:
        """The newest look; safe to call from several threads."""
        with self._lock:
            now = self._clock()
            # A problem may be one of the moment, a lock or a file that is not made yet: it is looked at again.
            if self._seen is None or self._seen[1].problem or now - self._seen[0] >= self._every:
                self._seen = (now, look(self._address))
            return self._seen[1]
