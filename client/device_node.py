"""A whole device as a node of a federation: what `phone_node` needs, out of one `Device`.

Everything is looked up anew for each message, so that what the owner decides at the device counts from the next one.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

from sottovoce.client.catalogue import FeatureValue
from sottovoce.client.device import Device
from sottovoce.client.device_ledger import DeviceLedger
from sottovoce.client.phone_node import Pace, Phone
from sottovoce.client.secure_node import Member
from sottovoce.client.training_offer import Condition, OfferRules
from sottovoce.models.model import Model
from sottovoce.privacy.errors import DeviceError


def phone_of(
    device: Device,
    model: Model,
    order: int,
    condition: Callable[[], Condition],
    now: Callable[[], datetime],
    features: Mapping[str, FeatureValue] | None = None,
    *,
    rules: OfferRules | None = None,
    ledger: DeviceLedger | None = None,
    pace: Pace | None = None,
    member: Member | None = None,
) -> Phone:
    """The device as it takes part in training; `phone_node.phone_app` makes a ClientApp of it.

    Args:
        device: stays open as long as the node runs.
        model: that the run trains; its features are those of the device's bundle.
        order: place in the population.
        condition: of the phone as it is.
        now: the device's time, with time zone.
        features: what the device is, by feature of the schema; absent ones count as missing.
        rules: when it offers itself.
        ledger: its budget for record-level training.
        pace: when its answers leave.
        member: for secure sums.

    Raises:
        DeviceError: the device has no bundle whose features it could train on.
    """
    if device.bundle is None:
        raise DeviceError("a device without a model has nothing to train", "install a bundle first")
    return Phone(
        store=device.store,
        schema=device.bundle.schema,
        model=model,
        order=order,
        past=device.rounds,
        device=features or {},
        catalogue=lambda: device.catalogue,
        consent=lambda: device.consent,
        controls=lambda: device.controls,
        condition=condition,
        now=now,
        rules=rules or OfferRules(),
        ledger=ledger,
        pace=pace or Pace(),
        member=member,
    )
