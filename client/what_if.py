"""The smallest single changes that would make an ad win, or the winner lose; see `client.counterfactual`.

Smallest is checked too: one micro-unit less of a bid or a floor, or a microsecond earlier, and it is not so. A bid is
worked out from the auction and then tried; where more decides than the auction, such as a draw among the best, the
working out is wrong, and the price is searched for by halving.

Every try asks the same step of the ladder that answered then: what a faster or a repaired model would have said is
another question.

This picks again, and for a bid builds the picker again, a few times for each change: it is for whoever asks, and not
for every request.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from sottovoce.client.auction import MICRO, millionths
from sottovoce.client.catalogue import Ad, Campaign, DayPart
from sottovoce.client.counterfactual import (
    Bid,
    Change,
    Counterfactual,
    Floor,
    Forgetting,
    Moment,
    Muting,
    Permission,
    Resuming,
    Unmuting,
    tried,
)
from sottovoce.client.decision import Decision
from sottovoce.client.occasion import Occasion
from sottovoce.client.pace import ends
from sottovoce.client.reasons import NoBid
from sottovoce.client.why_not import needed, why_not
from sottovoce.client.workings import PickWorkings
from sottovoce.privacy.errors import DeviceError

HIGHEST_PRICE = 1_000_000 * MICRO
"""Most that a campaign may offer, micro-units."""

DAYS_AHEAD = 8
"""How far day-parts are looked for: each weekday, and today's once more."""

MOST_MOMENTS = 64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def to_win(occasion: Occasion, crid: str) -> tuple[Counterfactual, ...]:
    """Single changes after which the ad is shown, in the order of the list of kinds; empty when it is shown already.

    Args:
        occasion: of the decision.
        crid: of any ad of the catalogue.

    Raises:
        DeviceError: the catalogue has no such ad.
    """
    decision, workings = _made(occasion)
    told = why_not(decision, crid)
    if told.shown or decision.nbr is NoBid.NOT_CHECKED:
        return ()
    ad = occasion.catalogue.ads[occasion.catalogue.place[crid]]
    campaign = occasion.catalogue.campaign[ad.cid]
    wins = _Wins(occasion, crid)
    least = None if told.value is None or told.missing is None else millionths(told.value) + told.missing
    found = [_bid_to_win(wins, campaign, told.scores, least)]
    if told.value is not None and occasion.request.place.bidfloor > told.value:
        found.append(_floor(wins, millionths(told.value), 1))
    found.append(_moment(wins, _begins(occasion, workings, ad, campaign)))
    found += [wins(change) for change in _person(occasion, ad, campaign)]
    return tuple(one for one in found if one is not None)


def to_lose(occasion: Occasion) -> tuple[Counterfactual, ...]:
    """Single changes after which the winner is not shown, in the order of the list of kinds; empty without one."""
    decision, workings = _made(occasion)
    winner = decision.winner
    if winner is None:
        return ()
    place = occasion.catalogue.place[winner.crid]
    ad, campaign = occasion.catalogue.ads[place], occasion.catalogue.campaign[winner.cid]
    loses = _Wins(occasion, winner.crid, lost=True)
    found: list[Counterfactual | None] = []
    if winner.value is not None:
        least = _price(campaign, winner.scores, _kept(workings, place))
        found.append(_bid(loses, campaign, None if least is None else least - 1, 1))
        if occasion.request.place.bidfloorcur == occasion.catalogue.cur or not occasion.request.place.bidfloor:
            found.append(_floor(loses, millionths(winner.value) + 1, -1))
    found.append(_moment(loses, _ends(occasion, campaign)))
    found += [loses(change) for change in _person(occasion, ad, campaign)]
    found += [loses(Muting("crids", ad.crid)), loses(Muting("seats", campaign.seat))]
    found += [loses(Muting("categories", category, occasion.catalogue.cattax)) for category in campaign.cat]
    return tuple(one for one in found if one is not None)


class _Wins:
    """Tries a change: what came of it, if the ad then wins (or, with `lost`, if another ad or none does)."""

    def __init__(self, occasion: Occasion, crid: str, lost: bool = False) -> None:
        self.occasion, self._crid, self._lost = occasion, crid, lost

    def __call__(self, change: Change) -> Counterfactual | None:
        try:
            found = tried(self.occasion, change)
        except DeviceError:
            return None
        return found if (found.winner == self._crid) != self._lost else None


def _made(occasion: Occasion) -> tuple[Decision, PickWorkings]:
    decision = occasion.pick()
    if not isinstance(decision.workings, PickWorkings):
        raise ValueError("the occasion has no picker of this package")
    return decision, decision.workings


def _kept(workings: PickWorkings, place: int) -> int | None:
    """The least value with which the winner stays first."""
    row, offers = workings.row(place), workings.offers
    if row is None or offers is None:
        return None
    return needed(workings, place, int(offers.term[row]), int(offers.weight[row]))


