"""Taking turns: which ad is shown when the model cannot choose."""

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.decision import Loser
from sottovoce.client.eligibility import Refusal, refused
from sottovoce.client.events import EventLog
from sottovoce.client.reasons import Loss

_UNPRICED = Refusal(Loss.UNPRICED, "rotation", "there is a floor, and without the model no value")
_LATER = Refusal(Loss.NOT_ITS_TURN, "rotation", "the model could not be used")


def next_in_turn(
    catalogue: Catalogue, candidates: list[int], log: EventLog, floor: float
) -> tuple[int | None, tuple[Loser, ...]]:
    """The ad shown least recently, never shown ones first, ties by crid; and why the others were not chosen.

    Where there is a floor, only `cpm` campaigns that reach it take part: the value of the others is not known.

    Args:
        catalogue: all ads.
        candidates: positions of those that passed every rule.
        log: of this device.
        floor: least value of a thousand impressions.

    Returns:
        A position, None when nobody takes part; and the other candidates.
    """
    last = {event.crid: at for at, event in enumerate(log.events) if event.event == "impression"}
    turn = sorted(candidates, key=lambda place: (last.get(catalogue.ads[place].crid, -1), catalogue.ads[place].crid))

    def takes_part(place: int) -> bool:
        campaign = catalogue.campaign[catalogue.ads[place].cid]
        return floor == 0 or (campaign.pricing == "cpm" and campaign.price >= floor)

    can = [place for place in turn if takes_part(place)]
    losers = [refused(catalogue.ads[place].crid, _LATER) for place in can[1:]]
    losers += [refused(catalogue.ads[place].crid, _UNPRICED) for place in turn if not takes_part(place)]
    return next(iter(can), None), tuple(losers)
