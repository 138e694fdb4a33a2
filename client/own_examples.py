"""From the device's event log to training rows: what a phone of one person trains on.

A row is an impression that the model may remember, with what became of it by `remembered.remembered`, so that history,
personal layer and training agree about the same past. Left out are ads of sensitive categories and of campaigns that
left the catalogue, whatever the person's controls hide, and impressions too young to have their outcome.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from sottovoce.client.catalogue import Catalogue, FeatureValue
from sottovoce.client.controls import Controls, visible
from sottovoce.client.events import Event, EventLog
from sottovoce.client.examples import Examples
from sottovoce.client.remembered import RANK, Remembered, remembered
from sottovoce.client.request import Request
from sottovoce.client.taxonomy import sensitive
from sottovoce.models.schema import FeatureSchema, Ids
from sottovoce.models.topics import Topics


class OutcomeWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long an impression waits for its outcome before it is trained on. A setting of the app.

    Attributes:
        click_s: seconds, for a model of clicks.
        conversion_s: seconds, for a model of conversions too; the longer one of both holds.
    """

    click_s: Annotated[float, Meta(ge=0)] = 1_800.0
    conversion_s: Annotated[float, Meta(ge=0)] = 86_400.0

    def of(self, schema: FeatureSchema) -> timedelta:
        """How long rows of this schema wait.

        The same for every row, whatever became of it: if clicked rows waited longer than the others, those that are
        old enough would show too few clicks.
        """
        waits = self.click_s, self.conversion_s
        return timedelta(seconds=max(waits[: len(schema.heads)]))


def own_examples(
    log: EventLog,
    catalogue: Catalogue,
    schema: FeatureSchema,
    device: Mapping[str, FeatureValue],
    controls: Controls,
    now: datetime,
    window: OutcomeWindow | None = None,
) -> Examples:
    """The rows of this device, in the order of the log, oldest first.

    Ads count as they were when they were shown. Those that are in the catalogue, unchanged, keep its numbers; the
    others come behind, so that a measurement by ad looks at the first `len(catalogue.ads)` only.

    A row is judged by the clock that its event was written with; one that seems to come from the future waits.

    Args:
        log: everything that happened on this device.
        catalogue: in use now.
        schema: of the model.
        device: what the device is, by feature; absent names count as missing. It counts as it is now.
        controls: of the person; while paused there are no rows.
        now: the device's time, with time zone.
        window: how long an outcome may take.
    """
    latest = now - (window or OutcomeWindow()).of(schema)
    past = remembered(visible(controls, log, catalogue), catalogue, len(log.events))
    kept = [one for one in past if one.event.ts <= latest]
    moment = [feature for feature in schema.context if feature.source == "context"]
    itself = [feature for feature in schema.context if feature.source == "device"]
    ads, ad = _ads(kept, catalogue, schema)
    context = np.array([schema.encode_one(moment, one.event.context) for one in kept], np.int32)
    context = context.reshape(len(kept), len(moment))
    offsets = np.array([0, len(kept)], np.int64)
    topics = Topics(schema)
    pages = context[:, topics.page_column - len(itself)] if topics.page_column is not None else ad[:0]
    return Examples(
        offsets=offsets,
        device=schema.encode_one(itself, device).reshape(1, len(itself)),
        context=context,
        ad=ad,
        labels=np.array([_labels(one, schema) for one in kept], np.int8).reshape(len(kept), len(schema.heads)),
        catalogue=ads,
        match=topics.match_rows(pages, offsets, ads[ad]),
    )


def page_context(request: Request, schema: FeatureSchema) -> dict[str, FeatureValue]:
    """What an impression remembers of the page that asked: the `context` of its event.

    Only features of the schema that belong to the page or moment. Nothing of a page that is not personalised: one with
    a sensitive category or one that cannot be judged, one for children, one where the person asks not to be followed.

    Args:
        request: that the impression answered.
        schema: of the model.
    """
    about = request.publisher.categories
    if request.restriction or any(sensitive((category,), cattax) for category, cattax in about):
        return {}
    told = request.ext.features
    names = (feature.name for feature in schema.features if feature.source == "context")
    return {name: told[name] for name in names if name in told}


def _labels(one: Remembered, schema: FeatureSchema) -> list[int]:
    """One for each head; a conversion counts as clicked, as it is given a click."""
    return [int(RANK[one.outcome] >= RANK[head]) for head in schema.heads]


def _ads(kept: list[Remembered], catalogue: Catalogue, schema: FeatureSchema) -> tuple[Ids, Ids]:
    """The encoded ads, those of the catalogue first, and the place of each row's ad among them."""
    rows = [schema.encode_ad(ad.features) for ad in catalogue.ads]
    places: list[int] = []
    gone: dict[bytes, int] = {}
    for one in kept:
        encoded = _encoded(one.event, schema)
        place = catalogue.place.get(one.event.crid)
        if place is None or not np.array_equal(rows[place], encoded):
            place = gone.setdefault(encoded.tobytes(), len(rows))
            if place == len(rows):
                rows.append(encoded)
        places.append(place)
    return np.array(rows, np.int32).reshape(len(rows), len(schema.ad)), np.array(places, np.int32)


def _encoded(event: Event, schema: FeatureSchema) -> Ids:
    return schema.encode_ad(event.features)
