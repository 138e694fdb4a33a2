"""What a brand allows in its own name: its guardrail file, and one small rule for each kind of refusal.

Rules look at one component, at what all combinations share, or at one combination. Each says what it saw and where, and
all findings are kept, not only the first: a brand team wants the whole list.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Id
from sottovoce.client.contrast import LARGE, NORMAL, contrast
from sottovoce.client.creative import DATA_TYPES, IMAGE_TYPES, Component, Creative, Language, Parts, Slot
from sottovoce.client.plain_words import contains, folded, graphemes, mixed_script
from sottovoce.client.provenance import OVERSIGHT, Jurisdiction, Oversight
from sottovoce.client.reasons import _Code
from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 1024 * 1024
"""Largest guardrail file that is read."""

MACROS = ("${", "{{", "[", "%%", "{")
"""What ad servers fill in; a link with one could carry away which combination was shown."""

Phrase = Annotated[str, Meta(min_length=1, max_length=256)]
Phrases = Annotated[tuple[Phrase, ...], Meta(max_length=1000)]
Host = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,8}$")]


class Flaw(_Code):
    """Why a part of a creative, or a combination of them, is refused."""

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


class Guardrails(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
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

    def __post_init__(self) -> None:
        """Refuse a phrase in which nothing is left to look for, and lengths of no asset."""
        for phrase in (*self.forbidden_words, *self.banned_claims, *(one.text for one in self.disclaimers)):
            if not folded(phrase):
                raise ValueError(f"{phrase!r} holds no letter or digit, so it would never be found")
        for name in self.lengths:
            if name not in ("title", *DATA_TYPES.values()):
                raise ValueError(f"lengths: {name!r} is not an asset; it is title or one of {[*DATA_TYPES.values()]}")


def word(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:  # noqa: ARG001
    """No forbidden word, and no word in letters of two scripts, which would hide one."""
    found = next((phrase for phrase in brand.forbidden_words if contains(component.text, phrase)), "")
    if found:
        return Flaw.WORD, f"{found!r} in {component.text!r}"
    mixed = mixed_script(component.text)
    return (Flaw.WORD, f"{ascii(mixed)} mixes scripts") if mixed else None


def claim(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:  # noqa: ARG001
    """No banned claim."""
    found = next((phrase for phrase in brand.banned_claims if contains(component.text, phrase)), "")
    return (Flaw.CLAIM, f"{found!r} in {component.text!r}") if found else None


def length(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:
    """Within the shorter of the slot's and the brand's limit, in user-perceived characters."""
    limits = [limit for limit in (slot.len, brand.lengths.get(asset_name(slot), 0)) if limit]
    count = graphemes(component.text)
    if not limits or count <= min(limits):
        return None
    return Flaw.LENGTH, f"{count} characters, at most {min(limits)}"


def legible(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:
    """The slot states both colours, and they differ enough."""
    if component.img is not None or not brand.contrast:
        return None
    if not slot.color or not slot.background:
        return Flaw.CONTRAST, f"slot {slot.id!r} does not state color and background"
    least, ratio = LARGE if slot.large else NORMAL, contrast(slot.color, slot.background)
    if ratio >= least:
        return None
    return Flaw.CONTRAST, f"{slot.color} on {slot.background} is {ratio:.2f}:1, at least {least:g}:1"


def language(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:  # noqa: ARG001
    """A text states its language, and it is an allowed one; an image without words need not."""
    allowed = {_first(tag) for tag in brand.languages}
    if not allowed or _first(component.language) in allowed or (component.img is not None and not component.language):
        return None
    return Flaw.LANGUAGE, f"{component.language or 'no language'}, allowed: {', '.join(sorted(allowed))}"


def origin(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:  # noqa: ARG001
    """It says how it was made; what a program made also says who looked at it and who must be told."""
    said = component.provenance
    if not brand.provenance:
        return None
    if said is None:
        return Flaw.PROVENANCE, "no provenance"
    if not said.generated:
        return None
    if OVERSIGHT.index(said.human_oversight) < OVERSIGHT.index(brand.least_oversight):
        return Flaw.PROVENANCE, f"human oversight {said.human_oversight}, at least {brand.least_oversight}"
    return (Flaw.PROVENANCE, "made by a program, and nothing is said about disclosure") if not said.disclosure else None


def form(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:  # noqa: ARG001
    """An image has the slot's size; a rating or a count is a number."""
    if component.img is not None:
        w, h = component.img.w, component.img.h
        fits = slot.w in (0, w) and slot.h in (0, h) and w >= slot.wmin and h >= slot.hmin
        wanted = f"{slot.w or 'any'}x{slot.h or 'any'}, at least {slot.wmin}x{slot.hmin}"
        return None if fits else (Flaw.FORM, f"{w}x{h}, the slot takes {wanted}")
    if slot.kind == "data" and slot.type in (3, 4, 5):
        try:
            number = float(component.text) if component.text.isascii() else -1.0
        except ValueError:
            number = -1.0
        if not 0 <= number <= (5 if slot.type == 3 else 1e12):
            return Flaw.FORM, f"{component.text!r} is no {DATA_TYPES[slot.type]}"
    return None


