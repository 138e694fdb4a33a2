"""The catalogue: every campaign and every ad, the same file on every device.

Nothing is ever requested because of a person's interests, so the whole catalogue travels; thousands of ads fit.
Names follow OpenRTB 2.6 and AdCOM (`cid`, `crid`, `adomain`, `mtype`, `cattax`).
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 32 * 1024 * 1024
"""Largest catalogue that is read."""

MAX_ADS = 20_000
"""Most ads, and most campaigns, in one catalogue."""

MAX_CAPS = 20
"""Most frequency caps of one campaign."""

DAY_S = 86_400
LONGEST_WINDOW_S = 100 * DAY_S

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=512)]
Moment = Annotated[datetime, Meta(tz=True)]
FeatureValue = Annotated[int, Meta(ge=-(2**53), le=2**53)] | float | Text | None
"""A model feature as it stands in a file; whole numbers only as far as every JSON reader keeps them exact."""

Level = Literal["creative", "campaign", "advertiser", "category"]
EventName = Literal["impression", "click", "conversion", "dismiss"]


class Cap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `max` events named `event` in any `window_s` seconds; 0 means never."""

    level: Level
    event: EventName
    max: Annotated[int, Meta(ge=0, le=1_000_000)]
    window_s: Annotated[int, Meta(ge=1, le=LONGEST_WINDOW_S)]


class DayPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hours of the device's local day: `dow` 0 is Monday; `end_minute` is not included."""

    dow: tuple[Annotated[int, Meta(ge=0, le=6)], ...]
    start_minute: Annotated[int, Meta(ge=0, le=1439)]
    end_minute: Annotated[int, Meta(ge=1, le=1440)]


class Competitors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom an advertiser will not stand beside nor come right after; its own ads are never meant.

    Attributes:
        adomain: their domains; those below one are meant too.
        cat: their categories, in the catalogue's `cattax`.
        within_s: least seconds after an impression of theirs; 0 looks at the page only.
    """

    adomain: Annotated[tuple[Id, ...], Meta(max_length=64)] = ()
    cat: Annotated[tuple[Id, ...], Meta(max_length=64)] = ()
    within_s: Annotated[int, Meta(ge=0, le=LONGEST_WINDOW_S)] = 0


class Campaign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an advertiser pays for, and when and how often its ads may appear.

    Attributes:
        cid: campaign id.
        seat: the advertiser that pays; caps at advertiser level count per seat.
        adomain: the advertiser's domains, compared with `badv`.
        cat: categories in the catalogue's `cattax`.
        price: offered amount, in the catalogue's currency: per thousand impressions (`cpm`), per click (`cpc`) or per
            conversion (`cpa`). 0 makes it a house campaign, shown only where nobody who pays fits.
        pricing: which of the three.
        start: first moment of the flight.
        end: first moment after it.
        dayparts: empty means always.
        caps: frequency caps, all of which must hold.
        throttle: share of requests the campaign takes part in, 0 ... 1.
        competitors: whose neighbourhood it avoids.
    """

    cid: Id
    seat: Id
    adomain: Annotated[tuple[Id, ...], Meta(max_length=32)]
    cat: Annotated[tuple[Id, ...], Meta(max_length=32)]
    price: Annotated[float, Meta(ge=0, le=1e6)]
    pricing: Literal["cpm", "cpc", "cpa"]
    start: Moment
    end: Moment
    dayparts: Annotated[tuple[DayPart, ...], Meta(max_length=64)] = ()
    caps: Annotated[tuple[Cap, ...], Meta(max_length=MAX_CAPS)] = ()
    throttle: Annotated[float, Meta(ge=0, le=1)] = 1.0
    competitors: Competitors = Competitors()

    def __post_init__(self) -> None:
        """Refuse a flight or a day-part that ends before it starts."""
        if self.end <= self.start:
            raise DeviceError(f"campaign {self.cid!r} ends before it starts", "set 'end' after 'start'")
        for place, part in enumerate(self.dayparts):
            if part.end_minute <= part.start_minute:
                raise DeviceError(
                    f"campaign {self.cid!r}, dayparts[{place}] ends before it starts",
                    "write a part over midnight as two parts",
                )


