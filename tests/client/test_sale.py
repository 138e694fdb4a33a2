"""The sale of thousands is the sale of a handful, to the last micro-unit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_market import campaign

from sottovoce.client import auction
from sottovoce.client.auction import MICRO, PRICINGS, UNPRICED, Bid
from sottovoce.client.exploration import Candidates, Exploration
from sottovoce.client.offers import Offers, weighed
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
    nothing, weight = np.zeros(count, np.int64), np.full(count, MICRO)
    chances, codes = np.zeros((count, 2), np.int64), np.zeros(count, np.int16)
    return Offers(np.arange(count), order, seat, chances, worth, nothing, weight, worth, codes)


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


def known(given):
    """The offers as exploration sees them, nothing of them uncertain."""

    def of(rows):
        sure = np.zeros(len(rows))
        worth = given.worth[rows]
        return Candidates(given.value[rows], worth, np.zeros_like(worth), sure, np.arange(len(rows)), sure, sure)

    return of


TRIES = Exploration(method="epsilon", epsilon=0.5)


@given(bids, st.integers(0, 40), st.sampled_from([1, 2]), st.floats(0, 1, exclude_max=True))
def test_an_explored_ad_pays_what_its_own_place_gives_and_its_chance_is_kept(drawn, floor, at, draw):
    made = offers(drawn)
    sale = sold(made, floor, at, TRIES, known(made), draw)
    able = [one for one in sorted(drawn, key=lambda one: (-one[2], one[0])) if one[2] >= floor]
    if not able:
        assert sale.row is None
        return
    top = able[:8]
    place = top.index(drawn[sale.row])
    assert sale.propensity == pytest.approx(0.5 * (place == 0) + 0.5 / len(top) if len(top) > 1 else 1.0)
    assert [drawn[row] for row, _ in sale.considered] == top
    assert sum(chance for _, chance in sale.considered) == 1.0
    rest = [one for one in drawn if (-one[2], one[0]) >= (-top[place][2], top[place][0])]
    alone = auction.sell([Bid(f"{order:03}", str(seat), worth) for order, seat, worth in rest], floor, at)
    assert sale.price == alone.price <= top[place][2]
    assert 0.0 <= sale.rest < 1.0


def test_what_is_left_of_a_draw_is_uniform_whichever_ad_was_drawn():
    made = offers([(n, n, (9 - n) * MICRO) for n in range(5)])
    left = {row: [] for row in range(5)}
    for step in range(20_000):
        sale = sold(made, 0, 2, TRIES, known(made), step / 20_000)
        left[sale.row].append(sale.rest)
    for found in left.values():
        spread = np.histogram(found, 10, (0.0, 1.0))[0] / len(found)
        assert np.abs(spread - 0.1).max() < 0.001


markets = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.integers(0, 3),
        st.integers(0, 30) | st.integers(0, 10**9),
        st.integers(-20, 20) | st.integers(-(10**9), 10**9),
        st.sampled_from([0, 1, 500_000, MICRO, 2 * MICRO, 100 * MICRO]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda one: one[0],
)


def ranked(drawn):
    """Offers of (crid number, seat, value, term, weight); those worth less than nothing are refused."""
    made = offers([one[:3] for one in drawn])
    term, weight = (np.array(column, np.int64) for column in list(zip(*drawn, strict=True))[3:])
    codes = np.where(made.value + term < 0, Loss.NOT_WORTH_SHOWING, 0).astype(np.int16)
    worth = weighed(made.value + term, weight)
    return replace(made, term=term, weight=weight, worth=worth, codes=codes)


@given(markets, st.integers(0, 10**6) | st.integers(0, 40), st.sampled_from([1, 2]), st.floats(0, 1, exclude_max=True))
def test_whatever_it_is_worth_nobody_pays_above_its_value_and_nobody_is_lifted_over_a_floor(drawn, floor, at, draw):
    made = ranked(drawn)
    for rule in (Exploration(), TRIES):
        sale = sold(made, floor, at, rule, known(made), draw)
        able = (made.codes == 0) & (made.value >= floor)
        assert (sale.row is None) == (not able.any())
        if sale.row is not None:
            assert able[sale.row]
            assert floor <= sale.price <= made.value[sale.row]
            assert able[[row for row, _ in sale.considered]].all()
        assert (sale.codes[(made.codes == 0) & (made.value < floor)] == Loss.BELOW_FLOOR).all()


@given(markets, st.integers(0, 40))
def test_with_its_price_for_a_value_an_ad_still_stands_before_everyone_it_beat(drawn, floor):
    made = ranked(drawn)
    sale = sold(made, floor, 2)
    if sale.row is None or sale.price == made.value[sale.row]:
        return
    lower = made.value.copy()
    lower[sale.row] = sale.price
    worth = weighed(lower + made.term, made.weight)
    rivals = (made.codes == 0) & (made.value >= floor) & (made.seat != made.seat[sale.row])
    if rivals.any() and made.weight[sale.row]:
        assert worth[sale.row] >= made.worth[rivals].max()


def test_a_candidate_that_a_rule_refused_neither_wins_nor_raises_a_price():
    made = offers([(0, 0, 5 * MICRO), (1, 1, 4 * MICRO), (2, 2, MICRO)])
    sale = sold(replace(made, codes=np.array([0, 530, 0], np.int16)), 0, 2)
    assert (sale.row, sale.price) == (0, MICRO + auction.INCREMENT)
    assert sale.codes.tolist() == [0, 530, Loss.OUTBID]


def test_twice_the_interest_halves_what_an_advertiser_must_bid_and_no_more_is_paid_than_bid():
    wanted = ranked([(0, 0, 5 * MICRO, 0, MICRO), (1, 1, 4 * MICRO, 0, 2 * MICRO)])
    sale = sold(wanted, 0, 2)
    assert (sale.row, sale.price) == (1, 5 * MICRO // 2 + auction.INCREMENT)
    close = ranked([(0, 0, 5 * MICRO, 0, MICRO), (1, 1, 5 * MICRO, 0, MICRO)])
    assert sold(close, 0, 2).price == 5 * MICRO
