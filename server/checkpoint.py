"""What a coordinator needs to go on: weights, optimizer state, and the ledger head they were paid under.

One safetensors file a round, written whole or not at all. It pins the ledger: a ledger older than its checkpoint was
rolled back and is refused; a checkpoint older than its ledger is ordinary, since what was spent stays spent.
"""

import re
from collections.abc import Mapping
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
        ledger_length: rows of the ledger when the round was paid for.
        ledger_hash: hash of the last of them.
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


def encode(state: Mapping[str, Tensor], facts: Facts) -> bytes:
    """The file's bytes."""
    return save(
        {name: value.contiguous() for name, value in state.items()}, {"sottovoce": msgspec.json.encode(facts).decode()}
    )


def decode(data: bytes, name: str) -> tuple[dict[str, Tensor], Facts]:
    """State and facts of a checkpoint's bytes.

    Raises:
        CheckpointError: cut short, damaged or not ours.
    """
    try:
        state = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + size])["__metadata__"]
        return state, msgspec.json.decode(metadata["sottovoce"], type=Facts)
    except (SafetensorError, msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{name}: not a readable checkpoint ({error})", "an older one is taken if there is one"
        ) from None


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


def newest(folder: Path) -> tuple[dict[str, Tensor], Facts, list[str]]:
    """The newest readable checkpoint, and a line for each newer one that could not be read.

    Raises:
        CheckpointError: there is none.
    """
    problems = []
    for path in _files(folder):
        try:
            state, facts = decode(path.read_bytes(), str(path))
        except CheckpointError as error:
            problems.append(error.what)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        else:
            return state, facts, problems
    found = "; ".join(problems) or "no checkpoint there"
    raise CheckpointError(f"{folder}: {found}", "restore a checkpoint from a copy, or start the run again elsewhere")


def _files(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((path for path in folder.glob("round-*.safetensors") if _NAME.fullmatch(path.name)), reverse=True)