def _price(campaign: Campaign, scores: tuple[float, ...], value: int | None) -> int | None:
    """The least price, micro-units, at which the value reaches `value`; None when none does."""
    chances = [millionths(score) for score in scores]
    heads = ("cpm", "cpc", "cpa").index(campaign.pricing)
    if value is None or len(chances) < heads or 0 in chances[:heads]:
        return None
    numerator, denominator = value, 1 if heads == 0 else 1000
    for chance in chances[:heads]:
        numerator, denominator = numerator * MICRO, denominator * chance
    return -(-numerator // denominator)


def _bid_to_win(wins: _Wins, campaign: Campaign, scores: tuple[float, ...], value: int | None) -> Counterfactual | None:
    # A campaign that offers nothing is a house campaign, so a bid to win is at least 1.
    least = _price(campaign, scores, value)
    return _bid(wins, campaign, None if least is None else max(least, 1), -1)


def _bid(holds: _Wins, campaign: Campaign, guess: int | None, back: int) -> Counterfactual | None:
    """The price closest to today's at which it holds; `back` is the direction of today's price, by one unit."""
    before = millionths(campaign.price)

    def at(price: int) -> Counterfactual | None:
        if not 0 <= price <= HIGHEST_PRICE or price == before:
            return None
        return holds(Bid(campaign.cid, price, before))

    # A drawn ad may go on winning below that, so a guess on the wrong side of today's price is none.
    near = guess is not None and (guess - before) * back < 0
    if near and guess is not None and (found := at(guess)) is not None and at(guess + back) is None:
        return found
    return _halved(at, 0 if back > 0 else HIGHEST_PRICE, before)


def _halved(at: Callable[[int], Counterfactual | None], far: int, near: int) -> Counterfactual | None:
    """The closest price to `near` at which it holds, if it holds at `far` and changes once in between."""
    found = at(far)
    if found is None:
        return None
    while abs(far - near) > 1:
        middle = (far + near) // 2
        if (closer := at(middle)) is not None:
            far, found = middle, closer
        else:
            near = middle
    return found


def _floor(holds: _Wins, floor: int, back: int) -> Counterfactual | None:
    before = millionths(holds.occasion.request.place.bidfloor)
    found = holds(Floor(floor, before))
    return found if found is not None and holds(Floor(floor + back, before)) is None else None


def _moment(holds: _Wins, moments: set[datetime]) -> Counterfactual | None:
    """The first of the moments at which it holds, and did not hold just before."""
    for moment in sorted(one for one in moments if one > holds.occasion.now)[:MOST_MOMENTS]:
        if (found := holds(Moment(moment))) is not None and holds(Moment(moment - _TICK)) is None:
            return found
    return None


def _begins(occasion: Occasion, workings: PickWorkings, ad: Ad, campaign: Campaign) -> set[datetime]:
    """When something that stands against the ad ends by itself."""
    zone = occasion.now.tzinfo
    pace = occasion.policy.pace(occasion.request.place.ext.kind)
    micro = {*workings.counts.ends(ad, campaign), *ends(pace, sorted(_shown(occasion)), occasion.now)}
    starts = {campaign.start.astimezone(zone), *_parts(occasion.now, campaign, lambda part: part.start_minute)}
    return starts | {(_EPOCH + timedelta(microseconds=one)).astimezone(zone) for one in micro}


def _ends(occasion: Occasion, campaign: Campaign) -> set[datetime]:
    """When the campaign may not run any more."""
    end = campaign.end.astimezone(occasion.now.tzinfo)
    return {end, *_parts(occasion.now, campaign, lambda part: part.end_minute)}


def _shown(occasion: Occasion) -> Iterator[int]:
    log = occasion.log
    return (moment for event, moment in zip(log.events, log.micros, strict=True) if event.event == "impression")


def _parts(now: datetime, campaign: Campaign, minute: Callable[[DayPart], int]) -> Iterator[datetime]:
    """The next times of day at which day-parts begin or end, on the device's clock."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for day in range(DAYS_AHEAD):
        midnight = today + timedelta(days=day)
        for part in campaign.dayparts:
            if midnight.weekday() in part.dow:
                yield midnight + timedelta(minutes=minute(part))


def _person(occasion: Occasion, ad: Ad, campaign: Campaign) -> Iterator[Change]:
    """What the person could do, as far as it would change anything."""
    consent, controls, cattax = occasion.consent, occasion.controls, occasion.catalogue.cattax
    if not consent.serve_contextual:
        yield Permission("serve_contextual", True)
    yield Permission("serve_personalised", not consent.serve_personalised)
    if occasion.log.events and consent.serve_personalised:
        yield Forgetting()
    if ad.crid in controls.muted_crids:
        yield Unmuting("crids", ad.crid)
    if campaign.seat in controls.muted_seats:
        yield Unmuting("seats", campaign.seat)
    for category in campaign.cat:
        if category in controls.never(cattax):
            yield Unmuting("categories", category, cattax)
    if controls.paused:
        yield Resuming()
