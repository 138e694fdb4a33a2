"""One small rule for each kind of refusal by a brand.

Rules look at one component, at what all combinations share, or at one combination. Each says what it saw and where, and
all findings about components are kept, not only the first: a brand team wants the whole list.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from sottovoce.client.contrast import LARGE, NORMAL, contrast
from sottovoce.client.creative import DATA_TYPES, IMAGE_TYPES, Component, Creative, Parts, Slot
from sottovoce.client.guardrails import Finding, Flaw, Guardrails
from sottovoce.client.plain_words import folded, graphemes, mixed_script, needle, spellings
from sottovoce.client.provenance import OVERSIGHT

MACROS = ("${", "{{", "[", "%%", "{")
"""What ad servers fill in; a link with one could carry away which combination was shown."""


def word(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:  # noqa: ARG001
    """No forbidden word, and no word in letters of two scripts, which would hide one."""
    found = _first_found(component.text, brand.words)
    if found:
        return Flaw.WORD, f"{found!r} in {component.text!r}"
    mixed = mixed_script(component.text)
    return (Flaw.WORD, f"{mixed!a} mixes scripts") if mixed else None


def claim(slot: Slot, component: Component, brand: Guardrails) -> tuple[Flaw, str] | None:  # noqa: ARG001
    """No banned claim."""
    found = _first_found(component.text, brand.claims)
    return (Flaw.CLAIM, f"{found!r} in {component.text!r}") if found else None


def _first_found(text: str, looked_for: tuple[tuple[str, str], ...]) -> str:
    readings = spellings(text) if text and looked_for else ()
    return next((phrase for phrase, wanted in looked_for if any(wanted in one for one in readings)), "")


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
        plain = re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,3})?", component.text)
        if not plain or (slot.type == 3 and float(component.text) > 5):
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


class CombinationRules:
    """What may be wrong with parts together; made once, asked for every combination.

    Args:
        creative: whose parts.
        brand: its guardrails.
    """

    def __init__(self, creative: Creative, brand: Guardrails) -> None:
        self._creative = creative
        self._plain = {ref: folded(component.text) for ref, (_, component) in creative.part.items()}
        self._needed = tuple(
            (one.text, needle(one.text), _first(one.language))
            for one in brand.disclaimers
            if set(one.cat) & set(creative.cat)
        )
        # Only a phrase of several words, all of which are there, can be spread over slots.
        known = {word for text in self._plain.values() for word in text.split()}
        self._spread = tuple(
            (flaw, phrase, wanted)
            for flaw, phrases in ((Flaw.WORD, brand.words), (Flaw.CLAIM, brand.claims))
            for phrase, wanted in phrases
            if " " in wanted.strip() and known.issuperset(wanted.split())
        )
        self._apart: dict[str, set[str]] = {}
        for one, other in creative.apart:
            self._apart.setdefault(one, set()).add(other)

    def finding(self, parts: Parts) -> Finding | None:
        """A pair kept apart, two languages, a missing disclaimer, a phrase spread over slots that follow each other."""
        where, together = "+".join(parts), set(parts)
        for part in parts:
            for other in self._apart.get(part, set()) & together:
                return Finding(Flaw.APART, "apart", where, f"{part} and {other}")
        tags = (self._creative.part[part][1].language for part in parts)
        spoken = sorted({_first(tag) for tag in tags if tag})
        if len(spoken) > 1:
            return Finding(Flaw.LANGUAGE, "one_language", where, " and ".join(spoken))
        texts = [f" {self._plain[part]} " for part in parts]
        for text, wanted, tag in self._needed:
            if not (tag and spoken and tag not in spoken) and not any(wanted in one for one in texts):
                return Finding(Flaw.DISCLAIMER, "disclaimer", where, repr(text))
        run = f" {' '.join(' '.join(texts).split())} "
        for flaw, phrase, wanted in self._spread:
            if wanted in run:
                return Finding(flaw, "spread", where, f"{phrase!r} over several slots")
        return None


def spoken_language(creative: Creative, parts: Parts) -> str:
    """First subtag of the language of these parts; empty where none states one."""
    return next((_first(language) for part in parts if (language := creative.part[part][1].language)), "")


def disclosures(creative: Creative, parts: Parts, jurisdiction: str) -> tuple[str, ...]:
    """Labels that must be shown with these parts in a place, each once; an unknown place counts as every one."""
    said = (creative.part[part][1].provenance for part in parts)
    labels = (one.disclosure.label for one in said if one and one.disclosure and one.disclosure.holds_in(jurisdiction))
    return tuple(dict.fromkeys(labels))


def asset_name(slot: Slot) -> str:
    """AdCOM's name of what the slot takes."""
    return slot.kind if slot.kind == "title" else (IMAGE_TYPES if slot.kind == "img" else DATA_TYPES)[slot.type]


def _first(tag: str) -> str:
    return tag.lower().split("-")[0]
