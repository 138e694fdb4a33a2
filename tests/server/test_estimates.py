"""Figures from noisy sums: right without noise, honest about their error with it, silent when drowned."""

import math

import numpy as np
import pytest

from sottovoce.client.measurement import score_bin, tally
from sottovoce.server.estimates import middles, norms, platt, popularity, quality
from sottovoce.simulations.metrics import evaluate

EDGES = np.linspace(-4.0, 2.0, 31)


def world(rows=40_000, slope=1.0, intercept=0.0, seed=0):
    """Scores and clicks whose true logit is slope * logit + intercept, and their histogram."""
    draw = np.random.default_rng(seed)
    logit = draw.normal(-1.5, 0.9, rows)
    labels = (draw.random(rows) < 1 / (1 + np.exp(-(slope * logit + intercept)))).astype(np.int8)
    chances = 1 / (1 + np.exp(-logit))
    cells = 2 * score_bin(chances, EDGES) + labels
    return chances, labels, tally(np.arange(rows), cells, rows, 2 * (len(EDGES) + 1), 1.0)


def noisy(total, std, seed):
    return total + np.random.default_rng(seed).normal(0, std, total.shape)


def test_without_noise_quality_is_what_evaluate_says_but_for_the_width_of_a_bin():
    chances, labels, total = world()
    exact, found = evaluate(chances, labels, np.arange(len(labels)) // 10), quality(total, EDGES, 0.0)
    assert found.auc.value == pytest.approx(exact.auc, abs=2e-3)
    assert found.log_loss.value == pytest.approx(exact.log_loss, abs=1e-3)
    assert found.click_rate.value == pytest.approx(labels.mean(), abs=1e-12)
    assert found.rows.value == len(labels)
    assert found.auc.error == found.log_loss.error == found.click_rate.error == 0


def test_a_model_turned_upside_down_has_one_minus_the_auc():
    _, _, total = world()
    turned = total.reshape(-1, 2)[::-1].ravel()
    assert quality(turned, EDGES, 0.0).auc.value == pytest.approx(1 - quality(total, EDGES, 0.0).auc.value, abs=1e-12)


def test_the_stated_errors_are_the_errors():
    """Over 400 draws of the noise, deviation / stated error has a spread of 1: half or twice the error would show."""
    _, _, total = world()
    std = 20.0
    exact, draws = quality(total, EDGES, 0.0), [quality(noisy(total, std, n), EDGES, std) for n in range(400)]
    for name in ("auc", "log_loss", "click_rate", "rows"):
        truth = getattr(exact, name).value
        off = np.array([(getattr(d, name).value - truth) / getattr(d, name).error for d in draws])
        assert abs(off.std() - 1) < 0.15, name  # standard error 0.035
        assert abs(off.mean()) < 0.25, name  # standard error 0.05


def test_a_histogram_that_drowns_gives_no_figure_but_its_rows():
    found = quality(noisy(np.zeros(64), 50.0, 0), EDGES, 50.0)
    assert (found.auc, found.log_loss, found.click_rate) == (None, None, None)
    assert found.rows.error == pytest.approx(50.0 * 8)


def test_one_class_alone_has_no_auc_and_no_rows_have_nothing():
    _, _, total = world()
    total[1::2] = 0
    assert quality(total, EDGES, 0.0).auc is None
    assert quality(np.zeros(64), EDGES, 0.0).click_rate is None


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.6, -0.4), (1.5, 0.8)])
def test_platt_finds_the_correction_that_was_planted_within_its_error(slope, intercept):
    _, _, total = world(200_000, slope, intercept)
    exact = platt(total, EDGES, 0.0)
    assert exact.slope.value == pytest.approx(slope, abs=0.05)
    assert exact.intercept.value == pytest.approx(intercept, abs=0.05)
    draws = [platt(noisy(total, 40.0, n), EDGES, 40.0) for n in range(60)]
    for name in ("slope", "intercept"):
        off = [(getattr(d, name).value - getattr(exact, name).value) / getattr(d, name).error for d in draws]
        assert np.abs(off).max() < 6, name
        assert 0.5 < np.std(off) < 1.5, name


def test_platt_is_silent_where_fewer_than_two_bins_stand_out():
    assert platt(noisy(np.zeros(64), 50.0, 1), EDGES, 50.0) is None
    one = np.zeros(64)
    one[20], one[21] = 1000.0, 100.0
    assert platt(one, EDGES, 1.0) is None


def test_platt_is_silent_where_nobody_or_everybody_clicked():
    _, _, total = world()
    total[1::2] = 0
    assert platt(total, EDGES, 0.0) is None


def test_the_middle_of_a_bin_lies_between_its_edges():
    np.testing.assert_allclose(middles(np.array([0.0, 1.0, 3.0])), [-0.5, 0.5, 2.0, 4.0])
    np.testing.assert_allclose(middles(np.array([2.0])), [1.5, 2.5])


def test_shares_divide_by_the_public_number_whoever_answered():
    shares = norms(np.array([-30.0, 10.0]), np.array([0.5, 1.0]), 4.0, 100.0).shares
    assert [share.share.value for share in shares] == pytest.approx([0.2, 0.6])
    assert {share.share.error for share in shares} == {0.04}


def test_ads_that_nobody_saw_are_listed_about_as_seldom_as_promised():
    """500 catalogues of 300 unseen ads: 5 % of lists may hold one; a threshold one sigma lower would give 60 %."""
    lists = [popularity(noisy(np.zeros(600), 10.0, n), 10.0).ads for n in range(500)]
    assert sum(bool(found) for found in lists) <= 45


def test_popular_ads_come_first_with_rates_within_their_errors():
    seen, rate = np.array([5000.0, 20.0, 9000.0]), np.array([0.1, 0.5, 0.3])
    total = np.stack([seen, seen * rate], 1).ravel()
    found = popularity(noisy(total, 30.0, 0), 30.0)
    assert [ad.ad for ad in found.ads] == [2, 0]
    assert found.catalogue == 3
    for ad in found.ads:
        assert abs(ad.click_rate.value - rate[ad.ad]) < 4 * ad.click_rate.error
        assert ad.click_rate.error == pytest.approx(30.0 * math.hypot(1, ad.click_rate.value) / ad.impressions.value)
