"""From the request, the event log and the catalogue to the arrays that the model reads.

The same `FeatureSchema` encoded the training rows. Ads are encoded once per catalogue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sottovoce.client.catalogue import Catalogue, FeatureValue
from sottovoce.client.events import Event, EventLog
from sottovoce.client.remembered import Remembered, remembered
from sottovoce.client.request import Request
from sottovoce.models.request import without_twins
from sottovoce.models.schema import FeatureSchema, Ids
from sottovoce.models.topics import NONE, WINDOW, Numbers, Topics

Places = npt.NDArray[np.intp]
_MOST_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model reads; ids are rows of the schema's embedding table.

    Attributes:
        context: (1, context features) int32.
        events: (E, history features) int32, newest last, zeros in front.
        outcomes: (E,) int32, 0 marks an empty place.
        ad: (N, ad features) int32.
        topics: what its last columns compare.
    """

    context: Ids
    events: Ids
    outcomes: Ids
    ad: Ids
    topics: Topics

    def without_history(self) -> "Inputs":
        """The same request on a device that remembers nothing."""
        return replace(
            self,
            events=np.zeros_like(self.events),
            outcomes=np.zeros_like(self.outcomes),
            ad=self.topics.unread(self.ad),
        )

    def without(self, columns: tuple[int, ...]) -> "Inputs":
        """The same request with these context columns missing."""
        context = self.context.copy()
        context[:, list(columns)] = 0
        ad = self.topics.off_page(self.ad) if self.topics.page_column in columns else self.ad
        return replace(self, context=context, ad=ad)


