from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sottovoce.privacy.errors import ConfigError, DataError
from sottovoce.simulations.dataset import open_memory_mapped, save
from sottovoce.simulations.table import distinct_rows, impressions, load, read_layout

LAYOUT = """
[data]
device = "user"
time = "ts"
held_out = 0.4
licence = "internal"

[labels]
click = "clicked"
conversion = "bought"

[schema]
history_length = 5

[[features]]
name = "age"
column = "age_band"
source = "device"
buckets = 16

[[features]]
name = "hour"
source = "context"
kind = "integer"
buckets = 24

[[features]]
name = "price"
source = "ad"
kind = "bucket"
buckets = 3
boundaries = [1.0, 2.0]

[[features]]
name = "shop"
source = "ad"
buckets = 64
in_history = true
"""

COLUMNS: dict[str, list[object]] = {
    "user": ["b", "a", "b", "a", "c"],
    "ts": [1, 2, 3, 4, 5],
    "clicked": [1, 0, 1, 0, 1],
    "bought": [0, 0, 1, 0, 0],
    "age_band": ["30", "20", "30", "20", None],
    "hour": [0, 5, 23, 99, 12],
    "price": [0.5, 1.5, 2.5, None, 0.5],
    "shop": ["x", "y", "x", "z", "x"],
    "unused": ["?", "?", "?", "?", "?"],
}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    path = tmp_path / "layout.toml"
    path.write_text(LAYOUT)
    return path


def parquet(folder: Path, name: str = "shop.parquet", **change: Sequence[object] | None) -> Path:
    table = {key: cells for key, cells in {**COLUMNS, **change}.items() if cells is not None}
    pq.write_table(pa.table(table), folder / name)
    return folder / name


def what(path: Path, layout: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path, read_layout(layout))
    assert caught.value.todo
    assert "\n" not in caught.value.what + caught.value.todo
    return caught.value.what


def test_rows_go_to_their_devices_and_the_latest_are_held_out(tmp_path: Path, layout: Path) -> None:
    data = load(parquet(tmp_path), read_layout(layout))
    assert data.device_ids.tolist() == ["a", "b", "c"]
    assert data.train.offsets.tolist() == [0, 1, 3, 3]
    assert data.valid.offsets.tolist() == [0, 1, 1, 2]
    assert data.train.labels.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert data.valid.labels.tolist() == [[0, 0], [1, 0]]
    assert (data.name, data.licence, data.schema.history_length) == ("shop", "internal", 5)


def test_cells_are_encoded_as_the_phone_encodes_them(tmp_path: Path, layout: Path) -> None:
    data = load(parquet(tmp_path), read_layout(layout))
    schema = data.schema
    person = [*data.train.device[1], *data.train.context[1]]
    assert person == schema.encode_one(schema.context, {"age": "30", "hour": 0}).tolist()
    facts = {"shop": "x", "price": 2.5}
    assert data.train.catalogue[data.train.ad[2]].tolist() == schema.encode_one(schema.ad, facts).tolist()
    assert data.valid.device[2].tolist() == [0]
    assert data.valid.context[0].tolist() == [0]
    assert len(data.train.catalogue) == 4


def test_csv_and_parquet_give_the_same_set(tmp_path: Path, layout: Path) -> None:
    path = parquet(tmp_path)
    pa.csv.write_csv(pq.read_table(path), tmp_path / "shop.csv")
    one, other = load(path, read_layout(layout)), load(tmp_path / "shop.csv", read_layout(layout))
    for part in ("train", "valid"):
        for name in ("offsets", "device", "context", "ad", "labels", "catalogue"):
            assert np.array_equal(getattr(getattr(one, part), name), getattr(getattr(other, part), name)), name
    assert one.device_ids.tolist() == other.device_ids.tolist()


