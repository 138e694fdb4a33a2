"""The table that chooses by the page alone is the model, as far as the model adds up page and ad."""

import numpy as np
import pytest
from small_market import SCHEMA, Broken, Rule, ad, catalogue, market

from sottovoce.client import page_scorer as tables
from sottovoce.client.features import Encoder
from sottovoce.client.page_scorer import page_scorer
from sottovoce.privacy.errors import DeviceError

SHOP = market(40)
ENCODER = Encoder(SCHEMA, SHOP)
ADS = ENCODER.ads(np.arange(40))
NOBODY = np.zeros((6, 2), np.int32), np.zeros(6, np.int32)


class Linear:
    """Log odds that add up: one weight per ad, and one for each page with each category of ad."""

    def __init__(self, heads=2):
        rng = np.random.default_rng(4)
        self.ad, self.page = rng.normal(-2, 1, SCHEMA.rows), rng.normal(0, 1, (SCHEMA.rows, SCHEMA.rows))
        self.page[0] = 0.0
        self.heads, self.asked = heads, 0

    def scores(self, context, events, outcomes, ad):
        self.asked += len(ad)
        odds = self.ad[ad[:, 1]] + self.page[context[0, 1], ad[:, 0]]
        odds = odds + 5 * events.any() + 3 * bool(context[0, 0])
        return (1 / (1 + np.exp(-np.stack([odds, -odds][: self.heads], 1)))).astype(np.float32)


@pytest.mark.parametrize("heads", [1, 2])
def test_it_is_the_model_where_the_model_adds_up(heads):
    model = Linear(heads)
    found = page_scorer(ENCODER, model, SHOP)
    first = SCHEMA.offsets["page_category"]
    for value in (0, *range(first, first + 32)):
        page = np.array([[0, value]], np.int32)
        expected = model.scores(page, *NOBODY, ADS)
        assert np.abs(found.scores(page, *NOBODY, ADS) - expected).max() < 1e-6


def test_neither_device_nor_history_change_anything():
    found = page_scorer(ENCODER, Linear(), SHOP)
    some = np.full((6, 2), 45, np.int32), np.full(6, SCHEMA.outcome_row("click"), np.int32)
    page, both = np.array([[0, 12]], np.int32), np.array([[3, 12]], np.int32)
    assert (found.scores(page, *NOBODY, ADS) == found.scores(both, *some, ADS)).all()


def test_ads_that_the_model_cannot_tell_apart_share_a_place_and_unknown_ones_are_refused():
    twin = ad("b", "c0", features=SHOP.ads[0].features)
    shop = catalogue(SHOP.campaigns[:2], (SHOP.ads[0], twin))
    encoder = Encoder(SCHEMA, shop)
    found = page_scorer(encoder, Linear(), shop)
    twins = found.scores(np.zeros((1, 2), np.int32), *NOBODY, encoder.ads(np.arange(2)))
    assert (twins[0] == twins[1]).all()
    with pytest.raises(DeviceError, match="does not know an ad"):
        found.scores(np.zeros((1, 2), np.int32), *NOBODY, ADS[5:6])


def test_what_the_table_costs_is_bounded_and_then_only_the_base_is_left(monkeypatch):
    monkeypatch.setattr(tables, "MOST_SCORED", 31)
    model = Linear()
    found = page_scorer(ENCODER, model, SHOP)
    assert model.asked == 40
    page = np.array([[0, 12]], np.int32)
    plain = model.scores(np.zeros((1, 2), np.int32), *NOBODY, ADS)
    assert np.abs(found.scores(page, *NOBODY, ADS) - plain).max() < 1e-6


def test_no_table_is_made_of_a_broken_model_or_of_no_ads():
    with pytest.raises(DeviceError):
        page_scorer(ENCODER, Broken("nan"), SHOP)
    empty = catalogue((), ())
    with pytest.raises(DeviceError, match="no ads"):
        page_scorer(Encoder(SCHEMA, empty), Rule(), empty)
