"""One device as a whole: what it knows in one folder, and the picker over it.

====================  ==========================================================================================
in the folder         what it is
====================  ==========================================================================================
`store/`              the sealed log of events, with the person's controls, see `event_store`
`bundles/`            models that were accepted, see `bundle_store`; its secret and beliefs
`catalogue.json`      every campaign and ad
`consent.json`        the standard keys of consent
====================  ==========================================================================================

Nothing of it raises while ads are picked. Without a store memory serves; where events were lost, ads whose caps look
back that far rest; without a bundle the one before it serves, or ads take turns; without a catalogue there is no ad;
without consent nothing is personalised. `notes` says which.
Key, clock and randomness are the caller's.
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from sottovoce.client import controls as person
from sottovoce.client import personal_data
from sottovoce.client.bundle_store import BundleStore, litert
from sottovoce.client.catalogue import Catalogue, EventName, FeatureValue, decode_catalogue
from sottovoce.client.consent import Consent, decode_consent
from sottovoce.client.controls import Controls
from sottovoce.client.decision import Decision
from sottovoce.client.device_models import countable, picker_of
from sottovoce.client.event_store import EventStore
from sottovoce.client.events import Event, EventLog
from sottovoce.client.keystore import Keystore
from sottovoce.client.ladder import Clock, Ranker
from sottovoce.client.occasion import Occasion
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.request import Request
from sottovoce.client.scorer import Scorer
from sottovoce.client.serving import serving
from sottovoce.client.store_rows import PageVisit
from sottovoce.models.atomic import write_atomically
from sottovoce.models.bundle import Bundle
from sottovoce.privacy.errors import DeviceError, SottovoceError

CATALOGUE, CONSENT, STORE, BUNDLES = "catalogue.json", "consent.json", "store", "bundles"
CONTROLS, GAP = "controls", "gap"
"""Among the store's values: the controls, and when events were lost."""

NO_ADS = Catalogue(version=1, cur="USD", cattax=8, campaigns=(), ads=())
_T = TypeVar("_T")
_AGAIN = timedelta(hours=1)
"""How far the clock moves, either way, before a device looks again for a model, or whether caps can be relied on."""

