"""What the rules look at besides the ad, and what they answer."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sottovoce.client.controls import Controls
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Request

NOTHING_SET = Controls()


class Refusal(NamedTuple):
    """Why an ad is out: the code, the rule that said so, and what it saw."""

    reason: Loss
    rule: str
    detail: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at besides the ad.

    Attributes:
        request: what the page asks for.
        now: with its time zone; day-parts are read in that zone, so pass the device's local time.
        personalised: the ad is chosen with the person's history.
        cur: the catalogue's currency.
        cattax: the catalogue's taxonomy.
        controls: what the person decided.
        mrating: highest media rating that the app shows anywhere.
    """

    request: Request
    now: datetime
    personalised: bool
    cur: str
    cattax: int
    controls: Controls = NOTHING_SET
    mrating: int = 3

    @property
    def rating(self) -> int:
        """Highest media rating here: the lower one of the app's and the content's."""
        content = self.request.publisher.content
        said = content.qagmediarating if content else 0
        return min(self.mrating, said or self.mrating)
