import msgspec
import pytest
from small_market import ALLOWED, NOW, SCHEMA, Broken, Rule, ad, campaign, catalogue, event, market, request

from sottovoce.client.bid_response import bid_response
from sottovoce.client.catalogue import Cap
from sottovoce.client.controls import Controls
from sottovoce.client.decision import Decision
from sottovoce.client.events import EventLog
from sottovoce.client.explanation import why
from sottovoce.client.picker import Picker
from sottovoce.client.reasons import Loss
from sottovoce.client.request import FORBIDDEN
from sottovoce.privacy.errors import DeviceError

LOG = EventLog((event("impression", 1, 90), event("click", 1, 80), event("impression", 3, 60)))


def pick(shop=None, scorer=None, **given):
    return Picker(SCHEMA, scorer or Rule(history=0.5), shop or market(4)).pick(request(), LOG, ALLOWED, NOW, **given)


def keys(node):
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return {*(node if isinstance(node, dict) else ()), *(key for value in inside for key in keys(value))}


def test_the_bid_has_the_fields_of_openrtb_and_the_second_price_per_thousand():
    decision = pick()
    answer = bid_response(decision, {"paid": "x"})
    (seat,) = answer["seatbid"]
    (bid,) = seat["bid"]
    assert (answer["id"], answer["cur"], seat["seat"]) == ("r1", "USD", decision.winner.seat)
    assert bid == {
        "id": "1",
        "impid": "1",
        "price": decision.winner.price,
        "adid": "a1",
        "adomain": ["advertiser-c1.example"],
        "cid": "c1",
        "crid": "a1",
        "cat": ["1058"],
        "cattax": 8,
        "attr": [],
        "mtype": 1,
        "w": 320,
        "h": 50,
        "ext": {"dsa": {"paid": "x"}},
    }
    assert "ext" not in answer


def test_every_other_ad_has_a_code_and_ours_are_marked():
    shop = market(4, caps=(Cap("creative", "impression", 1, 75),))
    decision = pick(shop, controls=Controls(muted_crids=("a2",)))
    answer = why(decision).openrtb
    told = {one["crid"]: one for seat in answer["ext"]["seatloss"] for one in seat["loss"]}
    assert set(told) == {"a0", "a1", "a2", "a3"} - {decision.winner.crid}
    assert told["a3"] == {"impid": "1", "crid": "a3", "lossreason": int(Loss.CAPPED_CREATIVE), "own": True}
    assert told["a2"]["lossreason"] == int(Loss.MUTED_AD)
    assert told["a0"] == {"impid": "1", "crid": "a0", "lossreason": int(Loss.OUTBID)}
    assert {seat["seat"] for seat in answer["ext"]["seatloss"]} == {f"advertiser-c{crid[1]}" for crid in told}


def test_nothing_in_the_answer_names_a_person_or_says_when():
    answer = why(pick()).openrtb
    assert not keys(answer) & (FORBIDDEN | {"user", "device", "ts", "now", "features", "scores"})
    text = msgspec.json.encode(answer).decode()
    assert "2026" not in text
    assert "phone" not in text


def test_without_an_ad_there_is_a_reason_and_without_an_auction_no_invented_price():
    assert bid_response(pick(catalogue((), ())), {}) == {"id": "r1", "cur": "USD", "nbr": 501}
    (seat,) = bid_response(pick(scorer=Broken("nan")), {})["seatbid"]
    assert seat["bid"][0]["price"] == 0
    (seat,) = bid_response(pick(market(4, "cpm"), Broken("nan")), {})["seatbid"]
    assert seat["bid"][0]["price"] == 1.0
    (seat,) = bid_response(pick(catalogue((campaign("c1", price=0.0),), (ad("a1", w=0, h=0, mtype=4),))), {}).get(
        "seatbid", [{"bid": []}]
    )
    assert seat["bid"] == []


def test_a_decision_from_a_file_is_picked_again_first():
    with pytest.raises(DeviceError, match="read back"):
        bid_response(msgspec.json.decode(msgspec.json.encode(pick()), type=Decision), {})
