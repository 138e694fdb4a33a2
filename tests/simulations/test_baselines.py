import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sottovoce.client.examples import Examples
from sottovoce.privacy.errors import DataError
from sottovoce.simulations.baselines import Popularity, random_scores
from sottovoce.simulations.metrics import evaluate


def one_device(ads, labels, catalogue=3):
    ads, labels = np.array(ads, np.int32), np.array(labels, np.int8)
    return Examples(
        np.array([0, len(ads)]),
        np.zeros((1, 0), np.int32),
        np.zeros((len(ads), 0), np.int32),
        ads,
        labels if labels.ndim == 2 else labels[:, None],
        np.arange(1, catalogue + 1, dtype=np.int32)[:, None],
    )


def test_random_scores_repeat_with_their_seed_and_only_with_it():
    assert np.array_equal(random_scores(100, 7), random_scores(100, 7))
    assert not np.array_equal(random_scores(100, 7), random_scores(100, 8))


def test_random_scores_rank_like_chance():
    labels = (np.arange(50_000) % 3 == 0).astype(np.int8)
    assert evaluate(random_scores(50_000, 1), labels, np.arange(50_000) // 10).auc == pytest.approx(0.5, abs=0.01)


def test_popularity_by_hand():
    model = Popularity.fit(one_device([0, 0, 0, 1], [1, 1, 0, 0]), smoothing=2)
    assert model.rates == pytest.approx([(2 + 2 * 0.5) / 5, (0 + 2 * 0.5) / 3, 0.5])
    assert model.score(one_device([2, 1, 0], [0, 0, 0])) == pytest.approx([0.5, 1 / 3, 0.6])


def test_only_clicks_count_when_conversions_are_there_too():
    clicks = Popularity.fit(one_device([0, 1], [[1, 0], [0, 0]]))
    assert clicks.rates[0] > clicks.rates[1]
    conversions_only = Popularity.fit(one_device([0, 1], [[1, 1], [0, 0]]))
    assert np.array_equal(clicks.rates, conversions_only.rates)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=40),
    st.floats(0.01, 1000),
)
def test_a_rate_lies_between_the_ads_own_and_the_average(rows, smoothing):
    ads, labels = np.array(rows).T
    rates = Popularity.fit(one_device(ads, labels, 5), smoothing).rates
    for ad in range(5):
        own = labels[ads == ad].mean() if (ads == ad).any() else labels.mean()
        low, high = sorted([own, labels.mean()])
        assert low - 1e-12 <= rates[ad] <= high + 1e-12


def test_a_lucky_ad_shown_once_does_not_beat_a_good_ad_shown_often():
    ads, labels = [0] + [1] * 100 + [2] * 100, [1] + [1] * 60 + [0] * 40 + [0] * 100
    rates = Popularity.fit(one_device(ads, labels)).rates
    assert rates[1] > rates[0] > rates[2]


def test_wrong_calls_and_empty_files_are_refused():
    with pytest.raises(DataError, match="no training rows"):
        Popularity.fit(one_device([], []))
    with pytest.raises(ValueError, match="smoothing"):
        Popularity.fit(one_device([0], [1]), smoothing=0)
    with pytest.raises(ValueError, match="fitted on 3 ads, asked about 4"):
        Popularity.fit(one_device([0], [1])).score(one_device([0], [1], catalogue=4))
