"""Intervals over devices: each resample is exactly what `evaluate` says of the devices that were drawn."""

import numpy as np
import pytest

from sottovoce.privacy.errors import DataError
from sottovoce.simulations.bootstrap import FIGURES, drawings, intervals, resampled
from sottovoce.simulations.metrics import evaluate


def rows(seed, devices=40, most=9, rate=0.3, levels=7):
    """Scores with many ties, labels that follow them a little, and devices whose numbers have gaps."""
    rng = np.random.default_rng(seed)
    device = np.repeat(np.arange(devices) * 3 + 5, rng.integers(1, most + 1, devices))
    scores = rng.integers(0, levels, len(device)) / levels
    labels = (rng.random(len(device)) < rate * (0.5 + scores)).astype(np.int8)
    mixed = rng.permutation(len(device))
    return scores[mixed], labels[mixed], device[mixed]


def repeated(scores, labels, device, times):
    """The rows of every device as often as it was drawn, each time as another device."""
    numbers = np.unique(device)
    parts = [
        (np.flatnonzero(device == number), copy)
        for number, count in zip(numbers, times, strict=True)
        for copy in range(count)
    ]
    taken = np.concatenate([where for where, _ in parts])
    owner = np.concatenate([np.full(len(where), new) for new, (where, _) in enumerate(parts)])
    return scores[taken], labels[taken], owner


@pytest.mark.parametrize("levels", [2, 7, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_every_figure_of_a_resample_is_that_of_its_rows_written_out(seed, levels):
    columns = rows(seed, levels=levels)
    drawn = drawings(40, 12, np.random.default_rng(seed))
    found = resampled(*columns, iter([drawn[:5], drawn[5:]]))
    for times, figures in zip(drawn, found, strict=True):
        told = evaluate(*repeated(*columns, times))
        wanted = (told.auc, told.gauc, told.ndcg_at_5, told.primary, told.log_loss, told.calibration_error)
        assert figures == pytest.approx(wanted, abs=1e-12)


def test_as_many_devices_are_drawn_as_there_are_and_each_equally_often():
    drawn = drawings(50, 4000, np.random.default_rng(0))
    assert (drawn.sum(1) == 50).all()
    # Each mean has a standard deviation of 0.016: a device left out, or drawn a tenth more often, would be seen.
    assert np.abs(drawn.mean(0) - 1).max() < 0.07
    assert drawn.var(0).mean() == pytest.approx(0.98, abs=0.05)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    # AUC of scores that know nothing is one half.
    covered = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        device = np.repeat(np.arange(60), 8)
        labels = (rng.random(480) < 0.3).astype(np.int8)
        found = intervals(rng.random(480), labels, device, 150, rng)
        covered += found["auc"].low <= 0.5 <= found["auc"].high
    # 95 % of 120 is 114 with a standard deviation of 2.4; rows counted as if each were its own file would fall below.
    assert 104 <= covered <= 120


def test_few_positives_give_a_wide_interval_and_say_so():
    device = np.repeat(np.arange(30), 5)
    labels = np.zeros(150, np.int8)
    labels[:2] = 1
    scores = np.random.default_rng(0).random(150)
    found = intervals(scores, labels, device, 500, np.random.default_rng(1))
    # Without its one device with positives, which happens to 36 % of the resamples, there is no AUC.
    assert found["auc"].defined == pytest.approx(0.64, abs=0.07)
    assert found["log_loss"].defined == 1.0


def test_a_higher_level_gives_a_wider_interval_around_the_figure():
    columns = rows(1)
    narrow = intervals(*columns, 400, np.random.default_rng(2), level=0.5)
    wide = intervals(*columns, 400, np.random.default_rng(2))
    told = evaluate(*columns)
    assert tuple(wide) == FIGURES
    assert wide["auc"].low < narrow["auc"].low < told.auc < narrow["auc"].high < wide["auc"].high


def test_the_same_source_of_chance_gives_the_same_intervals_whatever_is_held_at_once(monkeypatch):
    columns = rows(3)
    whole = intervals(*columns, 30, np.random.default_rng(5))
    monkeypatch.setattr("sottovoce.simulations.bootstrap.CELLS", 1)
    apart = intervals(*columns, 30, np.random.default_rng(5))
    for name, found in whole.items():
        assert (apart[name].low, apart[name].high) == pytest.approx((found.low, found.high), abs=1e-12)


def test_what_cannot_be_judged_is_refused():
    scores, labels, device = rows(0)
    with pytest.raises(DataError, match="labels are 0"):
        intervals(scores, np.zeros_like(labels), device, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="resamples"):
        intervals(scores, labels, device, 0, np.random.default_rng(0))
