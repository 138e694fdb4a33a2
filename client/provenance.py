"""Where a text or an image comes from: how it was made, who looked at it, and who must be told.

The values of `digital_source_type` are those of the IPTC NewsCodes, retired ones left out, because C2PA, schema.org and
the photo metadata standard all use them. What is stated here is a statement: nothing proves it but the signature over
the file it stands in.

Source: IPTC digital source type (http://cv.iptc.org/newscodes/digitalsourcetype/); `human_oversight` and `disclosure`
as in the provenance object of the Ad Context Protocol.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

SCHEME = "http://cv.iptc.org/newscodes/digitalsourcetype/"

GENERATED = frozenset(
    SCHEME + name
    for name in (
        "trainedAlgorithmicMedia",
        "compositeWithTrainedAlgorithmicMedia",
        "compositeSynthetic",
        "algorithmicMedia",
        "virtualRecording",
        "dataDrivenMedia",
    )
)
"""Made by a program, wholly or in part: people have to be told in some places."""

SOURCE_TYPES = GENERATED | frozenset(
    SCHEME + name
    for name in (
        "digitalCapture",
        "computationalCapture",
        "negativeFilm",
        "positiveFilm",
        "print",
        "humanEdits",
        "algorithmicallyEnhanced",
        "digitalCreation",
        "screenCapture",
        "composite",
        "compositeCapture",
    )
)

Oversight = Literal["none", "prompt_only", "selected", "edited", "directed"]

OVERSIGHT: tuple[Oversight, ...] = ("none", "prompt_only", "selected", "edited", "directed")
"""From least to most."""

Jurisdiction = Annotated[str, Meta(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]
"""ISO 3166, or EU."""


class Disclosure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether people must be told that a machine made it.

    Attributes:
        required: it must be said, in `jurisdictions`.
        jurisdictions: where; empty means everywhere.
        label: the words to show beside the ad; needed where disclosure is required.
    """

    required: bool
    jurisdictions: Annotated[tuple[Jurisdiction, ...], Meta(max_length=64)] = ()
    label: Annotated[str, Meta(max_length=64)] = ""

    def __post_init__(self) -> None:
        """Refuse a duty without words."""
        if self.required and not self.label.strip():
            raise ValueError("disclosure is required and has no label")

    def holds_in(self, jurisdiction: str) -> bool:
        """Whether the label must be shown there; a place that is not known counts as every place."""
        if not self.required or not self.jurisdictions or not jurisdiction:
            return self.required
        return jurisdiction in self.jurisdictions or jurisdiction.split("-")[0] in self.jurisdictions


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one component came to be.

    Attributes:
        digital_source_type: URI of the IPTC list.
        human_oversight: the most that a person did to it.
        tool: what made it, in words.
        disclosure: None says nothing, which is refused for what a program made (`guardrails`).
    """

    digital_source_type: Annotated[str, Meta(max_length=128)]
    human_oversight: Oversight
    tool: Annotated[str, Meta(max_length=128)] = ""
    disclosure: Disclosure | None = None

    def __post_init__(self) -> None:
        """Refuse a URI that is not on the list."""
        if self.digital_source_type not in SOURCE_TYPES:
            raise ValueError(f"digital_source_type {self.digital_source_type!r} is not a current IPTC value")

    @property
    def generated(self) -> bool:
        """A program made it, wholly or in part."""
        return self.digital_source_type in GENERATED
