"""Replies that were damaged, and replies that are meant to harm.

A corruption is noticed, or it is as harmless as a poison: whoever can change bytes on the way can also poison. A poison
is well formed. It is dropped for its size or its numbers, or it moves the sum by no more than an honest update may.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from sottovoce.client.message import Instruction

Arrays = dict[str, npt.NDArray[np.float32]]
Bend = Callable[[RecordDict, np.random.Generator], RecordDict]
Poison = Callable[[Arrays, Instruction, np.random.Generator], Arrays]


def arrays(content: RecordDict) -> Arrays:
    """The sum in a reply."""
    return {name: array.numpy() for name, array in content.array_records["total"].items()}


def _with(content: RecordDict, total: Mapping[str, npt.NDArray[np.generic]], **fields: object) -> RecordDict:
    told = {**content.config_records["reply"], **fields}
    return RecordDict(
        {
            "total": ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in total.items()}),
            "reply": ConfigRecord(told),  # type: ignore[arg-type]
        }
    )


def _data(content: RecordDict, change: Callable[[bytearray], bytes | bytearray]) -> RecordDict:
    """The bytes of the first array changed, and nothing else."""
    record = content.array_records["total"]
    name = next(iter(record))
    old = record[name]
    bent = Array(old.dtype, old.shape, old.stype, bytes(change(bytearray(old.data))))
    return RecordDict({"total": ArrayRecord({**record, name: bent}), "reply": content.config_records["reply"]})


def _flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return data


CORRUPTIONS: Mapping[str, Bend] = {
    "a flipped bit": lambda content, rng: _data(content, lambda data: _flip(data, rng)),
    "half of the bytes": lambda content, _: _data(content, lambda data: data[: len(data) // 2]),
    "no bytes": lambda content, _: _data(content, lambda _: b""),
    "bytes of something else": lambda content, rng: _data(content, lambda data: rng.bytes(len(data))),
    "a shape that would broadcast": lambda content, _: _with(
        content, {name: value[:1] for name, value in arrays(content).items()}
    ),
    "a row more": lambda content, _: _with(
        content, {name: np.concatenate([value, value[:1]]) for name, value in arrays(content).items()}
    ),
    "float64": lambda content, _: _with(
        content, {name: value.astype(np.float64) for name, value in arrays(content).items()}
    ),
    "int32": lambda content, _: _with(
        content, {name: value.astype(np.int32) for name, value in arrays(content).items()}
    ),
    "other names": lambda content, _: _with(content, {f"{name}s": value for name, value in arrays(content).items()}),
    "an array more": lambda content, _: _with(content, {**arrays(content), "extra": np.zeros(1, np.float32)}),
    "no array": lambda content, _: _with(content, {}),
    "a setting of another type": lambda content, _: _with(content, arrays(content), round="1"),
    "a setting more": lambda content, _: _with(content, arrays(content), loss=0.1),
    "a billion devices": lambda content, _: _with(content, arrays(content), devices=10**9),
    "minus one device": lambda content, _: _with(content, arrays(content), devices=-1),
    "another round": lambda content, _: _with(
        content,
        arrays(content),
        round=int(content.config_records["reply"]["round"]) + 1,  # type: ignore[arg-type]
    ),
    "another plan": lambda content, _: _with(content, arrays(content), plan_hash="0" * 64),
    "another run": lambda content, _: _with(content, arrays(content), run_id="other"),
    "nothing at all": lambda _, __: RecordDict(),
}
"""Damage by name."""


def _every(total: Arrays, change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.generic]]) -> Arrays:
    return {name: np.asarray(change(value), np.float32) for name, value in total.items()}


def _length(total: Arrays) -> float:
    return float(np.sqrt(sum(float(np.square(value, dtype=np.float64).sum()) for value in total.values())))


def _stretched(total: Arrays, asked: Instruction) -> Arrays:
    """As long as it may be, in its own direction."""
    factor = asked.clip_norm * len(asked.devices) / (_length(total) or 1.0)
    return _every(total, lambda value: value * factor)


def _aimless(total: Arrays, asked: Instruction, rng: np.random.Generator) -> Arrays:
    drawn: Arrays = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in total.items()}
    return _stretched(drawn, asked)


POISONS: Mapping[str, Poison] = {
    "NaN": lambda total, _, __: _every(total, lambda value: np.full_like(value, np.nan)),
    "one NaN": lambda total, _, rng: _one(total, rng, np.nan),
    "infinity": lambda total, _, __: _every(total, lambda value: np.full_like(value, np.inf)),
    "minus infinity once": lambda total, _, rng: _one(total, rng, -np.inf),
    "1e30": lambda total, _, __: _every(total, lambda value: np.full_like(value, 1e30)),
    "the largest float": lambda total, _, rng: _one(total, rng, float(np.finfo(np.float32).max)),
    "sign flipped": lambda total, _, __: _every(total, lambda value: -value),
    "sign flipped, ten times": lambda total, _, __: _every(total, lambda value: -10 * value),
    "ten times": lambda total, _, __: _every(total, lambda value: 10 * value),
    "just above the bound": lambda total, asked, __: _every(_stretched(total, asked), lambda value: 1.001 * value),
    "as long as it may be": lambda total, asked, _: _stretched(total, asked),
    "backwards, as long as it may be": lambda total, asked, _: _every(_stretched(total, asked), lambda value: -value),
    "any direction, as long as it may be": _aimless,
    "zero": lambda total, _, __: _every(total, np.zeros_like),
}
"""Harm by name; data with turned labels makes an honest update of wrong data, see `robust_trial`."""


def _one(total: Arrays, rng: np.random.Generator, value: float) -> Arrays:
    """One entry replaced."""
    name = next(iter(total))
    bent = total[name].copy()
    bent.reshape(-1)[int(rng.integers(bent.size))] = value
    return {**total, name: bent}


def poisoned(
    content: RecordDict, asked: Instruction, kind: str, rng: np.random.Generator, *, accepted: bool = False
) -> RecordDict:
    """A reply with its sum poisoned; `accepted` cuts it down to the longest that is not dropped."""
    total = POISONS[kind](arrays(content), asked, rng)
    if accepted and _length(total) > asked.clip_norm * len(asked.devices):
        total = _stretched(total, asked)
    return _with(content, total)
