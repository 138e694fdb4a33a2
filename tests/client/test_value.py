"""Worth beyond money: off changes nothing, numbers stay whole, cheap clicks stop winning, and prices hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sottovoce.client import auction
from sottovoce.client.auction import Bid
from sottovoce.client.reasons import Loss
from sottovoce.client.value import (
    QualityRule,
    dismissal_chances,
    long_term,
    price,
    recent,
    refused,
)

millionth = st.integers(0, 10**6)


@given(
    rows=st.lists(st.tuples(millionth, millionth, millionth, st.integers(0, 10**9)), min_size=1, max_size=5),
    heads=st.integers(1, 2),
)
def test_with_default_settings_every_term_is_0_and_nothing_is_refused(rows, heads):
    click, bought, dismissed, repeats = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    chances = np.stack([click, bought], 1)[:, :heads]
    term = long_term(QualityRule(), chances, dismissed, repeats)
    assert term.dtype == np.int64
    assert not term.any()
    assert not refused(QualityRule(), chances, np.zeros(len(rows), np.int64), term).any()


@given(
    amounts=st.tuples(*[st.floats(0, 1000)] * 3),
    row=st.tuples(millionth, millionth, millionth, st.integers(0, 10**12)),
)
def test_terms_are_what_whole_numbers_of_any_size_give(amounts, row):
    rule = QualityRule(conversion_worth=amounts[0], dismissal_cost=amounts[1], repeat_cost=amounts[2])
    click, bought, dismissed, repeats = row
    worth, cost, again = (auction.millionths(amount) for amount in amounts)
    known = (
        1000 * worth * click // 10**6 * bought // 10**6
        - 1000 * cost * dismissed // 10**6
        - 1000 * again * min(repeats, 10**9) // 10**6
    )
    found = long_term(rule, np.array([[click, bought]]), np.array([dismissed]), np.array([repeats]))
    assert found.tolist() == [known]


def test_cheap_clicks_that_come_to_nothing_no_longer_win():
    # 5 % click and nobody buys, against 2 % and one in five buys; both pay the same for a click.
    chances = np.array([[50_000, 0], [20_000, 200_000]])
    values = 1000 * 100_000 * chances[:, 0] // 10**6
    none = np.zeros(2, np.int64)
    assert values.argmax() == 0
    assert (values + long_term(QualityRule(conversion_worth=1.0), chances, none, none)).argmax() == 1
    assert refused(QualityRule(least_quality=0.01), chances, values, none).tolist() == [Loss.LOW_QUALITY, 0]
    assert refused(QualityRule(least_quality=0.2), chances, values, none).tolist() == [Loss.LOW_QUALITY, 0]


def test_without_a_conversion_head_quality_is_not_judged():
    chances = np.array([[50_000]])
    assert refused(QualityRule(least_quality=1.0), chances, np.array([1]), np.array([0])).tolist() == [0]
    assert long_term(QualityRule(conversion_worth=9.0), chances, np.array([0]), np.array([0])).tolist() == [0]


def test_an_ad_that_costs_the_person_more_than_it_earns_is_refused():
    rule = QualityRule(dismissal_cost=1.0)
    term = long_term(rule, np.array([[1, 0]] * 2), np.array([5, 6]), np.array([0, 0]))
    assert refused(rule, np.array([[1, 0]] * 2), np.array([5000, 5000]), term).tolist() == [0, Loss.NOT_WORTH_SHOWING]


def test_dismissals_are_drawn_towards_the_persons_own_share_and_that_one_towards_the_usual():
    rule = QualityRule(usual_dismissals=0.01, strength=20)
    nothing = dismissal_chances(rule, np.zeros(2, np.int64), np.zeros(2, np.int64))
    assert nothing.tolist() == [10_000, 10_000]
    often, never, unseen = dismissal_chances(rule, np.array([50, 50, 0]), np.array([25, 0, 0]))
    assert never < unseen < often < 500_000
    assert dismissal_chances(rule, np.array([1, -3]), np.array([10**9, 5])).max() <= 10**6


def test_repeats_fade_by_halves_and_clocks_that_were_set_back_count_as_now():
    rule = QualityRule(half_life_s=3600)
    assert recent(rule, []) == 0
    assert recent(rule, [0, 3600, 7200]) == 1_750_000
    assert recent(rule, [-1e9]) == 1_000_000
    assert recent(rule, [1e12]) == 0
    assert recent(rule, [0] * 5000) == 10**9


bids = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("xyz")), min_size=1, max_size=6)


@given(bids=bids, floor=st.integers(0, 10**6), at=st.sampled_from([1, 2]))
def test_without_terms_the_price_is_the_auctions(bids, floor, at):
    sale = auction.sell([Bid(f"{n}", seat, value) for n, (value, seat) in enumerate(bids)], floor, at)
    if sale.winner is not None:
        won = sale.winner
        behind = [bid.value for bid in sale.ranked if bid.seat != won.seat]
        assert price(won.value, won.value, behind, floor, at) == sale.price


@given(value=st.integers(0, 10**9), term=st.integers(-(10**9), 10**9), rival=st.integers(0, 10**9), data=st.data())
def test_no_price_is_above_the_value_or_below_the_floor(value, term, rival, data):
    floor = data.draw(st.integers(0, value))
    assert floor <= price(value, value + term, [rival], floor, 2) <= value


def test_a_term_above_0_makes_an_ad_cheaper_and_one_below_0_dearer():
    assert price(5_000_000, 6_000_000, [4_500_000], 0, 2) == 3_510_000
    assert price(5_000_000, 4_000_000, [3_500_000], 0, 2) == 4_510_000
    assert price(5_000_000, 6_000_000, [], 100, 2) == 100
    assert price(5_000_000, 6_000_000, [4_500_000], 0, 1) == 5_000_000


def test_an_unknown_auction_is_a_programmers_mistake():
    with pytest.raises(ValueError, match="auction type 3"):
        price(1, 1, [], 0, 3)
