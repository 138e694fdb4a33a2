"""A small creative with two titles, two images and a button, everything approved, for tests to bend."""

from datetime import UTC, datetime, timedelta

import msgspec

from sottovoce.client.approval import FRAME, Approval, Approvals, digest
from sottovoce.client.creative import Creative
from sottovoce.client.guardrails import Guardrails
from sottovoce.client.provenance import SCHEME

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)

MADE = {"digital_source_type": SCHEME + "digitalCreation", "human_oversight": "directed"}
GENERATED = {
    "digital_source_type": SCHEME + "trainedAlgorithmicMedia",
    "human_oversight": "selected",
    "tool": "an image model",
    "disclosure": {"required": True, "jurisdictions": ["EU"], "label": "Made with AI"},
}
INK = {"color": "#202020", "background": "#ffffff"}

PLAIN = {
    "version": 1,
    "crid": "a1",
    "template": {
        "id": "card",
        "slots": [
            {"id": "title", "kind": "title", "len": 25, **INK},
            {"id": "picture", "kind": "img", "type": 3, "wmin": 600, "hmin": 300},
            {"id": "button", "kind": "data", "type": 12, "required": False, **INK},
        ],
    },
    "components": {
        "title": [
            {"id": "calm", "text": "Tea that takes its time", "language": "en", "provenance": MADE},
            {"id": "bold", "text": "Wake up to real tea", "language": "en", "provenance": MADE},
        ],
        "picture": [
            {"id": "cup", "img": {"sha256": "a" * 64, "w": 1200, "h": 627}, "provenance": MADE},
            {"id": "leaf", "img": {"sha256": "b" * 64, "w": 1200, "h": 627}, "provenance": GENERATED},
        ],
        "button": [{"id": "shop", "text": "Shop now", "language": "en", "provenance": MADE}],
    },
    "link": "https://www.tea.example/autumn",
    "audience": 100_000,
}
BRAND = Guardrails(version=1, domains=("tea.example",), languages=("en",))


def creative(**changes):
    """PLAIN with some top-level values replaced."""
    return msgspec.convert(PLAIN | changes, Creative)


def with_component(slot, number, **changes):
    """PLAIN with one component changed."""
    components = {name: [dict(one) for one in ones] for name, ones in PLAIN["components"].items()}
    components[slot][number] |= changes
    return creative(components=components)


def with_slot(number, **changes):
    """PLAIN with one slot changed."""
    slots = [dict(slot) for slot in PLAIN["template"]["slots"]]
    slots[number] |= changes
    return creative(template={"id": "card", "slots": slots})


def record(of, subject, status=3, by="brand/Ada", at=NOW - DAY, until=NOW + 30 * DAY):
    return Approval(of.crid, subject, digest(of, subject), status, by, at, until)


def approved(of, *more, by="brand/Ada"):
    """Approvals of everything in a creative, and more records."""
    return Approvals(1, (*(record(of, subject, by=by) for subject in (FRAME, *of.part)), *more))
