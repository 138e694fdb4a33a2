"""Taking turns: which ad is shown when the model cannot choose."""

from collections.abc import Sequence

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.events import EventLog


def in_turn(
    catalogue: Catalogue, candidates: Sequence[int], log: EventLog, floor: float
) -> tuple[list[int], list[int]]:
    """The ads in the order in which they are due, and those that cannot take part.

    Due is the ad shown least recently, never shown ones first, ties by crid. Where there is a floor, only `cpm`
    campaigns that reach it take part: the value of the others is not known.

    Args:
        catalogue: all ads.
        candidates: positions of those that passed every rule.
        log: of this device.
        floor: least value of a thousand impressions.
    """
    last = {event.crid: at for at, event in enumerate(log.events) if event.event == "impression"}
    turn = sorted(candidates, key=lambda place: (last.get(catalogue.ads[place].crid, -1), catalogue.ads[place].crid))

    def takes_part(place: int) -> bool:
        campaign = catalogue.campaign[catalogue.ads[place].cid]
        return floor == 0 or (campaign.pricing == "cpm" and campaign.price >= floor)

    return [one for one in turn if takes_part(one)], [one for one in turn if not takes_part(one)]
