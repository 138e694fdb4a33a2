"""All that the gate of training looks at, gathered on one device; see `training_offer`.

Read anew for each question: what the owner decides counts from the next one.
"""

from datetime import datetime
from pathlib import Path

from sottovoce.client.consent import Consent
from sottovoce.client.event_store import EventStore
from sottovoce.client.training_offer import Condition, DeviceState
from sottovoce.client.training_past import TrainingPast, read_past, write_past


def settled_past(path: Path, now: datetime) -> TrainingPast | None:
    """The past in that file without a last round in the future; None when it cannot be read or written."""
    past = read_past(path)
    if past is None or (settled := past.settled(now)) is past:
        return past
    return settled if write_past(path, settled) else None


def training_state(
    store: EventStore,
    schema: str,
    rows: int,
    past: TrainingPast | None,
    run_id: str,
    condition: Condition,
    consent: Consent,
    paused: bool,
    now: datetime,
) -> DeviceState:
    """The state of a device.

    Args:
        store: of its events.
        schema: digest of its own feature schema; empty without one.
        rows: that it would train on.
        past: its own count of rounds; None when it cannot be read.
        run_id: of the run that asks.
        condition: of the phone.
        consent: of the person.
        paused: whether the person paused learning.
        now: the device's time, with time zone.
    """
    run = past.run(run_id) if past else None
    return DeviceState(
        condition=condition,
        consent=consent,
        paused=paused,
        days=store.memory.days,
        examples=rows,
        schema=schema,
        recorded=past is not None,
        rounds=run.rounds if run else 0,
        last_round=run.last if run else None,
        since_s=past.since_s(now) if past else None,
    )
