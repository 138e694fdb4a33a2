"""What the rows of a ledger add up to: the campaign, its plans, what is open, what is spent and on whom it may fall.

Every row is checked against the chain as it is taken in, so that a book never says more than its rows prove.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

from sottovoce.privacy.chain import (
    GENESIS,
    Campaign,
    Committed,
    Entry,
    Head,
    Planned,
    Reserved,
    Row,
    SpentOnCrash,
    Void,
    broken,
    digest,
    link,
    read,
)
from sottovoce.privacy.events import Event, NoiseKind, Purpose

_SETTLED = {Committed: "COMMITTED", Void: "VOID", SpentOnCrash: "SPENT_ON_CRASH"}


class Book:
    """The meaning of the rows read so far; every row is checked as it is added.

    Attributes:
        head: of the last row added.
        campaign: the first row, None while there is none.
        plans: the plans written down, by digest.
        open: reservations not settled yet, by row, each with the hash of its row.
        spent: how often each event is charged: every reservation that is not VOID, except that a plan whose cohorts are
            visible charges a run no more often than a device may take part in it.
        fixed: the same for what was planned before the first release: it cannot have been chosen after seeing one.
        shares: the same by `purpose:NAME` and `querier:NAME`.
        uses: reservations that are not VOID, by run, plan, purpose and querier.
        noise: kinds of noise of what is spent.
        states: RESERVED (still open), COMMITTED, VOID and SPENT_ON_CRASH reservations.
        realised: restricted records that rows promise, by the row that committed: their digests.
        period: times of the first and last reservation; empty while there is none.
    """

    def __init__(self) -> None:
        self.head = Head(0, GENESIS)
        self.campaign: Campaign | None = None
        self.plans: dict[str, Planned] = {}
        self.fixed: Counter[Event] = Counter()
        self.open: dict[int, tuple[Reserved, str]] = {}
        self.spent: Counter[Event] = Counter()
        self.shares: defaultdict[str, Counter[Event]] = defaultdict(Counter)
        self.uses: Counter[tuple[str, str, Purpose, str]] = Counter()
        self.noise: Counter[NoiseKind] = Counter()
        self.states: Counter[str] = Counter()
        self.realised: dict[int, tuple[Reserved, str]] = {}
        self.period: tuple[str, ...] = ()
        self._rounds: Counter[tuple[str, str, Event]] = Counter()

    @property
    def releases(self) -> int:
        """Reservations that are not VOID."""
        return sum(self.noise.values())

    @property
    def purposes(self) -> Counter[Purpose]:
        """The same by purpose."""
        found: Counter[Purpose] = Counter()
        for (_, _, purpose, _), count in self.uses.items():
            found[purpose] += count
        return found

    def rounds(self) -> Counter[Event]:
        """How often each event was released, whatever was charged for it."""
        found: Counter[Event] = Counter()
        for (_, _, event), count in self._rounds.items():
            found[event] += count
        return found

    def exposure(self, counted: Mapping[str, int] | None = None) -> Counter[Event]:
        """What one device was part of at most, for somebody who knows who took part.

        Args:
            counted: most rounds that any device was asked for, by run, where it was counted; elsewhere the cap of the
                plan holds, or else every round.
        """
        found: Counter[Event] = Counter()
        for (run_id, plan_hash, event), count in self._rounds.items():
            found[event] += min(self._most(plan_hash, count), (counted or {}).get(run_id, count))
        return found

    def charge(self, run_id: str, plan_hash: str, event: Event) -> int:
        """How often one more release of a plan in a run is charged: 1, or 0 where the cap keeps every device out."""
        plan, rounds = self.plans.get(plan_hash), self._rounds[run_id, plan_hash, event]
        if plan is None or plan.cohorts == "secret":
            return 1
        return self._most(plan_hash, rounds + 1) - self._most(plan_hash, rounds)

    def _most(self, plan_hash: str, rounds: int) -> int:
        """Most of `rounds` rounds of one run that a device takes part in."""
        plan = self.plans.get(plan_hash)
        return rounds if plan is None or plan.max_participations is None else min(rounds, plan.max_participations)

    def add(self, row: Row) -> Entry:
        """Check one row against the chain, then take in what it says.

        Raises:
            LedgerError: names the row; the book is then as it was.
        """
        expected = self.head.length + 1
        if row.seq != expected:
            raise broken(expected, f"missing; row {row.seq} follows row {self.head.length}")
        if row.prev_hash != self.head.hash:
            raise broken(row.seq, "does not follow from the row before it")
        if row.hash != link(row.prev_hash, row.body):
            raise broken(row.seq, "its content is not what was hashed")
        entry = read(row)
        self._take(entry, row.hash)
        self.head = Head(row.seq, row.hash)
        return entry

    def _take(self, entry: Entry, sha256: str) -> None:
        """Apply one entry that belongs here."""
        if isinstance(entry, Campaign) == (entry.seq != 1):
            raise broken(entry.seq, "the first row, and only it, opens the campaign")
        if isinstance(entry, Campaign):
            self.campaign = entry
        elif isinstance(entry, Planned):
            self._plan(entry)
        elif isinstance(entry, Reserved):
            self._reserve(entry, sha256)
        else:
            self._settle(entry)

    def _plan(self, entry: Planned) -> None:
        if entry.plan_hash != digest(entry.plan):
            raise broken(entry.seq, "its plan is not what was hashed")
        if entry.plan_hash in self.plans:
            raise broken(entry.seq, "writes a plan down twice")
        self.plans[entry.plan_hash] = entry
        if not self.period:
            self.fixed[entry.event] += (
                self._most(entry.plan_hash, entry.rounds) if entry.cohorts == "visible" else entry.rounds
            )

    def _reserve(self, entry: Reserved, sha256: str) -> None:
        plan = self.plans.get(entry.plan_hash)
        if plan is not None and plan.event != entry.event:
            raise broken(entry.seq, "releases something else than its plan")
        self.open[entry.seq] = (entry, sha256)
        self._count(entry, 1)
        self.states["RESERVED"] += 1
        self.period = (self.period[0] if self.period else entry.time, entry.time)

    def _settle(self, entry: Committed | Void | SpentOnCrash) -> None:
        if entry.reservation not in self.open:
            raise broken(entry.seq, f"settles row {entry.reservation}, which is no open reservation")
        reserved, _ = self.open.pop(entry.reservation)
        self.states["RESERVED"] -= 1
        self.states[_SETTLED[type(entry)]] += 1
        if isinstance(entry, Void):
            self._count(reserved, -1)
        if isinstance(entry, Committed) and entry.realised_sha256 is not None:
            self.realised[entry.seq] = (reserved, entry.realised_sha256)

    def _count(self, reserved: Reserved, change: int) -> None:
        """Spend a reservation (+1) or give it back (-1)."""
        self.noise[reserved.noise] += change
        self.uses[reserved.run_id, reserved.plan_hash, reserved.purpose, reserved.querier] += change
        key = (reserved.run_id, reserved.plan_hash, reserved.event)
        before = self._rounds[key]
        self._rounds[key] += change
        plan = self.plans.get(reserved.plan_hash)
        if plan is not None and plan.cohorts == "visible":
            change = self._most(reserved.plan_hash, before + change) - self._most(reserved.plan_hash, before)
        self.spent[reserved.event] += change
        self.shares[f"purpose:{reserved.purpose}"][reserved.event] += change
        if reserved.querier:
            self.shares[f"querier:{reserved.querier}"][reserved.event] += change
