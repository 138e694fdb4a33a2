import subprocess
import sys

import numpy as np
import pytest

from sottovoce.client.examples import Examples
from sottovoce.simulations import market
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.market import BLOCK, CATEGORIES, Market

DEVICES = 6000


@pytest.fixture(scope="module")
def world() -> Market:
    return Market(11)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return market.load(DEVICES, seed=11)


def owners(examples: Examples) -> np.ndarray:
    return np.repeat(np.arange(examples.devices), np.diff(examples.offsets))


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = labels.sum()
    return (rank[labels == 1].sum() - positives * (positives + 1) / 2) / positives / (len(labels) - positives)


def columns(dataset: Dataset) -> list[bytes]:
    parts = [getattr(part, name) for part in (dataset.train, dataset.valid) for name in Examples.__slots__]
    return [np.asarray(column).tobytes() for column in (*parts, dataset.truth, dataset.group)]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    one, again, other = (market.load(300, seed=seed) for seed in (5, 5, 6))
    assert columns(one) == columns(again)
    assert columns(one) != columns(other)


def test_a_device_does_not_change_when_more_devices_are_added(data: Dataset) -> None:
    few = market.load(BLOCK + 100, seed=11)
    for part, larger in ((few.train, data.train), (few.valid, data.valid)):
        rows = part.rows
        assert np.array_equal(part.offsets, larger.offsets[: part.devices + 1])
        assert np.array_equal(part.ad, larger.ad[:rows])
        assert np.array_equal(part.labels, larger.labels[:rows])
        assert np.array_equal(part.context, larger.context[:rows])
    assert np.array_equal(few.truth, data.truth[: few.valid.rows])


@pytest.mark.parametrize("seed", range(6))
def test_click_and_conversion_rates_are_those_of_a_market(seed: int) -> None:
    labels = market.load(3000, seed=seed).train.labels
    clicks, conversions = labels.sum(0)
    assert 0.05 < clicks / len(labels) < 0.075
    assert 0.10 < conversions / clicks < 0.16


def test_outcomes_follow_the_truth_they_were_drawn_from(data: Dataset) -> None:
    for head, rows in ((0, slice(None)), (1, data.valid.labels[:, 0] == 1)):
        truth, labels = data.truth[rows, head], data.valid.labels[rows, head]
        for tenth in np.array_split(np.argsort(truth), 10):
            expected, spread = truth[tenth].sum(), np.sqrt((truth[tenth] * (1 - truth[tenth])).sum())
            assert abs(labels[tenth].sum() - expected) < 4 * spread


def test_the_truth_that_can_be_asked_for_is_the_truth_of_the_rows(world: Market, data: Dataset) -> None:
    rows = np.random.default_rng(0).permutation(data.valid.rows)[:2000]
    asked = world.true_probabilities(owners(data.valid)[rows], data.valid.context[rows], data.valid.ad[rows])
    assert np.array_equal(asked, data.truth[rows])


def test_a_context_of_another_market_is_refused(world: Market) -> None:
    page, _, connection = world.context_rows(np.zeros((1, 3), np.int32))[0]
    with pytest.raises(ValueError, match="context column 1"):
        world.true_probabilities(np.array([0]), np.array([[page, 0, connection]]), np.array([0]))


def test_who_did_not_consent_to_learning_or_measurement_owns_no_rows(world: Market, data: Dataset) -> None:
    people = world.people(np.arange(DEVICES))
    trained, held = np.diff(data.train.offsets), np.diff(data.valid.offsets)
    assert trained[~people.learn].sum() == 0
    assert held[~people.report].sum() == 0
    assert (people.serve >= people.learn).all()
    assert (people.serve >= people.report).all()
    assert 0.65 < people.learn.mean() < 0.85
    assert (trained[people.learn] > 0).mean() > 0.95
    assert ((trained == 0) & (held > 0)).any()


def test_the_protected_group_shifts_tastes_and_consent_and_is_no_feature(world: Market, data: Dataset) -> None:
    people = world.people(np.arange(DEVICES))
    assert np.array_equal(people.group, data.group)
    assert 0.35 < data.group.mean() < 0.45
    gap = abs(people.taste[people.group == 1].mean(0) - people.taste[people.group == 0].mean(0))
    assert gap.max() > 0.15
    assert people.learn[people.group == 1].mean() < people.learn[people.group == 0].mean() - 0.05
    assert "group" not in {feature.name for feature in data.schema.features}


def test_own_history_tells_more_than_page_and_popularity(world: Market, data: Dataset) -> None:
    train, valid, kinds = data.train, data.valid, len(CATEGORIES)
    clicks = np.bincount(train.ad, train.labels[:, 0], len(world.share))
    popular = (clicks + 1.2) / (np.bincount(train.ad, minlength=len(world.share)) + 20)
    mine = owners(train) * kinds + world.category[train.ad]
    clicked = np.bincount(mine, train.labels[:, 0], DEVICES * kinds)
    expected = np.bincount(mine, minlength=DEVICES * kinds) * train.labels[:, 0].mean()
    taste = ((clicked + 0.5) / (expected + 0.5))[owners(valid) * kinds + world.category[valid.ad]]
    labels = valid.labels[:, 0]
    by_chance, by_popularity = 0.5, auc(labels, popular[valid.ad])
    by_history, by_truth = auc(labels, popular[valid.ad] * taste), auc(labels, data.truth[:, 0])
    assert by_chance + 0.05 < by_popularity < by_history - 0.04
    assert by_history < by_truth - 0.05


def test_exposure_ignores_the_person(world: Market, data: Dataset) -> None:
    shown = np.bincount(data.train.ad, minlength=len(world.share))
    expected = world.share * data.train.rows
    assert ((shown - expected) ** 2 / expected).sum() < len(world.share) + 5 * np.sqrt(2 * len(world.share))


def test_rows_of_a_device_are_in_time_and_conversions_need_clicks(world: Market) -> None:
    log = world.block_log(0, world.block_people(0))
    same = np.diff(log.device) == 0
    assert (np.diff(log.device) >= 0).all()
    assert (np.diff(log.time)[same] >= 0).all()
    assert (log.click >= log.conversion).all()
    assert 28 < len(log.device) / BLOCK < 32


def test_no_two_values_of_a_feature_share_a_row(world: Market) -> None:
    assert len(set(world.device_rows)) == 4
    assert [len(set(rows)) for rows in world._context_rows] == [12, 8, 3]
    assert [len(set(column)) for column in world.catalogue.T[:4]] == [288, 48, 12, 3]
    assert (world.catalogue[:, :4] > 0).all()
    assert not world.catalogue[:, 4:].any()  # what belongs to ad and request is in no catalogue


def test_columns_hold_no_python_objects_and_few_bytes_a_row(data: Dataset) -> None:
    held = [getattr(part, name) for part in (data.train, data.valid) for name in Examples.__slots__]
    assert not any(column.dtype.hasobject for column in held)
    rows = data.train.rows + data.valid.rows
    assert sum(column.nbytes for column in held) < 30 * rows


@pytest.mark.parametrize("wrong", [{"devices": 0}, {"rows_per_device": 1.0}, {"advertisers": 0}])
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="market needs"):
        market.load(**{"devices": 5, **wrong})


@pytest.mark.soak
def test_a_million_devices_fit_into_four_gigabytes() -> None:
    program = (
        "import resource; from sottovoce.simulations import market;"
        "data = market.load(1_000_000, rows_per_device=38.0);"
        "print(data.train.rows + data.valid.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rows, peak_kib = map(int, done.stdout.split())
    assert rows > 29_000_000
    assert peak_kib < 4 * 2**20
