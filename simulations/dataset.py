"""One shape for every data set: who the devices are, what they saw first (train) and what they saw later (valid).

On disk a data set is a folder of plain .npy columns and one JSON file; opened, the columns are mapped, not read, so a
million devices cost address space and not memory. Nothing in the folder is ever unpickled.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.client.examples import Examples
from sottovoce.models.schema import FeatureSchema, load_schema
from sottovoce.privacy.errors import DataError, SchemaError

FORMAT = 1
"""Version of the folder's layout."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Devices, their past and their held-out future.

    Attributes:
        name: short, as typed on the command line.
        schema: how values became table rows.
        train: what the devices may learn from; device i owns rows offsets[i]:offsets[i + 1], oldest first.
        valid: what came later, for the same devices in the same order; a device may own no row here or there.
        device_ids: (devices,) raw id of each device, integers or texts.
        licence: of the data, one line.
        citation: whom to thank, one line.
        truth: (valid rows, heads) true probabilities, where the world is known; else None.
        group: (devices,) protected attribute, where there is one; never a feature.
    """

    name: str
    schema: FeatureSchema
    train: Examples
    valid: Examples
    device_ids: npt.NDArray[np.int64] | npt.NDArray[np.str_]
    licence: str
    citation: str
    truth: npt.NDArray[np.float64] | None = None
    group: npt.NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        train, valid, schema = self.train, self.valid, self.schema
        wrong = [
            what
            for what, fits in (
                ("valid has other devices than train", same(train.device, valid.device)),
                ("valid has another catalogue than train", same(train.catalogue, valid.catalogue)),
                ("device ids and devices differ in number", len(self.device_ids) == train.devices),
                ("catalogue columns are not the schema's", train.catalogue.shape[1] == len(schema.ad)),
                (
                    "match columns are not the schema's",
                    train.match.shape[1] == len(schema.matches) == valid.match.shape[1],
                ),
                (
                    "device and context columns are not the schema's",
                    train.device.shape[1] + train.context.shape[1] == len(schema.context)
                    and train.context.shape[1] == valid.context.shape[1],
                ),
                (
                    "labels are not the schema's heads",
                    train.labels.shape[1] == len(schema.heads) == valid.labels.shape[1],
                ),
                ("truth does not match valid", self.truth is None or self.truth.shape == valid.labels.shape),
                ("group and devices differ in number", self.group is None or len(self.group) == train.devices),
            )
            if not fits
        ]
        if wrong:
            raise DataError(
                f"data set {self.name!r}: {'; '.join(wrong)}", "build both parts from the same devices and ads"
            )


class _Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    name: str
    licence: str
    citation: str
    schema: str
    truth: bool
    group: bool


def locate(data_dir: Path | None, environment: str | None = None, here: Path = Path()) -> Path:
    """The folder that holds `kuairand_pure/` and the other sets.

    Args:
        data_dir: what the user named; wins.
        environment: value of SOTTOVOCE_DATA, if set; comes next.
        here: folder whose neighbour `shared/data` is tried last.

    Raises:
        DataError: the named folder is not there, or none was named and none is near.
    """
    named = data_dir if data_dir is not None else Path(environment) if environment else None
    if named is not None:
        if named.is_dir():
            return named
        raise DataError(
            f"data folder {named}: no such folder", "name the folder that holds kuairand_pure/ and the others"
        )
    near = here.resolve().parent / "shared" / "data"
    if near.is_dir():
        return near
    raise DataError(
        "no data folder named",
        "give --data-dir DIR or set SOTTOVOCE_DATA to the folder that holds kuairand_pure/ and the others",
    )


def by_device(
    device: npt.NDArray[np.integer], devices: int, time: npt.NDArray[np.generic] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Order that sorts rows by device, then by time, ties as they were; and the offsets of the devices.

    Args:
        device: (rows,) index of each row's device.
        devices: how many devices there are.
        time: (rows,) anything that sorts; without it a device's rows keep their order.
    """
    order = np.argsort(device, kind="stable") if time is None else np.lexsort((time, device))
    counts = np.bincount(device, minlength=devices)
    return order.astype(np.int64), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def require_both_classes(labels: npt.NDArray[np.int8], heads: tuple[str, ...], where: str) -> None:
    """Refuse labels that are all 0 or all 1: nothing can be learnt from them, nor measured on them.

    Args:
        labels: (rows, heads).
        heads: what each column is called in the file.
        where: the file and which part of it, for the message.

    Raises:
        DataError: a column has one class only.
    """
    for column, head in enumerate(heads):
        low, high = int(labels[:, column].min()), int(labels[:, column].max())
        if low == high:
            raise DataError(
                f"{where}: column {head!r}: all {len(labels)} labels are {low}",
                "give rows of both classes, 0 and 1",
            )


