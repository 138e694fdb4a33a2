"""What would have changed the decision: single changes, each tried by picking again.

The kinds are a closed list. Each says how it changes the occasion and what it is in words; `client.what_if` looks for
the smallest one that makes an ad win, or the winner lose. Nothing here is estimated: a change is told only after the
picker, asked with that change and nothing else, really answered so. What else the change would bring about in the
world (a page that asks anew, another hour in the model's features, competitors that answer a bid) stays as it was.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import msgspec

from sottovoce.client.auction import MICRO, exact
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.controls import Controls, Kind, mute, reset, resume, unmute
from sottovoce.client.occasion import Occasion


class Bid(msgspec.Struct, frozen=True, tag="bid"):
    """The campaign offers another price: `price` instead of `before`, whole micro-units in its own pricing."""

    cid: str
    price: int
    before: int


class Floor(msgspec.Struct, frozen=True, tag="floor"):
    """The place asks for at least `floor` instead of `before`, micro-units per thousand impressions."""

    floor: int
    before: int


class Moment(msgspec.Struct, frozen=True, tag="moment"):
    """The same request at another moment: a cap has ended, a day-part or the flight begun or ended."""

    at: datetime


class Permission(msgspec.Struct, frozen=True, tag="consent"):
    """The person allows personalised ads, or takes that back; or allows ads to be selected at all."""

    gate: Literal["serve_personalised", "serve_contextual"]
    given: bool


class Forgetting(msgspec.Struct, frozen=True, tag="history"):
    """The person resets what the device remembers; frequency caps still count it."""


class Unmuting(msgspec.Struct, frozen=True, tag="unmute"):
    """The person unmutes one thing, or no longer wants nothing of a category."""

    kind: Kind
    what: str
    cattax: int = 0


class Muting(msgspec.Struct, frozen=True, tag="mute"):
    """The person mutes one thing."""

    kind: Kind
    what: str
    cattax: int = 0


class Resuming(msgspec.Struct, frozen=True, tag="resume"):
    """The person ends the pause."""


Change = Bid | Floor | Moment | Permission | Forgetting | Unmuting | Muting | Resuming


class Counterfactual(msgspec.Struct, frozen=True):
    """One change, and the answer that the picker really gave with it.

    Attributes:
        change: what would be different.
        winner: crid of the ad that is then shown; None for none.
        sentence: the same for a reader.
    """

    change: Change
    winner: str | None
    sentence: str


def changed(occasion: Occasion, change: Change) -> Occasion:
    """The occasion with that one thing different.

    Raises:
        DeviceError: the changed controls are too large.
    """
    match change:
        case Bid():
            return occasion.among(_priced(occasion.catalogue, change))
        case Floor():
            place = occasion.request.place
            asked = msgspec.structs.replace(
                place, bidfloor=change.floor / MICRO, bidfloorcur=_floor_currency(occasion, place.bidfloor)
            )
            return replace(occasion, request=msgspec.structs.replace(occasion.request, imp=(asked,)))
        case Moment():
            return replace(occasion, now=change.at)
        case Permission():
            gates = {change.gate: change.given} | ({"serve_contextual": True} if change.given else {})
            return replace(occasion, consent=msgspec.structs.replace(occasion.consent, **gates))
        case _:
            return replace(occasion, controls=_controls(occasion, change))


def tried(occasion: Occasion, change: Change) -> Counterfactual:
    """The answer with the change."""
    winner = changed(occasion, change).pick().winner
    crid = None if winner is None else winner.crid
    shown = "no ad would be shown" if crid is None else f"{crid} would be shown"
    return Counterfactual(change, crid, f"{_words(occasion, change)}, {shown}.")


def _priced(catalogue: Catalogue, change: Bid) -> Catalogue:
    campaigns = tuple(
        msgspec.structs.replace(one, price=change.price / MICRO) if one.cid == change.cid else one
        for one in catalogue.campaigns
    )
    return msgspec.structs.replace(catalogue, campaigns=campaigns)


def _floor_currency(occasion: Occasion, floor: float) -> str:
    """A floor of 0 is in no currency; one that is set is meant in the catalogue's."""
    return occasion.request.place.bidfloorcur if floor else occasion.catalogue.cur


def _controls(occasion: Occasion, change: Change) -> Controls:
    controls = occasion.controls
    match change:
        case Forgetting():
            return reset(controls, occasion.log, occasion.now)
        case Resuming():
            return resume(controls)
        case Muting():
            return mute(controls, change.kind, change.what, change.cattax)
        case Unmuting():
            wanted = controls.interests
            if change.kind == "categories":
                category = change.what, change.cattax
                wanted = tuple(one for one in wanted if (one.category, one.wish) != (category, "never"))
            plain = unmute(controls, change.kind, change.what, change.cattax)
            return msgspec.structs.replace(plain, interests=wanted)
    raise ValueError(f"{change} is no change of controls")


def _words(occasion: Occasion, change: Change) -> str:
    """The condition of the sentence."""
    match change:
        case Bid():
            pricing = occasion.catalogue.campaign[change.cid].pricing
            per = {"cpm": "per thousand views", "cpc": "per click", "cpa": "per conversion"}[pricing]
            paid = f"{exact(change.price)} {occasion.catalogue.cur} {per} instead of {exact(change.before)}"
            return f"If the campaign {change.cid} offered {paid}"
        case Floor():
            return (
                f"If the place asked for at least {exact(change.floor)} {occasion.catalogue.cur} per thousand views "
                f"instead of {exact(change.before)}"
            )
        case Moment():
            return f"At {_clock(change.at, occasion.now)}, with everything else as it is"
        case Permission():
            what = "personalised ads" if change.gate == "serve_personalised" else "ads to be selected"
            return f"If you {'allowed' if change.given else 'did not allow'} {what}"
        case Forgetting():
            return "If this device forgot what it remembers of earlier ads, except to keep ads from repeating"
        case Resuming():
            return "If you ended the pause"
        case Muting() | Unmuting():
            verb = "muted" if isinstance(change, Muting) else "unmuted"
            kind = {"crids": "ad", "seats": "advertiser", "categories": "category"}[change.kind]
            return f"If you {verb} the {kind} {change.what}"


def _clock(at: datetime, now: datetime) -> str:
    """Hour and minute on the same day, else the date too; seconds where they say something."""
    clock = at.strftime("%H:%M:%S.%f" if at.microsecond else "%H:%M:%S" if at.second else "%H:%M")
    days = (at.date() - now.date()).days
    zone = " UTC" if at.utcoffset() == UTC.utcoffset(None) else ""
    return f"{clock}{zone}" if days == 0 else f"{at.date().isoformat()} {clock}{zone}"
