"""The tables of an audit: what was spent on what, how epsilon grew, and what it would be if an assumption failed."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sottovoce.privacy import accountant
from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import Reserved, Row
from sottovoce.privacy.events import MICRO, Event, Gaussian, NonPrivate, PoissonGaussian, Pure, RepeatAndSelect
from sottovoce.privacy.filter import spent_epsilon

DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)

POINTS = 40
"""Most points of the curve of epsilon over releases."""


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """Releases of one plan for one purpose.

    Attributes:
        purpose: why they were released.
        querier: on whose behalf; empty for the campaign's own.
        mechanism: in words.
        plan_hash: of their plan.
        count: how many.
        epsilon_alone: what they would cost an outsider's victim if nothing else had been released.
        max_participations: most rounds of one run that a device takes part in; null for no cap.
    """

    purpose: str
    querier: str
    mechanism: str
    plan_hash: str
    count: int
    epsilon_alone: float | None
    max_participations: int | None


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """Epsilon after a number of releases, against either observer; null for infinite."""

    releases: int
    epsilon_outsider: float | None
    epsilon_known_cohort: float | None


class DeltaPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Epsilon of everything released at another delta."""

    delta: float
    epsilon_outsider: float | None
    epsilon_known_cohort: float | None


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What epsilon would be if an assumption failed."""

    assumption: str
    epsilon: float | None


def finite(epsilon: float) -> float | None:
    """JSON has no infinity."""
    return epsilon if epsilon < math.inf else None


def describe(event: Event, clip_norm: Any = None) -> str:
    """A mechanism in words."""
    clipped = f", clip {clip_norm:g}" if isinstance(clip_norm, int | float) else ""
    if isinstance(event, Pure):
        return f"pure epsilon {event.micro_epsilon / MICRO:g}"
    if isinstance(event, NonPrivate):
        return f"no noise at all, q={event.sampling_rate:g}{clipped}"
    if isinstance(event, RepeatAndSelect):
        return f"best of about {event.mean:g} runs of {event.rounds} rounds: {describe(event.event, clip_norm)}"
    noise = f"Gaussian z={event.noise_multiplier:g}"
    if isinstance(event, Gaussian):
        return f"{noise} without amplification by sampling{clipped}"
    cut = "" if isinstance(event, PoissonGaussian) else f" cut at {event.cap}"
    return f"{noise} on a Poisson cohort q={event.sampling_rate:g}{cut}{clipped}"


def spends(book: Book, delta: float) -> list[Spend]:
    """Everything released, by purpose, querier and plan."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for (_, digest, why, whom), uses in book.uses.items():
        counts[why, whom, digest] += uses
    found = []
    for (purpose, querier, plan_hash), count in sorted(counts.items()):
        plan = book.plans.get(plan_hash)
        if count and plan is not None:
            found.append(
                Spend(
                    purpose=purpose,
                    querier=querier,
                    mechanism=describe(plan.event, plan.plan.get("clip_norm")),
                    plan_hash=plan_hash,
                    count=count,
                    epsilon_alone=finite(accountant.published({plan.event: count}, delta)[0]),
                    max_participations=plan.max_participations,
                )
            )
    return found


def curve(rows: Iterable[Row], releases: int, counted: Mapping[str, int]) -> list[CurvePoint]:
    """How epsilon grew: at most `POINTS` points, the last after everything.

    Args:
        rows: of a ledger that holds.
        releases: reservations in it.
        counted: most rounds that a device was asked for, by run, where it was counted.
    """
    book, found, reserved = Book(), [], 0
    step = max(1, math.ceil(releases / POINTS))
    for row in rows:
        entry = book.add(row)
        if not isinstance(entry, Reserved) or book.campaign is None:
            continue
        reserved += 1
        if reserved % step == 0 or reserved == releases:
            delta = book.campaign.delta
            known = accountant.epsilon_without_sampling(book.exposure(counted), delta)
            found.append(
                CurvePoint(
                    releases=reserved,
                    epsilon_outsider=finite(spent_epsilon(book, accountant.COARSE)[0]),
                    epsilon_known_cohort=finite(known),
                )
            )
    return found


def by_delta(book: Book, exposure: Counter[Event], population: int) -> list[DeltaPoint]:
    """Epsilon against delta, for every delta below 1 / population."""
    return [
        DeltaPoint(
            delta=delta,
            epsilon_outsider=finite(accountant.published(book.spent, delta)[0]),
            epsilon_known_cohort=finite(accountant.epsilon_without_sampling(exposure, delta)),
        )
        for delta in DELTAS
        if delta < 1 / population
    ]


def sensitivities(book: Book, delta: float, exposure: Counter[Event]) -> list[Sensitivity]:
    """What epsilon would be against an outsider if one assumption failed at a time."""
    spent = book.spent

    def outside(counts: Counter[Event]) -> float | None:
        return finite(accountant.published(counts, delta, accountant.COARSE)[0])

    def inside(counts: Counter[Event]) -> float | None:
        return finite(accountant.epsilon_without_sampling(counts, delta))

    everything = book.rounds()
    rows = [
        ("as recorded", outside(spent)),
        ("devices are drawn 10 % more often than recorded", outside(_scaled(spent, rate=1.1))),
        ("the noise is 5 % weaker than recorded", outside(_scaled(spent, noise=0.95))),
        ("one device in ten more drops out of every round (noise is on the sum: no change)", outside(spent)),
        ("the same devices are in a second campaign like this one", outside(spent + spent)),
        ("a person has two devices", outside(_scaled(spent, noise=0.5))),
        ("who takes part becomes known", inside(exposure)),
        ("who takes part becomes known, and nothing limits how often", inside(everything)),
    ]
    return [Sensitivity(assumption=name, epsilon=epsilon) for name, epsilon in rows]


def _scaled(counts: Counter[Event], rate: float = 1.0, noise: float = 1.0) -> Counter[Event]:
    """The same releases with other rates and other noise; pure releases stay as they are."""
    found: Counter[Event] = Counter()
    for event, count in counts.items():
        found[_scale(event, rate, noise)] += count
    return found


def _scale(event: Event, rate: float, noise: float) -> Event:
    if isinstance(event, Pure | NonPrivate):
        return event
    if isinstance(event, RepeatAndSelect):
        inner = _scale(event.event, rate, noise)
        return msgspec.structs.replace(event, event=inner)
    changed: Event = msgspec.structs.replace(event, noise_multiplier=event.noise_multiplier * noise)
    if isinstance(changed, Gaussian):
        return changed
    return msgspec.structs.replace(changed, sampling_rate=min(1.0, event.sampling_rate * rate))  # type: ignore[union-attr]
