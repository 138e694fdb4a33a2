"""What a page asks for: one place for one ad, in the names of OpenRTB 2.6.

Unknown fields are ignored, as OpenRTB asks of every reader. Fields that name a person or a device are refused
loudly: whoever sends them expects something this runtime must never do.

Read: `id`, `at`, `cur`, `imp` (exactly one, with `banner`, `video`, `audio` or `native`, `secure`, and in `ext` the
kind of place and the ads beside it), `app` or `site` with their categories and `content.qagmediarating`, `bcat` with
`cattax`, `badv`, `wlang`, `regs.coppa`, `regs.ext.gpc`, `device.lmt`, `device.dnt`, `ext.features`. Everything else,
`tmax` included, is not acted upon.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import FeatureValue, Id
from sottovoce.client.policy import PlaceKind
from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 64 * 1024
"""Largest request that is read."""

FORBIDDEN = frozenset(
    {"ifa", "ip", "ipv6", "lat", "lon", "buyeruid", "eids"}
    | {"didsha1", "didmd5", "dpidsha1", "dpidmd5", "macsha1", "macmd5"}  # hashes of device ids, OpenRTB up to 2.5
)
"""Keys that name a person, a device or a precise place. Refused anywhere in a request, whatever their value."""

Currency = Annotated[str, Meta(pattern="^[A-Z]{3}$")]
Strings = Annotated[tuple[Id, ...], Meta(max_length=1024)]
Flag = Annotated[int, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0, le=1e6)]
Pixels = Annotated[int, Meta(ge=0, le=16_384)]
Taxonomy = Annotated[int, Meta(ge=1)]


class Size(msgspec.Struct, frozen=True):
    """One accepted size."""

    w: Pixels = 0
    h: Pixels = 0


class Banner(msgspec.Struct, frozen=True):
    """A banner place: `w` x `h`, or any of `format`; no size at all accepts every size."""

    w: Pixels = 0
    h: Pixels = 0
    format: Annotated[tuple[Size, ...], Meta(max_length=64)] = ()
    battr: Annotated[tuple[int, ...], Meta(max_length=64)] = ()

    @property
    def sizes(self) -> frozenset[tuple[int, int]]:
        """Accepted sizes; empty accepts all."""
        given = {(size.w, size.h) for size in self.format} | {(self.w, self.h)}
        return frozenset(given - {(0, 0)})


class Other(msgspec.Struct, frozen=True):
    """A video, audio or native place; only blocked attributes are read."""

    battr: Annotated[tuple[int, ...], Meta(max_length=64)] = ()


class Neighbour(msgspec.Struct, frozen=True):
    """An ad that the page shows beside this place; `cat` is in the request's `cattax`."""

    adomain: Strings = ()
    cat: Strings = ()


class ImpExt(msgspec.Struct, frozen=True):
    """`kind`: in a page, or a notification that appears by itself. `beside`: the ads around this place."""

    kind: PlaceKind = "page"
    beside: Annotated[tuple[Neighbour, ...], Meta(max_length=64)] = ()


class Imp(msgspec.Struct, frozen=True):
    """The place.

    `bidfloor` is per thousand impressions, in `bidfloorcur`; `secure` 1 takes secure markup only.
    """

    id: Id
    banner: Banner | None = None
    video: Other | None = None
    audio: Other | None = None
    native: Other | None = None
    bidfloor: Amount = 0.0
    bidfloorcur: Currency = "USD"
    secure: Flag = 0
    ext: ImpExt = ImpExt()

    def slot(self, mtype: int) -> Banner | Other | None:
        """The place for this markup type (1 banner, 2 video, 3 audio, 4 native), or None."""
        return (self.banner, self.video, self.audio, self.native)[mtype - 1]


class Content(msgspec.Struct, frozen=True):
    """What is read, heard or watched there; an absent `cattax` means 1, as OpenRTB says.

    `qagmediarating`: 1 all audiences, 2 over 12, 3 mature; 0 is not said. No ad may be above it.
    """

    cat: Strings = ()
    cattax: Taxonomy = 1
    qagmediarating: Annotated[int, Meta(ge=0, le=3)] = 0


class Publisher(msgspec.Struct, frozen=True):
    """The app or site that asks, with its categories; an absent `cattax` means 1."""

    bundle: str = ""
    domain: str = ""
    cat: Strings = ()
    sectioncat: Strings = ()
    pagecat: Strings = ()
    cattax: Taxonomy = 1
    content: Content | None = None

    @property
    def categories(self) -> frozenset[tuple[str, int]]:
        """Every category of page and content, each with its taxonomy."""
        own = {(category, self.cattax) for category in (*self.cat, *self.sectioncat, *self.pagecat)}
        content = self.content or Content()
        return frozenset(own | {(category, content.cattax) for category in content.cat})


class DeviceFlags(msgspec.Struct, frozen=True):
    """The two "do not follow me" flags of OpenRTB's device object."""

    lmt: Flag = 0
    dnt: Flag = 0


class RegsExt(msgspec.Struct, frozen=True):
    """Global Privacy Control as OpenRTB carries it."""

    gpc: str | int = ""


class Regs(msgspec.Struct, frozen=True):
    """`coppa` 1: the page is for children."""

    coppa: Flag = 0
    ext: RegsExt = RegsExt()


class RequestExt(msgspec.Struct, frozen=True):
    """Model features of page and device by schema name."""

    features: dict[str, FeatureValue] = {}


class Request(msgspec.Struct, frozen=True):
    """One request for one ad. `at`: 1 first price, 2 second price plus."""

    id: Id
    imp: Annotated[tuple[Imp, ...], Meta(min_length=1, max_length=1)]
    at: Literal[1, 2] = 2
    cur: Annotated[tuple[Currency, ...], Meta(max_length=64)] = ()
    app: Publisher | None = None
    site: Publisher | None = None
    bcat: Strings = ()
    cattax: Taxonomy = 1
    badv: Strings = ()
    wlang: Strings = ()
    device: DeviceFlags = DeviceFlags()
    regs: Regs = Regs()
    ext: RequestExt = RequestExt()

    @property
    def place(self) -> Imp:
        """The one place asked for."""
        return self.imp[0]

    @property
    def publisher(self) -> Publisher:
        """The app, else the site, else a publisher that says nothing about itself."""
        return self.app or self.site or Publisher()

    @property
    def restriction(self) -> str:
        """Why the request itself rules out personalisation; empty when it does not."""
        if self.regs.coppa:
            return "the page is for children (coppa)"
        if str(self.regs.ext.gpc) == "1":
            return "Global Privacy Control is on"
        if self.device.lmt or self.device.dnt:
            return "the device asks not to be followed (lmt or dnt)"
        return ""


_decoder = msgspec.json.Decoder(Request)


def _forbidden(node: Any, path: str) -> str:
    """Path of the first forbidden key below `node`, or the empty string."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inside:
        here = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}"
        if isinstance(key, str) and (key.lower() in FORBIDDEN or here == "user.id"):
            return here
        found = _forbidden(value, here.lstrip("."))
        if found:
            return found
    return ""


def decode_request(data: bytes, name: str = "request.json") -> Request:
    """The request in `data`.

    Args:
        data: JSON.
        name: of the file, for messages.

    Raises:
        DeviceError: too large, not JSON, a field that names a person or device, more or less than one place, a value
            out of range.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "send a shorter request")
    try:
        found = _forbidden(msgspec.json.decode(data), "")
        if found:
            raise DeviceError(
                f"{name}: {found.lstrip('.')} names a person or device and is never accepted", "remove that field"
            )
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{name}: {error}", "correct the request at that place") from error
