"""What every message is made of, and how little of it is believed: named records, flat settings, plain arrays."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, RecordDict

from sottovoce.privacy.errors import UpdateError

FloatArrays = Mapping[str, npt.NDArray[np.float32]]

_HEADER = re.compile(
    rb"\{'descr': '([<|][biuf][1248])', 'fortran_order': False, 'shape': \(((?:\d{1,19}, ){0,31}\d{0,19}),?\)(?:, )?\} *\n"
)
"""What `numpy.save` writes before the numbers of a plain array, C order, little endian."""


def exactly(record: RecordDict, *names: str) -> None:
    """Refuse a message with a record that is not declared: nothing undeclared is read, or sent along unnoticed."""
    if set(record) != set(names):
        raise UpdateError(f"message holds {len(record)} records, not {', '.join(names)}", "the message is dropped")


def arrays(values: FloatArrays) -> ArrayRecord:
    """Float32 arrays by name, for the wire."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value, np.float32)) for name, value in values.items()})


def read_arrays(record: RecordDict, key: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of the record named `key`; raises UpdateError when they are not plain numbers."""
    found = record.array_records.get(key)
    if found is None:
        raise UpdateError(f"message without {key!r}", "the message is dropped")
    try:
        return {name: _read(array) for name, array in found.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise UpdateError(f"arrays in {key!r} cannot be read: {error}", "the message is dropped") from error


def _read(array: Array) -> npt.NDArray[Any]:
    """The array of plain .npy bytes, and of nothing else that numpy could be talked into loading.

    `Array.numpy` would open a zip archive, and would allocate whatever size a header claims. numpy's own reader of
    headers calls Python's parser, which a hostile header can exhaust, and which in CPython 3.11 fails with a SystemError
    now and then when several threads parse at once, as the nodes of one process do.
    """
    data = array.data
    if array.stype != "numpy.ndarray" or data[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("not .npy data")
    start = 10 + int.from_bytes(data[8:10], "little")
    header = _HEADER.fullmatch(data[10:start])
    if header is None:
        raise ValueError("not the header of a plain array")
    dtype, shape = np.dtype(header[1].decode()), tuple(int(length) for length in header[2].split(b",") if length.strip())
    return np.frombuffer(data, dtype, offset=start).reshape(shape).copy()


def config(record: RecordDict, key: str, types: Mapping[str, type]) -> dict[str, Any]:
    """The settings of the record named `key`; raises UpdateError unless it has exactly `types`, each of its type."""
    found = record.config_records.get(key)
    if found is None or set(found) != set(types):
        raise UpdateError(f"message without a proper {key!r}", "the message is dropped")
    for name, kind in types.items():
        if type(found[name]) is not kind:
            raise UpdateError(f"{key}.{name} is a {type(found[name]).__name__}", "the message is dropped")
    return dict(found)
