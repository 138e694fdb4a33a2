"""A creative whose parts are exchangeable: a template with typed slots, and for each slot the components allowed there.

Names are AdCOM's: a slot is a `title`, `data` of type 1 ... 12 or `img` of type 1 (icon) or 3 (main). Images are named
by their SHA-256 and are to travel with the catalogue: showing an ad then loads nothing, so that no server sees which
parts were shown. For the same reason there is one link for the whole creative and none per component.

Source: AdCOM 1.0, lists "Native Data Asset Types" and "Native Image Asset Types".
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Id
from sottovoce.client.provenance import Provenance
from sottovoce.models.manifest import Digest
from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 1024 * 1024
"""Largest creative file that is read."""

MAX_SLOTS = 16
MAX_COMPONENTS = 32
"""Most components of one slot."""

DATA_TYPES: Mapping[int, str] = {
    1: "sponsored",
    2: "desc",
    3: "rating",
    4: "likes",
    5: "downloads",
    6: "price",
    7: "saleprice",
    8: "phone",
    9: "address",
    10: "desc2",
    11: "displayurl",
    12: "ctatext",
}
IMAGE_TYPES: Mapping[int, str] = {1: "icon", 3: "main"}

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Colour = Annotated[str, Meta(pattern=r"^(#[0-9a-fA-F]{6})?$")]
Pixels = Annotated[int, Meta(ge=0, le=16_384)]
Language = Annotated[str, Meta(pattern=r"^([A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,3})?$")]

Parts = tuple[str, ...]
"""One combination: a component for each filled slot, as "slot/component", in the order of the template."""


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place in the template.

    Attributes:
        id: of the slot.
        kind: what it takes.
        type: AdCOM asset type; 0 for a title.
        required: nothing is shown without it.
        len: most user-perceived characters of a text; 0 leaves it to the guardrails.
        w: exact width of an image in device-independent pixels; 0 takes any.
        h: exact height.
        wmin: least width.
        hmin: least height.
        color: of the text, "#rrggbb".
        background: behind the text.
        large: the text is at least 18 pt, or 14 pt and bold, as WCAG defines it.
    """

    id: Name
    kind: Literal["title", "data", "img"]
    type: Annotated[int, Meta(ge=0, le=12)] = 0
    required: bool = True
    len: Annotated[int, Meta(ge=0, le=1024)] = 0
    w: Pixels = 0
    h: Pixels = 0
    wmin: Pixels = 0
    hmin: Pixels = 0
    color: Colour = ""
    background: Colour = ""
    large: bool = False

    def __post_init__(self) -> None:
        """Refuse a type that its kind does not have."""
        allowed = {"title": {0: "title"}, "data": DATA_TYPES, "img": IMAGE_TYPES}[self.kind]
        if self.type not in allowed:
            raise ValueError(f"slot {self.id!r}: a {self.kind} has no type {self.type}; it has {sorted(allowed)}")


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Slots in the order in which they are shown; their ids differ."""

    id: Name
    slots: Annotated[tuple[Slot, ...], Meta(min_length=1, max_length=MAX_SLOTS)]

    def __post_init__(self) -> None:
        """Refuse two slots of one name."""
        if len({slot.id for slot in self.slots}) < len(self.slots):
            raise ValueError(f"template {self.id!r} has two slots of one id")


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image file, named by its content.

    Attributes:
        sha256: of the file.
        w: width in pixels.
        h: height.
    """

    sha256: Digest
    w: Annotated[int, Meta(ge=1, le=16_384)]
    h: Annotated[int, Meta(ge=1, le=16_384)]

    def holds(self, data: bytes) -> bool:
        """Whether these are the bytes that were approved; whoever draws the image asks first."""
        return hashlib.sha256(data).hexdigest() == self.sha256


class Component(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One text or one image.

    Attributes:
        id: unique in its slot.
        text: shown as it stands.
        img: instead of a text.
        language: BCP 47 tag; empty suits every language.
        provenance: how it came to be.
    """

    id: Name
    text: Annotated[str, Meta(max_length=2048)] = ""
    img: Image | None = None
    language: Language = ""
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        """Refuse neither and both."""
        if bool(self.text.strip()) == (self.img is not None):
            raise ValueError(f"component {self.id!r} needs either a text or an image")


class Creative(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Everything that may be shown under one `crid`.

    Attributes:
        version: of this format.
        crid: the ad of the catalogue that it belongs to.
        template: the slots.
        components: by slot; a slot that is filled in one combination is filled in all.
        link: where a click leads, the same for all combinations; empty where the app decides.
        cat: categories of what is advertised, in Ad Product 2.0; they decide on disclaimers.
        apart: pairs of "slot/component" that are never shown together.
        listed: the only combinations that may be shown; empty leaves it to the components.
        each_approved: every combination needs an approval of its own.
        audience: fewest devices that will show this creative, in the rarest of its languages; it bounds the number of
            combinations (`combination`). 0, unknown, allows one.
    """

    version: Literal[1]
    crid: Id
    template: Template
    components: dict[Name, Annotated[tuple[Component, ...], Meta(max_length=MAX_COMPONENTS)]]
    link: Annotated[str, Meta(max_length=2048)] = ""
    cat: Annotated[tuple[Id, ...], Meta(max_length=32)] = ()
    apart: Annotated[tuple[tuple[str, str], ...], Meta(max_length=1024)] = ()
    listed: Annotated[tuple[Parts, ...], Meta(max_length=256)] = ()
    each_approved: bool = False
    audience: Annotated[int, Meta(ge=0, le=10**10)] = 0

    def __post_init__(self) -> None:
        """Refuse components without a slot, of the wrong kind, named twice, and rules about parts that do not exist."""
        slots = {slot.id: slot for slot in self.template.slots}
        for name, components in self.components.items():
            if name not in slots:
                raise ValueError(f"components[{name!r}]: the template has no such slot")
            if len({component.id for component in components}) < len(components):
                raise ValueError(f"components[{name!r}]: two have one id")
            for component in components:
                if (component.img is not None) != (slots[name].kind == "img"):
                    raise ValueError(f"{name}/{component.id}: a slot of kind {slots[name].kind} does not take that")
        for pair in self.apart:
            if pair[0] == pair[1] or not set(pair) <= self.part.keys():
                raise ValueError(f"apart: {list(pair)} does not name two components")
        filled = [slot.id for slot in self.template.slots if self.components.get(slot.id)]
        for parts in self.listed:
            if not set(parts) <= self.part.keys() or [ref.split("/")[0] for ref in parts] != filled:
                raise ValueError(f"listed: {list(parts)} does not name one component for each of {filled}")

    @cached_property
    def part(self) -> Mapping[str, tuple[Slot, Component]]:
        """Every component by its name "slot/component", in the order of the template."""
        return {
            f"{slot.id}/{component.id}": (slot, component)
            for slot in self.template.slots
            for component in self.components.get(slot.id, ())
        }


_decoder = msgspec.json.Decoder(Creative)


def decode_creative(data: bytes, name: str = "creative.json") -> Creative:
    """The creative in `data`.

    Args:
        data: JSON.
        name: of the file, for messages.

    Raises:
        DeviceError: too large, not JSON, an unknown or missing key, a value out of range; with the place.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "use fewer components")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{name}: {error}", "correct the creative at that place") from error
