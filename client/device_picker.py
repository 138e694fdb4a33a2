"""The picker of a device, kept up to date with what lies in its folder and with the clock.

Models, catalogue and creatives are read when the device opens, after an update, and when the clock says that one of
them has ended or may serve again. Nothing raises; `notes` say what is wrong.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from sottovoce.client.bundle_store import BundleStore
from sottovoce.client.catalogue import Catalogue, decode_catalogue
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.device_creatives import read_creatives
from sottovoce.client.device_files import read_or
from sottovoce.client.device_learning import Learnt
from sottovoce.client.device_models import NO_CREATIVES, countable, picker_of, rankers_of
from sottovoce.client.event_store import EventStore
from sottovoce.client.events import EventLog
from sottovoce.client.ladder import Clock, Ranker
from sottovoce.client.occasion import Occasion
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.request import Request
from sottovoce.client.scorer import Scorer
from sottovoce.models.bundle import Bundle
from sottovoce.models.signing import PublicKey

CATALOGUE = "catalogue.json"
GAP, APPROVED = "gap", "approvals"
"""Among the store's values: when events were lost, and the version of the newest approvals that were believed."""

NO_ADS = Catalogue(version=1, cur="USD", cattax=8, campaigns=(), ads=())
_AGAIN = timedelta(hours=1)
"""How far the clock moves, either way, before a device looks again for a model, or whether caps can be relied on."""


class DevicePicker:
    """What a device picks with.

    Args:
        folder: of the device.
        bundles: the place for its models.
        store: of its events.
        now: the device's time, with time zone.
        policy: of the app.
        scorer: loads a bundle's model.
        ticks: rising nanoseconds for the deadline of the policy; None sets no deadline.
        approvers: keys that must all have signed the approvals of creatives.

    Attributes:
        policy: of the app.
        catalogue: every ad.
        shown: those whose caps can be counted.
        bundle: in use; None where ads take turns.
        creatives: what may be shown of those with exchangeable parts.
        picker: over what may be shown.
        build: makes a picker for a catalogue, over the models in use, that times nothing.
    """

    def __init__(
        self,
        folder: Path,
        bundles: BundleStore,
        store: EventStore,
        now: datetime,
        policy: PickerPolicy,
        scorer: Callable[[Bundle], Scorer],
        ticks: Clock | None,
        approvers: Sequence[PublicKey],
    ) -> None:
        self._folder, self._bundles, self._store = folder, bundles, store
        self.policy, self._scorer, self._ticks, self._approvers = policy, scorer, ticks, tuple(approvers)
        if not store.complete:
            store.put(GAP, now)
        self._gap = store.get(GAP, datetime)
        self._notes: dict[str, str] = {}
        self.catalogue, self.creatives = NO_ADS, NO_CREATIVES
        self._rankers: list[Ranker] = []
        self.reload(now)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is wrong now."""
        return (*self._notes.values(), *self.creatives.notes.values())

    def reload(self, now: datetime) -> None:
        """Read catalogue, models and creatives again; the catalogue in use stays where there is no other."""
        self._notes.clear()
        self.catalogue = read_or(self._folder / CATALOGUE, decode_catalogue, self.catalogue, self._notes)
        self._rankers, self.bundle, note = rankers_of(self._bundles, self._scorer, now)
        if note:
            self._notes["bundle"] = note
        self._approve(now)
        self._serve(now)

    def take(self, catalogue: Catalogue, now: datetime) -> None:
        """Put another catalogue to use."""
        self.catalogue = catalogue
        self._notes.pop(CATALOGUE, None)
        self._serve(now)

    def stale(self, now: datetime) -> bool:
        """Whether the bundle has expired, or one may serve that could not when it was looked for."""
        if self.bundle is not None:
            return now >= self.bundle.manifest.expires
        return abs(now - self._looked) >= _AGAIN

    def follow(self, now: datetime) -> None:
        """Follow the clock: approvals that began or ended, and ads whose caps can be counted again."""
        approved = self.creatives.since <= now < self.creatives.until
        if not approved:
            self._approve(now)
        if not approved or (self._gap is not None and abs(now - self._looked) >= _AGAIN):
            self._serve(now)

    def occasion(
        self,
        request: Request,
        log: EventLog,
        consent: Consent,
        now: datetime,
        controls: Controls,
        draw: float,
        learnt: Learnt,
    ) -> Occasion:
        """A decision to be made with what is in use; see `Occasion`."""
        held = self.build, self.picker, self.shown
        return Occasion(*held, request, log, consent, now, controls, draw, self.policy, learnt.taste, learnt.parts)

    def remember(self) -> None:
        """Write down again what a deletion of everything must not take away: it says nothing about the person."""
        if self._gap is not None:
            self._store.put(GAP, self._gap)
        if self.creatives.version > 1:
            self._store.put(APPROVED, self.creatives.version)

    def _approve(self, now: datetime) -> None:
        newest = self._store.get(APPROVED, int) or 1
        self.creatives = read_creatives(self._folder, self._approvers, newest, now)
        if self.creatives.version > newest:
            self._store.put(APPROVED, self.creatives.version)

    def _serve(self, now: datetime) -> None:
        # A cap that looks further back than to where events were lost means nothing: its ads are not shown then.
        self._looked = now
        self.shown = self.catalogue if self._gap is None else countable(self.catalogue, now - self._gap)
        models, policy, creatives = self._rankers, self.policy, self.creatives
        self.picker = picker_of(models, self.shown, policy, self._ticks, creatives)
        self.build: Callable[[Catalogue], Picker] = lambda one: picker_of(models, one, policy, creatives=creatives)
