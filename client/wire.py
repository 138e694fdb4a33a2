"""What every message is made of, and how little of it is believed: named records, flat settings, plain arrays."""

from collections.abc import Mapping
from io import BytesIO
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, RecordDict

from sottovoce.privacy.errors import UpdateError

FloatArrays = Mapping[str, npt.NDArray[np.float32]]


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
    except (TypeError, ValueError, SyntaxError, TokenError, MemoryError, RecursionError) as error:
        # numpy reads a header as Python text, so that a hostile one can fail like any Python text.
        raise UpdateError(f"arrays in {key!r} cannot be read: {error}", "the message is dropped") from error


def _read(array: Array) -> npt.NDArray[Any]:
    """The array of plain .npy bytes, and of nothing else that numpy could be talked into loading.

    `Array.numpy` would open a zip archive, and would allocate whatever size a header claims.
    """
    stream = BytesIO(array.data)
    if array.stype != "numpy.ndarray" or np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not .npy data")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran or dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"{dtype}{list(shape)}")
    return np.frombuffer(array.data, dtype, offset=stream.tell()).reshape(shape).copy()


def config(record: RecordDict, key: str, types: Mapping[str, type]) -> dict[str, Any]:
    """The settings of the record named `key`; raises UpdateError unless it has exactly `types`, each of its type."""
    found = record.config_records.get(key)
    if found is None or set(found) != set(types):
        raise UpdateError(f"message without a proper {key!r}", "the message is dropped")
    for name, kind in types.items():
        if type(found[name]) is not kind:
            raise UpdateError(f"{key}.{name} is a {type(found[name]).__name__}", "the message is dropped")
    return dict(found)
