"""How often each event happened: the input of every accountant, with equal events together."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from sottovoce.privacy.events import Event, Noisy, NonPrivate, Pure, RepeatAndSelect

Counts = Mapping[Event, int] | Iterable[tuple[Event, int]]
"""How often each event happened; pairs may repeat an event, their counts then add up."""

Private = Noisy | Pure | RepeatAndSelect
"""Every event that has a finite cost."""

Group = tuple[tuple[Private, int], ...]
"""Distinct events with their counts, in an order of their own: equal compositions are equal values."""


def grouped(counts: Counts) -> Group | None:
    """Equal events together; None when any release had no noise.

    Raises:
        ValueError: a negative count, or an event that no accountant knows.
    """
    total: Counter[Event] = Counter()
    for event, count in counts.items() if isinstance(counts, Mapping) else counts:
        if count < 0:
            raise ValueError(f"an event cannot have happened {count} times")
        if not isinstance(event, Event):
            raise ValueError(f"no accountant knows {event!r}")
        total[event] += count
    noisy: list[tuple[Private, int]] = []
    for event, count in total.items():
        if count and isinstance(event, NonPrivate):
            return None
        if count and not isinstance(event, NonPrivate):
            noisy.append((event, count))
    return tuple(sorted(noisy, key=lambda pair: msgspec.json.encode(pair[0])))


def check_delta(delta: float) -> None:
    """Refuse a delta for which epsilon has no meaning.

    Raises:
        ValueError: not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, got {delta}")
