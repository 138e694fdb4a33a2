"""Which combinations of a creative may be shown at all: approved, within the guardrails, and few enough.

Worked out when a creative or its approvals arrive, not at each request. The result says from when until when it holds,
because approvals begin and end.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sottovoce.client.approval import (
    ALWAYS,
    CHANGED,
    FRAME,
    NEVER,
    PENDING,
    STATUS_WORDS,
    Approvals,
    Standing,
    combination_name,
    statuses,
)
from sottovoce.client.brand_rules import CombinationRules, component_findings, spoken_language
from sottovoce.client.creative import Creative, Parts
from sottovoce.client.crowd import most_combinations
from sottovoce.client.guardrails import Finding, Guardrails
from sottovoce.client.reasons import Loss

MOST_TRIED = 4096
"""Combinations that are looked at; of more, an even spread of this many."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Showable:
    """What may be shown of one creative.

    Attributes:
        creative: as it is.
        combinations: in the order of preference when nothing is known; the first one is the fallback.
        languages: first subtag of each combination's language; empty suits every page.
        digests: SHA-256 of the subject of each used component; what was learned is kept under it.
        since: before this moment the list does not hold.
        until: from this moment on it does not hold.
        standings: of the frame, of each component and, where asked for, of each tried combination.
        findings: of the guardrails, on components and combinations.
        reason: why nothing may be shown, and None when something may.
        allowed: combinations that rules and approvals leave, before the crowd's cap.
        possible: combinations of all components.
        tried: how many of those were looked at.
        epsilon: share of showings that the cap was worked out for; the choice uses it.
    """

    creative: Creative
    combinations: tuple[Parts, ...]
    languages: tuple[str, ...]
    digests: dict[str, str]
    since: datetime
    until: datetime
    standings: dict[str, Standing]
    findings: tuple[Finding, ...]
    reason: str | None
    allowed: int
    possible: int
    tried: int
    epsilon: float

    @property
    def loss(self) -> Loss | None:
        """Why the ad must stay out of the auction, where it may be shown with these parts or not at all."""
        if self.reason is None:
            return None
        gone = any(refusal(one) == Loss.AUDIT_REFUSED for one in self.standings.values())
        return Loss.AUDIT_REFUSED if gone or self.findings else Loss.AUDIT_PENDING

    @cached_property
    def rows(self) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
        """Components in use, and (combinations, slots) of their places in that list."""
        used = tuple(dict.fromkeys(part for parts in self.combinations for part in parts))
        place = {part: number for number, part in enumerate(used)}
        return used, np.array([[place[part] for part in parts] for parts in self.combinations], np.int64)


def refusal(standing: Standing) -> Loss | None:
    """The code for the auction's table of losers, or None for what is approved."""
    if standing.shown:
        return None
    return Loss.AUDIT_PENDING if standing.status in (PENDING, CHANGED) else Loss.AUDIT_REFUSED


def showable(
    creative: Creative,
    approvals: Approvals,
    brand: Guardrails,
    now: datetime,
    *,
    roles: tuple[str, ...] = (),
    epsilon: float = 0.1,
    crowd: int = 50,
) -> Showable:
    """What may be shown of a creative now; a pure function.

    Args:
        creative: to look at.
        approvals: that the device believes.
        brand: its guardrails.
        now: with time zone.
        roles: each must have approved; empty means one person is enough.
        epsilon: share of showings that are drawn uniformly.
        crowd: fewest devices that show each combination for no reason of their own.

    Raises:
        ValueError: `now` has no time zone, or `epsilon` or `crowd` is out of range.
    """
    most = most_combinations(creative.audience, epsilon, crowd)
    standings = statuses(creative, approvals, now, roles)
    findings = list(component_findings(creative, brand))
    bad = {finding.where for finding in findings}
    usable = {
        slot.id: [ref for ref in refs if standings[ref].shown and ref not in bad]
        for slot in creative.template.slots
        if (refs := [f"{slot.id}/{one.id}" for one in creative.components.get(slot.id, ())])
    }
    reason = _missing(creative, standings, bad, usable)
    filled = {name: refs for name, refs in usable.items() if refs}
    possible = math.prod(len(one) for one in creative.components.values() if one)
    combinations: list[Parts] = []
    tried = 0
    rules = CombinationRules(creative, brand)
    if reason is None:
        candidates = list(_candidates(creative, filled))
        tried = len(candidates)
        for parts in candidates:
            finding = rules.finding(parts)
            if finding:
                findings.append(finding)
            else:
                combinations.append(parts)
        if creative.each_approved:
            own = statuses(creative, approvals, now, roles, combinations)
            standings |= {combination_name(parts): own[combination_name(parts)] for parts in combinations}
            combinations = [parts for parts in combinations if standings[combination_name(parts)].shown]
        if not combinations:
            reason = "no combination passes the rules" if not creative.each_approved else "no combination is approved"
    kept = tuple(combinations[:most])
    subjects = {FRAME, *(part for parts in kept for part in parts)}
    subjects |= {combination_name(parts) for parts in kept if creative.each_approved}
    holding = [standings[subject] for subject in subjects]
    return Showable(
        creative=creative,
        combinations=kept,
        languages=tuple(spoken_language(creative, parts) for parts in kept),
        digests={part: standings[part].sha256 for parts in kept for part in parts},
        since=max((one.since for one in holding), default=NEVER),
        until=min((one.until for one in holding), default=ALWAYS),
        standings=standings,
        findings=tuple(findings),
        reason=reason,
        allowed=len(combinations),
        possible=possible,
        tried=tried,
        epsilon=epsilon,
    )


def _missing(
    creative: Creative, standings: dict[str, Standing], bad: set[str], usable: dict[str, list[str]]
) -> str | None:
    if not standings[FRAME].shown:
        return f"the frame is {STATUS_WORDS[standings[FRAME].status]}"
    if FRAME in bad:
        return "the frame breaks a guardrail"
    for slot in creative.template.slots:
        if slot.required and not usable.get(slot.id):
            return f"slot {slot.id!r} is required and has no component that may be shown"
    return None if any(usable.values()) else "no slot has a component that may be shown"


def _candidates(creative: Creative, filled: dict[str, list[str]]) -> Iterator[Parts]:
    """Those listed, else every combination; of too many, an even spread, so that no component is left to the end."""
    if creative.listed:
        allowed = {ref for refs in filled.values() for ref in refs}
        yield from (parts for parts in dict.fromkeys(creative.listed) if allowed.issuperset(parts))
        return
    choices = [filled[slot.id] for slot in creative.template.slots if slot.id in filled]
    total = math.prod(map(len, choices))
    step = max(1, int(total * _GOLDEN))
    while math.gcd(step, total) > 1:
        step += 1
    for turn in range(min(total, MOST_TRIED)):
        number, parts = turn * step % total, []
        for refs in choices:
            number, place = divmod(number, len(refs))
            parts.append(refs[place])
        yield tuple(parts)
