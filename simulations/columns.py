"""Columns of a Parquet or CSV file, each checked before use; a fault names the file, the column and the row.

Rows are counted from 1, the header of a CSV file not included. Values become NumPy columns; a Python object exists per
distinct value at most, never per row.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from sottovoce.models.schema import Feature, FeatureSchema, Ids
from sottovoce.privacy.errors import DataError

_BROKEN_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")

NONE = frozenset(pa.csv.ConvertOptions().null_values)
"""How tables write that there is no number: nothing at all, NA, NaN, null and the like. A device reads none of them."""

CSV_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The wanted columns of one file.

    Attributes:
        path: the file, for messages.
        table: an Arrow table with at least one row.
    """

    path: Path
    table: pa.Table

    @property
    def rows(self) -> int:
        """Number of data rows, at least 1."""
        return int(self.table.num_rows)

    def fault(self, name: str, row: int | None, what: str, todo: str) -> DataError:
        """The error for column `name` at data row `row` (from 1), ready to be raised."""
        return fault(self.path, name, row, what, todo)

    def values(self, name: str) -> pa.Array:
        """The column as one Arrow array; nulls stay nulls, categories become their values."""
        values = self.table[name].combine_chunks()
        return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values

    def complete(self, name: str, todo: str) -> pa.Array:
        """The column, which must not have an empty cell.

        Raises:
            DataError: a cell is null.
        """
        values = self.values(name)
        if values.null_count:
            row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) + 1
            raise self.fault(name, row, "empty cell", todo)
        return values

    def integers(self, name: str) -> npt.NDArray[np.int64]:
        """Whole numbers, shape (rows,).

        Raises:
            DataError: a cell is empty or no whole number.
        """
        todo = "write a whole number in every row"
        values = self.complete(name, todo)
        if pa.types.is_integer(values.type):
            return np.asarray(values.to_numpy(zero_copy_only=False), np.int64)
        if pa.types.is_floating(values.type):
            numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
            wrong = ~(np.abs(numbers) < 2.0**53) | (numbers != np.floor(numbers))
            if not wrong.any():
                return np.asarray(numbers, np.int64)
            row = int(np.argmax(wrong)) + 1
            raise self.fault(name, row, f"{numbers[row - 1]} is not a whole number", todo)
        for row, value in enumerate(values, 1):
            text = str(value.as_py())
            if not text.lstrip("-").isdecimal():
                raise self.fault(name, row, f"{text!r} is not a whole number", todo)
        raise self.fault(name, None, f"holds {values.type}, not whole numbers", "store the column as integers")

    def labels(self, name: str) -> npt.NDArray[np.int8]:
        """Outcomes, shape (rows,), each 0 or 1.

        Raises:
            DataError: a cell is empty or neither 0 nor 1.
        """
        todo = "write 1 where it happened and 0 where it did not"
        values = self.complete(name, todo)
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            numbers = values.to_numpy(zero_copy_only=False)
            wrong = (numbers != 0) & (numbers != 1)
            if not wrong.any():
                return np.asarray(numbers, np.int8)
            row = int(np.argmax(wrong)) + 1
            raise self.fault(name, row, f"label {numbers[row - 1]} is not 0 or 1", todo)
        for row, value in enumerate(values, 1):
            if str(value.as_py()) not in ("0", "1"):
                raise self.fault(name, row, f"label {value.as_py()!r} is not 0 or 1", todo)
        raise self.fault(name, None, f"labels are stored as {values.type}", "store the labels as integers 0 and 1")

    def times(self, name: str) -> npt.NDArray[np.float64]:
        """Moments, shape (rows,): numbers as they are, dates and ISO 8601 texts in seconds since 1970 (UTC).

        Raises:
            DataError: a cell is empty or no time.
        """
        todo = "write a number or an ISO 8601 date in every row"
        values = self.complete(name, todo)
        kind = values.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            micros = values.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
            return np.asarray(micros.cast(pa.int64()).to_numpy(zero_copy_only=False), np.float64) / 1e6
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            numbers = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
            if not np.isfinite(numbers).all():
                row = int(np.argmin(np.isfinite(numbers))) + 1
                raise self.fault(name, row, f"{numbers[row - 1]} is not a time", todo)
            return numbers
        out = np.empty(self.rows)
        for row, value in enumerate(values, 1):
            try:
                moment = datetime.fromisoformat(str(value.as_py()))
            except ValueError:
                raise self.fault(name, row, f"{value.as_py()!r} is not a time", todo) from None
            out[row - 1] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return out

    def ids(self, name: str) -> tuple[npt.NDArray[np.int64] | npt.NDArray[np.str_], npt.NDArray[np.int64]]:
        """Distinct ids, sorted, whole numbers or texts; and for each row the index of its id among them.

        Raises:
            DataError: a cell is empty, or ids are neither whole numbers nor texts.
        """
        values = self.complete(name, "give every row an id")
        kind = values.type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise self.fault(name, None, f"holds {kind}, not ids", "store ids as whole numbers or texts")
        coded = pc.dictionary_encode(values)
        codes = coded.indices.to_numpy(zero_copy_only=False)
        distinct = coded.dictionary.to_pylist()
        ids: npt.NDArray[np.int64] | npt.NDArray[np.str_]
        if pa.types.is_integer(kind):
            ids, place = np.unique(np.asarray(distinct, np.int64), return_inverse=True)
        else:
            ids, place = np.unique(np.asarray(distinct, np.str_), return_inverse=True)
        return ids, place.astype(np.int64)[codes]

    def encoded(self, name: str, schema: FeatureSchema, feature: Feature) -> Ids:
        """Rows of the embedding table for `feature`, shape (rows,); an empty cell is padding.

        Where a number is needed, so is a text of `NONE`; any other text that is no number to a device is refused.

        Raises:
            DataError: a text that the feature does not read as a number, or a type that is no single value.
        """
        values = self.values(name)
        if pa.types.is_nested(values.type) or pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
            raise self.fault(name, None, f"holds {values.type}, not single values", "store one text or number per row")
        coded = pc.dictionary_encode(values)
        distinct = [plain(value) for value in coded.dictionary.to_pylist()]
        codes = coded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        if feature.kind != "hash":
            for code, value in enumerate(distinct):
                if isinstance(value, str) and value not in NONE and not feature.reads(value):
                    row = int(np.argmax(codes == code)) + 1
                    raise self.fault(
                        name,
                        row,
                        f"{value!r} is not a number, which kind {feature.kind!r} of feature {feature.name!r} needs",
                        "correct the cell, or declare the feature with kind 'hash'",
                    )
        rows: Ids = np.append(schema.encode(feature, distinct), np.int32(0))[codes]
        return rows


