"""What the rows of a ledger say, and the hash chain that holds them together. No file is touched here.

Each row is one entry as JSON with sorted keys. Its hash is SHA-256 of the previous row's hash and that JSON, so that no
row can be edited, removed or moved without breaking every hash after it. A plan is written whole before its first
release. A release is written in two steps: RESERVED before a cohort is drawn, then one row that settles it: COMMITTED
(it was released), VOID (nothing left, nobody was contacted) or SPENT_ON_CRASH (nobody knows, so it counts). Everything
but VOID is spent, an unsettled reservation too.

The law of `events` holds here: nothing is ever removed or changes its meaning, unknown entries are refused.
"""

import hashlib
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
        unit: what is protected: all one device ever contributed, or a single record of the device whose ledger it is.
        adjacency: which data sets are neighbours.
        filter_order: Renyi order of the filter that judges releases chosen after seeing earlier ones; fixed here,
            before the first release. null: such releases are refused.
        shares: most that may be spent on one purpose, in millionths of epsilon, by `purpose:NAME` or `querier:NAME`.
    """

    epsilon: float | None
    delta: float
    population: int
    unit: Literal["device", "record"] = "device"
    adjacency: Literal["zero_out", "add_remove"] = "zero_out"
    filter_order: float | None = None
    shares: dict[str, int] = {}


class Planned(_Entry, frozen=True, kw_only=True, tag="PLANNED"):
    """A plan, written down before its first release.

    Attributes:
        plan_hash: SHA-256 of `plan` as JSON with sorted keys.
        plan: every setting of the mechanism, as `MechanismPlan` has them.
        event: what each of its releases costs.
        rounds: how many are planned.
        cohorts: `secret` when an outsider cannot learn who takes part; else `visible`, and nothing is amplified.
        max_participations: most rounds of one run that a device takes part in; null for no cap.
        software: what wrote it.
    """

    plan_hash: str
    plan: dict[str, str | int | float | None]
    event: Event
    rounds: int
    cohorts: Literal["secret", "visible"] = "secret"
    max_participations: int | None = None
    software: str = ""


class Reserved(_Entry, frozen=True, kw_only=True, tag="RESERVED"):
    """A release that is about to happen, debited before anybody is contacted.

    Attributes:
        run_id: which run.
        round: which round of it.
        purpose: why it is released.
        noise: where its noise comes from.
        event: what an accountant needs.
        plan_hash: digest of the plan it belongs to.
        querier: on whose behalf, when a share is kept for them.
    """

    run_id: str
    round: int
    purpose: Purpose
    noise: NoiseKind
    event: Event
    plan_hash: str
    querier: str = ""


class Committed(_Entry, frozen=True, kw_only=True, tag="COMMITTED"):
    """The release happened.

    Attributes:
        reservation: the row that paid for it.
        artifact_sha256: what was released.
        realised_sha256: of the restricted record of who really took part, which is kept beside the chain and not handed
            on with it; null when none was kept.
    """

    reservation: int
    artifact_sha256: str
    realised_sha256: str | None = None


class Void(_Entry, frozen=True, kw_only=True, tag="VOID"):
    """Nothing was released and nobody was contacted, because of `reason`; `reservation` is given back."""

    reservation: int
    reason: str


class SpentOnCrash(_Entry, frozen=True, kw_only=True, tag="SPENT_ON_CRASH"):
    """The program ended between `reservation` and its settlement: the release may have happened."""

    reservation: int


Entry = Campaign | Planned | Reserved | Committed | Void | SpentOnCrash

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
    return Row(entry.seq, prev_hash, link(prev_hash, body), body)


def digest(plan: dict[str, str | int | float | None]) -> str:
    """SHA-256 of a plan's settings as JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(plan, order="sorted")).hexdigest()


def link(prev_hash: str, body: bytes) -> str:
    """The hash of a row: SHA-256 of the hash before it and its own JSON, in hexadecimal."""
    return hashlib.sha256(prev_hash.encode() + body).hexdigest()


def read(row: Row) -> Entry:
    """The entry of a row.

    Raises:
        LedgerError: it is none, or is that of another row.
    """
    try:
        entry: Entry = _decoder.decode(row.body)
    except (msgspec.DecodeError, ValueError) as error:
        raise broken(row.seq, f"unreadable entry ({error})") from error
    if entry.seq != row.seq:
        raise broken(row.seq, f"says it is row {entry.seq}")
    return entry


def broken(row: int, what: str) -> LedgerError:
    """The error for a row that is not what it was when it was written."""
    return LedgerError(f"ledger row {row}: {what}", "stop, restore the ledger from a copy and tell the auditor")
