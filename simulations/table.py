"""Anyone's own data: one Parquet or CSV file, and a TOML file that says what its columns mean.

    [data]
    name = "shop"                   # optional, default: the file's name
    device = "user"                 # column: whose row it is
    time = "ts"                     # column: number, date or ISO 8601 text
    held_out = 0.2                  # the latest fifth of the period; or: held_out_file = "later.parquet"
    licence = "internal"            # optional
    citation = ""                   # optional

    [labels]                        # columns of 0 and 1; conversion is optional and implies click
    click = "clicked"
    conversion = "bought"

    [schema]                        # optional
    history_length = 20

    [[features]]                    # one for each feature, as in `models/schema.py`; device features first
    name = "age"
    column = "age_band"             # optional, default: the feature's name
    source = "device"               # device | context | ad
    kind = "hash"                   # hash | integer | bucket
    buckets = 16

Each device's rows must stand in ascending time, wherever they stand in the file. A device feature is taken from the
device's first row. An ad is a distinct combination of its features. In a CSV file, features and the device column are
taken as written: to a hashed feature "01" is not "1", and the others read a number exactly as a device reads it from a
text (`NUMERALS` in `models/schema.py`). What an `integer` feature finds outside 0 ... buckets - 1 counts as missing.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sottovoce.client.examples import Examples
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy.errors import ConfigError, SchemaError
from sottovoce.simulations.columns import fault, read
from sottovoce.simulations.dataset import Dataset, by_device, require_both_classes

Ids = npt.NDArray[np.int64] | npt.NDArray[np.str_]


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: str
    time: str
    name: str = ""
    held_out: float | None = None
    held_out_file: str = ""
    licence: str = "not stated"
    citation: str = ""


class _Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    click: str
    conversion: str = ""


class _Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    history_length: int = 20


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: _Data
    labels: _Labels
    features: list[dict[str, Any]]
    schema: _Shape = _Shape()


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of a file mean.

    Attributes:
        name: of the data set; empty to take the file's.
        schema: features and heads.
        device: column of the device id.
        time: column of the time.
        labels: one column per head.
        columns: column of each feature, by feature name.
        held_out: share of the period that is held out, its latest part.
        held_out_file: file that is held out instead; relative to the layout's own folder.
        licence: one line.
        citation: one line.
    """

    name: str
    schema: FeatureSchema
    device: str
    time: str
    labels: tuple[str, ...]
    columns: dict[str, str]
    held_out: float
    held_out_file: Path | None
    licence: str
    citation: str


def read_layout(path: Path) -> Layout:
    """The layout written in a TOML file.

    Raises:
        ConfigError: no such file, no TOML, an unknown or missing key, an impossible feature, or device features that do
            not come before context features and those before ad features.
    """
    todo = "correct the layout file; the documentation of sottovoce.simulations.table shows one"
    try:
        written = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
        columns = {str(f.get("name")): str(f.get("column", f.get("name"))) for f in written.features}
        features = [
            msgspec.convert({key: value for key, value in f.items() if key != "column"}, Feature)
            for f in written.features
        ]
        schema = FeatureSchema(
            features=tuple(features),
            history_length=written.schema.history_length,
            heads=("click", "conversion") if written.labels.conversion else ("click",),
        )
    except (
        OSError,
        UnicodeDecodeError,
        tomllib.TOMLDecodeError,
        msgspec.ValidationError,
        SchemaError,
        RecursionError,
    ) as error:
        raise ConfigError(f"{path.name}: {error}", todo) from error
    rank = [("device", "context", "ad").index(feature.source) for feature in features]
    if rank != sorted(rank):
        raise ConfigError(f"{path.name}: features are out of order", "list device features, then context, then ad")
    data = written.data
    if bool(data.held_out_file) == (data.held_out is not None):
        raise ConfigError(f"{path.name}: give either held_out or held_out_file", todo)
    if data.held_out is not None and not 0.0 < data.held_out < 1.0:
        raise ConfigError(f"{path.name}: held_out {data.held_out} is not between 0 and 1", todo)
    labels = (written.labels.click, written.labels.conversion) if written.labels.conversion else (written.labels.click,)
    return Layout(
        data.name,
        schema,
        data.device,
        data.time,
        labels,
        columns,
        data.held_out or 0.0,
        path.parent / data.held_out_file if data.held_out_file else None,
        data.licence,
        data.citation,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """One file, encoded, in its own order.

    Attributes:
        path: where the rows come from.
        ids: (devices here,) distinct device ids.
        owner: (rows,) index into `ids`.
        time: (rows,).
        device: (devices here, device features) table rows, from each device's first row.
        context: (rows, context features) table rows.
        ads: (rows, ad features) table rows.
        labels: (rows, heads).
    """

    path: Path
    ids: Ids
    owner: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    device: npt.NDArray[np.int32]
    context: npt.NDArray[np.int32]
    ads: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int8]


