"""A ledger's statement of account: its campaign, what was planned and spent on what, and what is still open."""

from collections import Counter

import msgspec

from sottovoce.privacy import accountant
from sottovoce.privacy.book import Book
from sottovoce.privacy.campaign import share_of
from sottovoce.privacy.chain import Campaign, Entry, Head
from sottovoce.privacy.events import MICRO
from sottovoce.privacy.filter import spent_epsilon
from sottovoce.privacy.reading import Reader
from sottovoce.privacy.spending import describe, finite


class PlanLine(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that is written down.

    Attributes:
        plan_hash: its digest.
        mechanism: in words.
        planned: how many releases.
        released: how many so far, crashed and unsettled ones included.
        cohorts: `secret` or `visible`.
        max_participations: most rounds of one run that a device takes part in; null for no cap.
    """

    plan_hash: str
    mechanism: str
    planned: int
    released: int
    cohorts: str
    max_participations: int | None


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent on one purpose, or for one querier.

    Attributes:
        name: `purpose:NAME` or `querier:NAME`.
        releases: that count as spent.
        epsilon_alone: what they would cost if nothing else had been released; null for no finite figure.
        share: most that may be spent on it, as epsilon; null for no share of its own.
    """

    name: str
    releases: int
    epsilon_alone: float | None
    share: float | None


class OpenReservation(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was paid for and not settled: it is under way, or its program crashed."""

    row: int
    time: str
    run_id: str
    round: int
    purpose: str


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """Everything there is to know about a ledger that holds.

    Attributes:
        ledger: where it is.
        campaign: null while none is open.
        epsilon: what everything spent costs against an outsider, by `accountant`; null for no finite figure.
        accountant: how that was computed.
        releases: that count as spent.
        states: reservations by state.
        plans: in the order in which they were written down.
        accounts: purposes and queriers with a release or a share.
        open: unsettled reservations.
        last: the newest entries, oldest first.
        head: length and hash of the chain.
    """

    ledger: str
    campaign: Campaign | None
    epsilon: float | None
    accountant: str
    releases: int
    states: dict[str, int]
    plans: list[PlanLine]
    accounts: list[Account]
    open: list[OpenReservation]
    last: list[Entry]
    head: Head


def statement(ledger: Reader, last: int = 10) -> Statement:
    """What a ledger says now.

    Args:
        ledger: open.
        last: how many of the newest entries to show.

    Raises:
        LedgerError: a row was changed or is missing.
    """
    entries = list(ledger.entries())
    book = ledger.book()
    epsilon, name = spent_epsilon(book)
    used: Counter[str] = Counter()
    for (_, plan_hash, _, _), count in book.uses.items():
        used[plan_hash] += count
    return Statement(
        ledger=ledger.name,
        campaign=book.campaign,
        epsilon=finite(epsilon),
        accountant=name,
        releases=book.releases,
        states={state: count for state, count in sorted(book.states.items()) if count},
        plans=[
            PlanLine(
                plan_hash=plan_hash,
                mechanism=describe(plan.event, plan.plan.get("clip_norm")),
                planned=plan.rounds,
                released=used[plan_hash],
                cohorts=plan.cohorts,
                max_participations=plan.max_participations,
            )
            for plan_hash, plan in book.plans.items()
        ],
        accounts=_accounts(book),
        open=[
            OpenReservation(row=seq, time=one.time, run_id=one.run_id, round=one.round, purpose=one.purpose)
            for seq, (one, _) in sorted(book.open.items())
        ],
        last=entries[len(entries) - last :] if last < len(entries) else entries,
        head=book.head,
    )


def _accounts(book: Book) -> list[Account]:
    """Every purpose and querier that has a release or a share."""
    if book.campaign is None:
        return []
    releases: Counter[str] = Counter()
    for (_, _, purpose, querier), count in book.uses.items():
        releases[f"purpose:{purpose}"] += count
        if querier:
            releases[f"querier:{querier}"] += count
    names = {name for name, count in releases.items() if count} | book.campaign.shares.keys()
    found = []
    for name in sorted(names):
        share = share_of(book.campaign.shares, name)
        cost = accountant.published(book.shares[name], book.campaign.delta)[0] if name in book.shares else 0.0
        found.append(
            Account(
                name=name,
                releases=releases[name],
                epsilon_alone=finite(cost),
                share=None if share is None else share / MICRO,
            )
        )
    return found
