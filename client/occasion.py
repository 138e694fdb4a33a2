"""All that one decision is a function of, held together, so that it can be made again, or with one thing changed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.decision import Decision
from sottovoce.client.events import EventLog
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.request import Request

NOTHING_SET = Controls()
NO_POLICY = PickerPolicy()


@dataclass(frozen=True)
class Occasion:
    """One request and everything around it; see `Picker.pick`.

    Attributes:
        build: the picker for a catalogue: model, policy, value rule and explorer are in it.
        picker: what it builds for `catalogue`.
        catalogue: all ads.
        request: what the page asks.
        log: of the device.
        consent: of the person.
        now: with its time zone.
        controls: of the person.
        draw: of the decision.
        policy: of the app, the same as in `build`.
    """

    build: Callable[[Catalogue], Picker]
    picker: Picker
    catalogue: Catalogue
    request: Request
    log: EventLog
    consent: Consent
    now: datetime
    controls: Controls = NOTHING_SET
    draw: float = 0.0
    policy: PickerPolicy = NO_POLICY

    def pick(self) -> Decision:
        """The decision; the same each time."""
        return self.picker.pick(self.request, self.log, self.consent, self.now, self.controls, self.draw)

    def among(self, catalogue: Catalogue) -> "Occasion":
        """The same with another catalogue. Builds a picker, which takes as long as its ads take to encode."""
        return replace(self, catalogue=catalogue, picker=self.build(catalogue))
