"""What a brand allows in its own name: its guardrail file, and the codes of what it refuses.

The rules themselves are in `brand_rules`.
"""

from enum import IntEnum
from functools import cached_property
from typing import Annotated, NamedTuple, Self

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Id
from sottovoce.client.creative import DATA_TYPES, Language
from sottovoce.client.plain_words import needle
from sottovoce.client.provenance import Oversight
from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 1024 * 1024
"""Largest guardrail file that is read."""

Phrase = Annotated[str, Meta(min_length=1, max_length=256)]
Phrases = Annotated[tuple[Phrase, ...], Meta(max_length=1000)]
Host = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,8}$")]


class Flaw(IntEnum):
    """Why a part of a creative, or a combination of them, is refused; numbered among the codes of `reasons`.

    Attributes:
        words: the reason as a short clause.
    """

    words: str

    def __new__(cls, code: int, words: str) -> Self:
        """A member with its words."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.words = words
        return member

    WORD = 540, "it uses a word that the brand forbids"
    CLAIM = 541, "it makes a claim that the brand forbids"
    LENGTH = 542, "it is longer than its slot allows"
    CONTRAST = 543, "it cannot be read well enough on its background"
    DISCLAIMER = 544, "a disclaimer that its category needs is missing"
    LINK = 545, "it leads where the brand does not allow"
    LANGUAGE = 546, "its language is not allowed, or it mixes languages"
    PROVENANCE = 547, "it does not say how it was made, or too little of it"
    FORM = 548, "it does not have the form that its slot asks for"
    APART = 549, "these parts are not to be shown together"


class Finding(NamedTuple):
    """One refusal.

    Attributes:
        flaw: the code.
        rule: that said so.
        where: the component, "frame", or the combination.
        seen: what was there.
    """

    flaw: Flaw
    rule: str
    where: str
    seen: str


class Disclaimer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words that every combination must show when the creative is of one of these categories.

    Attributes:
        cat: in Ad Product 2.0, without descendants.
        text: found as whole words, in any slot.
        language: combinations of this language; empty for all.
    """

    cat: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=256)]
    text: Phrase
    language: Language = ""


class Guardrails(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """One brand's rules. The defaults are strict: what is not stated is refused.

    Attributes:
        version: of this format.
        forbidden_words: words or phrases never used.
        banned_claims: phrases never used ("clinically proven").
        lengths: most user-perceived characters by asset name: "title", or a name of `DATA_TYPES`.
        contrast: colours must be stated and stand out; only a brand that draws text on images itself turns it off.
        disclaimers: by category.
        domains: hosts a link may lead to, with their subdomains; empty allows no link.
        languages: first subtags; empty allows all.
        provenance: every component says how it was made.
        least_oversight: the least that a person did to what a program made.
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    forbidden_words: Phrases = ()
    banned_claims: Phrases = ()
    lengths: dict[str, Annotated[int, Meta(ge=1, le=1024)]] = {}
    contrast: bool = True
    disclaimers: Annotated[tuple[Disclaimer, ...], Meta(max_length=256)] = ()
    domains: Annotated[tuple[Host, ...], Meta(max_length=256)] = ()
    languages: Annotated[tuple[Language, ...], Meta(max_length=64)] = ()
    provenance: bool = True
    least_oversight: Oversight = "selected"

    @cached_property
    def words(self) -> tuple[tuple[str, str], ...]:
        """Forbidden words, each with what is looked for."""
        return tuple((phrase, needle(phrase)) for phrase in self.forbidden_words)

    @cached_property
    def claims(self) -> tuple[tuple[str, str], ...]:
        """Banned claims, each with what is looked for."""
        return tuple((phrase, needle(phrase)) for phrase in self.banned_claims)

    def __post_init__(self) -> None:
        """Refuse a phrase in which nothing is left to look for, and lengths of no asset."""
        for phrase in (*self.forbidden_words, *self.banned_claims, *(one.text for one in self.disclaimers)):
            if not needle(phrase).strip():
                raise ValueError(f"{phrase!r} holds no letter or digit, so it would never be found")
        for name in self.lengths:
            if name not in ("title", *DATA_TYPES.values()):
                raise ValueError(f"lengths: {name!r} is not an asset; it is title or one of {[*DATA_TYPES.values()]}")


_decoder = msgspec.json.Decoder(Guardrails)


def decode_guardrails(data: bytes, name: str = "guardrails.json") -> Guardrails:
    """The guardrails in `data`.

    Args:
        data: JSON.
        name: of the file, for messages.

    Raises:
        DeviceError: too large, not JSON, an unknown or missing key, a value out of range; with the place.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "use fewer phrases")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{name}: {error}", "correct the guardrails at that place") from error