def load(path: Path, layout: Layout) -> Dataset:
    """The data set in a file.

    Raises:
        DataError: a column is missing or of the wrong type, a label is not 0 or 1, a device's times go backwards, a
            conversion without a click, labels of one class, or no row; the message names file, column and row.
    """
    first = _rows(path, layout)
    if layout.held_out_file is None:
        later = _latest(first, layout)
        files, parts = [first], [(0, np.flatnonzero(~later)), (0, np.flatnonzero(later))]
    else:
        files = [first, _rows(layout.held_out_file, layout)]
        parts = [(number, np.arange(len(rows.owner))) for number, rows in enumerate(files)]
        _require_same_type(files[1], first.ids, layout)
    ids, place = np.unique(np.concatenate([rows.ids for rows in files]), return_inverse=True)
    known = np.cumsum([0, *(len(rows.ids) for rows in files)])
    owners = [place[start + rows.owner] for start, rows in zip(known, files, strict=False)]
    begins = np.cumsum([0, *(len(rows.owner) for rows in files)])
    _, entry = np.unique(place, return_index=True)
    device = np.concatenate([rows.device for rows in files])[entry]
    every = np.concatenate([rows.ads for rows in files])
    entry, ad = distinct_rows(every)
    catalogue = every[entry]

    def part(number: int, chosen: npt.NDArray[np.int64], heads: tuple[str, ...], name: str) -> Examples:
        rows = files[number]
        order, offsets = by_device(owners[number][chosen], len(ids))
        local = chosen[order]
        require_both_classes(rows.labels[local], heads, f"{rows.path.name}, {name} part")
        at = ad[begins[number] + local]
        return Examples(offsets, device, rows.context[local], at, rows.labels[local], catalogue)

    train = part(*parts[0], layout.labels, "training")
    valid = part(*parts[1], layout.labels[:1], "held-out")
    name = layout.name or path.name.split(".")[0]
    return Dataset(name, layout.schema, train, valid, ids, layout.licence, layout.citation)


def impressions(path: Path, dataset: Dataset, layout: Layout) -> tuple[Examples, npt.NDArray[np.int64]]:
    """The rows of another file with the same columns, over the devices of `dataset`.

    The catalogue of the result begins with that of `dataset`; ads that it does not have are appended. A device's
    features are those of `dataset`.

    Returns:
        The rows sorted by device, and their order: row k of the result is row order[k] of the file, counted from 0.

    Raises:
        DataError: as `load`, or a device that `dataset` does not know; the message names the row.
    """
    rows, ids, known = _rows(path, layout), dataset.device_ids, dataset.train.catalogue
    _require_same_type(rows, ids, layout)
    index = np.minimum(np.searchsorted(ids, rows.ids), len(ids) - 1)
    strange = (ids[index] != rows.ids)[rows.owner]
    if strange.any():
        row = int(np.argmax(strange)) + 1
        raise fault(
            rows.path,
            layout.device,
            row,
            f"device {rows.ids[rows.owner[row - 1]]} is not in the data set",
            "leave its rows out, or load them too",
        )
    require_both_classes(rows.labels, layout.labels[:1], path.name)
    both = np.concatenate([known, rows.ads])
    entry, ad = distinct_rows(both)
    fresh = entry >= len(known)
    place = np.where(fresh, len(known) - 1 + np.cumsum(fresh), entry).astype(np.int32)
    order, offsets = by_device(index[rows.owner], len(ids))
    made = Examples(
        offsets,
        dataset.train.device,
        rows.context[order],
        place[ad[len(known) :]][order],
        rows.labels[order],
        np.concatenate([known, both[entry[fresh]]]),
    )
    return made, order


