"""What a ledger proves: everything it spent, recomputed from its events alone.

Nothing is taken from a run but its ledger file, and the file is only read. A ledger whose chain is broken proves
nothing, so no epsilon is reported for it.
"""

import math
from pathlib import Path
from typing import Literal

import msgspec

from sottovoce.privacy import accountant
from sottovoce.privacy.chain import Book, Head
from sottovoce.privacy.claim import WARNING, DeviceClaim
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import NoiseKind
from sottovoce.privacy.ledger import Ledger

ASSUMPTIONS = (
    "cohorts stay secret from an outsider: logs, traffic and bills show nobody who took part",
    "the coordinator is honest: it clips, samples and adds noise as the ledger says",
    "no other ledger covers the same devices: two campaigns on the same people add up",
    "one person has one device, and the number of enrolled devices is public",
    "whether a device can be reached does not depend on its data",
)
"""What no ledger can enforce, but every figure rests on."""


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of one audit.

    Attributes:
        epsilon: what everything spent costs an outsider's victim, by `accountant`. null when there is no finite figure:
            a release had no noise, or the ledger is broken; `private` is then false.
        delta: of the campaign; null for a ledger without one.
        unit: what is protected.
        adjacency: which data sets are neighbours.
        accountant: how `epsilon` was computed.
        private: whether `epsilon` is a finite figure.
        guarantee: private, from secure noise only, and the ledger is whole.
        rounds: releases that count as spent, crashed and unsettled ones included.
        ledger_ok: whether every row is as it was written.
        epsilon_known_cohort: the same for an observer who knows who took part, for a device that took part in at most
            `max_participations` rounds; null like `epsilon`.
        max_participations: as given to `audit`, else `rounds`, the worst case.
        noise: the worst kind of noise of any release: `none`, `seeded` or `secure`; `none` for an empty ledger.
        population: enrolled devices; null for a ledger without a campaign.
        purposes: spent releases by purpose.
        entries: reservations by state: COMMITTED, RESERVED (never settled), SPENT_ON_CRASH, VOID (not spent).
        cross_check: epsilon by `pld`, `rdp`, `opacus_prv`, `opacus_rdp`; null where infinite or out of range.
        head: length and hash of the chain, as far as it holds.
        budget_epsilon: of the campaign; null when it has no limit.
        plans: how many distinct plans reserved.
        claims: the two claims in words; empty when the ledger is broken.
        findings: everything a privacy team must look at; empty is good.
        assumptions: what the figures rest on and the ledger cannot show.
    """

    epsilon: float | None
    delta: float | None
    unit: Literal["device"] = "device"
    adjacency: Literal["zero_out"] = "zero_out"
    accountant: Literal["PLD"] = "PLD"
    private: bool
    guarantee: bool
    rounds: int
    ledger_ok: bool
    epsilon_known_cohort: float | None
    max_participations: int
    noise: NoiseKind
    population: int | None
    purposes: dict[str, int]
    entries: dict[str, int]
    cross_check: dict[str, float | None]
    head: Head
    budget_epsilon: float | None
    plans: int
    claims: list[str]
    findings: list[str]
    assumptions: list[str]


def audit(ledger_path: Path, pinned: Head | None = None, max_participations: int | None = None) -> AuditReport:
    """Recompute what a ledger spent and look for everything wrong with it.

    Args:
        ledger_path: of the ledger; it is not changed.
        pinned: head taken from a checkpoint or a bundle, which the ledger must contain.
        max_participations: most rounds any one device took part in, if it was counted or capped.

    Raises:
        LedgerError: the file is missing, unreadable or not a ledger at all. A ledger with changed rows is reported.
    """
    book = Book()
    findings: list[str] = []
    with Ledger.open_unchecked(ledger_path) as ledger:
        try:
            ledger.replay(book, pinned)
        except LedgerError as error:
            findings.append(f"{error.what}: no epsilon can be stated")
    whole = not findings
    rounds = sum(book.spent.values())
    most = rounds if max_participations is None else min(rounds, max_participations)
    delta = book.campaign.delta if book.campaign else None
    noise = _noise(book)
    outside = inside = math.inf
    checks: dict[str, float | None] = {}
    if whole and book.campaign:
        inside = accountant.epsilon_without_sampling(book.spent, book.campaign.delta, most)
        # What holds against an observer who knows more, for a device in every round, holds against an outsider.
        outside = min(
            accountant.epsilon_pld(book.spent, book.campaign.delta),
            accountant.epsilon_without_sampling(book.spent, book.campaign.delta),
        )
        checks = accountant.cross_check(book.spent, book.campaign.delta)
        findings += _disagreements(checks)
    elif whole:
        outside = inside = 0.0
    findings += _remarks(book, noise, rounds, outside)
    private = outside < math.inf
    guarantee = private and whole and noise == "secure"
    return AuditReport(
        epsilon=_finite(outside),
        delta=delta,
        private=private,
        guarantee=guarantee,
        rounds=rounds,
        ledger_ok=whole,
        epsilon_known_cohort=_finite(inside),
        max_participations=most,
        noise=noise,
        population=book.campaign.population if book.campaign else None,
        purposes={purpose: count for purpose, count in sorted(book.purposes.items()) if count},
        entries={state: book.states[state] for state in ("COMMITTED", "RESERVED", "SPENT_ON_CRASH", "VOID")},
        cross_check={name: None if value is None else _finite(value) for name, value in checks.items()},
        head=book.head,
        budget_epsilon=book.campaign.epsilon if book.campaign else None,
        plans=len(book.plans),
        claims=_claims(outside, inside, delta, guarantee) if whole and delta else [],
        findings=findings,
        assumptions=list(ASSUMPTIONS),
    )


def _finite(epsilon: float) -> float | None:
    """JSON has no infinity."""
    return epsilon if epsilon < math.inf else None


def _noise(book: Book) -> NoiseKind:
    """The worst kind of noise among what is spent."""
    if book.noise["none"] or not sum(book.noise.values()):
        return "none"
    return "seeded" if book.noise["seeded"] else "secure"


def _claims(outside: float, inside: float, delta: float, guarantee: bool) -> list[str]:
    """Both observers, in words."""
    return [
        str(DeviceClaim(outside, delta, guarantee=guarantee)),
        str(
            DeviceClaim(
                inside, delta, observer="knows_cohorts", accountant="the exact Gaussian formula", guarantee=guarantee
            )
        ),
    ]


def _disagreements(checks: dict[str, float | None]) -> list[str]:
    """Where independent accountants contradict the published figure."""
    pld, rdp, prv = checks["pld"], checks["rdp"], checks["opacus_prv"]
    found = []
    if pld is not None and rdp is not None and pld > rdp + 1e-3:
        found.append(f"accountants disagree: PLD {pld:.4f} is above RDP {rdp:.4f}")
    if pld is not None and prv is not None and not pld - 1e-3 <= prv <= pld + 0.02:
        found.append(f"accountants disagree: Opacus PRV {prv:.4f} is not within [PLD, PLD + 0.02], PLD {pld:.4f}")
    return found


def _remarks(book: Book, noise: NoiseKind, rounds: int, outside: float) -> list[str]:
    """What a privacy team must know about a ledger that reads well."""
    found = []
    if rounds and noise == "none":
        found.append(f"{WARNING}: {book.noise['none']} of {rounds} releases had no noise")
    if rounds and noise == "seeded":
        found.append(f"{WARNING}: {book.noise['seeded']} of {rounds} releases used reproducible noise and cohorts")
    campaign = book.campaign
    if campaign and campaign.epsilon is not None and campaign.epsilon < outside < math.inf:
        found.append(f"overspent: epsilon {outside:.4f} is above the budget {campaign.epsilon:g}")
    if campaign and not campaign.delta < 1 / campaign.population:
        found.append(f"delta {campaign.delta:g} is not below 1/population")
    if book.states["RESERVED"]:
        found.append(f"{book.states['RESERVED']} reservations were never settled; they count as spent")
    if book.states["SPENT_ON_CRASH"]:
        found.append(f"{book.states['SPENT_ON_CRASH']} releases may have been lost in a crash; they count as spent")
    if len(book.plans) > 1:
        found.append(f"{len(book.plans)} plans: the figure holds only if none was chosen after another's releases")
    return found
