"""One device as a whole: what it knows in one folder, and the picker over it.

====================  ==========================================================================================
in the folder         what it is
====================  ==========================================================================================
`store/`              the sealed log of events, with the person's controls and what was learnt of them
`bundles/`            models that were accepted, see `bundle_store`; its secret and beliefs
`catalogue.json`      every campaign and ad
`consent.json`        the standard keys of consent
`creatives/`          creatives with exchangeable parts, and the files beside it: see `device_creatives`
`rounds.json`         how often it took part in training, see `training_past`
====================  ==========================================================================================

Nothing of it raises while ads are picked. Without a store memory serves; where events were lost, ads whose caps look
back that far rest; without a bundle the one before it serves, or ads take turns; without a catalogue there is no ad;
without consent nothing is personalised and nothing learnt. Key, clock and randomness are the caller's.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from sottovoce.client import controls as person
from sottovoce.client import personal_data
from sottovoce.client.bundle_store import BundleStore, litert
from sottovoce.client.catalogue import Catalogue, EventName, decode_catalogue
from sottovoce.client.consent import Consent, decode_consent
from sottovoce.client.controls import Controls
from sottovoce.client.decision import Decision
from sottovoce.client.device_files import read_or, replace_file
from sottovoce.client.device_learning import Learning, Learnt, may_learn
from sottovoce.client.device_lesson import lesson_of
from sottovoce.client.device_pages import Pages
from sottovoce.client.device_picker import CATALOGUE, DevicePicker
from sottovoce.client.device_training import ROUNDS, RULES, training_now
from sottovoce.client.event_store import EventStore
from sottovoce.client.events import Event, EventLog
from sottovoce.client.keystore import Keystore
from sottovoce.client.ladder import Clock
from sottovoce.client.occasion import Occasion
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.request import Request
from sottovoce.client.scorer import Scorer
from sottovoce.client.serving import serving
from sottovoce.client.store_rows import PageVisit
from sottovoce.client.training_offer import Condition, Offer, OfferRules
from sottovoce.models.bundle import Bundle
from sottovoce.models.signing import PublicKey
from sottovoce.privacy.errors import DeviceError

CONSENT, STORE, BUNDLES = "consent.json", "store", "bundles"
CONTROLS = "controls"


class Device:
    """One folder of one device. Opening it raises nothing, whatever lies there.

    Args:
        folder: made when missing.
        bundles: the place for models, in `folder / BUNDLES`.
        keystore: holds the store's key.
        now: the device's time, with its own time zone, as every `now` below.
        uniform: makes a fresh uniform random number in [0, 1) for each decision.
        policy: of the app.
        scorer: loads a bundle's model.
        ticks: rising nanoseconds, such as `time.monotonic_ns`, for the deadline of the policy; None sets no deadline.
        approvers: keys that must all have signed the approvals of creatives; without any, none is approved.

    Attributes:
        store: what happened here.
        consent: the gates that are open.
        controls: what the person decided.
        rounds: file with its own count of rounds of training.
        asked: all that the last decision is a function of, to pick again or otherwise; None before the first.
    """

    def __init__(
        self,
        folder: Path,
        bundles: BundleStore,
        keystore: Keystore,
        now: datetime,
        uniform: Callable[[], float],
        policy: PickerPolicy | None = None,
        scorer: Callable[[Bundle], Scorer] = litert,
        ticks: Clock | None = None,
        approvers: Sequence[PublicKey] = (),
    ) -> None:
        self._folder, self._bundles, self._uniform = folder, bundles, uniform
        self._pages, self._notes = Pages(), dict[str, str]()
        self.rounds = folder / ROUNDS
        self.store = EventStore(folder / STORE, keystore, now)
        self._learning = Learning(self.store)
        self.asked: Occasion | None = None
        self.controls = self.store.get(CONTROLS, Controls) or Controls()
        self.consent = read_or(folder / CONSENT, decode_consent, Consent(), self._notes)
        held = folder, bundles, self.store, now
        self._in_use = DevicePicker(*held, policy or PickerPolicy(), scorer, ticks, approvers)

    @property
    def log(self) -> EventLog:
        """Every event that is kept."""
        return self.store.log

    @property
    def catalogue(self) -> Catalogue:
        """In use."""
        return self._in_use.catalogue

    @property
    def bundle(self) -> Bundle | None:
        """In use; None where ads take turns."""
        return self._in_use.bundle

    @property
    def build(self) -> Callable[[Catalogue], Picker]:
        """Makes a picker for a catalogue, over the models in use, that times nothing."""
        return self._in_use.build

    @property
    def notes(self) -> tuple[str, ...]:
        """What is wrong now, and what went wrong with the store."""
        learning = (self._learning.fault,) if self._learning.fault else ()
        return (*self._in_use.notes, *self._notes.values(), *learning, *self.store.notes)

    def reload(self, now: datetime) -> None:
        """Read catalogue, consent, bundle and creatives again, as after an update; what cannot be read is missing."""
        self._notes.clear()
        self.consent = read_or(self._folder / CONSENT, decode_consent, Consent(), self._notes)
        self._in_use.reload(now)

    def pick(self, request: Request, now: datetime) -> Decision:
        """The answer to a request; it raises nothing but what `Picker.pick` calls a mistake of the caller."""
        if self._in_use.stale(now):
            self.reload(now)
        self._in_use.follow(now)
        self.controls = person.settled(self.controls, self.log, now)
        learnt = self.learnt(self.log, self.controls, self.consent, now)
        asked = self._in_use.occasion(request, self.log, self.consent, now, self.controls, self._uniform(), learnt)
        decision = asked.pick()
        self.asked = asked.decided(decision)
        self._pages.keep(request, decision, self.bundle.schema if self.bundle else None, now)
        return decision

    def learnt(self, log: EventLog, controls: Controls, consent: Consent, now: datetime) -> Learnt:
        """What was learnt by then, as far as it may count, which the picker is given; see `Learning.learnt`.

        Of an earlier moment give the first events of the log, as many as there were, and what was allowed then.
        """
        shipped = self._in_use.creatives.shipped
        return self._learning.learnt(log, self.catalogue, controls, consent, now, shipped)

    def training(self, condition: Condition, now: datetime, rules: OfferRules = RULES) -> Offer:
        """Whether the device offers itself for training now, and why not; `device_node.phone_of` it takes part then."""
        schema = self.bundle.schema if self.bundle else None
        held = self.store, schema, self.catalogue, self.consent, self.controls
        return training_now(*held, condition, now, self.rounds, rules)

    def happened(self, kind: EventName, what: Decision | str, now: datetime) -> bool:
        """Log what became of an ad; whether it is on the disk.

        An impression keeps the model features of the page as well, but only where they chose the ad: not of a sensitive
        page, and not where personalisation is off. It teaches where the person agreed to learning, too.

        Args:
            kind: of event.
            what: the decision that showed the ad, or its `crid`.
            now: when.

        Raises:
            DeviceError: the decision shows no ad, or there is no such ad.
        """
        crid = what if isinstance(what, str) else what.winner.crid if what.winner else ""
        place = self.catalogue.place.get(crid)
        if place is None:
            raise DeviceError(f"there is no ad {crid!r} to log a {kind} of", "name one that was shown")
        ad = self.catalogue.ads[place]
        page = self._pages.of(what.request) if kind == "impression" and isinstance(what, Decision) else None
        if page and isinstance(what, Decision) and may_learn(self.consent, self.controls):
            self._learning.add(lesson_of(what, now, self._in_use.creatives.ready.get(crid), page.moment))
        return self.store.append(Event(now, kind, crid, ad.cid, ad.features, page.features if page else {}), now)

    def visit(self, request: Request, now: datetime) -> bool:
        """Remember what a page is about, where it may be used: never a sensitive page; whether anything is kept."""
        allowed = serving(request, self.consent, self.controls)[0] == "personalised"
        pages = tuple(sorted(request.publisher.categories))
        return allowed and bool(pages) and self.store.visit(PageVisit(now, pages[:64]), now)

    def decide(self, change: Callable[[Controls], Controls]) -> bool:
        """Change the controls by a function of `client.controls`, from the next decision on; whether the disk has it.

        Raises:
            DeviceError: what the function raises, or the controls are too large to be kept; nothing changed.
        """
        changed = change(self.controls)
        durable = self.store.put(CONTROLS, changed)
        self.controls = changed
        return durable

    def forget_interests(self, now: datetime) -> bool:
        """A new start: whatever happened and was learnt up to now serves caps only; see `controls.reset`."""
        self._learning.forget()
        return self.decide(lambda before: person.reset(before, self.log, now))

    def allow(self, keys: bytes) -> Consent:
        """Take other consent keys; they count from the next decision, whatever the disk says.

        Raises:
            DeviceError: no such keys, nothing changed; or they could not be written, and count until a restart.
        """
        self.consent = decode_consent(keys)
        replace_file(self._folder / CONSENT, keys, self._notes)
        return self.consent

    def take_catalogue(self, data: bytes, now: datetime) -> None:
        """Put another catalogue to use.

        Raises:
            DeviceError: it is none, or it could not be written; the one in use stays.
        """
        catalogue = decode_catalogue(data)
        replace_file(self._folder / CATALOGUE, data, self._notes)
        self._in_use.take(catalogue, now)

    def active_bundle(self) -> bytes | None:
        """The bytes of the newest bundle that was taken, if its file is whole."""
        found = self._bundles.active()
        return found[1] if found else None

    def take_bundle(self, data: bytes, now: datetime) -> None:
        """Put another bundle to use; see `BundleStore.offer` for what it raises: the one in use stays then."""
        self._bundles.offer(data, now)
        self.reload(now)

    def export(self, now: datetime) -> bytes:
        """Everything that is known about the person, as one JSON document; see `personal_data.export`."""
        return personal_data.export(self.store, now)

    def delete_all(self, now: datetime) -> None:
        """Forget everything but consent and the shared model: events, pages, controls, key; see `EventStore`."""
        self._pages.clear()
        self.asked, self.controls = None, Controls()
        self.store.delete_all(now)
        self._in_use.remember()

    def close(self) -> None:
        """Write what is not written yet and give the files back."""
        self.store.close()
