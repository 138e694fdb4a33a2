"""How the phone of a session is doing, whether it would offer itself for training, and what it believes.

A session has no operating system to ask: the person says whether it charges, is used, and pays for its network.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.device import Device
from sottovoce.client.taxonomy import named
from sottovoce.client.training_offer import Condition, Hold
from sottovoce.privacy.errors import DeviceError
from sottovoce.simulations.device_answer import Answer

IN_HAND = Condition(battery=0.5, charging=False, idle=False, unmetered=False, thermal=0)
"""How a session starts: somebody uses the phone on the road."""

_WORDS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "power": {"on": {"charging": True}, "off": {"charging": False}},
    "idle": {"on": {"idle": True}, "off": {"idle": False}},
    "network": {"unmetered": {"unmetered": True}, "metered": {"unmetered": False}},
    "heat": {"none": {"thermal": 0}, "hot": {"thermal": 3}},
}

CONDITIONS = (*_WORDS, "battery")
"""What can be said about the phone."""


def changed(condition: Condition, what: str, words: list[str]) -> Condition:
    """The condition after `power on`, `idle off`, `network metered`, `heat hot` or `battery 20`.

    Raises:
        DeviceError: there is no such condition.
    """
    known = _WORDS.get(what, {})
    said = words[0] if len(words) == 1 else ""
    if said in known:
        return msgspec.structs.replace(condition, **known[said])
    if what == "battery" and said.isascii() and said.isdecimal() and int(said) <= 100:
        return msgspec.structs.replace(condition, battery=int(said) / 100)
    usage = "|".join(known) or "0 to 100"
    raise DeviceError(f"{' '.join([what, *words])!r} is no condition", f"say: {what} {usage}")


def in_words(condition: Condition) -> str:
    """The condition as one line."""
    told = (
        f"battery {condition.battery:.0%}",
        "charging" if condition.charging else "not charging",
        "idle" if condition.idle else "in use",
        "unmetered network" if condition.unmetered else "metered network",
        "hot" if condition.thermal else "cool",
    )
    return ", ".join(told)


def offered(device: Device, condition: Condition, now: datetime) -> Answer:
    """Whether the device would take part in training now, and every gate that is closed, one a line."""
    offer = device.training(condition, now)
    words = {one: one.words for one in offer.holds}
    if device.bundle is None:
        words[Hold.OTHER_SCHEMA] = "it has no model that it could train"
    holds = [{"code": one.code, "words": words[one], "personal": one.personal} for one in offer.holds]
    data = {"joins": offer.joins, "answers": offer.comes, "holds": holds}
    if offer.joins:
        return Answer("it would take part in training now", data)
    how = "it would answer with zeros" if offer.comes else "it would not answer"
    return Answer("\n".join([f"{how}:", *(f"    {hold.code}: {words[hold]}" for hold in offer.holds)]), data)


def believed(device: Device, now: datetime) -> Answer:
    """What the device believes about its owner, as far as it may count now."""
    found = device.learnt(device.log, device.controls, device.consent, now)
    lines = [
        f"{_kind(arm.name, device.catalogue)}: {arm.mean:+.2f} on the log odds of a click, give or take"
        f" {math.sqrt(arm.variance):.2f}"
        for arm in (found.taste.arms if found.taste else ())
    ]
    lines += [f"parts of creatives: {len(found.parts.weights)} weights"] if found.parts else []
    return Answer("\n".join(lines) or "nothing is learnt, or it may not count", found._asdict())


def _kind(arm: str, catalogue: Catalogue) -> str:
    """The kind of ads that an arm of the posterior stands for."""
    kind, _, name = arm.partition(":")
    return named(name, catalogue.cattax) if kind == "cat" else f"campaign {name}"
