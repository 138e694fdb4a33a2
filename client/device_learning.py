"""What a device learns about its owner, from what it showed and what became of it; it never leaves the device.

Kept are lessons, one for each impression that may teach: what the model said then and which parts were shown. What is
believed follows from them by one update: of the posterior of taste (`client.posterior`), and of that of parts of
creatives (`client.combination_posterior`). So a decision of then can be made again, and whatever the person hides,
resets or deletes is gone from it at the next decision.

An impression teaches where the person agreed to learning, did not pause it, and the page could be personalised. Its
outcome counts once it has had its time (`own_examples.OutcomeWindow`), whatever it is: were a click heard at once, too
many would be clicked.

=================================================  ==========================================
case                                               what is believed
=================================================  ==========================================
no consent to learning now, or paused              None: the picker goes without
muted, or from before a reset; campaign left       as if it had never been shown
any deletion                                       None, until something is shown again
lessons that cannot be read                        None, with a note
an event that aged out of the store                its lesson goes, too
=================================================  ==========================================
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.combination_posterior import Posterior as PartsPosterior
from sottovoce.client.combination_posterior import learned
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls, visible
from sottovoce.client.device_lesson import Lesson
from sottovoce.client.event_store import EventStore
from sottovoce.client.events import EventLog
from sottovoce.client.own_examples import OutcomeWindow
from sottovoce.client.posterior import Posterior, Shown, arm_of, updated
from sottovoce.client.remembered import remembered
from sottovoce.client.scorer import said
from sottovoce.privacy.errors import DeviceError

LESSONS = "lessons"
"""Among the store's values; a learned one, so that every deletion removes it."""

MOST = 256
"""Newest impressions that are learnt from."""

KEPT = 512
"""Lessons that are kept, so that a decision can be made again after as many more."""

MOST_BYTES = 60_000
"""Of all lessons together."""


class Learnt(NamedTuple):
    """What is believed; None where nothing is, or where it may not count.

    Attributes:
        taste: for kinds of ads.
        parts: for parts of creatives.
    """

    taste: Posterior | None = None
    parts: PartsPosterior | None = None


NOTHING = Learnt()
NO_PARTS = PartsPosterior()

_Lessons = Annotated[tuple[Lesson, ...], Meta(max_length=KEPT)]
_decoder = msgspec.json.Decoder(_Lessons)


class _Row(NamedTuple):
    """A lesson whose impression counts, with what became of it."""

    lesson: Lesson
    arm: str
    clicked: bool


