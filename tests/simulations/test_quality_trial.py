"""What the long-term term does in the market: more conversions from the same visits, for a known share of the value."""

import numpy as np
import pytest

from sottovoce.client import auction
from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.value import QualityRule
from sottovoce.simulations import phone
from sottovoce.simulations.market import Market
from sottovoce.simulations.quality_trial import _values, trial


@pytest.fixture(scope="module")
def market():
    return Market(0)


def test_a_worth_of_conversions_earns_more_of_them_and_costs_some_value(market):
    off, on = trial(market, QualityRule(), 1000), trial(market, QualityRule(conversion_worth=0.3), 1000)
    assert on.conversions > 1.1 * off.conversions
    assert on.conversion_rate > off.conversion_rate
    assert 0.9 * off.value < on.value < off.value
    assert off.shown == on.shown == 1000


def test_a_floor_of_quality_leaves_places_empty_rather_than_filled_with_what_nobody_wants(market):
    off, on = trial(market, QualityRule(), 1000), trial(market, QualityRule(least_quality=0.1), 1000)
    assert on.conversion_rate > 1.03 * off.conversion_rate
    assert on.shown < off.shown
    assert trial(market, QualityRule(least_quality=1.0), 50).shown == 0


def test_values_are_those_of_the_auction(market):
    rng = np.random.default_rng(0)
    ads = np.arange(60)
    chances = rng.integers(0, 10**6, (60, 2))
    catalogue = decode_catalogue(phone.catalogue_json(market))
    known = [
        auction.value(catalogue.campaign[catalogue.ads[ad].cid], chance)
        for ad, chance in zip(ads, chances / 1e6, strict=True)
    ]
    assert np.abs(_values(market, ads, chances) - np.array(known)).max() <= 1