def distinct_rows(columns: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Where each distinct row first occurs, in lexicographic order of the rows; and which of them each row is.

    Column by column and by hash, so that millions of rows are never sorted.

    Args:
        columns: (rows, columns), not negative.
    """
    number = np.zeros(len(columns), np.int32)
    for column in columns.T:
        coded = pc.dictionary_encode(pa.array(number.astype(np.int64) * (int(column.max()) + 1) + column))
        _, place = np.unique(coded.dictionary.to_numpy(zero_copy_only=False), return_inverse=True)
        number = place.astype(np.int32)[coded.indices.to_numpy(zero_copy_only=False)]
    return first_rows(number), number


def first_rows(number: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Index of the first row that holds each of the numbers 0 ... number.max(), all of which occur."""
    first = np.empty(int(number.max()) + 1, np.int64)
    first[number[::-1]] = np.arange(len(number) - 1, -1, -1)
    return first


def _latest(rows: _Rows, layout: Layout) -> npt.NDArray[np.bool_]:
    """Which rows belong to the held-out, latest part; rows of one moment stay together."""
    in_order = np.sort(rows.time)
    cut = float(in_order[min(int(np.ceil(len(in_order) * (1.0 - layout.held_out))), len(in_order) - 1)])
    later = np.asarray(rows.time >= cut)
    if later.all():
        raise fault(
            rows.path,
            layout.time,
            None,
            "no row is earlier than the held-out part",
            "give more days or a smaller held_out",
        )
    return later


def _require_same_type(rows: _Rows, ids: Ids, layout: Layout) -> None:
    if rows.ids.dtype.kind != ids.dtype.kind:
        raise fault(
            rows.path,
            layout.device,
            None,
            "device ids are of another type than in the training file",
            "store them alike",
        )


def _rows(path: Path, layout: Layout) -> _Rows:
    schema = layout.schema
    wanted = [layout.device, layout.time, *layout.labels, *layout.columns.values()]
    counted = (layout.time, *layout.labels)  # which must stay numbers where they serve as features too
    written = [
        layout.columns[feature.name]
        for feature in schema.features
        if feature.kind == "hash" or layout.columns[feature.name] not in counted
    ]
    file = read(path, wanted, text=[layout.device, *written])
    labels = np.stack([file.labels(name) for name in layout.labels], 1)
    if (labels[:, -1] > labels[:, 0]).any():
        row = int(np.argmax(labels[:, -1] > labels[:, 0])) + 1
        raise file.fault(
            layout.labels[-1], row, "a conversion without a click", "set the click label too; a conversion implies it"
        )
    ids, owner = file.ids(layout.device)
    time = file.times(layout.time)
    order = np.argsort(owner, kind="stable")
    back = (np.diff(owner[order]) == 0) & (np.diff(time[order]) < 0)
    if back.any():
        row = int((order[1:][back]).min()) + 1
        raise file.fault(
            layout.time, row, f"earlier than the row before it of device {ids[owner[row - 1]]}", "sort the file by time"
        )

    def stacked(source: str) -> npt.NDArray[np.int32]:
        features = [feature for feature in (*schema.context, *schema.ad) if feature.source == source]
        columns = [file.encoded(layout.columns[feature.name], schema, feature) for feature in features]
        return np.stack(columns, 1) if columns else np.zeros((file.rows, 0), np.int32)

    device = stacked("device")[first_rows(owner)]
    return _Rows(path, ids, owner, time, device, stacked("context"), stacked("ad"), labels)
