"""All that one decision is a function of, held together, so that it can be made again, or with one thing changed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.combination_posterior import Posterior as PartsPosterior
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.decision import Climb, Decision
from sottovoce.client.events import EventLog
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.posterior import Posterior
from sottovoce.client.request import Request

NOTHING_SET = Controls()
NO_POLICY = PickerPolicy()


@dataclass(frozen=True)
class Occasion:
    """One request and everything around it; see `Picker.pick`.

    Attributes:
        build: the picker for a catalogue: models, policy and combinations are in it.
        picker: what it builds for `catalogue`.
        catalogue: all ads.
        request: what the page asks.
        log: of the device.
        consent: of the person.
        now: with its time zone.
        controls: of the person.
        draw: of the decision.
        policy: of the app, the same as in `build`.
        posterior: what was learnt of this person's taste, or None.
        parts: what was learnt of parts of creatives, or None.
        then: how the ladder came to its answer, once it has: picking again then asks the same step, whatever the time.
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
    posterior: Posterior | None = None
    parts: PartsPosterior | None = None
    then: Climb | None = None

    def pick(self) -> Decision:
        """The decision; the same each time."""
        return self.picker.pick(
            self.request,
            self.log,
            self.consent,
            self.now,
            self.controls,
            self.draw,
            self.posterior,
            self.parts,
            self.then,
        )

    def decided(self, decision: Decision) -> "Occasion":
        """The same, to pick again as the ladder came to this decision of it."""
        return replace(self, then=decision.workings.climb)

    def among(self, catalogue: Catalogue) -> "Occasion":
        """The same with another catalogue. Builds a picker, which takes as long as its ads take to encode."""
        return replace(self, catalogue=catalogue, picker=self.build(catalogue))
