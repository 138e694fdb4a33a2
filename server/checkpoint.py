"""What a coordinator needs to go on: weights, optimizer state, and the ledger head they were paid under.

One safetensors file a round, written whole or not at all, with a digest of its own content: a disk that flips a bit in
the weights is found out. It pins the ledger: a ledger older than its checkpoint was rolled back and is refused; a
checkpoint older than its ledger is ordinary, since what was spent stays spent.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.chain import Head
from sottovoce.privacy.errors import CheckpointError

KEPT = 3
"""How many checkpoints stay in the folder; the newest may be cut short by a failing disk."""

_NAME = re.compile(r"round-(\d{6})\.safetensors")


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a checkpoint says about itself.

    Attributes:
        run_id: of the run.
        round: last round that is in the weights.
        plan_hash: digest of the mechanism plan.
        schema_digest: of the feature schema.
        ledger_length: the ledger's row that paid for the round.
        ledger_hash: hash of that row.
    """

    run_id: str
    round: int
    plan_hash: str
    schema_digest: str
    ledger_length: int
    ledger_hash: str

    @property
    def ledger_head(self) -> Head:
        """For `Ledger.verify`."""
        return Head(self.ledger_length, self.ledger_hash)


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint that was read.

    Attributes:
        state: tensors by name.
        facts: what it says about itself.
        sha256: of the file, as the ledger commits to it.
        problems: a line for each newer checkpoint that could not be read.
    """

    state: dict[str, Tensor]
    facts: Facts
    sha256: str
    problems: tuple[str, ...] = ()


def encode(state: Mapping[str, Tensor], facts: Facts) -> bytes:
    """The file's bytes."""
    whole = {name: value.contiguous() for name, value in state.items()}
    told = msgspec.json.encode(facts).decode()
    data: bytes = save(whole, {"sottovoce": told, "sha256": _digest(whole, told)})
    return data


def decode(data: bytes, name: str) -> tuple[dict[str, Tensor], Facts]:
    """State and facts of a checkpoint's bytes.

    Raises:
        CheckpointError: cut short, damaged or not ours.
    """
    try:
        state = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + size], type=_Header).metadata
        facts = msgspec.json.decode(metadata["sottovoce"], type=Facts)
        if metadata["sha256"] != _digest(state, metadata["sottovoce"]):
            raise ValueError("its content is not what was written")
    except (SafetensorError, msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{name}: not a readable checkpoint ({error})", "an older one is taken if there is one"
        ) from None
    return state, facts


class _Header(msgspec.Struct, frozen=True):
    """The part of a safetensors header that is free text."""

    metadata: dict[str, str] = msgspec.field(name="__metadata__")


def _digest(state: Mapping[str, Tensor], told: str) -> str:
    """SHA-256 of the facts, and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(told.encode())
    for name, value in sorted(state.items()):
        digest.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def write(folder: Path, state: Mapping[str, Tensor], facts: Facts) -> bytes:
    """Write the checkpoint of `facts.round`, remove old ones, and return the bytes written."""
    data = encode(state, facts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"round-{facts.round:06d}.safetensors", data)
        for old in _files(folder)[KEPT:]:
            old.unlink()
    except OSError as error:
        raise CheckpointError(
            f"{folder}: {error.strerror}", "free space or choose another folder, then resume the run"
        ) from error
    return data


def newest(folder: Path) -> Kept:
    """The newest readable checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    problems = []
    for path in _files(folder):
        try:
            data = path.read_bytes()
            state, facts = decode(data, str(path))
        except CheckpointError as error:
            problems.append(error.what)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        else:
            return Kept(state, facts, hashlib.sha256(data).hexdigest(), tuple(problems))
    found = "; ".join(problems) or f"no checkpoint in {folder}"
    raise CheckpointError(found, "restore a checkpoint from a copy, or start the run again elsewhere")


def present(folder: Path) -> bool:
    """Whether there is any checkpoint, readable or not."""
    return bool(_files(folder))


def _files(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((path for path in folder.glob("round-*.safetensors") if _NAME.fullmatch(path.name)), reverse=True)
