"""A phone of a market person that takes part in training by itself: its own store, its own rows, its own gate.

What simulated nodes do for thousands of devices from columns in memory, this does for one as a phone would: events are
appended to the encrypted store on the days on which they happened, and every answer is worked out from that store.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.consent import Consent, decode_consent
from sottovoce.client.controls import Controls
from sottovoce.client.event_store import EventStore
from sottovoce.client.events import decode_log
from sottovoce.client.keystore import FileKeystore
from sottovoce.client.phone_node import Pace, Phone
from sottovoce.client.training_offer import Condition, OfferRules
from sottovoce.models.model import Model
from sottovoce.simulations import phone
from sottovoce.simulations.market import DEVICE_CLASSES, TRAIN_DAYS, Market

TRAINED_FROM = phone.OPENED + timedelta(days=TRAIN_DAYS)
"""The end of the training days: the log of `phone.events_jsonl` ends here."""

AT_REST = Condition(battery=1.0, charging=True, idle=True, unmetered=True, thermal=0)
"""A phone on its charger at night."""


@dataclass(slots=True)
class Surroundings:
    """What changes while a phone is in use; a simulation turns these.

    Attributes:
        now: the device's time.
        consent: of the person.
        condition: of the phone.
        controls: of the person.
    """

    now: datetime
    consent: Consent
    condition: Condition = AT_REST
    controls: Controls = field(default_factory=Controls)


def simulated_phone(
    market: Market, device: int, folder: Path, model: Model, order: int, rules: OfferRules | None = None
) -> tuple[Phone, Surroundings]:
    """The phone of one person two days after the training days, on its charger, with the consent the market gave.

    It answers at once and not on a beat. The caller closes its store.

    Args:
        market: the world.
        device: number of the person.
        folder: empty; the phone's disk.
        model: that is trained.
        order: place in the population.
        rules: when it offers itself.
    """
    catalogue = decode_catalogue(phone.catalogue_json(market))
    around = Surroundings(TRAINED_FROM + timedelta(days=2), decode_consent(phone.consent_json(market, device)))
    store = EventStore(folder / "store", FileKeystore(folder / "keys" / "key"), phone.OPENED)
    for event in decode_log(phone.events_jsonl(market, device)).events:
        store.append(event, event.ts, wait=False)
    store.flush()
    kind = DEVICE_CLASSES[market.people(np.array([device])).device_class[0]]
    hosted = Phone(
        store=store,
        schema=market.schema,
        model=model,
        order=order,
        past=folder / "rounds.json",
        device={"device_class": kind},
        catalogue=lambda: catalogue,
        consent=lambda: around.consent,
        controls=lambda: around.controls,
        condition=lambda: around.condition,
        now=lambda: around.now,
        rules=rules or OfferRules(),
        pace=Pace(wait=lambda _: None),
    )
    return hosted, around