class _RowsOfEvents:
    """What events were encoded to, while they are the same objects; a log that grows keeps its older ones."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Event, tuple[Ids, ...]]] = {}

    def rows(self, event: Event, encode: Callable[[Event], tuple[Ids, ...]]) -> tuple[Ids, ...]:
        known = self._known.get(id(event))
        if known is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            # The event is kept too: while it lives, no other object has its id.
            known = self._known[id(event)] = event, encode(event)
        return known[1]


class Encoder:
    """Encodes for one schema and one catalogue.

    Args:
        schema: of the model.
        catalogue: whose ads are encoded once, here.

    Attributes:
        schema: as given.
        topics: of the schema.
        like: (ads,) equal numbers for ads that the model cannot tell apart.
        device_columns: of the context, what the device is.
        page_columns: of the context, what the page and moment are.
    """

    def __init__(self, schema: FeatureSchema, catalogue: Catalogue) -> None:
        self.schema = schema
        self.topics = Topics(schema)
        self._catalogue = catalogue
        own = schema.ad[: len(schema.ad) - self.topics.columns]
        columns = [schema.encode(feature, [ad.features.get(feature.name) for ad in catalogue.ads]) for feature in own]
        columns += [np.zeros(len(catalogue.ads), np.int32)] * self.topics.columns
        self._ads = np.stack(columns, 1)
        self.like: Places = np.zeros(0, np.intp)
        if len(self._ads):
            self.like = without_twins(self._ads)[1].astype(np.intp)
        self._history, self._past = _RowsOfEvents(), _RowsOfEvents()
        self._device: dict[str, FeatureValue] = {}
        self._topic_of: dict[FeatureValue, int] = {}
        self._kept = EventLog(), *self._encoded(EventLog())
        self._read: tuple[EventLog, Numbers] = EventLog(), self.topics.nothing
        self.device_columns = tuple(n for n, feature in enumerate(schema.context) if feature.source == "device")
        self.page_columns = tuple(n for n, feature in enumerate(schema.context) if feature.source == "context")

    def context(self, request: Request, personalised: bool) -> Ids:
        """The page and, only when personalised, the device: shape (1, context features)."""
        row = self.schema.encode_one(self.schema.context, request.ext.features)
        if not personalised:
            row[list(self.device_columns)] = 0
        return row[np.newaxis]

    def device(self, request: Request) -> dict[str, FeatureValue]:
        """What the device is, by feature of the schema; None where the request does not say."""
        told = request.ext.features
        return {feature.name: told.get(feature.name) for feature in self.schema.context if feature.source == "device"}

    def past(self, request: Request, log: EventLog, newest: int) -> tuple[list[Inputs], list[bool]]:
        """The newest impressions as requests of their own, oldest first, and whether each was clicked or acted on.

        An impression sees the `history_length` ones before it. What the device is counts as it is now; the page, as it
        was then.

        Args:
            request: tells what the device is.
            log: of this device.
            newest: at most so many.
        """
        schema, device = self.schema, self.device(request)
        if device != self._device:
            self._device, self._past = device, _RowsOfEvents()
        reach = max(schema.history_length, WINDOW if self.topics.count else 0)
        known = remembered(log, self._catalogue, newest + reach)
        events, outcomes = self._events(known, schema.history_length + len(known))
        pages = self._pages(known)
        read = self.topics.read_before(pages, np.array([0, len(known)]))
        asked, clicked = [], []
        for place, one in enumerate(known[-newest:], max(0, len(known) - newest)):
            context, ad = self._past.rows(
                one.event,
                lambda event: (
                    schema.encode_one(schema.context, {**event.context, **device})[np.newaxis],
                    schema.encode_ad(event.features)[np.newaxis],
                ),
            )
            before = slice(place, place + schema.history_length)
            ad = self.matched(ad, context, read[place : place + 1])
            asked.append(Inputs(context, events[before], outcomes[before], ad, self.topics))
            clicked.append(one.outcome != "seen")
        return asked, clicked

    def history(self, log: EventLog) -> tuple[Ids, Ids, tuple[Remembered, ...]]:
        """Events, outcomes, and what they stand for; see `remembered` and `Inputs`. Kept while the log is the same."""
        if self._kept[0] is not log:
            self._kept = log, *self._encoded(log)
        return self._kept[1:]

    def read(self, log: EventLog) -> Numbers:
        """(1, topics) how many of the newest pages remembered were about each topic. Kept while the log is the same."""
        if self.topics.count and self._read[0] is not log:
            pages = self._pages(remembered(log, self._catalogue, WINDOW))
            self._read = log, np.bincount(pages[pages != NONE], minlength=self.topics.count)[np.newaxis]
        return self._read[1] if self.topics.count else self.topics.nothing

    def _pages(self, known: Sequence[Remembered]) -> Numbers:
        """Topic of the page of each impression."""
        if self.topics.page_column is None:
            return np.full(len(known), NONE, np.int64)
        feature = self.schema.context[self.topics.page_column]
        told = [one.event.context.get(feature.name) for one in known]
        for value in told:
            if value not in self._topic_of:
                if len(self._topic_of) >= _MOST_KEPT:
                    self._topic_of.clear()
                self._topic_of[value] = int(self.topics.of_rows(np.array([self.schema.row(feature, value)]))[0])
        return np.array([self._topic_of[value] for value in told], np.int64)

    def matched(self, ads: Ids, context: Ids, read: Numbers) -> Ids:
        """The same candidates, their match features in place.

        Args:
            ads: (n, ad features).
            context: (1, context features), of the page.
            read: (1, topics), from `read`.
        """
        if not self.topics.count:
            return ads
        found = ads.copy()
        own = self.topics.of_ads(ads)
        found[:, -self.topics.columns :] = self.topics.match(self.topics.of_pages(context), read, own)
        return found

    def _encoded(self, log: EventLog) -> tuple[Ids, Ids, tuple[Remembered, ...]]:
        length = self.schema.history_length
        past = remembered(log, self._catalogue, length)
        return *self._events(past, length), past

    def _events(self, past: tuple[Remembered, ...], length: int) -> tuple[Ids, Ids]:
        """Events and outcomes as the model reads them, zeros in front up to `length`."""
        fields = self.schema.history
        events = np.zeros((length, len(fields)), np.int32)
        outcomes = np.zeros(length, np.int32)
        for place, one in enumerate(past, length - len(past)):
            events[place] = self._history.rows(one.event, self._event)[0]
            # A model without a conversion head never saw that outcome in training.
            known = one.outcome if one.outcome in self.schema.heads else "seen" if one.outcome == "seen" else "click"
            outcomes[place] = self.schema.outcome_row(known)
        return events, outcomes

    def _event(self, event: Event) -> tuple[Ids]:
        """The history features of an event; those of an ad that has not changed since are already encoded."""
        fields = self.schema.history
        place = self._catalogue.place.get(event.crid)
        if place is not None and self._catalogue.ads[place].features == event.features:
            return (self._ads[place, : len(fields)],)
        return (self.schema.encode_one(fields, event.features),)

    def ads(self, places: Places) -> Ids:
        """The encoded ads at these positions of the catalogue, shape (len(places), ad features)."""
        return self._ads[places]
