import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_market import campaign

from sottovoce.client.auction import INCREMENT, MICRO, Bid, charge, sell, value


@pytest.mark.parametrize(
    ("pricing", "price", "expected"),
    [("cpm", 2.5, 2_500_000), ("cpc", 0.8, 16_000_000), ("cpa", 10.0, 20_000_000)],
)
def test_values_are_per_thousand_impressions(pricing, price, expected):
    assert value(campaign(pricing=pricing, price=price), (0.02, 0.1)) == expected


def test_a_price_per_conversion_needs_a_conversion_head():
    assert value(campaign(pricing="cpa"), (0.02,)) is None


def test_scores_that_differ_below_the_grid_are_the_same_value():
    one = campaign(pricing="cpc", price=1.0)
    assert value(one, (0.0200000001,)) == value(one, (0.0199999999,))
    assert value(one, (0.020001,)) > value(one, (0.02,))


def bid(crid, amount, seat=""):
    return Bid(crid, seat or f"seat-{crid}", round(amount * MICRO))


@pytest.mark.parametrize(
    ("bids", "floor", "at", "winner", "price"),
    [
        ([bid("a", 2), bid("b", 1)], 0, 1, "a", 2.0),
        ([bid("a", 2), bid("b", 1)], 0, 2, "a", 1.01),
        ([bid("a", 1.005), bid("b", 1)], 0, 2, "a", 1.005),
        ([bid("b", 1), bid("a", 1)], 0, 2, "a", 1.0),
        ([bid("a", 2), bid("b", 1)], 1.5, 2, "a", 1.5),
        ([bid("a", 2)], 0.5, 2, "a", 0.5),
        ([bid("a", 2)], 0, 2, "a", 0.0),
        ([bid("a", 2), bid("b", 1.9, "seat-a"), bid("c", 1)], 0, 2, "a", 1.01),
        ([bid("a", 1)], 1, 2, "a", 1.0),
        ([bid("a", 0)], 0, 2, "a", 0.0),
        ([bid("a", 0.999999)], 1, 1, None, 0.0),
        ([], 0, 2, None, 0.0),
    ],
)
def test_the_best_value_wins_and_pays_what_the_rules_say(bids, floor, at, winner, price):
    sale = sell(bids, int(floor * MICRO), at)
    assert (sale.winner and sale.winner.crid) == winner
    assert sale.price / MICRO == price


def test_an_unknown_auction_type_is_a_wrong_call():
    with pytest.raises(ValueError, match="auction type"):
        sell([], 0, 3)


many_bids = st.lists(
    st.builds(
        lambda crid, seat, amount: (crid, seat, amount), st.integers(0, 30), st.integers(0, 4), st.integers(0, 10**7)
    ),
    max_size=20,
    unique_by=lambda drawn: drawn[0],
).map(lambda drawn: [Bid(f"a{crid}", f"seat-{seat}", amount) for crid, seat, amount in drawn])


@given(many_bids, st.integers(0, 10**7), st.sampled_from([1, 2]), st.randoms())
def test_every_sale_keeps_its_promises_whatever_the_order_of_bids(bids, floor, at, random):
    sale = sell(bids, floor, at)
    shuffled = list(bids)
    random.shuffle(shuffled)
    assert sell(shuffled, floor, at) == sale
    best = max((one.value for one in bids), default=-1)
    assert (sale.winner is None) == (best < floor)
    if sale.winner is None:
        return
    assert sale.winner.value == best
    assert floor <= sale.price <= best
    rivals = [one.value for one in bids if one.seat != sale.winner.seat]
    assert sale.price >= min(best, max(rivals, default=0))
    if at == 2:
        assert sale.price <= max(floor, max(rivals, default=-INCREMENT) + INCREMENT)


@given(
    st.sampled_from(["cpm", "cpc", "cpa"]),
    st.integers(1, 10**7),
    st.integers(1, MICRO),
    st.integers(1, MICRO),
    st.data(),
)
def test_the_charge_is_the_smallest_offer_that_still_reaches_the_price(pricing, offer, click, act, data):
    one, chances = campaign(pricing=pricing, price=offer / MICRO), (click / MICRO, act / MICRO)
    price = data.draw(st.integers(0, value(one, chances)))
    paid = charge(one, price, chances)
    assert 0 <= paid <= offer
    assert value(campaign(pricing=pricing, price=paid / MICRO), chances) >= price
    if paid:
        assert value(campaign(pricing=pricing, price=(paid - 1) / MICRO), chances) < price


def test_a_click_that_never_comes_is_charged_as_offered():
    assert charge(campaign(pricing="cpc", price=0.5), 0, (0.0,)) == 500_000
