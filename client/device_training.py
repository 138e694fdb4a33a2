"""May this device train now? A device's own gate, for a scheduler and for its owner's screen.

Needs the device runtime only; what takes part in a round is `client.device_node`. The count of rounds lies in the
device's folder and outside its store, so that no deletion gives a round back.
"""

from datetime import datetime
from pathlib import Path

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.event_store import EventStore
from sottovoce.client.own_examples import own_examples
from sottovoce.client.training_offer import Condition, Invitation, Offer, OfferRules, offer
from sottovoce.client.training_state import settled_past, training_state
from sottovoce.models.schema import FeatureSchema

ROUNDS = "rounds.json"
"""In the device's folder: its own count of rounds, see `training_past`."""

RULES = OfferRules()


def training_now(
    store: EventStore,
    schema: FeatureSchema | None,
    catalogue: Catalogue,
    consent: Consent,
    controls: Controls,
    condition: Condition,
    now: datetime,
    rounds: Path,
    rules: OfferRules = RULES,
) -> Offer:
    """Whether a device offers itself for training now, and every reason why not.

    It is asked about the first round of a run that it never joined, of the model that it holds. What it joined before
    counts by its time only.

    Args:
        store: of its events.
        schema: of its bundle; None without one: it has nothing to train then.
        catalogue: in use.
        consent: of the person.
        controls: of the person.
        condition: of the phone.
        now: the device's time, with time zone.
        rounds: file with its own count of rounds.
        rules: of the app.
    """
    digest, rows = schema.digest() if schema else "", 0
    if schema is not None and consent.learn:
        rows = own_examples(store.log, catalogue, schema, {}, controls, now).rows
    past = settled_past(rounds, now)
    state = training_state(store, digest, rows, past, "", condition, consent, controls.paused, now)
    return offer(state, Invitation("learn", digest), rules)
