"""What an app sets about its ads once, for every request: how often, what counts, what is tried out, how long it takes.

Everything else that differs from request to request stands in the request, and what differs from campaign to campaign
in the catalogue.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import LONGEST_WINDOW_S
from sottovoce.client.controls import InterestWeights
from sottovoce.client.exploration import Exploration
from sottovoce.client.value import QualityRule

HOUR_S = 3_600

Minute = Annotated[int, Meta(ge=0, le=1439)]
PlaceKind = Literal["page", "notification"]
"""Where an ad appears: in a page that the person opened, or by itself."""


class QuietHours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Minutes of the device's local day without ads, `end_minute` not included; they may run over midnight.

    Two equal minutes mean no quiet hours.
    """

    start_minute: Minute
    end_minute: Minute

    def hold(self, now: datetime) -> bool:
        """Whether `now`, in its own time zone, lies inside."""
        minute = now.hour * 60 + now.minute
        if self.start_minute <= self.end_minute:
            return self.start_minute <= minute < self.end_minute
        return minute >= self.start_minute or minute < self.end_minute


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often ads of any campaign may appear; impressions of every place count.

    Attributes:
        per_hour: most in any 3,600 seconds; None for no limit.
        per_day: most in any 86,400 seconds.
        wait_s: least seconds after the last one; 0 for none.
        quiet: hours without ads.
    """

    per_hour: Annotated[int, Meta(ge=0, le=1_000)] | None = None
    per_day: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    wait_s: Annotated[int, Meta(ge=0, le=LONGEST_WINDOW_S)] = 0
    quiet: QuietHours | None = None


class CoolDown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing of this creative, campaign or advertiser for `window_s` seconds after `times` events named `after`."""

    after: Literal["dismiss", "conversion"]
    level: Literal["creative", "campaign", "advertiser"]
    window_s: Annotated[int, Meta(ge=1, le=LONGEST_WINDOW_S)] = 48 * HOUR_S
    times: Annotated[int, Meta(ge=1, le=1_000)] = 1


class PickerPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of one app.

    Attributes:
        page: for ads inside a page that the person opened: no limit, unless set.
        notification: for ads that appear by themselves: none from 21 to 6 o'clock, at most 2 an hour and 20 a day, at
            least a minute apart. Hours and minute are Brave's; the two counts are ours.
        cool_downs: a dismissed creative rests for 48 hours, unless set otherwise.
        mrating: highest media rating that the app shows anywhere (AdCOM: 1 all audiences, 2 over 12, 3 mature); an ad
            without a rating is refused below 3.
        exploration: how much is tried out; nothing, unless set.
        quality: what counts besides money; nothing, unless set.
        interests: how much an interest that the person edited weighs.
        deadline_ms: time for one answer, as the ladder divides it; see `client.ladder`.
    """

    page: Pace = Pace()
    notification: Pace = Pace(2, 20, 60, QuietHours(21 * 60, 6 * 60))
    cool_downs: Annotated[tuple[CoolDown, ...], Meta(max_length=8)] = (CoolDown("dismiss", "creative"),)
    mrating: Annotated[int, Meta(ge=1, le=3)] = 3
    exploration: Exploration = Exploration()
    quality: QualityRule = QualityRule()
    interests: InterestWeights = InterestWeights()
    deadline_ms: Annotated[int, Meta(ge=1, le=500)] = 50

    def pace(self, kind: PlaceKind) -> Pace:
        """The limits for a kind of place."""
        return self.page if kind == "page" else self.notification