class Learning:
    """What one device learns.

    Args:
        store: of the device, where the lessons lie.
        window: how long an outcome may take.

    Attributes:
        fault: why what was learnt does not count; empty while all is well.
    """

    def __init__(self, store: EventStore, window: OutcomeWindow | None = None) -> None:
        self._store, self._wait = store, (window or OutcomeWindow()).click_s
        self.fault = ""
        self._read: tuple[bytes, tuple[Lesson, ...]] = b"", ()
        self._known: tuple[EventLog, Catalogue, Controls, tuple[Lesson, ...], list[_Row]] | None = None
        self._taste: tuple[tuple[_Row, ...], Posterior | None] = (), None
        self._parts: tuple[PartsPosterior, tuple[_Row, ...], PartsPosterior] = NO_PARTS, (), NO_PARTS

    @property
    def lessons(self) -> tuple[Lesson, ...]:
        """Those that are kept, oldest first; none where they cannot be read."""
        found = self._store.get(LESSONS, msgspec.Raw)
        data = bytes(found) if found is not None else b""
        if data != self._read[0]:
            self.fault, self._read = "", (data, ())
            try:
                self._read = data, _decoder.decode(data) if data else ()
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                self.fault = f"what was learnt cannot be read and counts as nothing: {error}"
        return self._read[1]

    def add(self, lesson: Lesson | None) -> None:
        """Keep a lesson, if it is one, before its impression is logged: both reach the disk together.

        A store that cannot keep it is named in `fault`; the impression counts for caps all the same.
        """
        if lesson is None or lesson.ts.tzinfo is None:  # without a time zone it is no event, either
            return
        events = self._store.log.events
        kept = [one for one in self.lessons if not events or one.ts >= events[0].ts][-KEPT + 1 :]
        kept.append(lesson)
        while len(msgspec.json.encode(kept)) > MOST_BYTES:
            del kept[: len(kept) // 8 + 1]
        try:
            self._store.put(LESSONS, kept, learned=True, wait=False)
        except DeviceError as error:
            self.fault = f"nothing new is learnt: {error}"

    def forget(self) -> None:
        """Start anew."""
        if self.lessons or self.fault:
            self._store.put(LESSONS, (), learned=True)

    def learnt(
        self,
        log: EventLog,
        catalogue: Catalogue,
        controls: Controls,
        consent: Consent,
        now: datetime,
        shipped: PartsPosterior = NO_PARTS,
    ) -> Learnt:
        """What is believed at that moment; never raises.

        Args:
            log: as it was then.
            catalogue: names the campaigns' categories.
            controls: of the person.
            consent: the person's gates.
            now: with time zone.
            shipped: beliefs about parts that came with the creatives.
        """
        if not may_learn(consent, controls):
            return NOTHING
        try:
            rows = self._rows(log, catalogue, controls)
            settled = tuple(row for row in rows if (now - row.lesson.ts).total_seconds() >= self._wait)
            return Learnt(self._taste_of(settled), self._parts_of(settled, shipped))
        except Exception as error:  # an ad is chosen without it rather than not at all
            self.fault = f"what was learnt does not count: {said(error)}"
            return NOTHING

    def _rows(self, log: EventLog, catalogue: Catalogue, controls: Controls) -> list[_Row]:
        """What counts of the lessons; kept while nothing has changed."""
        lessons, known = self.lessons, self._known
        if known and known[0] is log and known[1] is catalogue and known[2] == controls and known[3] is lessons:
            return known[4]
        rows = _rows(lessons, visible(controls, log, catalogue), catalogue) if lessons else []
        self._known = log, catalogue, controls, lessons, rows
        return rows

    def _taste_of(self, settled: tuple[_Row, ...]) -> Posterior | None:
        if settled != self._taste[0]:
            shown = [Shown(row.arm, row.lesson.chance, row.clicked) for row in settled if row.lesson.chance is not None]
            self._taste = settled, updated(Posterior(), shown) if shown else None
        return self._taste[1]

    def _parts_of(self, settled: tuple[_Row, ...], shipped: PartsPosterior) -> PartsPosterior | None:
        rows = tuple(row for row in settled if row.lesson.parts)
        prior, before, belief = self._parts
        if prior is not shipped or rows[: len(before)] != before:
            before, belief = (), shipped
        for row in rows[len(before) :]:
            belief = learned(belief, row.lesson.parts, row.lesson.moment, row.clicked)
        self._parts = shipped, rows, belief
        return belief if rows else None


def may_learn(consent: Consent, controls: Controls) -> bool:
    """Whether the person lets the device learn now."""
    return consent.learn and not controls.paused


def _rows(lessons: Sequence[Lesson], seen: EventLog, catalogue: Catalogue) -> list[_Row]:
    """The lessons of the newest impressions that may be used, in the order of the log.

    Where there are more than enough, from the start of a day on: were one left out for each new one, all that parts
    taught would have to be worked out anew each time.
    """
    taught = {(one.ts, one.crid): one for one in lessons}
    newest, found = remembered(seen, catalogue, MOST), list[_Row]()
    if len(newest) == MOST:
        days = [one.event.ts.astimezone(UTC).date() for one in newest]
        newest = newest[next((place for place, day in enumerate(days) if day != days[0]), 0) :]
    for one in newest:
        lesson = taught.get((one.event.ts, one.event.crid))
        if lesson is not None:
            found.append(_Row(lesson, arm_of(catalogue.campaign[one.event.cid]), one.outcome != "seen"))
    return found
