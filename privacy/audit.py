"""What a ledger proves: everything it spent, recomputed from its events alone.

Nothing is taken from a run but its ledger, and the ledger is only read. One whose chain is broken proves nothing, so no
epsilon is reported for it. The headline is the figure against an outsider, which sampling amplifies, only while every
condition of amplification holds; otherwise it falls back by itself to the figure against somebody who knows who took
part.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

from sottovoce.privacy import accountant
from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import Head
from sottovoce.privacy.claim import DeviceClaim, Observer
from sottovoce.privacy.cross_check import cross_check
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import Event, NoiseKind, NonPrivate, Pure
from sottovoce.privacy.filter import fixed_beforehand, spent_epsilon
from sottovoce.privacy.findings import assumptions, disagreements, fallen_conditions, remarks
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.reading import Reader
from sottovoce.privacy.realised import Observed, counted, observe
from sottovoce.privacy.record import record_claim
from sottovoce.privacy.spending import (
    CurvePoint,
    DeltaPoint,
    Sensitivity,
    Spend,
    by_delta,
    curve,
    finite,
    sensitivities,
    spends,
)


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of one audit.

    Attributes:
        epsilon: the headline: what everything spent costs against `observer`, by `accountant`. null when there is no
            finite figure: a release had no noise, or the ledger is broken; `private` is then false.
        delta: of the campaign; null for a ledger without one.
        unit: what is protected.
        adjacency: which data sets are neighbours.
        observer: whom the headline is against; `outsider` unless something under `fallback` rules that out.
        accountant: how `epsilon` was computed.
        private: whether `epsilon` is a finite figure.
        guarantee: private, from secure noise only, the ledger is whole, and a filter kept what was not planned.
        rounds: releases that count as spent, crashed and unsettled ones included.
        ledger_ok: whether every row is as it was written.
        fallback: why sampling is not counted in the headline; empty when it is.
        epsilon_outsider: against an outsider who sees every release but not who took part.
        epsilon_known_cohort: against an observer who knows who took part, for a device in at most `max_participations`
            releases; null like `epsilon`.
        max_participations: as given to `audit`, else as capped by the plans, as counted, or else `rounds`.
        rho: zero-concentrated DP of those releases; null where it has none.
        noise: the worst kind of noise of any release: `none`, `seeded` or `secure`; `none` for an empty ledger.
        population: enrolled devices; null for a ledger without a campaign.
        purposes: spent releases by purpose.
        entries: reservations by state: COMMITTED, RESERVED (never settled), SPENT_ON_CRASH, VOID (not spent).
        cross_check: epsilon_outsider by `pld`, `rdp`, `opacus_prv`, `opacus_rdp`; null where infinite or out of range.
        head: length and hash of the chain, as far as it holds.
        budget_epsilon: of the campaign; null when it has no limit.
        adaptive: whether something was released that was not planned before the first release.
        plans: how many distinct plans are written down.
        releases: everything released, by purpose, querier and plan.
        curve: epsilon over releases.
        by_delta: epsilon against delta.
        sensitivity: epsilon if an assumption failed.
        realised: what really happened against what was planned, by plan; empty when no record was kept.
        period: times of the first and last release.
        claims: the two claims in words, the headline first; empty when the ledger is broken.
        findings: everything a privacy team must look at; empty is good.
        assumptions: what the figures rest on and the ledger cannot show.
    """

    epsilon: float | None
    delta: float | None
    unit: Literal["device", "record"] = "device"
    adjacency: Literal["zero_out", "add_remove"] = "zero_out"
    observer: Observer
    accountant: str
    private: bool
    guarantee: bool
    rounds: int
    ledger_ok: bool
    fallback: list[str]
    epsilon_outsider: float | None
    epsilon_known_cohort: float | None
    max_participations: int
    rho: float | None
    noise: NoiseKind
    population: int | None
    purposes: dict[str, int]
    entries: dict[str, int]
    cross_check: dict[str, float | None]
    head: Head
    budget_epsilon: float | None
    adaptive: bool
    plans: int
    releases: list[Spend]
    curve: list[CurvePoint]
    by_delta: list[DeltaPoint]
    sensitivity: list[Sensitivity]
    realised: list[Observed]
    period: list[str]
    claims: list[str]
    findings: list[str]
    assumptions: list[str]


def audit(ledger_path: Path | str, pinned: Head | None = None, max_participations: int | None = None) -> AuditReport:
    """Recompute what a ledger spent and look for everything wrong with it.

    Args:
        ledger_path: of the ledger, or its address on a server; it is not changed.
        pinned: head taken from a checkpoint or a bundle, which the ledger must contain.
        max_participations: most releases any one device took part in, if it was counted elsewhere.

    Raises:
        LedgerError: the file is missing, unreadable or not a ledger at all. A ledger with changed rows is reported.
    """
    with Ledger.open_unchecked(ledger_path) as ledger:
        return audit_open(ledger, pinned, max_participations)


def audit_open(ledger: Reader, pinned: Head | None = None, max_participations: int | None = None) -> AuditReport:
    """The same for a ledger that is open, or for its earlier rows (`Reader.up_to`).

    Raises:
        LedgerError: see `audit`.
    """
    book, findings = Book(), []
    try:
        ledger.replay(book, pinned)
        records = ledger.realised(book)
    except LedgerError as error:
        findings.append(f"{error.what}: no epsilon can be stated")
        return _report(book, _Figures(), findings, whole=False)
    if book.campaign is None:
        return _report(book, _Figures(outside=0.0, inside=0.0, accountant="PLD"), findings, whole=True)
    figures = _figures(book, book.campaign.delta, counted(book, records), max_participations)
    observed = observe(book, records)
    findings += [alarm for one in observed for alarm in one.alarms]
    path = curve(ledger.rows(), book.releases, counted(book, records))
    return _report(book, figures, findings, whole=True, observed=observed, path=path)


