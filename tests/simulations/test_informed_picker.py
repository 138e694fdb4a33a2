"""The yardstick of the picker's value: who knows the market and reads a person's past must be nearer the truth."""

import numpy as np

from sottovoce.simulations.informed_picker import Informed
from sottovoce.simulations.picker_value import OneBlock, Truth, held_out


def test_a_past_brings_the_guess_nearer_to_the_truth_and_the_page_alone_less():
    market = OneBlock(0)
    informed, truth = Informed(market), Truth(market)
    asked = held_out(market, 40, 30, 1)
    ads = np.arange(0, 288, 3)
    off = {"past": 0.0, "page": 0.0}
    for one in asked:
        truth.of(one)
        for name in off:
            informed.of(one)
            if name == "page":
                # The same crowd, weighed by nothing but the page that asks.
                informed._known = one.person, np.zeros_like(informed._known[1])
                informed.of(one)
                informed._known = None
            click, bought = informed.chances(ads).T
            off[name] += np.abs(np.log(click) - np.log(truth.chances(ads)[:, 0])).mean()
            assert (bought > 0).all()
            assert (bought < 1).all()
    assert off["past"] < 0.85 * off["page"]


def test_weights_are_a_distribution_and_nobody_unlikely_counts():
    market = OneBlock(0)
    informed = Informed(market)
    informed.of(held_out(market, 40, 1, 1)[0])
    assert np.isclose(informed._weight.sum(), 1.0)
    assert 1 < len(informed._weight) < 4096
    assert informed._weight.min() > 5e-5 * informed._weight.max()