_PAGES = 64
"""Decisions whose page is remembered until their impression is logged."""


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

    Attributes:
        catalogue: in use.
        store: what happened here.
        consent: the gates that are open.
        controls: what the person decided.
        bundle: in use; None where ads take turns.
        build: makes a picker for a catalogue, over the models in use, that times nothing.
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
    ) -> None:
        self._folder, self._bundles, self._uniform = folder, bundles, uniform
        self._policy, self._scorer, self._ticks = policy or PickerPolicy(), scorer, ticks
        self._notes: dict[str, str] = {}
        self._pages: OrderedDict[str, dict[str, FeatureValue]] = OrderedDict()
        self.store = EventStore(folder / STORE, keystore, now)
        if not self.store.complete:
            self.store.put(GAP, now)
        self._gap = self.store.get(GAP, datetime)
        self.asked: Occasion | None = None
        self.controls = self.store.get(CONTROLS, Controls) or Controls()
        self.consent = Consent()
        self.catalogue = NO_ADS
        self.reload(now)

    @property
    def log(self) -> EventLog:
        """Every event that is kept."""
        return self.store.log

    @property
    def notes(self) -> tuple[str, ...]:
        """What is wrong now, and what went wrong with the store."""
        return (*self._notes.values(), *self.store.notes)

    def reload(self, now: datetime) -> None:
        """Read catalogue, consent and bundle again, as after an update; what cannot be read counts as missing."""
        self._notes.clear()
        self.catalogue = self._read(CATALOGUE, decode_catalogue, self.catalogue)
        self.consent = self._read(CONSENT, decode_consent, Consent())
        self.bundle: Bundle | None = None
        self._rankers: list[Ranker] = []
        try:
            for bundle in self._bundles.usable(now):
                manifest = bundle.manifest
                name = f"{manifest.model_id} {manifest.version}"
                self._rankers.append(Ranker(bundle.schema, self._scorer(bundle), manifest.personal_variance, name))
                self.bundle = self.bundle or bundle
        except (SottovoceError, OSError) as error:
            self._notes["bundle"] = f"a model cannot be used: {error}"
        if not self._rankers:
            self._notes.setdefault("bundle", "there is no bundle that can be trusted and used now: ads take turns")
        self._serve(now)

    def _serve(self, now: datetime) -> None:
        """The picker over what is in use. Whatever else helps to decide comes in here, such as parts of creatives."""
        # A cap that looks further back than to where events were lost means nothing: its ads are not shown then.
        self._looked = now
        self._shown = self.catalogue if self._gap is None else countable(self.catalogue, now - self._gap)
        self._picker = picker_of(self._rankers, self._shown, self._policy, self._ticks)
        models, policy = self._rankers, self._policy
        self.build: Callable[[Catalogue], Picker] = lambda catalogue: picker_of(models, catalogue, policy)

    def pick(self, request: Request, now: datetime) -> Decision:
        """The answer to a request; it raises nothing but what `Picker.pick` calls a mistake of the caller."""
        if self._stale(now):
            self.reload(now)
        if self._gap is not None and abs(now - self._looked) >= _AGAIN:
            self._serve(now)
        self.controls = person.settled(self.controls, self.log, now)
        asked = Occasion(
            build=self.build,
            picker=self._picker,
            catalogue=self._shown,
            request=request,
            log=self.log,
            consent=self.consent,
            now=now,
            controls=self.controls,
            draw=self._uniform(),
            policy=self._policy,
        )
        decision = asked.pick()
        self.asked = asked.decided(decision)
        self._pages[request.id] = self._page(request) if decision.mode == "personalised" else {}
        while len(self._pages) > _PAGES:
            self._pages.popitem(last=False)
        return decision

    def happened(self, kind: EventName, what: Decision | str, now: datetime) -> bool:
        """Log what became of an ad.

        An impression keeps the model features of the page as well, but only where they chose the ad: not of a sensitive
        page, and not where personalisation is off.

        Args:
            kind: of event.
            what: the decision that showed the ad, or its `crid`.
            now: when.

        Returns:
            Whether it is on the disk.

        Raises:
            DeviceError: the decision shows no ad, or there is no such ad.
        """
        crid = what if isinstance(what, str) else what.winner.crid if what.winner else ""
        place = self.catalogue.place.get(crid)
        if place is None:
            raise DeviceError(f"there is no ad {crid!r} to log a {kind} of", "name one that was shown")
        ad = self.catalogue.ads[place]
        shown = kind == "impression" and isinstance(what, Decision)
        context = self._pages.get(what.request, {}) if shown and isinstance(what, Decision) else {}
        return self.store.append(Event(now, kind, crid, ad.cid, ad.features, context), now)

    def visit(self, request: Request, now: datetime) -> bool:
        """Remember what a page is about, where it may be used: never a sensitive page; whether anything is kept."""
        allowed = serving(request, self.consent, self.controls)[0] == "personalised"
        pages = tuple(sorted(request.publisher.categories))
        return allowed and bool(pages) and self.store.visit(PageVisit(now, pages[:64]), now)

    def decide(self, change: Callable[[Controls], Controls]) -> bool:
        """Change the controls by a function of `client.controls`; it counts from the next decision.

        Returns:
            Whether that is on the disk.

        Raises:
            DeviceError: what the function raises, or the controls are too large to be kept; nothing changed.
        """
        changed = change(self.controls)
        durable = self.store.put(CONTROLS, changed)
        self.controls = changed
        return durable

    def forget_interests(self, now: datetime) -> bool:
        """A new start: whatever happened up to now serves caps only; see `controls.reset`."""
        return self.decide(lambda before: person.reset(before, self.log, now))

    def allow(self, keys: bytes) -> Consent:
        """Take other consent keys; they count from the next decision, whatever the disk says.

        Raises:
            DeviceError: no such keys, nothing changed; or they could not be written, and count until a restart.
        """
        self.consent = decode_consent(keys)
        self._write(CONSENT, keys)
        return self.consent

    def take_catalogue(self, data: bytes, now: datetime) -> None:
        """Put another catalogue to use.

        Raises:
            DeviceError: it is none, or it could not be written; the one in use stays.
        """
        catalogue = decode_catalogue(data)
        self._write(CATALOGUE, data)
        self.catalogue = catalogue
        self._serve(now)

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
        if self._gap is not None:
            self.store.put(GAP, self._gap)

    def close(self) -> None:
        """Write what is not written yet and give the files back."""
        self.store.close()

    def _stale(self, now: datetime) -> bool:
        """Whether the bundle has expired, or one may serve that could not when it was looked for."""
        if self.bundle is not None:
            return now >= self.bundle.manifest.expires
        return abs(now - self._looked) >= _AGAIN

    def _page(self, request: Request) -> dict[str, FeatureValue]:
        """Model features of the page, without those of the device."""
        told = request.ext.features
        wanted = self.bundle.schema.context if self.bundle else ()
        return {one.name: told[one.name] for one in wanted if one.source == "context" and one.name in told}

    def _read(self, name: str, decode: Callable[[bytes], _T], otherwise: _T) -> _T:
        try:
            return decode((self._folder / name).read_bytes())
        except FileNotFoundError:
            self._notes[name] = f"there is no {name}"
        except (DeviceError, OSError) as error:
            self._notes[name] = str(error)
        return otherwise

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._folder / name, data)
        except OSError as error:
            raise DeviceError(
                f"{name} cannot be written: {error.strerror or error}", "free or repair the disk"
            ) from error
        self._notes.pop(name, None)
