"""A decision in the words of OpenRTB: a BidResponse of one bid, and a loss code for every other ad.

Nothing in it names a person or a device: no id but that of the request, no time, no event. A price follows from chances
that the person's history may have moved, and codes of caps and mutes tell what the person did: so with `losses` it is
for use on the device, and without them for the page that shows the ad.

OpenRTB has a list of loss reasons, but no field that carries them in a response; `ext.seatnonbid` is one for other
codes (204 means "blocked for privacy" there, and "format" here). So the list stands in a field of our own with the same
shape, `ext.seatloss`, in which `own` marks codes from 500: they are ours. So does `bid.ext.parts`, what is shown of a
creative with exchangeable parts, as "slot/component".

Source: OpenRTB 2.6-202606, sections 4.3.1 to 4.3.3 and 3.2.1; AdCOM 1.0, loss reason codes.
"""

from typing import Any

from sottovoce.client.decision import Decision, Winner

OWN = 500
"""Codes from here on are exchange-specific in OpenRTB: here they are those of `client.reasons`."""


def bid_response(decision: Decision, dsa: dict[str, Any], losses: bool = False) -> dict[str, Any]:
    """The decision as a BidResponse, plain data for JSON.

    Args:
        decision: that was not read back.
        dsa: `bid.ext.dsa`, empty for none.
        losses: whether every other ad is listed with its code.

    Raises:
        DeviceError: the decision was read back.
    """
    response: dict[str, Any] = {"id": decision.request, "cur": decision.cur}
    if decision.winner is None:
        response["nbr"] = None if decision.nbr is None else int(decision.nbr)
    else:
        parts = decision.combination.parts if decision.combination else ()
        ext = ({"dsa": dsa} if dsa else {}) | ({"parts": list(parts)} if parts else {})
        bid = _bid(decision, decision.winner) | ({"ext": ext} if ext else {})
        response["seatbid"] = [{"seat": decision.winner.seat, "bid": [bid]}]
    if losses:
        response["ext"] = {"seatloss": _losses(decision)}
    return response


def _bid(decision: Decision, winner: Winner) -> dict[str, Any]:
    """One bid. Where no auction took place the price is 0, except for an offer per thousand impressions."""
    workings = decision.workings
    ad = workings.catalogue.ads[workings.catalogue.place[winner.crid]]
    price = winner.price if winner.price is not None else winner.charge if winner.pricing == "cpm" else 0.0
    size = {"w": ad.w, "h": ad.h} if ad.w and ad.h else {}
    return {
        "id": "1",
        "impid": workings.impid,
        "price": price,
        "adid": winner.crid,
        "adomain": list(winner.adomain),
        "cid": winner.cid,
        "crid": winner.crid,
        "cat": list(workings.catalogue.campaign[winner.cid].cat),
        "cattax": workings.catalogue.cattax,
        "attr": list(ad.attr),
        "mtype": ad.mtype,
        **size,
    }


def _losses(decision: Decision) -> list[dict[str, Any]]:
    """By advertiser, in the order in which they lost."""
    workings, seats = decision.workings, dict[str, list[dict[str, Any]]]()
    for loser in decision.losers:
        seat = workings.catalogue.campaign[workings.catalogue.ads[workings.catalogue.place[loser.crid]].cid].seat
        code = int(loser.reason)
        told: dict[str, Any] = {"impid": workings.impid, "crid": loser.crid, "lossreason": code}
        seats.setdefault(seat, []).append(told | ({"own": True} if code >= OWN else {}))
    return [{"seat": seat, "loss": told} for seat, told in seats.items()]