def test_a_second_file_can_be_held_out_and_brings_new_devices_and_ads(tmp_path: Path, layout: Path) -> None:
    layout.write_text(LAYOUT.replace("held_out = 0.4", 'held_out_file = "later.parquet"'))
    parquet(tmp_path, "later.parquet", user=["z", "a", "z", "a", "c"], shop=["new", "y", "x", "z", "x"])
    data = load(parquet(tmp_path), read_layout(layout))
    assert data.device_ids.tolist() == ["a", "b", "c", "z"]
    assert data.train.offsets.tolist() == [0, 2, 4, 5, 5]
    assert data.valid.offsets.tolist() == [0, 2, 2, 3, 5]
    assert data.valid.labels[3:].tolist() == [[1, 0], [1, 1]]
    assert len(data.train.catalogue) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clicked": None}, "shop.parquet: no column 'clicked'; it has user, ts, "),
        ({"age_band": None}, "shop.parquet: no column 'age_band'"),
        ({"clicked": [1, 0, 2, 0, 1]}, "shop.parquet: column 'clicked', row 3: label 2 is not 0 or 1"),
        ({"clicked": ["1", "0", "1", "no", "1"]}, "shop.parquet: column 'clicked', row 4: label 'no' is not 0 or 1"),
        ({"bought": [0, 0, None, 0, 0]}, "shop.parquet: column 'bought', row 3: empty cell"),
        ({"bought": [0, 1, 1, 0, 0]}, "shop.parquet: column 'bought', row 2: a conversion without a click"),
        ({"ts": [5, 2, 3, 4, 5]}, "shop.parquet: column 'ts', row 3: earlier than the row before it of device b"),
        ({"ts": ["1", "2", "x", "4", "5"]}, "shop.parquet: column 'ts', row 1: '1' is not a time"),
        ({"user": ["b", None, "b", "a", "c"]}, "shop.parquet: column 'user', row 2: empty cell"),
        ({"user": [0.5, 1.0, 0.5, 1.0, 2.0]}, "shop.parquet: column 'user': holds double, not ids"),
        ({"hour": ["0", "5", "noon", "1", "2"]}, "shop.parquet: column 'hour', row 3: 'noon' is not a number"),
        ({"price": [[1.0]] * 5}, "shop.parquet: column 'price': holds list<"),
        (
            {"clicked": [1, 1, 1, 0, 1], "bought": [0, 0, 0, 0, 0]},
            "shop.parquet, training part: column 'clicked': all 3 labels are 1",
        ),
        ({"bought": [0, 0, 0, 0, 0]}, "shop.parquet, training part: column 'bought': all 3 labels are 0"),
        ({"ts": [1, 1, 1, 1, 1]}, "shop.parquet: column 'ts': no row is earlier than the held-out part"),
    ],
)
def test_a_wrong_file_gives_one_line_with_file_column_and_row(
    tmp_path: Path, layout: Path, change: dict[str, Sequence[object] | None], message: str
) -> None:
    assert message in what(parquet(tmp_path, **change), layout)


def test_a_file_without_rows_is_refused(tmp_path: Path, layout: Path) -> None:
    path = tmp_path / "shop.parquet"
    pq.write_table(pq.read_table(parquet(tmp_path)).slice(0, 0), path)
    assert what(path, layout) == "shop.parquet: has no rows"


def test_rows_of_other_devices_may_stand_between(tmp_path: Path, layout: Path) -> None:
    data = load(parquet(tmp_path, ts=[1, 10, 2, 11, 3], clicked=[1, 1, 1, 0, 0]), read_layout(layout))
    assert data.train.offsets.tolist() == [0, 0, 2, 3]
    assert data.train.labels.tolist() == [[1, 0], [1, 1], [0, 0]]


def test_dates_as_times_and_numbers_as_ids_work_too(tmp_path: Path, layout: Path) -> None:
    days = [f"2024-01-0{day}T00:00:00Z" for day in range(1, 6)]
    data = load(parquet(tmp_path, ts=days, user=[7, 3, 7, 3, 12]), read_layout(layout))
    assert data.device_ids.tolist() == [3, 7, 12]
    assert data.train.offsets.tolist() == [0, 1, 3, 3]


def test_later_impressions_keep_devices_and_append_new_ads(tmp_path: Path, layout: Path) -> None:
    described = read_layout(layout)
    data = load(parquet(tmp_path), described)
    path = parquet(tmp_path, "new.parquet", user=["c", "a", "a", "a", "c"], shop=["x", "y", "fresh", "newer", "newest"])
    rows, order = impressions(path, data, described)
    known = len(data.train.catalogue)
    assert order.tolist() == [1, 2, 3, 0, 4]
    assert rows.offsets.tolist() == [0, 3, 3, 5]
    assert np.array_equal(rows.catalogue[:known], data.train.catalogue)
    assert len(rows.catalogue) == known + 3
    for place, row in enumerate(order):
        facts = {"shop": ["x", "y", "fresh", "newer", "newest"][row], "price": COLUMNS["price"][row]}
        assert rows.catalogue[rows.ad[place]].tolist() == data.schema.encode_one(data.schema.ad, facts).tolist()
    again, _ = impressions(parquet(tmp_path, "same.parquet"), data, described)
    assert again.catalogue.shape == data.train.catalogue.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": ["b", "a", "q", "a", "c"]}, "column 'user', row 3: device q is not in the data set"),
        ({"user": [1, 2, 3, 4, 5]}, "column 'user': device ids are of another type"),
        ({"clicked": [0] * 5, "bought": [0] * 5}, "new.parquet: column 'clicked': all 5 labels are 0"),
    ],
)
def test_later_impressions_that_cannot_be_scored_are_refused(
    tmp_path: Path, layout: Path, change: dict[str, Sequence[object]], message: str
) -> None:
    described = read_layout(layout)
    data = load(parquet(tmp_path), described)
    with pytest.raises(DataError, match=message):
        impressions(parquet(tmp_path, "new.parquet", **change), data, described)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('device = "user"', "", "missing required field `device`"),
        ('device = "user"', "device = 3", r"Expected `str`, got `int`"),
        ("held_out = 0.4", "", "give either held_out or held_out_file"),
        ("held_out = 0.4", 'held_out = 0.4\nheld_out_file = "x"', "give either held_out or held_out_file"),
        ("held_out = 0.4", "held_out = 1.5", "held_out 1.5 is not between 0 and 1"),
        ("licence", "license", "unknown field `license`"),
        ('source = "device"', 'source = "phone"', "Invalid enum value 'phone'"),
        ("buckets = 64", "buckets = 0", "needs a name, buckets >= 1"),
        ("boundaries = [1.0, 2.0]", "boundaries = [2.0, 1.0]", "must be increasing"),
        ('name = "hour"', 'name = "age"', "named twice"),
        ('source = "device"', 'source = "ad"', "features are out of order"),
        ("[labels]", "[labels", "layout.toml: "),
    ],
)
def test_a_wrong_layout_is_refused(layout: Path, old: str, new: str, message: str) -> None:
    assert old in LAYOUT
    layout.write_text(LAYOUT.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        read_layout(layout)
    assert caught.value.todo


def test_a_layout_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_layout(tmp_path / "layout.toml")
    (tmp_path / "layout.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="decode"):
        read_layout(tmp_path / "layout.toml")


def test_one_head_is_enough(tmp_path: Path, layout: Path) -> None:
    layout.write_text(LAYOUT.replace('conversion = "bought"', ""))
    data = load(parquet(tmp_path, bought=None), read_layout(layout))
    assert data.schema.heads == ("click",)
    assert data.train.labels.shape == (3, 1)


def test_text_ids_survive_saving(tmp_path: Path, layout: Path) -> None:
    data = load(parquet(tmp_path), read_layout(layout))
    save(data, tmp_path / "saved")
    assert open_memory_mapped(tmp_path / "saved").device_ids.tolist() == ["a", "b", "c"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 99)), min_size=1, max_size=30))