class _Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole ledger comes to."""

    outside: float = math.inf
    inside: float = math.inf
    accountant: str = "PLD"
    exposure: dict[Event, int] = {}
    most: int = 0
    checks: dict[str, float | None] = {}


def _figures(book: Book, delta: float, runs: dict[str, int], given: int | None) -> _Figures:
    """Both observers, and the other accountants."""
    exposure = book.exposure(runs)
    most = sum(exposure.values()) if given is None else min(sum(exposure.values()), given)
    inside = accountant.epsilon_without_sampling(exposure, delta, most)
    outside, name = spent_epsilon(book)
    return _Figures(
        outside=outside,
        inside=inside,
        accountant=name,
        exposure=dict(exposure),
        most=most,
        checks=cross_check(book.spent, delta),
    )


def _report(
    book: Book,
    figures: _Figures,
    findings: list[str],
    *,
    whole: bool,
    observed: list[Observed] | None = None,
    path: list[CurvePoint] | None = None,
) -> AuditReport:
    campaign, noise = book.campaign, _noise(book)
    fallback = fallen_conditions(book, noise, observed or [])
    headline = figures.inside if fallback else figures.outside
    adaptive = not fixed_beforehand(book)
    guarded = not adaptive or (campaign is not None and campaign.filter_order is not None)
    guarantee = headline < math.inf and whole and noise == "secure" and guarded
    findings += disagreements(figures.checks) + remarks(book, noise, figures.outside, fallback)
    delta = campaign.delta if campaign else None
    known = whole and campaign is not None
    return AuditReport(
        epsilon=finite(headline),
        delta=delta,
        unit=campaign.unit if campaign else "device",
        adjacency=campaign.adjacency if campaign else "zero_out",
        observer="knows_cohorts" if fallback else "outsider",
        accountant="the exact Gaussian formula" if fallback else figures.accountant,
        private=headline < math.inf,
        guarantee=guarantee,
        rounds=book.releases,
        ledger_ok=whole,
        fallback=fallback,
        epsilon_outsider=finite(figures.outside),
        epsilon_known_cohort=finite(figures.inside),
        max_participations=figures.most if whole else book.releases,
        rho=_rho(figures.exposure) if known else None,
        noise=noise,
        population=campaign.population if campaign else None,
        purposes={purpose: count for purpose, count in sorted(book.purposes.items()) if count},
        entries={state: book.states[state] for state in ("COMMITTED", "RESERVED", "SPENT_ON_CRASH", "VOID")},
        cross_check={name: None if value is None else finite(value) for name, value in figures.checks.items()},
        head=book.head,
        budget_epsilon=campaign.epsilon if campaign else None,
        adaptive=adaptive,
        plans=len(book.plans),
        releases=spends(book, campaign.delta) if whole and campaign else [],
        curve=path or [],
        by_delta=by_delta(book, Counter(figures.exposure), campaign.population) if whole and campaign else [],
        sensitivity=sensitivities(book, campaign.delta, Counter(figures.exposure)) if whole and campaign else [],
        realised=observed or [],
        period=list(book.period),
        claims=_claims(figures, delta, guarantee, bool(fallback), book) if whole and delta else [],
        findings=findings,
        assumptions=assumptions(book),
    )


def _noise(book: Book) -> NoiseKind:
    """The worst kind of noise among what is spent."""
    if book.noise["none"] or not book.releases:
        return "none"
    return "seeded" if book.noise["seeded"] else "secure"


def _rho(exposure: dict[Event, int]) -> float | None:
    """Zero-concentrated DP (Bun and Steinke 2016, arXiv:1605.02065) without sampling."""
    if any(isinstance(event, NonPrivate) and count for event, count in exposure.items()):
        return None
    total = 0.0
    for event, count in exposure.items():
        if isinstance(event, Pure):
            total += count * (event.micro_epsilon / 1e6) ** 2 / 2
        elif isinstance(noise := getattr(event, "noise_multiplier", None), float):
            total += count / (2 * noise**2)
        else:
            return None
    return total


def _claims(figures: _Figures, delta: float, guarantee: bool, fell_back: bool, book: Book) -> list[str]:
    """Both observers, in words, the headline first; of a device's own ledger, what it says of a record."""
    if book.campaign is not None and book.campaign.unit == "record":
        # Batches are drawn on the device: there is nobody who knows them.
        records, by = book.campaign.population, figures.accountant
        return [str(record_claim(book.spent, delta, records, guarantee=guarantee, epsilon=figures.outside, by=by))]
    outside = DeviceClaim(
        figures.outside,
        delta,
        accountant=figures.accountant,
        guarantee=guarantee and not fell_back and figures.outside < math.inf,
    )
    inside = DeviceClaim(
        figures.inside,
        delta,
        observer="knows_cohorts",
        accountant="the exact Gaussian formula",
        guarantee=guarantee and figures.inside < math.inf,
    )
    return [str(inside)] if fell_back else [str(outside), str(inside)]
