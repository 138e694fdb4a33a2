"""The opt-outs in an IAB Global Privacy Platform string.

A string is a header and its sections, joined by "~", each in base64url bits. The header lists the section ids in
ascending order, Fibonacci coded. One section is read: US National (id 7, versions 1 and 2). The others are only
listed, so that the caller can refuse what nobody here understands.

Source: IAB Tech Lab Global Privacy Platform, Consent String Specification 1.0 and US National section.
"""

from dataclasses import dataclass

import msgspec

from sottovoce.privacy.errors import DeviceError

US_NATIONAL = 7
MAX_CHARACTERS = 4096
"""Longest string that is read."""

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_MOST_SECTIONS = 64


class OptOut(msgspec.Struct, frozen=True):
    """The US National section.

    Attributes:
        sale: 0 not applicable, 1 opted out, 2 did not.
        sharing: the same.
        targeted: the same, for targeted advertising.
        known_child: the section says something about a known child.
        gpc: its Global Privacy Control bit.
    """

    sale: int
    sharing: int
    targeted: int
    known_child: bool
    gpc: bool


@dataclass(frozen=True, slots=True)
class Platform:
    """What a string says.

    Attributes:
        sections: ids of all sections, ascending.
        us_national: section 7, None when it is absent.
    """

    sections: tuple[int, ...]
    us_national: OptOut | None


class _Bits:
    """Reads big-endian bits; running out raises DeviceError."""

    def __init__(self, text: str) -> None:
        unknown = sorted(set(text) - set(_ALPHABET))
        if unknown:
            raise DeviceError(f"GPP string: {unknown[0]!r} is not base64url", "ask the consent tool to write it again")
        self._bits = "".join(f"{_ALPHABET.index(character):06b}" for character in text)
        self._at = 0

    def read(self, bits: int) -> int:
        end = self._at + bits
        if end > len(self._bits):
            raise DeviceError("GPP string ends too early", "ask the consent tool to write it again")
        value = int(self._bits[self._at : end], 2)
        self._at = end
        return value

    def fibonacci(self) -> int:
        """A positive integer as a sum of Fibonacci numbers, smallest first, ended by a second 1."""
        total, last, small, large = 0, 0, 1, 2
        while True:
            bit = self.read(1)
            if bit and last:
                return total
            total, last, small, large = total + bit * small, bit, large, small + large


def _section_ids(header: str) -> tuple[int, ...]:
    """Section ids of a header: type 3, version 1, then single ids and ranges, each as a step from the one before."""
    bits = _Bits(header)
    if (bits.read(6), bits.read(6)) != (3, 1):
        raise DeviceError("GPP string: its header is not type 3, version 1", "use GPP version 1")
    ids: list[int] = []
    last = 0
    for _ in range(bits.read(12)):
        a_range = bits.read(1)
        first = last + bits.fibonacci()
        last = first + bits.fibonacci() if a_range else first
        if last - first + len(ids) >= _MOST_SECTIONS:
            raise DeviceError("GPP string lists too many sections", "ask the consent tool to write it again")
        ids += range(first, last + 1)
    return tuple(ids)


def _us_national(section: str) -> OptOut:
    """The core segment and, where present, the GPC segment (type 1)."""
    core, *others = section.split(".")
    bits = _Bits(core)
    version = bits.read(6)
    if version not in (1, 2):
        raise DeviceError(f"GPP string: US National version {version} is not known", "use version 1 or 2")
    bits.read(12)  # six notices
    sale, sharing, targeted = bits.read(2), bits.read(2), bits.read(2)
    bits.read(24 if version == 1 else 32)  # sensitive data
    known_child = bits.read(4 if version == 1 else 6) != 0
    gpc = False
    for other in others:
        segment = _Bits(other)
        if segment.read(2) == 1:
            gpc = gpc or segment.read(1) == 1
    return OptOut(sale, sharing, targeted, known_child, gpc)


def decode_platform(text: str) -> Platform:
    """What a GPP string says.

    Raises:
        DeviceError: too long, not base64url, cut short, an unknown version, or more or fewer sections than listed.
    """
    if len(text) > MAX_CHARACTERS:
        raise DeviceError(f"GPP string: {len(text)} characters, at most {MAX_CHARACTERS} are read", "shorten it")
    header, *sections = text.split("~")
    ids = _section_ids(header)
    if len(ids) != len(sections):
        raise DeviceError(
            f"GPP string: its header lists {len(ids)} sections, {len(sections)} follow",
            "ask the consent tool to write it again",
        )
    by_id = dict(zip(ids, sections, strict=True))
    return Platform(ids, _us_national(by_id[US_NATIONAL]) if US_NATIONAL in by_id else None)
