"""What people approved, bound to the exact bytes that they saw.

An approval names a subject of a creative and the SHA-256 of its canonical bytes. Three kinds of subject exist:

=====================  ==============================================================================
`frame`                everything about the creative but its components: template, link, rules, audience
`slot/component`       one component, together with its slot and the whole template
`a/x+b/y+c/z`          one combination, where the creative asks for that: the frame and all parts
=====================  ==============================================================================

When any byte of a subject changes, its digest does, and its status is 5 (changed), which is pending again. Whoever has
spoken about a subject must have approved its present bytes: the strictest of their last words counts.

Statuses are AdCOM's: 1 pending, 2 pre-approved, 3 approved, 4 denied, 5 changed, 6 expired.
Source: AdCOM 1.0, object "Audit" and list "Audit Status Codes".
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Id, Moment
from sottovoce.client.creative import Creative, Parts
from sottovoce.models.manifest import Digest
from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 4 * 1024 * 1024
"""Largest approvals file that is read."""

MAX_RECORDS = 10_000

PENDING, PRE_APPROVED, APPROVED, DENIED, CHANGED, EXPIRED = 1, 2, 3, 4, 5, 6
STATUS_WORDS: Mapping[int, str] = {
    PENDING: "pending",
    PRE_APPROVED: "pre-approved",
    APPROVED: "approved",
    DENIED: "denied",
    CHANGED: "changed",
    EXPIRED: "expired",
}
_STRICTEST_FIRST = (DENIED, CHANGED, EXPIRED, PENDING, PRE_APPROVED, APPROVED)

FRAME = "frame"
ALWAYS = datetime.max.replace(tzinfo=UTC)
NEVER = datetime.min.replace(tzinfo=UTC)


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One person's word about one subject.

    Attributes:
        crid: the creative.
        subject: what of it.
        sha256: of the canonical bytes that the person saw.
        status: 2 pre-approved, 3 approved or 4 denied.
        by: who, as "role/name"; what stands before the first "/" is the role.
        at: when; a word from the future is not heard.
        until: first moment at which it no longer holds.
        note: why.
    """

    crid: Id
    subject: Annotated[str, Meta(min_length=1, max_length=4096)]
    sha256: Digest
    status: Literal[2, 3, 4]
    by: Annotated[str, Meta(min_length=1, max_length=128)]
    at: Moment
    until: Moment
    note: Annotated[str, Meta(max_length=512)] = ""

    def __post_init__(self) -> None:
        """Refuse a word that never holds."""
        if self.until <= self.at:
            raise ValueError(f"approval of {self.subject!r} ends before it starts")

    @property
    def role(self) -> str:
        """In which role the person spoke."""
        return self.by.split("/")[0]


class Approvals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that was said, in any order."""

    version: Literal[1]
    records: Annotated[tuple[Approval, ...], Meta(max_length=MAX_RECORDS)] = ()


class Standing(NamedTuple):
    """Where a subject stands.

    Attributes:
        status: AdCOM.
        sha256: of its present bytes.
        detail: who said what.
        since: from when on this has been so, as far as approvals are concerned.
        until: until when it holds, if it is approved.
    """

    status: int
    sha256: str
    detail: str
    since: datetime = NEVER
    until: datetime = ALWAYS

    @property
    def shown(self) -> bool:
        """It may be shown."""
        return self.status in (PRE_APPROVED, APPROVED)


def combination_name(parts: Parts) -> str:
    """The subject of a combination."""
    return "+".join(parts)


def digest(creative: Creative, subject: str) -> str:
    """SHA-256, in hexadecimal, of the canonical bytes of a subject: JSON with sorted keys and no spaces.

    Raises:
        ValueError: the creative has no such subject.
    """
    if subject == FRAME:
        kept = {name: getattr(creative, name) for name in Creative.__struct_fields__ if name != "components"}
        return _sha256({"kind": FRAME, "creative": kept})
    if subject in creative.part:
        slot, component = creative.part[subject]
        about = {"crid": creative.crid, "template": creative.template, "slot": slot, "component": component}
        return _sha256({"kind": "component"} | about)
    parts = tuple(subject.split("+"))
    if not set(parts) <= creative.part.keys():
        raise ValueError(f"{creative.crid!r} has no subject {subject!r}")
    return _together(parts, {part: digest(creative, part) for part in (FRAME, *parts)})


def _together(parts: Parts, digests: Mapping[str, str]) -> str:
    return _sha256({"kind": "combination", "parts": [[part, digests[part]] for part in (FRAME, *parts)]})


def _sha256(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def statuses(
    creative: Creative,
    approvals: Approvals,
    now: datetime,
    roles: tuple[str, ...] = (),
    combinations: Iterable[Parts] = (),
) -> dict[str, Standing]:
    """Where the frame, every component and the given combinations stand; a pure function.

    Args:
        creative: as it is now.
        approvals: everything said; records of other creatives and of parts that are gone are passed over.
        now: with time zone.
        roles: each of these must have approved; empty means that one person is enough.
        combinations: those whose own approval is asked for.

    Raises:
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now needs a time zone")
    said: dict[str, list[Approval]] = {}
    for record in approvals.records:
        if record.crid == creative.crid:
            said.setdefault(record.subject, []).append(record)
    present = {subject: digest(creative, subject) for subject in (FRAME, *creative.part)}
    present |= {combination_name(parts): _together(parts, present) for parts in combinations}
    return {subject: _standing(sha256, said.get(subject, ()), now, roles) for subject, sha256 in present.items()}


def _standing(present: str, said: Iterable[Approval], now: datetime, roles: tuple[str, ...]) -> Standing:
    """The strictest of the last words of everybody who spoke, and of every role that should have."""
    last: dict[str, list[Approval]] = {}
    next_word = min((record.at for record in said if record.at > now), default=ALWAYS)
    for record in sorted((record for record in said if record.at <= now), key=lambda record: record.at):
        heard = last.setdefault(record.by, [])
        if heard and heard[0].at < record.at:
            heard.clear()
        heard.append(record)
    words = [
        Standing(_status(record, present, now), present, f"by {record.by}", record.at, record.until)
        for heard in last.values()
        for record in heard
    ]
    spoke = {record.role for heard in last.values() for record in heard}
    missing = [role for role in roles if role not in spoke]
    words += [Standing(PENDING, present, f"{role} has not spoken") for role in missing]
    if not words:
        return Standing(PENDING, present, "nobody has spoken")
    strictest = min(words, key=lambda word: _STRICTEST_FIRST.index(word.status))
    until = min(next_word, *(word.until for word in words))
    return strictest._replace(since=max(word.since for word in words), until=until)


def _status(record: Approval, present: str, now: datetime) -> int:
    if record.sha256 != present:
        return CHANGED
    if record.status == DENIED:
        return DENIED
    return EXPIRED if now >= record.until else record.status


_decoder = msgspec.json.Decoder(Approvals)


def decode_approvals(data: bytes, name: str = "approvals.json") -> Approvals:
    """The approvals in `data`, which somebody must be trusted for; see `signed_approvals`.

    Args:
        data: JSON.
        name: of the file, for messages.

    Raises:
        DeviceError: too large, not JSON, an unknown or missing key, a value out of range; with the place.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "drop records that ended")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{name}: {error}", "correct the record at that place") from error