@settings(deadline=None)
def test_distinct_rows_are_those_of_a_set(rows: list[tuple[int, int, int]]) -> None:
    table = np.array(rows, np.int32)
    first, number = distinct_rows(table)
    assert [tuple(row) for row in table[first]] == sorted(set(rows))
    assert [tuple(row) for row in table[first][number]] == rows
    assert all(rows.index(rows[place]) == place for place in first)


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_row_is_lost_or_changes_its_device(tmp_path: Path, data: st.DataObject) -> None:
    count = data.draw(st.integers(4, 25))
    users = data.draw(st.lists(st.sampled_from(["u", "v", "wx", ""]), min_size=count, max_size=count))
    clicks = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    table = {
        "user": users,
        "ts": list(range(count)),
        "clicked": clicks,
        "age_band": ["1"] * count,
        "hour": [number % 24 for number in range(count)],
        "price": [1.0] * count,
        "shop": [str(number) for number in range(count)],
    }
    layout = tmp_path / "layout.toml"
    layout.write_text(LAYOUT.replace('conversion = "bought"', "").replace("buckets = 64", "buckets = 1000000"))
    described = read_layout(layout)
    path = tmp_path / "shop.parquet"
    pq.write_table(pa.table(table), path)
    split = -(-count * 6 // 10)
    if len(set(clicks[:split])) < 2 or len(set(clicks[split:])) < 2:
        with pytest.raises(DataError, match="labels are"):
            load(path, described)
        return
    made = load(path, described)
    seen = []
    for part in (made.train, made.valid):
        owner = np.repeat(made.device_ids, np.diff(part.offsets))
        schema = made.schema
        shops = [schema.row(schema.ad[0], str(number)) for number in range(count)]
        for device, ad, label in zip(owner, part.ad, part.labels[:, 0], strict=True):
            number = shops.index(part.catalogue[ad][0])
            assert (users[number], clicks[number]) == (device, label)
            seen.append(number)
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("cell", ["0x5", " 5", "+5", "5e0", "true", "5_0"])
def test_a_number_that_only_the_csv_reader_would_see_is_refused_because_no_phone_sees_it(
    tmp_path: Path, layout: Path, cell: str
) -> None:
    hours = [0, cell, 23, 99, 12]
    rows = zip(*({**COLUMNS, "hour": hours}.values()), strict=True)
    lines = [",".join("" if one is None else str(one) for one in row) for row in rows]
    path = tmp_path / "shop.csv"
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    with pytest.raises(DataError, match=r"column 'hour', row 2: .* is not a number"):
        load(path, read_layout(layout))


def test_a_csv_file_says_in_numbers_and_gaps_what_a_parquet_file_says(tmp_path: Path, layout: Path) -> None:
    hours, prices = ["0", "5.0", "23", "99", "NA"], ["0.5", "15e-1", "2.5", "", "0.50"]
    rows = zip(*({**COLUMNS, "hour": hours, "price": prices}.values()), strict=True)
    lines = [",".join("" if one is None else str(one) for one in row) for row in rows]
    path = tmp_path / "shop.csv"
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    written, known = (
        load(path, read_layout(layout)),
        load(parquet(tmp_path, hour=[0, 5, 23, 99, None]), read_layout(layout)),
    )
    for one, other in ((written.train, known.train), (written.valid, known.valid)):
        assert one.context.tolist() == other.context.tolist()
        assert one.catalogue[one.ad].tolist() == other.catalogue[other.ad].tolist()
