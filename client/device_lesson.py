"""A lesson: what an impression leaves behind for learning, besides its event."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Id, Moment
from sottovoce.client.combination import Showable
from sottovoce.client.decision import PROFILED, Decision

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Feature = Annotated[str, Meta(max_length=32)]


class Lesson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One impression that may teach.

    Attributes:
        ts: when it was shown, as its event says.
        crid: of the ad.
        chance: P(click) that the ad was ranked by; None where no model that knows the person chose it.
        parts: first half of the digest of each part that was shown.
        moment: where and when, see `combination_choice.Moment.features`.
    """

    ts: Moment
    crid: Id
    chance: Annotated[float, Meta(ge=0, le=1)] | None = None
    parts: Annotated[tuple[Digest, ...], Meta(max_length=16)] = ()
    moment: Annotated[tuple[Feature, ...], Meta(max_length=8)] = ()


def lesson_of(decision: Decision, now: datetime, ready: Showable | None, moment: tuple[str, ...]) -> Lesson | None:
    """The lesson of an impression; None where it teaches nothing.

    Args:
        decision: that showed the ad.
        now: when it was shown.
        ready: what may be shown of the ad's creative; None where it has no exchangeable parts.
        moment: features of the moment of the decision.
    """
    winner = decision.winner
    if winner is None:
        return None
    chance = winner.scores[0] if winner.scores and decision.fallback in PROFILED else None
    shown = decision.combination.parts if decision.combination else ()
    parts = tuple(ready.digests[part][:32] for part in shown if part in ready.digests) if ready else ()
    return Lesson(now, winner.crid, chance, parts, moment if parts else ()) if parts or chance is not None else None