def display_url(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:
    """A shown address is one of the allowed ones."""
    if (slot.kind, slot.type) != ("data", 11):
        return None
    host = component.text.strip().removeprefix("https://").split("/")[0]
    return None if _allowed(host, brand) else (Flaw.LINK, f"shows {component.text!r}")


COMPONENT_RULES: tuple[Callable[[Slot, Component, Guardrails], tuple[Flaw, str] | None], ...] = (
    form,
    length,
    word,
    claim,
    legible,
    language,
    display_url,
    origin,
)


def link(creative: Creative, brand: Guardrails) -> tuple[Flaw, str] | None:
    """https, an allowed host, nothing before it, no other port, and no macro."""
    if not creative.link:
        return None
    try:
        parts = urlsplit(creative.link)
        plain = parts.scheme == "https" and parts.port in (None, 443) and "@" not in parts.netloc
    except ValueError:
        return Flaw.LINK, f"{creative.link!r} is no address"
    if not plain or not creative.link.isascii() or any(c.isspace() or c == "\\" for c in creative.link):
        return Flaw.LINK, f"{creative.link!r} is not a plain https address"
    if any(macro in creative.link for macro in MACROS):
        return Flaw.LINK, f"{creative.link!r} holds a macro"
    return None if _allowed(parts.hostname or "", brand) else (Flaw.LINK, f"leads to {parts.hostname!r}")


def _allowed(host: str, brand: Guardrails) -> bool:
    return any(host == domain or host.endswith("." + domain) for domain in brand.domains)


def component_findings(creative: Creative, brand: Guardrails) -> tuple[Finding, ...]:
    """Everything that is wrong with the frame and with components, in the order of the template."""
    found = [Finding(no[0], "link", "frame", no[1]) for no in (link(creative, brand),) if no]
    for ref, (slot, component) in creative.part.items():
        for rule in COMPONENT_RULES:
            no = rule(slot, component, brand)
            if no:
                found.append(Finding(no[0], rule.__name__, ref, no[1]))
    return tuple(found)


def combination_finding(creative: Creative, parts: Parts, brand: Guardrails) -> Finding | None:
    """What is wrong with these parts together: a pair kept apart, two languages, a missing disclaimer."""
    where = "+".join(parts)
    together = set(parts)
    for pair in creative.apart:
        if together.issuperset(pair):
            return Finding(Flaw.APART, "apart", where, " and ".join(pair))
    components = [creative.part[part][1] for part in parts]
    spoken = sorted({_first(one.language) for one in components if one.language})
    if len(spoken) > 1:
        return Finding(Flaw.LANGUAGE, "one language", where, " and ".join(spoken))
    for needed in brand.disclaimers:
        if not set(needed.cat) & set(creative.cat) or (needed.language and spoken and _first(needed.language) not in spoken):
            continue
        if not any(contains(one.text, needed.text) for one in components):
            return Finding(Flaw.DISCLAIMER, "disclaimer", where, f"{needed.text!r} is missing")
    return None


def spoken_language(creative: Creative, parts: Parts) -> str:
    """First subtag of the language of these parts; empty where none states one."""
    return next((_first(language) for part in parts if (language := creative.part[part][1].language)), "")


def disclosures(creative: Creative, parts: Parts, jurisdiction: str) -> tuple[str, ...]:
    """Labels that must be shown with these parts in a place, each once; a place that is not known counts as every one."""
    said = (creative.part[part][1].provenance for part in parts)
    labels = (
        one.disclosure.label for one in said if one and one.disclosure and one.disclosure.holds_in(jurisdiction)
    )
    return tuple(dict.fromkeys(labels))


def asset_name(slot: Slot) -> str:
    """AdCOM's name of what the slot takes."""
    return slot.kind if slot.kind == "title" else (IMAGE_TYPES if slot.kind == "img" else DATA_TYPES)[slot.type]


def _first(tag: str) -> str:
    return tag.lower().split("-")[0]


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
