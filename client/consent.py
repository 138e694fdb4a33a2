"""What the person allows, read from the standard keys, as three independent gates. Everything is off by default.

Read: `IABTCF_gdprApplies`, `IABTCF_PurposeConsents`, `IABTCF_PolicyVersion` (TCF 2.3, policy version 4 or later),
`IABGPP_HDR_GppString` (US National section only) and `gpc`. Not read: the TC string itself, vendor consents,
legitimate interests, publisher restrictions, special features, and every other GPP section.

=========================  ========================================================================================
gate                       opens when GDPR applies                 opens when GDPR does not apply (US National section)
=========================  ========================================================================================
serve_personalised         purposes 1, 3 and 4                     targeted advertising: did not opt out
learn                      purposes 1, 3 and 10                    sharing and targeted advertising: did not opt out
report                     purpose 7                               sharing: did not opt out
=========================  ========================================================================================

In the US column no gate opens after an opt-out of sale, or for a known child. An opt-out of sale, of sharing or of
targeted advertising closes `serve_personalised` and `learn` wherever the person is; Global Privacy Control closes all
three. A GPP section that is not read closes all three, because it may hold an opt-out.

Contextual serving uses nothing about the person beyond frequency caps: it is allowed, unless GDPR applies and
purpose 2 was not given.

Source: IAB Europe TCF 2.3, IAB Tech Lab GPP, Global Privacy Control specification.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from sottovoce.client.gpp import US_NATIONAL, OptOut, decode_platform
from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 64 * 1024
"""Largest key file that is read."""

OLDEST_POLICY = 4
"""TCF policy versions before this one are invalid."""

TCF_EU = 2
OPTED_OUT, DID_NOT = 1, 2


class Consent(msgspec.Struct, frozen=True):
    """The gates, and why they stand as they do.

    Attributes:
        serve_personalised: earlier events and device features may choose the ad.
        learn: local events may train the model.
        report: outcomes may be counted in private reports.
        serve_contextual: the page may choose the ad.
        notes: one clause per signal that decided something.
    """

    serve_personalised: bool = False
    learn: bool = False
    report: bool = False
    serve_contextual: bool = True
    notes: tuple[str, ...] = ("no consent signal",)


def _purposes(keys: Mapping[str, Any]) -> tuple[frozenset[int], str]:
    """TCF purposes with consent, and what is wrong with the keys (empty when nothing is)."""
    policy, given = keys.get("IABTCF_PolicyVersion"), keys.get("IABTCF_PurposeConsents")
    if type(policy) is not int or policy < OLDEST_POLICY:
        return frozenset(), f"IABTCF_PolicyVersion {policy!r} is not {OLDEST_POLICY} or later"
    if not isinstance(given, str) or not 0 < len(given) <= 24 or set(given) - {"0", "1"}:
        return frozenset(), "IABTCF_PurposeConsents is not a row of 0 and 1"
    return frozenset(number for number, bit in enumerate(given, 1) if bit == "1"), ""


def _platform(keys: Mapping[str, Any]) -> tuple[OptOut | None, str]:
    """The US National section, and why GPP closes everything (empty when it does not)."""
    text = keys.get("IABGPP_HDR_GppString", "")
    if text == "":
        return None, ""
    if not isinstance(text, str):
        return None, "IABGPP_HDR_GppString is not text"
    try:
        platform = decode_platform(text)
    except DeviceError as error:
        return None, error.what
    unread = [section for section in platform.sections if section not in (TCF_EU, US_NATIONAL)]
    return platform.us_national, f"GPP section {unread[0]} is not read here" if unread else ""


def consent(keys: Mapping[str, Any]) -> Consent:
    """The gates that the keys open. A missing or malformed key opens nothing and is named in the notes."""
    notes: list[str] = []
    personalised = learn = report = False
    contextual = True
    applies = keys.get("IABTCF_gdprApplies")
    us, closed = _platform(keys)
    if type(applies) is int and applies == 1:
        given, wrong = _purposes(keys)
        personalised, learn, report = {1, 3, 4} <= given, {1, 3, 10} <= given, 7 in given
        contextual = 2 in given
        notes.append(wrong or f"TCF purposes {', '.join(map(str, sorted(given))) or 'none'}")
    elif type(applies) is int and applies == 0:
        if us is not None and us.sale != OPTED_OUT and not us.known_child:
            personalised = us.targeted == DID_NOT
            report = us.sharing == DID_NOT
            learn = personalised and report
        notes.append("GDPR does not apply" if us is not None else "GDPR does not apply and there is no US signal")
    else:
        notes.append("no consent signal" if applies is None else "IABTCF_gdprApplies is not 0 or 1")
    if us is not None and OPTED_OUT in (us.sale, us.sharing, us.targeted):
        personalised = learn = False
        notes.append("opted out in GPP US National")
    gpc = keys.get("gpc", False)
    if gpc is not False or (us is not None and us.gpc):
        closed = "Global Privacy Control is on"
    if closed:
        personalised = learn = report = False
        notes.append(closed)
    return Consent(personalised, learn, report, contextual, tuple(notes))


def decode_consent(data: bytes, name: str = "consent.json") -> Consent:
    """The gates that a file of standard keys opens; keys that are not read here are ignored.

    Args:
        data: one JSON object.
        name: of the file, for messages.

    Raises:
        DeviceError: too large or no JSON object. Use `Consent()`, which opens nothing.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "nothing is allowed until then")
    try:
        return consent(msgspec.json.decode(data, type=dict[str, Any]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{name}: {error}", "write the keys again; nothing is allowed until then") from error
