import itertools
import math
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.errors import DataError
from sottovoce.simulations.metrics import Metrics, calibration_curve, evaluate

DATA = Path(os.environ.get("SOTTOVOCE_DATA") or Path(__file__).parents[3] / "shared" / "data") / "kuairand_pure"


def columns(rows):
    scores, labels, devices = zip(*rows, strict=True)
    return np.array(scores, np.float64), np.array(labels, np.int8), np.array(devices, np.int64)


def slow_auc(scores, labels):
    pairs = [(p, n) for p in scores[labels == 1] for n in scores[labels == 0]]
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


def slow_ndcg(scores, labels):
    """Mean over every order of the rows of the plain nDCG at 5, ties resolved by that order."""
    if not labels.any():
        return 0.0
    discount = [1 / math.log2(place + 2) for place in range(5)]
    best = sum(discount[: int(labels.sum())])
    found = []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda row: -scores[row])[:5]
        found.append(sum(discount[place] * labels[row] for place, row in enumerate(ranked)) / best)
    return sum(found) / len(found)


def slow_evaluate(scores, labels, device):
    groups = [device == d for d in sorted(set(device.tolist()))]
    mixed = [g for g in groups if 0 < labels[g].sum() < g.sum()]
    weights = [int(labels[g].sum()) for g in mixed]
    gauc = sum(w * slow_auc(scores[g], labels[g]) for w, g in zip(weights, mixed, strict=True)) / sum(weights)
    ndcg = sum(slow_ndcg(scores[g], labels[g]) for g in groups) / len(groups)
    return slow_auc(scores, labels), gauc, ndcg


# Few distinct scores, so that ties are the rule; at most six rows a device, so that every order can be tried.
some_rows = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(0, 1), st.integers(-2, 3)),
    min_size=2,
    max_size=18,
).filter(
    lambda rows: (
        any({0, 1} <= {label for _, label, d in rows if d == device} for device in range(-2, 4))
        and all(sum(d == device for _, _, d in rows) <= 6 for device in range(-2, 4))
    )
)


@settings(max_examples=120, deadline=None)
@given(some_rows)
def test_fast_figures_equal_their_definitions(rows):
    scores, labels, device = columns(rows)
    found = evaluate(scores, labels, device)
    auc, gauc, ndcg = slow_evaluate(scores, labels, device)
    assert found.auc == pytest.approx(auc, abs=1e-12)
    assert found.gauc == pytest.approx(gauc, abs=1e-12)
    assert found.ndcg_at_5 == pytest.approx(ndcg, abs=1e-12)
    assert found.primary == pytest.approx((gauc + ndcg) / 2, abs=1e-12)
    assert (found.devices, found.rows) == (len(set(device.tolist())), len(rows))


