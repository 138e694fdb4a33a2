"""What the rows of a ledger say, and the hash chain that holds them together. No file is touched here.

Each row is one entry as JSON with sorted keys. Its hash is SHA-256 of the previous row's hash and that JSON, so that no
row can be edited, removed or moved without breaking every hash after it. A release is written in two steps: RESERVED
before a cohort is drawn, then one row that settles it: COMMITTED (it was released), VOID (nothing left, nobody was
contacted) or SPENT_ON_CRASH (nobody knows, so it counts). Everything but VOID is spent, an unsettled reservation too.

The law of `events` holds here: nothing is ever removed or changes its meaning, unknown entries are refused.
"""

import hashlib
from collections import Counter
from typing import Literal, NamedTuple

import msgspec

from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import Event, NoiseKind, Purpose

GENESIS = "0" * 64
"""What the first row names as the hash before it."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="state"):
    """What all entries carry.

    Attributes:
        seq: row number, 1, 2, 3 ...
        time: UTC, ISO 8601; informative only, clocks may jump.
    """

    seq: int
    time: str


class Campaign(_Entry, frozen=True, kw_only=True, tag="CAMPAIGN"):
    """The first row: one budget, for one population, shared by all runs that draw on it.

    Attributes:
        epsilon: the budget; null for a campaign that is not private.
        delta: probability with which the guarantee may fail.
        population: enrolled devices, public.
        unit: what is protected.
        adjacency: which data sets are neighbours.
    """

    epsilon: float | None
    delta: float
    population: int
    unit: Literal["device"] = "device"
    adjacency: Literal["zero_out"] = "zero_out"


class Reserved(_Entry, frozen=True, kw_only=True, tag="RESERVED"):
    """A release that is about to happen, debited before anybody is contacted.

    Attributes:
        run_id: which run.
        round: which round of it.
        purpose: why it is released.
        noise: where its noise comes from.
        event: what an accountant needs.
        plan_hash: digest of the plan it belongs to.
    """

    run_id: str
    round: int
    purpose: Purpose
    noise: NoiseKind
    event: Event
    plan_hash: str


class Committed(_Entry, frozen=True, kw_only=True, tag="COMMITTED"):
    """The release happened; `artifact_sha256` is what was released, `reservation` the row that paid for it."""

    reservation: int
    artifact_sha256: str


class Void(_Entry, frozen=True, kw_only=True, tag="VOID"):
    """Nothing was released and nobody was contacted, because of `reason`; `reservation` is given back."""

    reservation: int
    reason: str


class SpentOnCrash(_Entry, frozen=True, kw_only=True, tag="SPENT_ON_CRASH"):
    """The program ended between `reservation` and its settlement: the release may have happened."""

    reservation: int


Entry = Campaign | Reserved | Committed | Void | SpentOnCrash

_SETTLED = {Committed: "COMMITTED", Void: "VOID", SpentOnCrash: "SPENT_ON_CRASH"}

_decoder = msgspec.json.Decoder(Entry)


class Head(NamedTuple):
    """How far a ledger goes: what checkpoints and bundles pin."""

    length: int
    hash: str


class Row(NamedTuple):
    """One row as it is stored; `body` is the entry as JSON."""

    seq: int
    prev_hash: str
    hash: str
    body: bytes


def seal(entry: Entry, prev_hash: str) -> Row:
    """The row that appends `entry` after the row with hash `prev_hash`."""
    body = msgspec.json.encode(entry, order="sorted")
    return Row(entry.seq, prev_hash, _link(prev_hash, body), body)


def _link(prev_hash: str, body: bytes) -> str:
    return hashlib.sha256(prev_hash.encode() + body).hexdigest()


def broken(row: int, what: str) -> LedgerError:
    """The error for a row that is not what it was when it was written."""
    return LedgerError(f"ledger row {row}: {what}", "stop, restore the ledger from a copy and tell the auditor")


class Book:
    """The meaning of the rows read so far; every row is checked as it is added.

    Attributes:
        head: of the last row added.
        campaign: the first row, None while there is none.
        open: reservations not settled yet, by row, each with the hash of its row.
        spent: how often each event counts: every reservation that is not VOID.
        noise: kinds of noise of what is spent.
        purposes: purposes of what is spent.
        states: RESERVED (still open), COMMITTED, VOID and SPENT_ON_CRASH reservations.
        plans: digests of the plans that reserved.
    """

    def __init__(self) -> None:
        self.head = Head(0, GENESIS)
        self.campaign: Campaign | None = None
        self.open: dict[int, tuple[Reserved, str]] = {}
        self.spent: Counter[Event] = Counter()
        self.noise: Counter[NoiseKind] = Counter()
        self.purposes: Counter[Purpose] = Counter()
        self.states: Counter[str] = Counter()
        self.plans: set[str] = set()

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
        if row.hash != _link(row.prev_hash, row.body):
            raise broken(row.seq, "its content is not what was hashed")
        try:
            entry: Entry = _decoder.decode(row.body)
        except (msgspec.DecodeError, ValueError) as error:
            raise broken(row.seq, f"unreadable entry ({error})") from error
        if entry.seq != row.seq:
            raise broken(row.seq, f"says it is row {entry.seq}")
        self._take(entry, row.hash)
        self.head = Head(row.seq, row.hash)
        return entry

    def _take(self, entry: Entry, sha256: str) -> None:
        """Apply one entry that belongs here."""
        if isinstance(entry, Campaign) == (entry.seq != 1):
            raise broken(entry.seq, "the first row, and only it, opens the campaign")
        if isinstance(entry, Campaign):
            self.campaign = entry
        elif isinstance(entry, Reserved):
            self.open[entry.seq] = (entry, sha256)
            self._count(entry, 1)
            self.states["RESERVED"] += 1
        else:
            if entry.reservation not in self.open:
                raise broken(entry.seq, f"settles row {entry.reservation}, which is no open reservation")
            reserved, _ = self.open.pop(entry.reservation)
            self.states["RESERVED"] -= 1
            self.states[_SETTLED[type(entry)]] += 1
            if isinstance(entry, Void):
                self._count(reserved, -1)

    def _count(self, reserved: Reserved, change: int) -> None:
        """Spend a reservation (+1) or give it back (-1)."""
        self.spent[reserved.event] += change
        self.noise[reserved.noise] += change
        self.purposes[reserved.purpose] += change
        self.plans.add(reserved.plan_hash)
