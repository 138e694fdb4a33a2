"""The person's rights over what the device knows: to read all of it, and to have it deleted.

`export` is for the person's own screen or file: nothing of it may be sent. Deleting gives no privacy budget back, and
no device takes part more often because of it: the device's ledger (`device_ledger`), the counts of participation and
the bundles lie elsewhere and are not touched. After deleting everything, `trusted` holds the device back from training
until it has been in use for some days again.

Source: GDPR articles 15 (access), 17 (erasure) and 20 (portability); "minimum trustworthiness period" as in Google
Parfait's eligibility policies.
"""

from datetime import datetime
from typing import Any

import msgspec

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.event_store import EventStore
from sottovoce.client.events import Event
from sottovoce.client.retention import Retention
from sottovoce.client.store_rows import OWN, Memory, PageVisit

FORMAT = 1

_ABOUT = {
    "events": "what happened with ads on this device, oldest first; it chooses ads and keeps frequency caps",
    "pages": "categories of visited pages, oldest first; sensitive ones are never kept",
    "values": "settings, among them your controls",
    "learned": "values worked out on this device from the events; any deletion removes them",
    "memory": "since when this device remembers, and which ads are pinned",
    "elsewhere": "not in this file: the shared model, which is the same for everybody, and the device's ledger, which "
    "says how much its updates may have revealed and is never reset",
}


def export(store: EventStore, now: datetime, rules: Retention | None = None) -> bytes:
    """Everything in the store as one JSON document, indented, with a sentence for each part.

    Args:
        store: of this device.
        now: the device's time, with time zone.
        rules: that the store was opened with.
    """
    values = store.states()
    document: dict[str, Any] = {
        "format": FORMAT,
        "written": now,
        "about": _ABOUT,
        "kept": rules or Retention(),
        "complete": store.complete,
        "notes": store.notes,
        "memory": store.memory,
        "values": {name: value for name, (value, learned) in values.items() if not learned and name != OWN},
        "learned": {name: value for name, (value, learned) in values.items() if learned},
        "events": store.log.events,
        "pages": store.pages,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def delete_since(store: EventStore, moment: datetime, now: datetime) -> int:
    """Delete what happened at that moment or later, by the clock of then; see `EventStore.delete`."""
    return store.delete(lambda event: event.ts >= moment, lambda page: page.ts >= moment, now)


def delete_ad(store: EventStore, crid: str, now: datetime) -> int:
    """Delete the events of one ad; see `EventStore.delete`."""
    return store.delete(lambda event: event.crid == crid, _no_page, now)


def delete_advertiser(store: EventStore, seat: str, catalogue: Catalogue, now: datetime) -> int:
    """Delete the events of one advertiser's ads, and those of campaigns that left the catalogue.

    Whose the latter were can no longer be told, so the deletion goes further rather than not far enough.
    """

    def matches(event: Event) -> bool:
        campaign = catalogue.campaign.get(event.cid)
        return campaign is None or campaign.seat == seat

    return store.delete(matches, _no_page, now)


def delete_category(store: EventStore, category: str, cattax: int, catalogue: Catalogue, now: datetime) -> int:
    """Delete the events of ads of one category, those of campaigns that left the catalogue, and visits to its pages.

    With a taxonomy other than the catalogue's, only pages go.
    """

    def matches(event: Event) -> bool:
        campaign = catalogue.campaign.get(event.cid)
        return cattax == catalogue.cattax and (campaign is None or category in campaign.cat)

    return store.delete(matches, lambda page: (category, cattax) in page.categories, now)


def trusted(memory: Memory, days: int) -> bool:
    """Whether the device has remembered for so many days of use, so that it may offer itself for training.

    Days without use do not count, and a clock that jumps counts as one day at most. A store that could not be read
    starts at 0.

    Args:
        memory: of the store.
        days: the minimum trustworthiness period.
    """
    return memory.days >= days


def _no_page(page: PageVisit) -> bool:  # noqa: ARG001 - the form of a rule
    return False