@settings(max_examples=100, deadline=None)
@given(some_rows, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(rows, random):
    before = msgspec.structs.asdict(evaluate(*columns(rows)))
    random.shuffle(rows)
    assert msgspec.structs.asdict(evaluate(*columns(rows))) == pytest.approx(before, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(some_rows)
def test_ranking_ignores_a_rising_change_of_scale(rows):
    scores, labels, device = columns(rows)
    one, other = evaluate(scores, labels, device), evaluate(scores**3 / 2 + 0.1, labels, device)
    assert (one.auc, one.gauc, one.ndcg_at_5) == pytest.approx((other.auc, other.gauc, other.ndcg_at_5))


@settings(max_examples=100, deadline=None)
@given(some_rows)
def test_turning_the_ranking_round_turns_auc_round(rows):
    scores, labels, device = columns(rows)
    assert evaluate(1 - scores, labels, device).auc == pytest.approx(1 - evaluate(scores, labels, device).auc)


def test_one_device_of_seven_rows_by_hand():
    # Positives at places 1 and 6 of seven: the second is beyond the fifth place and earns nothing.
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    labels = np.array([1, 0, 0, 0, 0, 1, 0], np.int8)
    found = evaluate(scores, labels, np.zeros(7, np.int64))
    assert found.ndcg_at_5 == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert found.auc == found.gauc == pytest.approx((5 + 1) / 10)


def test_a_device_weighs_by_its_positives_and_not_by_its_rows():
    scores = np.array([0.9, 0.1, 0.8, 0.7, 0.1, 0.2, 0.3, 0.4])
    labels = np.array([1, 0, 0, 0, 1, 1, 1, 0], np.int8)
    device = np.array([1, 1, 2, 2, 2, 2, 2, 2])
    assert evaluate(scores, labels, device).gauc == pytest.approx((1 * 1.0 + 3 * 0.0) / 4)


def test_a_device_without_positives_counts_as_zero_in_ndcg_and_not_at_all_in_gauc():
    scores, labels = np.array([0.9, 0.1]), np.array([1, 0], np.int8)
    alone = evaluate(scores, labels, np.array([0, 0]))
    joined = evaluate(np.append(scores, [0.5, 0.6]), np.append(labels, [0, 0]).astype(np.int8), np.array([0, 0, 1, 1]))
    assert (alone.ndcg_at_5, joined.ndcg_at_5) == (1.0, 0.5)
    assert alone.gauc == joined.gauc == 1.0


def test_log_loss_and_its_clip_by_hand():
    device = np.zeros(2, np.int64)
    assert evaluate(np.array([0.8, 0.4]), np.array([1, 0], np.int8), device).log_loss == pytest.approx(
        -(math.log(0.8) + math.log(0.6)) / 2
    )
    assert evaluate(np.array([0.0, 1.0]), np.array([1, 0], np.int8), device).log_loss == pytest.approx(-math.log(1e-7))


def test_calibration_of_a_constant_is_its_distance_to_the_rate():
    labels = np.array([1, 0, 0, 0] * 25, np.int8)
    assert calibration_curve(np.full(100, 0.4), labels) == [(pytest.approx(0.4), 0.25, 100)]
    assert evaluate(np.full(100, 0.4), labels, np.zeros(100, np.int64)).calibration_error == pytest.approx(0.15)


def test_calibration_bins_hold_equal_mass_when_scores_are_distinct():
    scores = np.linspace(0, 1, 1000)
    points = calibration_curve(scores, (np.arange(1000) % 2).astype(np.int8), 8)
    assert [rows for _, _, rows in points] == [125] * 8
    assert [mean for mean, _, _ in points] == pytest.approx(scores.reshape(8, 125).mean(1))
    assert all(observed == pytest.approx(0.5, abs=0.01) for _, observed, _ in points)


def test_equal_scores_go_to_the_bin_that_holds_the_middle_of_them():
    scores, labels = np.repeat([0.1, 0.2], [40, 60]), np.array([1, 0] * 50, np.int8)
    assert [rows for _, _, rows in calibration_curve(scores, labels, 2)] == [40, 60]
    assert [rows for _, _, rows in calibration_curve(scores, labels, 1)] == [100]


def test_calibration_error_is_the_mean_gap_over_ten_bins():
    rng = np.random.default_rng(2)
    scores, labels = rng.random(500), (rng.random(500) < 0.4).astype(np.int8)
    points = calibration_curve(scores, labels, 10)
    assert len(points) == 10
    gap = sum(rows * abs(mean - observed) for mean, observed, rows in points) / 500
    assert evaluate(scores, labels, np.arange(500) // 5).calibration_error == pytest.approx(gap)


@settings(max_examples=60, deadline=None)
@given(some_rows, st.integers(1, 12))
def test_calibration_bins_account_for_every_row_and_every_positive(rows, bins):
    scores, labels, _ = columns(rows)
    points = calibration_curve(scores, labels, bins)
    assert 1 <= len(points) <= bins
    assert sum(n for _, _, n in points) == len(rows)
    assert sum(observed * n for _, observed, n in points) == pytest.approx(labels.sum())
    assert sum(mean * n for mean, _, n in points) == pytest.approx(scores.sum())


def test_true_probabilities_are_calibrated_and_twice_the_odds_are_not():
    rng = np.random.default_rng(5)
    truth = rng.uniform(0.05, 0.5, 200_000)
    labels, device = (rng.random(200_000) < truth).astype(np.int8), rng.integers(0, 9, 200_000)
    assert evaluate(truth, labels, device).calibration_error < 0.005
    assert evaluate(2 * truth / (1 + truth), labels, device).calibration_error > 0.1


def test_json_uses_the_published_name_of_ndcg():
    found = evaluate(np.array([0.9, 0.1]), np.array([1, 0], np.int8), np.array([0, 0]))
    text = msgspec.json.encode(found)
    assert list(msgspec.json.decode(text)) == [
        "auc", "gauc", "ndcg@5", "primary", "log_loss", "calibration_error", "devices", "rows"
    ]  # fmt: skip
    assert msgspec.json.decode(text, type=Metrics) == found


@pytest.mark.parametrize(
    ("scores", "labels", "device", "message"),
    [
        ([], [], [], "no rows"),
        ([0.1, 0.2], [1, 1], [0, 0], "all 2 labels are 1"),
        ([0.1, 0.2], [0, 0], [0, 0], "all 2 labels are 0"),
        ([0.1, 0.2], [1, 2], [0, 0], "label of row 1 is 2"),
        ([0.1, 0.2], [1, 0], [0, 1], "no device has both"),
        ([0.1, float("nan"), float("nan")], [1, 0, 0], [0, 0, 0], "score of row 1 is nan"),
        ([0.1, 0.2, float("inf")], [1, 0, 0], [0, 0, 0], "score of row 2 is inf"),
        ([-1.5, 0.2], [1, 0], [0, 0], "score of row 0 is -1.5, not a probability"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_its_row(scores, labels, device, message):
    with pytest.raises(DataError, match=message) as caught:
        evaluate(np.array(scores, np.float64), np.array(labels, np.int8), np.array(device, np.int64))
    assert caught.value.todo


def test_columns_of_unlike_length_are_a_wrong_call():
    scores, labels = np.array([0.1, 0.2]), np.array([1, 0], np.int8)
    with pytest.raises(ValueError, match="3 labels"):
        evaluate(scores, np.array([1, 0, 0], np.int8), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="1 devices"):
        evaluate(scores, labels, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="bins"):
        calibration_curve(scores, labels, 0)


@pytest.fixture(scope="module")
def kuairand():
    if not (DATA / "valid.parquet").is_file():
        pytest.skip("KuaiRand-Pure is not here: name its folder in SOTTOVOCE_DATA")
    parquet = pytest.importorskip("pyarrow.parquet")
    train = parquet.read_table(DATA / "train.parquet", columns=["video_id", "long_view"])
    valid = parquet.read_table(DATA / "valid.parquet", columns=["user_id", "video_id", "long_view"])
    shown = np.bincount(train["video_id"].to_numpy(), minlength=7583)
    liked = np.bincount(train["video_id"].to_numpy(), train["long_view"].to_numpy(), minlength=7583)
    popularity = (liked + 20 * liked.sum() / shown.sum()) / (shown + 20)
    return (
        popularity[valid["video_id"].to_numpy()],
        valid["long_view"].to_numpy().astype(np.int8),
        valid["user_id"].to_numpy(),
    )


def test_published_figures_of_kuairand_come_out(kuairand):
    popularity, labels, device = kuairand
    random = [evaluate(np.random.default_rng(s).random(len(labels)), labels, device).primary for s in range(3)]
    assert np.mean(random) == pytest.approx(0.470, abs=0.003)
    assert evaluate(labels.astype(np.float64), labels, device).primary == pytest.approx(0.787, abs=0.001)
    popular = evaluate(popularity, labels, device)
    assert popular.primary == pytest.approx(0.555, abs=0.003)
    assert popular.auc == pytest.approx(0.696, abs=0.003)
    assert (popular.devices, popular.rows) == (17_075, 57_741)


def test_constant_scores_get_what_random_scores_get_on_average(kuairand):
    _, labels, device = kuairand
    constant = evaluate(np.full(len(labels), 0.3), labels, device)
    random = [evaluate(np.random.default_rng(s).random(len(labels)), labels, device) for s in range(20)]
    assert constant.auc == constant.gauc == 0.5
    # One random ranking has a standard deviation near 0.002 here, the mean of twenty near 0.0005.
    assert np.mean([r.ndcg_at_5 for r in random]) == pytest.approx(constant.ndcg_at_5, abs=0.002)