def fault(path: Path, name: str, row: int | None, what: str, todo: str) -> DataError:
    """The error for column `name` of a file at data row `row` (from 1; None for the whole column)."""
    place = f"{path.name}: column {name!r}" + ("" if row is None else f", row {row}")
    return DataError(f"{place}: {what}", todo)


def read(path: Path, columns: Sequence[str], text: Iterable[str] = ()) -> Columns:
    """The named columns of a Parquet or CSV file, told apart by the file's name.

    Args:
        path: ends in .parquet, .csv or .tsv; .csv.gz and .tsv.gz are unpacked on the way.
        columns: names wanted; others are not read.
        text: CSV columns to be taken as written, so that "01" stays "01".

    Raises:
        DataError: no such file, another format, a missing column, a row with too many or too few cells, or no row.
    """
    wanted = list(dict.fromkeys(columns))
    if not path.is_file():
        raise DataError(f"{path}: no such file", "check the path")
    is_csv = path.name.endswith(CSV_ENDINGS)
    if not is_csv and path.suffix != ".parquet":
        raise DataError(f"{path.name}: neither .parquet nor .csv", "give a Parquet or CSV file")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: the file is empty", "give a file with a header and at least one row")
    try:
        table = _csv(path, wanted, text) if is_csv else _parquet(path, wanted)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: cannot be read: {_why(error)}", "check that the file is whole") from error
    if table.num_rows == 0:
        raise DataError(f"{path.name}: has no rows", "give a file with at least one row")
    return Columns(path, table)


def plain(value: object) -> str | int | float | None:
    """A cell as the encoder takes it: dates and the like become text."""
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _require(path: Path, present: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in present:
            raise DataError(
                f"{path.name}: no column {name!r}; it has {', '.join(present)}",
                "correct the name in the schema, or add the column",
            )
        if list(present).count(name) > 1:
            raise DataError(f"{path.name}: column {name!r} appears twice", "rename one of them")


def _parquet(path: Path, wanted: list[str]) -> pa.Table:
    with pa.parquet.ParquetFile(path) as file:
        _require(path, file.schema_arrow.names, wanted)
        return file.read(columns=wanted)


def _csv(path: Path, wanted: list[str], text: Iterable[str]) -> pa.Table:
    # One thread: only then does a parse error tell its row.
    reading = pa.csv.ReadOptions(use_threads=False)
    parsing = pa.csv.ParseOptions(delimiter="\t" if ".tsv" in path.name else ",", newlines_in_values=True)
    with pa.csv.open_csv(path, reading, parsing) as file:
        _require(path, file.schema.names, wanted)
    types = {name: pa.string() for name in text}
    converting = pa.csv.ConvertOptions(include_columns=wanted, column_types=types)
    return pa.csv.read_csv(path, reading, parsing, converting)


def _why(error: Exception) -> str:
    """What a reader's error says, in one line; a broken CSV row counted from 1, the header not included."""
    found = _BROKEN_ROW.search(str(error))
    if found:
        return f"row {int(found[1]) - 1} has {found[3]} cells, the header has {found[2]}"
    return (str(error).splitlines() or [type(error).__name__])[0]
