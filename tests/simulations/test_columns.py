import contextlib
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy.errors import DataError
from sottovoce.simulations.columns import NONE, read

SCHEMA = FeatureSchema(
    features=(
        Feature(name="kind", source="device", buckets=2),
        Feature(name="word", source="ad", buckets=50),
        Feature(name="whole", source="ad", kind="integer", buckets=10),
        Feature(name="real", source="ad", kind="bucket", buckets=3, boundaries=(0.0, 1.5)),
    )
)
_, WORD, WHOLE, REAL = SCHEMA.features


def csv(folder: Path, text: str, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def parquet(folder: Path, **columns: object) -> Path:
    path = folder / "data.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def refusal(path: Path, *columns: str) -> str:
    with pytest.raises(DataError) as caught:
        read(path, columns)
    assert caught.value.todo
    assert "\n" not in caught.value.what
    return caught.value.what


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "nowhere.parquet: no such file" in refusal(tmp_path / "nowhere.parquet", "a")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path, "a")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "the file is empty" in refusal(csv(tmp_path, ""), "a")


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    assert "has no rows" in refusal(csv(tmp_path, "a,b\n"), "a")


def test_another_format_is_refused(tmp_path: Path) -> None:
    assert "neither .parquet nor .csv" in refusal(csv(tmp_path, "a\n1\n", "data.xlsx"), "a")


def test_a_parquet_file_of_garbage_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(csv(tmp_path, "this is no parquet file", "data.parquet"), "a")


def test_a_parquet_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, a=list(range(1000)))
    path.write_bytes(path.read_bytes()[:-40])
    assert "cannot be read" in refusal(path, "a")


def test_a_csv_row_with_too_few_cells_is_named_by_its_row(tmp_path: Path) -> None:
    what = refusal(csv(tmp_path, "a,b\n1,2\n3,4\n5\n6,7\n"), "a")
    assert what == "data.csv: cannot be read: row 3 has 1 cells, the header has 2"


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    assert "no column 'c'; it has a, b" in refusal(csv(tmp_path, "a,b\n1,2\n"), "c")
    assert "no column 'c'; it has a" in refusal(parquet(tmp_path, a=[1]), "c")


def test_a_column_given_twice_is_refused(tmp_path: Path) -> None:
    assert "appears twice" in refusal(csv(tmp_path, "a,a\n1,2\n"), "a")


