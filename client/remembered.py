"""Past impressions that a model may see, and what became of each: the one reading of a log for serving and training."""

from dataclasses import dataclass
from typing import Literal

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.events import Event, EventLog
from sottovoce.client.taxonomy import sensitive

Outcome = Literal["seen", "click", "conversion"]
RANK: dict[str, int] = {"seen": 0, "click": 1, "conversion": 2}
"""Of what became of an impression, the higher counts."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """One past impression that the model sees.

    Attributes:
        event: the impression.
        outcome: what became of it.
    """

    event: Event
    outcome: Outcome


def remembered(log: EventLog, catalogue: Catalogue, length: int) -> tuple[Remembered, ...]:
    """The last impressions that may be used, oldest first, each with what became of it.

    A click or a conversion belongs to the latest impression of its ad before it; without one it is ignored. An ad of a
    sensitive category is left out, and so is one whose campaign left the catalogue, because its category can no longer
    be checked.

    Args:
        log: events in the order in which they happened.
        catalogue: names the campaigns' categories.
        length: at most so many.
    """
    usable: dict[str, bool] = {}
    became: dict[str, Outcome] = {}
    found: list[Remembered] = []
    for event in reversed(log.events):
        if len(found) == length:
            break
        if event.cid not in usable:
            campaign = catalogue.campaign.get(event.cid)
            usable[event.cid] = campaign is not None and not sensitive(campaign.cat, catalogue.cattax)
        if not usable[event.cid]:
            continue
        if event.event == "impression":
            found.append(Remembered(event, became.pop(event.crid, "seen")))
        elif event.event != "dismiss" and RANK[event.event] > RANK[became.get(event.crid, "seen")]:
            became[event.crid] = event.event
    return tuple(reversed(found))
