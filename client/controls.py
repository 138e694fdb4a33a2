"""What the person decided: muted ads, advertisers and categories, pause, reset, and edited interests.

A value that never changes: each function gives new controls, and the next decision follows them. They only ever take
something away from the model or weigh it; frequency caps count every event, whatever the controls say, because a cap
that a pause or a reset emptied would show an ad too often.

A category counts with its taxonomy, as the id alone means nothing, and covers that very id: the trees of the
taxonomies are not shipped, so muting a branch does not mute its leaves.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Catalogue, Id, Moment
from sottovoce.client.events import EventLog
from sottovoce.privacy.errors import DeviceError

MOST = 4_096
"""Most muted ads, advertisers and categories each, and most edited interests."""

_TICK = timedelta(microseconds=1)

Wish = Literal["more", "less", "never"]
Category = tuple[Id, Annotated[int, Meta(ge=1)]]
"""Id and taxonomy (AdCOM `cattax`)."""

Muted = Literal["ad", "advertiser", "category"]
Kind = Literal["crids", "seats", "categories"]


class Interest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the person wants of one category."""

    category: Category
    wish: Wish


class InterestWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much an edited interest weighs: factors on the value of an ad. A setting of the app.

    Attributes:
        more: of a category the person wants more of, 1 or above.
        less: of one the person wants less of, 1 or below.
    """

    more: Annotated[float, Meta(ge=1, le=100)] = 2.0
    less: Annotated[float, Meta(ge=0, le=1)] = 0.5


class Controls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """What the person decided.

    Attributes:
        muted_crids: ads that are not shown any more, and whose events the model does not see.
        muted_seats: advertisers, likewise.
        muted_categories: categories, likewise.
        paused: nothing is personalised and nothing is learned.
        since: earlier events serve frequency caps and turns only; None when nothing was ever reset.
        interests: edited ones, each category once; `never` is as good as muted.
    """

    muted_crids: Annotated[tuple[Id, ...], Meta(max_length=MOST)] = ()
    muted_seats: Annotated[tuple[Id, ...], Meta(max_length=MOST)] = ()
    muted_categories: Annotated[tuple[Category, ...], Meta(max_length=MOST)] = ()
    paused: bool = False
    since: Moment | None = None
    interests: Annotated[tuple[Interest, ...], Meta(max_length=MOST)] = ()

    @cached_property
    def wishes(self) -> Mapping[Category, Wish]:
        """What the person wants, by category."""
        return {interest.category: interest.wish for interest in self.interests}

    @cached_property
    def crids(self) -> frozenset[str]:
        """Muted ads."""
        return frozenset(self.muted_crids)

    @cached_property
    def seats(self) -> frozenset[str]:
        """Muted advertisers."""
        return frozenset(self.muted_seats)

    @cached_property
    def categories(self) -> frozenset[Category]:
        """Muted categories, with those of which the person wants nothing."""
        never = (interest.category for interest in self.interests if interest.wish == "never")
        return frozenset(self.muted_categories).union(never)

    def never(self, cattax: int) -> frozenset[str]:
        """Muted categories of one taxonomy."""
        return frozenset(category for category, taxonomy in self.categories if taxonomy == cattax)

    def muted(self, crid: str, seat: str, categories: tuple[str, ...], cattax: int) -> Muted | None:
        """What of an ad is muted, the narrowest first, or None.

        Args:
            crid: of the ad.
            seat: its advertiser.
            categories: of its campaign.
            cattax: their taxonomy; a control of another taxonomy says nothing about them.
        """
        if crid in self.crids:
            return "ad"
        if seat in self.seats:
            return "advertiser"
        return "category" if any((category, cattax) in self.categories for category in categories) else None

    def weight(self, categories: tuple[str, ...], cattax: int, weights: InterestWeights) -> float:
        """The factor on the value of an ad of these categories; `less` of one outweighs `more` of another."""
        wishes = {self.wishes.get((category, cattax)) for category in categories}
        if "less" in wishes:
            return weights.less
        return weights.more if "more" in wishes else 1.0


def mute(controls: Controls, kind: Kind, what: str, cattax: int = 0) -> Controls:
    """The controls with one more thing muted; muting it twice changes nothing.

    Args:
        controls: as they are.
        kind: of thing.
        what: its id.
        cattax: its taxonomy, of a category only.

    Raises:
        DeviceError: too much is muted, or that is no id.
    """
    entry = _entry(kind, what, cattax)
    listed: tuple[object, ...] = getattr(controls, f"muted_{kind}")
    return controls if entry in listed else _changed(controls, **{f"muted_{kind}": (*listed, entry)})


def unmute(controls: Controls, kind: Kind, what: str, cattax: int = 0) -> Controls:
    """The controls without that muted thing; see `mute`. An edited interest of the category stays."""
    entry = _entry(kind, what, cattax)
    listed: tuple[object, ...] = getattr(controls, f"muted_{kind}")
    return _changed(controls, **{f"muted_{kind}": tuple(one for one in listed if one != entry)})


def pause(controls: Controls) -> Controls:
    """Nothing is personalised and nothing is learned, until `resume`. Events still count for caps."""
    return _changed(controls, paused=True)


def resume(controls: Controls) -> Controls:
    """The end of a pause. What happened during it is seen from now on; `reset` as well to leave it out."""
    return _changed(controls, paused=False)


def reset(controls: Controls, log: EventLog, now: datetime) -> Controls:
    """A new start: whatever has happened up to now serves frequency caps only.

    An event later than now (the clock was set back since) has happened all the same, so the reset lies after it too.

    Args:
        controls: as they are.
        log: everything that happened.
        now: the device's time, with time zone.
    """
    newest = max((event.ts for event in log.events), default=now)
    return _changed(controls, since=(max(newest, now) + _TICK).astimezone(UTC))


def settled(controls: Controls, log: EventLog, now: datetime) -> Controls:
    """The controls with a reset that lies in the future moved to now: the clock was ahead when it was made.

    Nothing that happened until now comes back by it. As long as the log holds an event of the future, the reset stays
    after that event.
    """
    if controls.since is None or controls.since <= now + _TICK:
        return controls
    earliest = reset(controls, log, now)
    return earliest if earliest.since is not None and earliest.since < controls.since else controls


def edit(controls: Controls, category: str, cattax: int, wish: Wish | None) -> Controls:
    """The controls with another wish for a category; None takes the wish back.

    Raises:
        DeviceError: too many are edited, or that is no category.
    """
    others = tuple(one for one in controls.interests if one.category != (category, cattax))
    return _changed(controls, interests=others if wish is None else (*others, Interest((category, cattax), wish)))


def visible(controls: Controls, log: EventLog, catalogue: Catalogue) -> EventLog:
    """What the model may see of the log: to serve and to learn from. Frequency caps count the whole log.

    Nothing while paused; nothing from before the reset; nothing of what is muted. The advertiser and the categories of
    an ad are those of its campaign in the catalogue: without it the ad's own id counts only (`remembered.remembered`
    then leaves the event out anyway).

    Args:
        controls: of the person.
        log: everything that happened.
        catalogue: names advertisers and categories.
    """
    if controls.paused:
        return EventLog()
    if controls.since is None and not (controls.crids or controls.seats or controls.categories):
        return log
    hidden: dict[tuple[str, str], bool] = {}
    kept = []
    for event in log.events:
        if controls.since is not None and event.ts < controls.since:
            continue
        key = event.crid, event.cid
        if key not in hidden:
            campaign = catalogue.campaign.get(event.cid)
            seat, categories = (campaign.seat, campaign.cat) if campaign else ("", ())
            hidden[key] = controls.muted(event.crid, seat, categories, catalogue.cattax) is not None
        if not hidden[key]:
            kept.append(event)
    return log if len(kept) == len(log.events) else EventLog(tuple(kept))


def _entry(kind: Kind, what: str, cattax: int) -> object:
    """An entry of that list."""
    return (what, cattax) if kind == "categories" else what


def _changed(controls: Controls, **fields: object) -> Controls:
    """The controls with these fields instead, checked as if they were read from a file."""
    changed = msgspec.structs.replace(controls, **fields)
    try:
        msgspec.convert(msgspec.to_builtins(changed), Controls)
    except msgspec.ValidationError as error:
        raise DeviceError(f"controls: {error}", "name an id, and unmute something where there is too much") from error
    return changed
