"""A gap is the largest difference between slices that are large enough to tell."""

import numpy as np
import pytest

from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations import market
from sottovoce.simulations.slices import SLICE_CLASS, SLICE_ROWS, gap, slice_of

HALF = np.tile([0, 1], 200).astype(np.int8)
"""Labels of 400 rows."""


def three(*scores):
    """Three slices of 400 rows, each with scores of its own."""
    return np.concatenate(scores), np.tile(HALF, 3), np.repeat(np.int32([7, 8, 9]), 400)


def test_the_gap_in_auc_is_between_the_best_and_the_worst_slice():
    right, chance, mostly = HALF * 0.8 + 0.1, np.full(400, 0.5), np.where(np.arange(400) < 200, HALF, 0.5)
    assert gap(*three(right, chance, mostly), "auc") == pytest.approx(0.5)
    assert gap(*three(right, mostly, right), "auc") == pytest.approx(0.125 * 2, abs=0.13)
    assert gap(*three(right, right, right), "auc") == 0.0


def test_the_gap_in_calibration_keeps_the_sign():
    """One slice told 0.1 too much and another 0.1 too little are 0.2 apart, though both are as far from the truth."""
    assert gap(*three(np.full(400, 0.6), np.full(400, 0.4), np.full(400, 0.5)), "calibration") == pytest.approx(0.2)


@pytest.mark.parametrize("figure", ["auc", "calibration"])
def test_a_slice_too_small_to_tell_does_not_count_and_one_alone_has_no_gap(figure):
    scores, labels, slices = three(np.full(400, 0.5), np.full(400, 0.5), HALF * 0.8 + 0.1)
    few = slices.copy()
    few[800 + SLICE_ROWS - 1 :] = 7
    assert gap(scores, labels, few, figure) is not None
    assert gap(scores, labels, np.where(slices == 9, 9, 7), figure) is not None
    assert gap(scores, labels, np.where(np.arange(1200) < SLICE_ROWS - 1, 9, 7), figure) is None
    assert gap(scores, labels, np.zeros(1200, np.int32), figure) is None


def test_a_slice_with_hardly_a_click_has_no_auc():
    labels = np.concatenate([HALF, np.zeros(400, np.int8)])
    slices = np.repeat(np.int32([1, 2]), 400)
    labels[400 : 400 + SLICE_CLASS - 1] = 1
    assert gap(np.full(800, 0.5), labels, slices, "auc") is None
    labels[400 + SLICE_CLASS] = 1
    assert gap(np.full(800, 0.5), labels, slices, "auc") == 0.0


def test_a_slice_is_found_by_the_name_of_a_device_or_of_a_context_feature():
    dataset = market.load(60, 0, 10)
    valid, schema = dataset.valid, dataset.schema
    for feature in schema.context:
        found = slice_of(valid, schema, feature.name)
        first = schema.offsets[feature.name]
        assert found.shape == (valid.rows,)
        assert all(value == 0 or first <= value < first + feature.buckets for value in np.unique(found))
    with pytest.raises(ConfigError, match="'ad_id' is no device or context feature"):
        slice_of(valid, schema, "ad_id")
