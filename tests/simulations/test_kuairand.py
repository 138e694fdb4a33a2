from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sottovoce.privacy.errors import DataError
from sottovoce.simulations import kuairand
from sottovoce.simulations.dataset import Dataset

USERS = """user_id,user_active_degree,fans_user_num_range,register_days_range,is_video_author
20,full_active,"[1,10)",730+,1
10,high_active,0,61-90,0
30,low_active,"[10,100)",8-14,0
"""
VIDEOS = """video_id,author_id,video_type,upload_type,video_duration,tag
0,100,NORMAL,LongImport,4000.0,39
1,101,AD,Web,15000.0,"12,39"
2,100,NORMAL,Web,,
"""
HISTORY = {"user_id": [10, 20, 20, 10], "pos": [1, 1, 0, 0], "video_id": [0, 1, 2, 1], "long_view": [1, 0, 1, 0]}
LATER = {
    "user_id": [20, 10, 20, 30, 20],
    "video_id": [1, 0, 2, 9000, 1],
    "time_ms": [50, 10, 40, 20, 50],
    "long_view": [1, 0, 0, 1, 1],
    "play_time_ms": [9, 9, 9, 9, 9],
}


def write(root: Path, history: dict[str, list[object]] = HISTORY, later: dict[str, list[object]] = LATER) -> Path:
    folder = root / "kuairand_pure"
    folder.mkdir(exist_ok=True)
    (folder / "user_features_pure.csv").write_text(USERS)
    (folder / "video_features_basic_pure.csv").write_text(VIDEOS)
    pq.write_table(pa.table(history), folder / "train.parquet")
    pq.write_table(pa.table(later), folder / "valid.parquet")
    return root


@pytest.fixture
def tiny(tmp_path: Path) -> Dataset:
    return kuairand.load(write(tmp_path))


def test_every_user_of_the_table_is_a_device(tiny: Dataset) -> None:
    assert tiny.device_ids.tolist() == [10, 20, 30]
    assert tiny.train.offsets.tolist() == [0, 2, 4, 4]
    assert tiny.valid.offsets.tolist() == [0, 1, 4, 5]
    schema = tiny.schema
    assert (
        tiny.train.device[1].tolist()
        == schema.encode_one(
            schema.context, {"activity": "full_active", "followers": "[1,10)", "register": "730+", "is_author": 1}
        ).tolist()
    )


def test_history_is_in_the_order_of_pos(tiny: Dataset) -> None:
    assert tiny.train.ad.tolist() == [1, 0, 2, 1]
    assert tiny.train.labels[:, 0].tolist() == [0, 1, 1, 0]


def test_held_out_rows_are_in_the_order_of_time_and_duplicates_stay(tiny: Dataset, tmp_path: Path) -> None:
    rows, order = kuairand.impressions(tmp_path / "kuairand_pure" / "valid.parquet", tiny)
    assert order.tolist() == [1, 2, 0, 4, 3]
    assert rows.ad.tolist() == [0, 2, 1, 1, kuairand.VIDEOS]
    assert rows.labels[:, 0].tolist() == [LATER["long_view"][i] for i in order]
    assert rows.catalogue is tiny.train.catalogue


def test_a_video_outside_the_table_is_padding_throughout(tiny: Dataset) -> None:
    assert tiny.train.catalogue.shape == (kuairand.VIDEOS + 1, 6)
    assert not tiny.train.catalogue[-1].any()
    assert not tiny.train.catalogue[7000].any()


def test_ads_are_encoded_as_the_phone_encodes_them(tiny: Dataset) -> None:
    schema = tiny.schema
    facts = {"video": 1, "author": 101, "tag": "12", "duration": 15000.0, "upload_type": "Web", "video_type": "AD"}
    assert tiny.train.catalogue[1].tolist() == schema.encode_one(schema.ad, facts).tolist()
    missing = {"video": 2, "author": 100, "upload_type": "Web", "video_type": "NORMAL"}
    assert tiny.train.catalogue[2].tolist() == schema.encode_one(schema.ad, missing).tolist()


