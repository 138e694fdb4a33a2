"""The sale of thousands is the sale of a handful, to the last micro-unit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_market import campaign

from sottovoce.client import auction
from sottovoce.client.auction import MICRO, PRICINGS, UNPRICED, Bid
from sottovoce.client.offers import Drawn, Offers
from sottovoce.client.reasons import Loss
from sottovoce.client.sale import best, sold

prices = st.floats(0, 1e6) | st.sampled_from([0.0, 1e-6, 1e6, 999999.999999])
chances = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 0.5, 1e-6, 5e-7])


@given(st.lists(st.tuples(st.sampled_from(PRICINGS), prices, chances, chances), min_size=1, max_size=30), st.booleans())
def test_values_of_many_are_the_values_of_each(drawn, two_heads):
    scores = np.array([row[2 : 4 if two_heads else 3] for row in drawn], np.float32)
    price = np.array([auction.millionths(row[1]) for row in drawn])
    pricing = np.array([PRICINGS.index(row[0]) for row in drawn])
    expected = [
        auction.value(campaign(pricing=kind, price=amount), row.tolist())
        for (kind, amount, *_), row in zip(drawn, scores, strict=True)
    ]
    found = auction.values(price, pricing, auction.grid(scores)).tolist()
    assert found == [UNPRICED if value is None else value for value in expected]


def offers(drawn):
    """Offers of (crid number, seat, worth), the rank of a crid its number."""
    order, seat, worth = (np.array(column, np.int64) for column in zip(*drawn, strict=True))
    count = len(drawn)
    return Offers(
        np.arange(count), order, seat, np.zeros((count, 2), np.int64), worth, worth, np.zeros(count, np.int16)
    )


bids = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 30) | st.integers(0, 10**15)),
    min_size=1,
    max_size=20,
    unique_by=lambda one: one[0],
)


@given(bids, st.integers(0, 40), st.sampled_from([1, 2]))
def test_the_same_ad_wins_at_the_same_price(drawn, floor, at):
    plain = auction.sell([Bid(f"{order:03}", str(seat), worth) for order, seat, worth in drawn], floor, at)
    sale = sold(offers(drawn), floor, at)
    assert (sale.row is None) == (plain.winner is None)
    if sale.row is not None:
        assert f"{drawn[sale.row][0]:03}" == plain.winner.crid
        assert sale.price == plain.price
        assert sale.codes[sale.row] == 0
    others = [code for row, code in enumerate(sale.codes) if row != sale.row]
    below = [worth < floor for row, (_, _, worth) in enumerate(drawn) if row != sale.row]
    assert others == [Loss.BELOW_FLOOR if low else Loss.OUTBID for low in below]


@given(bids, st.integers(1, 9))
def test_the_best_are_the_first_of_all_in_order(drawn, count):
    made = offers(drawn)
    ranked = sorted(range(len(drawn)), key=lambda row: (-drawn[row][2], drawn[row][0]))
    assert best(made.worth, made.order, count).tolist() == ranked[:count]
    assert made.ranked().tolist() == ranked


def last(given, draw):
    """An explorer that always draws the last."""
    return Drawn(len(given.ads) - 1, np.full(len(given.ads), 1 / len(given.ads)))


@given(bids, st.integers(0, 40), st.sampled_from([1, 2]))
def test_an_explored_ad_pays_what_its_own_place_gives_and_its_chance_is_kept(drawn, floor, at):
    sale = sold(offers(drawn), floor, at, last, 0.5)
    able = [one for one in sorted(drawn, key=lambda one: (-one[2], one[0])) if one[2] >= floor]
    if not able:
        assert sale.row is None
        return
    top = able[:8]
    assert drawn[sale.row] == top[-1]
    assert sale.propensity == pytest.approx(1 / len(top))
    assert [drawn[row] for row, _ in sale.considered] == top
    rest = [one for one in drawn if (-one[2], one[0]) >= (-top[-1][2], top[-1][0])]
    alone = auction.sell([Bid(f"{order:03}", str(seat), worth) for order, seat, worth in rest], floor, at)
    assert sale.price == alone.price <= top[-1][2]


def test_a_candidate_that_a_rule_refused_neither_wins_nor_raises_a_price():
    made = offers([(0, 0, 5 * MICRO), (1, 1, 4 * MICRO), (2, 2, MICRO)])
    out = Offers(made.ads, made.order, made.seat, made.chances, made.value, made.worth, np.array([0, 530, 0], np.int16))
    sale = sold(out, 0, 2)
    assert (sale.row, sale.price) == (0, MICRO + auction.INCREMENT)
    assert sale.codes.tolist() == [0, 530, Loss.OUTBID]


def test_nobody_pays_more_than_its_value_however_much_it_is_worth():
    made = offers([(0, 0, 5 * MICRO), (1, 1, 4 * MICRO)])
    worth = np.array([5 * MICRO, 9 * MICRO])
    sale = sold(Offers(made.ads, made.order, made.seat, made.chances, made.value, worth, made.codes), 0, 2)
    assert (sale.row, sale.price) == (1, 4 * MICRO)
