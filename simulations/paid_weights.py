"""Whether weights were paid for: their checkpoint must stand in the ledger as a committed release of training.

Needs the ledger only. The digest is that of the whole checkpoint file, which the coordinator commits after each round.
"""

from dataclasses import dataclass

from sottovoce.models.passport import PrivacyPassport
from sottovoce.privacy.chain import Committed, Reserved
from sottovoce.privacy.reading import Reader


@dataclass(frozen=True, slots=True)
class PaidWeights:
    """What a ledger says of a checkpoint.

    Attributes:
        row: that committed it; None where none counts.
        fault: why none does, in words; empty where one does.
    """

    row: int | None
    fault: str = ""


def paid_weights(ledger: Reader, checkpoint: str, stated: PrivacyPassport) -> PaidWeights:
    """The newest row that committed a checkpoint and that a passport rests on.

    It must be a release of training, under the passport's own plan where it names one; or the outcome of a selection,
    which pays once for all runs that it chose from.

    Args:
        ledger: open; rows after those of the passport are read too, to say what they know.
        checkpoint: SHA-256 of the file, hexadecimal.
        stated: the passport that travels with the weights.

    Raises:
        LedgerError: the ledger does not hold.
    """
    reserved: dict[int, Reserved] = {}
    row, fault = None, "knows no such release"
    for entry in ledger.entries():
        if isinstance(entry, Reserved):
            reserved[entry.seq] = entry
        elif isinstance(entry, Committed) and entry.artifact_sha256 == checkpoint:
            if why := _why_not(entry, reserved[entry.reservation], stated):
                fault = why
            else:
                row = entry.seq
    return PaidWeights(row, "" if row is not None else fault)


def _why_not(entry: Committed, paid: Reserved, stated: PrivacyPassport) -> str:
    """What is wrong with a row that committed the checkpoint, in words, or nothing."""
    if entry.seq > stated.ledger_length:
        return f"committed it in row {entry.seq}, after the {stated.ledger_length} rows of the passport"
    if paid.purpose not in ("train", "tuning"):
        return f"committed it in row {entry.seq} as a release of {paid.purpose}, which makes no model"
    if paid.purpose == "train" and stated.plan_hash and paid.plan_hash != stated.plan_hash:
        return f"committed it in row {entry.seq} under plan {paid.plan_hash}, not under the passport's"
    return ""