def test_columns_known_only_afterwards_are_never_read(tiny: Dataset, tmp_path: Path) -> None:
    needed = {name: LATER[name] for name in ("user_id", "video_id", "time_ms", "long_view")}
    path = tmp_path / "bare.parquet"
    pq.write_table(pa.table(needed), path)
    bare, _ = kuairand.impressions(path, tiny)
    for name in ("offsets", "ad", "labels", "context"):
        assert np.array_equal(getattr(bare, name), getattr(tiny.valid, name))
    assert bare.context.shape == (5, 0)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", [20, 10, 20, 31, 20], r"column 'user_id', row 4: user 31 is not in user_features_pure\.csv"),
        ("user_id", [20, 10, 20.5, 30, 20], r"column 'user_id', row 3: 20\.5 is not a whole number"),
        ("user_id", ["a", "b", "c", "d", "e"], r"column 'user_id', row 1: 'a' is not a whole number"),
        ("video_id", [1, 0, None, 7, 1], r"column 'video_id', row 3: empty cell"),
        ("long_view", [1, 0, 0, 2, 1], r"column 'long_view', row 4: label 2 is not 0 or 1"),
        ("long_view", [1, 1, 1, 1, 1], r"column 'long_view': all 5 labels are 1"),
        ("time_ms", [1, 2, 3, 4, None], r"column 'time_ms', row 5: empty cell"),
        ("time_ms", None, r"no column 'time_ms'"),
    ],
)
def test_a_wrong_file_is_refused_with_column_and_row(
    tiny: Dataset, tmp_path: Path, column: str, values: list[object] | None, message: str
) -> None:
    table = {**LATER, column: values}
    path = tmp_path / "given.parquet"
    pq.write_table(pa.table({name: cells for name, cells in table.items() if cells is not None}), path)
    with pytest.raises(DataError, match=rf"given\.parquet: {message}"):
        kuairand.impressions(path, tiny)


def test_a_missing_file_of_the_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"user_features_pure\.csv: no such file"):
        kuairand.load(tmp_path)


def test_a_user_listed_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    table = tmp_path / "kuairand_pure" / "user_features_pure.csv"
    table.write_text(USERS + USERS.splitlines()[1] + "\n")
    with pytest.raises(DataError, match="1 users appear twice"):
        kuairand.load(tmp_path)


def test_a_video_number_outside_the_published_range_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    table = tmp_path / "kuairand_pure" / "video_features_basic_pure.csv"
    table.write_text(VIDEOS + "7583,1,AD,Web,1.0,1\n")
    with pytest.raises(DataError, match="row 4: 7583 is outside 0"):
        kuairand.load(tmp_path)


@pytest.fixture(scope="module")
def published(real_set: Callable[[str], Path]) -> Dataset:
    return kuairand.load(real_set("kuairand_pure"))


def test_the_real_set_has_its_published_counts(published: Dataset) -> None:
    train, valid = np.diff(published.train.offsets), np.diff(published.valid.offsets)
    assert (published.train.rows, published.valid.rows, published.train.devices) == (817_187, 57_741, 27_285)
    assert ((train > 0).sum(), (valid > 0).sum(), ((train == 0) & (valid > 0)).sum()) == (26_469, 17_075, 163)
    assert ((train >= 20) & (valid >= 5)).sum() == 3_551
    assert (np.median(train[train > 0]), train.max()) == (32, 50)
    assert round(float(published.train.labels.mean()), 3) == 0.357
    assert round(float(published.valid.labels.mean()), 3) == 0.303


def test_every_device_of_the_real_set_has_all_its_features(published: Dataset) -> None:
    assert (published.train.device > 0).all()
    assert [len(np.unique(column)) for column in published.train.device.T] == [9, 9, 8, 2]
    assert (published.train.catalogue[:-1, 0] > 0).all()


def test_the_real_held_out_rows_lie_in_the_file_as_order_says(
    published: Dataset, real_set: Callable[[str], Path]
) -> None:
    path = real_set("kuairand_pure") / "kuairand_pure" / "valid.parquet"
    rows, order = kuairand.impressions(path, published)
    raw = pq.read_table(path, columns=["user_id", "video_id", "time_ms", "long_view"]).to_pydict()
    owner = np.repeat(published.device_ids, np.diff(rows.offsets))
    assert np.array_equal(owner, np.array(raw["user_id"])[order])
    assert np.array_equal(rows.ad, np.array(raw["video_id"])[order])
    assert np.array_equal(rows.labels[:, 0], np.array(raw["long_view"])[order])
    time = np.array(raw["time_ms"])[order]
    assert (np.diff(time)[np.diff(owner) == 0] >= 0).all()
    assert np.array_equal(np.sort(order), np.arange(57_741))
