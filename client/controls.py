"""What the person decided about ads on this device: mutes, a pause, a reset, interests.

Each holds from the next decision on.
"""

from datetime import datetime
from typing import Literal

import msgspec

from sottovoce.client.catalogue import Id, Moment

Interest = Literal["more", "less", "never"]


class Controls(msgspec.Struct, frozen=True):
    """The person's settings.

    Attributes:
        muted_crids: ads that are never shown again.
        muted_seats: advertisers that are never shown again.
        muted_categories: categories that are never shown again, each with its taxonomy (`cattax`). One in another
            taxonomy than the catalogue's cannot be compared and mutes nothing.
        paused: nothing is personalised and nothing is learned.
        since: the moment of the last reset; earlier events count for frequency caps only.
        interests: wishes by category, in the catalogue's taxonomy; `never` is a mute.
    """

    muted_crids: frozenset[Id] = frozenset()
    muted_seats: frozenset[Id] = frozenset()
    muted_categories: frozenset[tuple[Id, int]] = frozenset()
    paused: bool = False
    since: Moment | None = None
    interests: dict[Id, Interest] = {}

    def never(self, cattax: int) -> frozenset[str]:
        """Muted categories of one taxonomy."""
        wished = {category for category, wish in self.interests.items() if wish == "never"}
        return frozenset(wished | {category for category, taxonomy in self.muted_categories if taxonomy == cattax})

    def forgotten(self, moment: datetime) -> bool:
        """Whether something that happened then lies before the reset."""
        return self.since is not None and moment < self.since