class Ad(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One creative.

    Attributes:
        crid: creative id; ties in the auction fall to the smaller one.
        cid: campaign it belongs to.
        mtype: 1 banner, 2 video, 3 audio, 4 native.
        w: width in device-independent pixels; 0 where size means nothing.
        h: height.
        language: BCP 47 tag; empty suits every page.
        attr: creative attributes (AdCOM), compared with `battr`.
        audit: 1 pending, 2 pre-approved, 3 approved, 4 denied, 5 changed, 6 expired.
        secure: 1 when all its markup and assets are secure; 0 is not known to be.
        mrating: media rating (AdCOM): 1 all audiences, 2 over 12, 3 mature; 0 is not rated.
        title: shown text.
        sponsored: who the ad speaks for.
        features: model features by name.
    """

    crid: Id
    cid: Id
    mtype: Annotated[int, Meta(ge=1, le=4)]
    w: Annotated[int, Meta(ge=0, le=16_384)] = 0
    h: Annotated[int, Meta(ge=0, le=16_384)] = 0
    language: Annotated[str, Meta(max_length=35)] = ""
    attr: Annotated[tuple[int, ...], Meta(max_length=64)] = ()
    audit: Annotated[int, Meta(ge=1, le=6)] = 1
    secure: Annotated[int, Meta(ge=0, le=1)] = 0
    mrating: Annotated[int, Meta(ge=0, le=3)] = 0
    title: Text = ""
    sponsored: Text = ""
    features: dict[str, FeatureValue] = {}


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """All campaigns and ads.

    Attributes:
        version: of this format.
        cur: ISO 4217 code of every price.
        cattax: taxonomy of every `cat` (AdCOM list); 8 is Ad Product 2.0.
        campaigns: each `cid` once.
        ads: each `crid` once, each of a listed campaign.
    """

    version: Literal[1]
    cur: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    cattax: Annotated[int, Meta(ge=1)]
    campaigns: Annotated[tuple[Campaign, ...], Meta(max_length=MAX_ADS)]
    ads: Annotated[tuple[Ad, ...], Meta(max_length=MAX_ADS)]

    def __post_init__(self) -> None:
        """Refuse ids given twice and ads without a campaign."""
        listed: set[str] = set()
        for place, campaign in enumerate(self.campaigns):
            if campaign.cid in listed:
                raise DeviceError(
                    f"campaigns[{place}]: cid {campaign.cid!r} is given twice", "give every campaign its own cid"
                )
            listed.add(campaign.cid)
        seen: set[str] = set()
        for place, ad in enumerate(self.ads):
            if ad.crid in seen:
                raise DeviceError(f"ads[{place}]: crid {ad.crid!r} is given twice", "give every ad its own crid")
            if ad.cid not in listed:
                raise DeviceError(
                    f"ads[{place}]: {ad.crid!r} belongs to campaign {ad.cid!r}, which is not listed",
                    "list the campaign or remove the ad",
                )
            seen.add(ad.crid)

    @cached_property
    def campaign(self) -> Mapping[str, Campaign]:
        """Campaigns by `cid`."""
        return {campaign.cid: campaign for campaign in self.campaigns}

    @cached_property
    def place(self) -> Mapping[str, int]:
        """Position of each ad in `ads`, by `crid`."""
        return {ad.crid: number for number, ad in enumerate(self.ads)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the catalogue as JSON, in hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


_decoder = msgspec.json.Decoder(Catalogue)


def decode_catalogue(data: bytes, name: str = "catalogue.json") -> Catalogue:
    """The catalogue in `data`.

    Args:
        data: JSON.
        name: of the file, for messages.

    Raises:
        DeviceError: too large, not JSON, an unknown or missing key, a value out of range, an id given twice, an ad
            without its campaign.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "ship fewer ads")
    try:
        return _decoder.decode(data)
    except DeviceError as error:
        raise DeviceError(f"{name}: {error.what}", error.todo) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{name}: {error}", "correct the catalogue at that place") from error