def test_columns_that_are_not_wanted_are_not_read(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,secret\n1,x\n2,y\n")
    assert read(path, ["a"]).table.column_names == ["a"]


def test_csv_may_be_packed_and_may_use_tabs(tmp_path: Path) -> None:
    packed = tmp_path / "data.csv.gz"
    packed.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert read(packed, ["b"]).integers("b").tolist() == [2]
    assert read(csv(tmp_path, "a\tb\n1\t2\n", "data.tsv"), ["b"]).integers("b").tolist() == [2]


def test_text_columns_keep_their_leading_zeros(tmp_path: Path) -> None:
    file = read(csv(tmp_path, "a\n01\n1\n"), ["a"], text=["a"])
    assert len(set(file.encoded("a", SCHEMA, WORD).tolist())) == 2


@pytest.mark.parametrize(
    ("cells", "row", "word"),
    [
        ("1\n2\n2.5\n", 3, "2.5 is not a whole number"),
        ("1\n\n3\n", 2, "empty cell"),
        ("1\nx\n3\n", 2, "'x' is not a whole number"),
        ("1\n1e400\n", 2, "inf is not a whole number"),
    ],
)
def test_whole_numbers_name_the_row_that_is_none(tmp_path: Path, cells: str, row: int, word: str) -> None:
    file = read(csv(tmp_path, "a,b\n" + "".join(f"{cell},1\n" for cell in cells.split("\n")[:-1])), ["a"])
    with pytest.raises(DataError, match=rf"data.csv: column 'a', row {row}: {word}"):
        file.integers("a")


@pytest.mark.parametrize("cell", ["2", "-1", "yes", "0.5", "nan", ""])
def test_a_label_that_is_neither_0_nor_1_is_named_with_its_row(tmp_path: Path, cell: str) -> None:
    file = read(csv(tmp_path, f"y,b\n1,1\n0,1\n{cell},1\n1,1\n"), ["y"])
    with pytest.raises(DataError, match=r"data.csv: column 'y', row 3: "):
        file.labels("y")


def test_labels_may_be_whole_numbers_reals_or_truth_values(tmp_path: Path) -> None:
    path = parquet(tmp_path, i=[0, 1, 1], f=[0.0, 1.0, 1.0], b=[False, True, True])
    file = read(path, ["i", "f", "b"])
    for name in "ifb":
        assert file.labels(name).tolist() == [0, 1, 1]
        assert file.labels(name).dtype == np.int8


def test_times_may_be_numbers_dates_or_texts(tmp_path: Path) -> None:
    csv_file = read(
        csv(tmp_path, "t,u\n2022-04-25T00:00:00Z,2022-04-25\n2022-04-25T00:00:01Z,2022-04-26\n"), ["t", "u"]
    )
    assert csv_file.times("t").tolist() == [1650844800.0, 1650844801.0]
    assert csv_file.times("u").tolist() == [1650844800.0, 1650931200.0]
    written = read(parquet(tmp_path, t=["2022-04-25T02:00:00+02:00", "2022-04-25 00:00:01"]), ["t"])
    assert written.times("t").tolist() == [1650844800.0, 1650844801.0]


@pytest.mark.parametrize("values", [[1.0, float("nan")], [1.0, float("inf")], ["2022-01-01", "soon"], [1, None]])
def test_what_is_no_time_is_named_with_its_row(tmp_path: Path, values: list[object]) -> None:
    with pytest.raises(DataError, match=r"data.parquet: column 't', row 2: "):
        read(parquet(tmp_path, t=values), ["t"]).times("t")


def test_a_text_where_a_number_is_needed_is_named_with_its_row(tmp_path: Path) -> None:
    file = read(csv(tmp_path, "a\n1\n2\nmany\n"), ["a"])
    with pytest.raises(DataError, match=r"column 'a', row 3: 'many' is not a number, which kind 'integer'"):
        file.encoded("a", SCHEMA, WHOLE)


def test_lists_are_no_feature(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not single values"):
        read(parquet(tmp_path, a=[[1], [2]]), ["a"]).encoded("a", SCHEMA, WORD)


def test_categories_are_read_as_their_values(tmp_path: Path) -> None:
    plain = read(parquet(tmp_path, a=["x", "y", None]), ["a"]).encoded("a", SCHEMA, WORD)
    coded = read(parquet(tmp_path, a=pa.array(["x", "y", None]).dictionary_encode()), ["a"])
    assert coded.encoded("a", SCHEMA, WORD).tolist() == plain.tolist()
    assert plain[2] == 0


def test_real_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds double, not ids"):
        read(parquet(tmp_path, a=[1.5]), ["a"]).ids("a")


VALUES = {
    "word": st.one_of(st.none(), st.text(max_size=5)),
    "whole": st.one_of(st.none(), st.integers(-20, 20)),
    "real": st.one_of(st.none(), st.floats(allow_nan=True, width=64)),
}


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_column_is_encoded_as_the_phone_encodes_each_value(tmp_path: Path, data: st.DataObject) -> None:
    feature = data.draw(st.sampled_from([WORD, WHOLE, REAL]))
    values = data.draw(st.lists(VALUES[feature.name], min_size=1, max_size=20))
    kind = {"word": pa.string(), "whole": pa.int64(), "real": pa.float64()}[feature.name]
    file = read(parquet(tmp_path, a=pa.array(values, kind)), ["a"])
    assert file.encoded("a", SCHEMA, feature).tolist() == [SCHEMA.row(feature, value) for value in values]


CELLS = st.one_of(
    st.text("0123456789-+.eE_ xXfinaN\u0667\uff17", min_size=1, max_size=6),
    st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{1,2})?([eE][+-]?[0-9])?", fullmatch=True),
    st.sampled_from(["NA", "nan", "NULL", "inf", "true", "0x1", "1_0", " 7", "7.0", "1e2", "007"]),
)


@given(st.sampled_from([WORD, WHOLE, REAL]), CELLS, st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_text_is_encoded_as_the_phone_encodes_it_or_refused_where_the_phone_takes_it_for_missing(
    tmp_path: Path, feature: Feature, cell: str, in_csv: bool
) -> None:
    path = csv(tmp_path, f'a,b\n"{cell}",1\n') if in_csv else parquet(tmp_path, a=[cell])
    file = read(path, ["a"], text=["a"])
    phone = SCHEMA.row(feature, cell)
    if feature.kind == "hash" or feature.reads(cell) or cell in NONE:
        assert file.encoded("a", SCHEMA, feature).tolist() == [phone]
    else:
        assert phone == 0
        with pytest.raises(DataError, match=r"row 1: .* is not a number"):
            file.encoded("a", SCHEMA, feature)


def test_no_way_to_write_that_there_is_none_is_a_number_to_a_phone() -> None:
    assert {"", "NA", "NaN", "null"} <= NONE
    assert not any(SCHEMA.row(feature, text) for feature in (WHOLE, REAL) for text in NONE)


@given(st.binary(max_size=200), st.sampled_from(["data.csv", "data.parquet", "data.csv.gz"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_break_the_reader_in_another_way(tmp_path: Path, junk: bytes, name: str) -> None:
    path = tmp_path / name
    for content in (junk, b"a,b\n1,2\n" + junk):
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            read(path, ["a"]).labels("a")
