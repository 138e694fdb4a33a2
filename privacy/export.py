"""A ledger as JSON lines, for people who recompute it without this library.

Each line of rows holds `body` (the entry as JSON text), `hash` and `prev_hash`. To check one: hash is the SHA-256 of
prev_hash followed by body, and prev_hash is the hash of the line before, 64 zeros in the first. Restricted records go
into a file of their own: who may read the ledger may not know how large cohorts were.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sottovoce.privacy.chain import Row
from sottovoce.privacy.errors import LedgerError


def rows(source: Iterable[Row], file: Path) -> None:
    """Write one line per row.

    Raises:
        LedgerError: the file cannot be written; nothing is left behind.
    """
    _write(({"body": row.body.decode(), "hash": row.hash, "prev_hash": row.prev_hash} for row in source), file)


def restricted(records: Mapping[int, msgspec.Struct], file: Path) -> None:
    """Write one line per restricted record: `row`, the one that committed, and what happened, for the owner's eyes.

    `realised_sha256` of that row is the SHA-256 of `record` as JSON with sorted keys and no spaces.

    Raises:
        LedgerError: the file cannot be written; nothing is left behind.
    """
    lines = ({"record": record, "row": seq} for seq, record in sorted(records.items()))
    _write(lines, file, mode=0o600)


def _write(lines: Iterable[Mapping[str, Any]], file: Path, mode: int = 0o666) -> None:
    """All lines in their place at once, or none."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
            for line in lines:
                out.write(msgspec.json.encode(line, order="sorted") + b"\n")
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        raise LedgerError(f"{file}: {error.strerror}", "choose a file in a folder you may write to") from error
    finally:
        partial.unlink(missing_ok=True)