def save(dataset: Dataset, folder: Path) -> None:
    """Write the data set as .npy columns; `dataset.json` comes last, so that a broken-off save cannot be opened.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset.json").unlink(missing_ok=True)
        for name, column in _columns(dataset).items():
            with (folder / f"{name}.npy").open("wb") as file:
                np.save(file, column, allow_pickle=False)
        card = _Card(
            FORMAT,
            dataset.name,
            dataset.licence,
            dataset.citation,
            dataset.schema.canonical().decode(),
            dataset.truth is not None,
            dataset.group is not None,
        )
        (folder / "dataset.json").write_bytes(msgspec.json.encode(card))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written: {error.strerror}", "check the path and the free space"
        ) from error


def open_memory_mapped(folder: Path) -> Dataset:
    """The data set written by `save`, its columns mapped read-only.

    Raises:
        DataError: not such a folder, a file missing or cut short, or columns that do not belong together.
    """
    try:
        card = msgspec.json.decode((folder / "dataset.json").read_bytes(), type=_Card)
        if card.format != FORMAT:
            raise DataError(f"{folder}: layout {card.format}, this version reads {FORMAT}", "save the data set again")
        schema = load_schema(card.schema.encode())
    except (OSError, msgspec.DecodeError, SchemaError) as error:
        raise DataError(f"{folder}: no readable dataset.json: {error}", "save the data set again") from error
    device, catalogue = _open(folder, "device", 2), _open(folder, "catalogue", 2)
    train, valid = (
        Examples(
            _open(folder, f"{part}.offsets", 1),
            device,
            _open(folder, f"{part}.context", 2),
            _open(folder, f"{part}.ad", 1),
            _open(folder, f"{part}.labels", 2),
            catalogue,
            *([_open(folder, f"{part}.match", 2)] if schema.matches else []),
        )
        for part in ("train", "valid")
    )
    return Dataset(
        card.name,
        schema,
        train,
        valid,
        _open(folder, "device_ids", 1),
        card.licence,
        card.citation,
        _open(folder, "truth", 2) if card.truth else None,
        _open(folder, "group", 1) if card.group else None,
    )


def same(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> bool:
    """Whether two columns are one object, or equal."""
    return one is other or np.array_equal(one, other)


def _columns(dataset: Dataset) -> dict[str, npt.NDArray[np.generic]]:
    columns: dict[str, npt.NDArray[np.generic]] = {
        "device": dataset.train.device,
        "catalogue": dataset.train.catalogue,
        "device_ids": dataset.device_ids,
    }
    for part, examples in (("train", dataset.train), ("valid", dataset.valid)):
        columns |= {
            f"{part}.offsets": examples.offsets,
            f"{part}.context": examples.context,
            f"{part}.ad": examples.ad,
            f"{part}.labels": examples.labels,
        }
        if dataset.schema.matches:
            columns[f"{part}.match"] = examples.match
    if dataset.truth is not None:
        columns["truth"] = dataset.truth
    if dataset.group is not None:
        columns["group"] = dataset.group
    return columns


_KINDS = {
    "device": np.int32,
    "catalogue": np.int32,
    "match": np.int32,
    "offsets": np.int64,
    "context": np.int32,
    "ad": np.int32,
    "labels": np.int8,
    "truth": np.float64,
    "group": np.int8,
}


def _open(folder: Path, name: str, dimensions: int) -> npt.NDArray[Any]:
    """One column, mapped; a column without a single cell cannot be mapped and is read instead."""
    path = folder / f"{name}.npy"
    column: npt.NDArray[Any] | None = None
    with contextlib.suppress(ValueError, OSError, EOFError):
        column = np.lib.format.open_memmap(path, mode="r")
    if column is None:
        try:
            with path.open("rb") as file:
                column = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read: {error}", "save the data set again") from error
    kind = _KINDS.get(name.split(".")[-1])
    fits = column.dtype == kind if kind is not None else column.dtype.kind in "iU"
    if column.ndim != dimensions or not fits or (name.endswith("offsets") and not len(column)):
        raise DataError(f"{path}: holds {column.dtype} of shape {column.shape}", "save the data set again")
    return column
