"""A passport held against the ledger it names: everything it says is recomputed from the rows that stood then.

So is what the manifest says of the weights: that their checkpoint is a release which these rows paid for. The rows that
a calibration names are held against what it says of them.

Rows that were appended later change nothing in what was true at the release; they are counted and said. A ledger that
is shorter, or whose row at that place is another one, is not the ledger of the passport, and nothing is compared.
"""

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from sottovoce.models.calibration import Calibration
from sottovoce.models.passport import SIMULATION, PrivacyPassport
from sottovoce.privacy.audit import audit_open
from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import Committed, Head, Reserved
from sottovoce.privacy.errors import ConfigError, LedgerError
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.reading import Reader
from sottovoce.simulations.issuing import passport
from sottovoce.simulations.paid_weights import paid_weights

CLOSE = 1e-6
"""Relative difference up to which two epsilons are the same: other builds of numerical libraries round otherwise."""

SINCE = ("audit", "plan_hash")
"""Fields that older passports lack."""


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """A field on which bundle and ledger do not agree; both values as JSON.

    Attributes:
        field: its name.
        stated: what the bundle says.
        ledger: what the ledger comes to, or says of it in words.
        file: of the bundle, where it is stated.
    """

    field: str
    stated: str
    ledger: str
    file: Literal["passport", "manifest", "calibration.json"] = "passport"

    def __str__(self) -> str:
        """One line."""
        file = self.file if "." in self.file else f"the {self.file}"
        return f"{self.field}: {file} says {self.stated}, the ledger {self.ledger}"


class LedgerCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A passport and its ledger, compared.

    Attributes:
        ledger: where it is.
        rows: that the passport rests on.
        later_rows: appended since.
        agreed: fields that are what the ledger comes to.
        mismatches: fields that are not.
        not_checked: what no ledger can show, in words.
        paid_row: where the ledger committed the checkpoint; None where it did not, which is among the mismatches.
    """

    ledger: str
    rows: int
    later_rows: int
    agreed: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    not_checked: tuple[str, ...]
    paid_row: int | None


def check_ledger(
    stated: PrivacyPassport, checkpoint: str, ledger: Reader, calibration: Calibration | None = None
) -> LedgerCheck:
    """Every field of a passport, the checkpoint, and what a calibration names, held against the ledger of the release.

    Where a passport names no plan, the plan of the ledger that agrees with it best is taken.

    Args:
        stated: the passport.
        checkpoint: its SHA-256, as the manifest states it.
        ledger: open; all of it is checked, later rows too.
        calibration: of the same bundle; None to look at the passport alone.

    Raises:
        LedgerError: the ledger does not hold, is shorter than the passport says, is another one, or plans no training.
        GateError: the ledger is a device's own.
    """
    head = ledger.verify()
    _require_row(stated, ledger, head)
    then = ledger.up_to(stated.ledger_length)
    book = then.book()
    report = audit_open(then)
    proofs = [passport(report, plan) for plan in _plans(book, stated.plan_hash)]
    if not proofs:
        raise LedgerError(f"{ledger.name}: holds no plan of a training run", "name the ledger of the run")
    mismatches = min((_compare(stated, proof) for proof in proofs), key=len)
    paid = paid_weights(ledger, checkpoint, stated)
    if paid.fault:
        unknown = Mismatch(
            field="checkpoint_digest", stated=_text(checkpoint), ledger=_text(paid.fault), file="manifest"
        )
        mismatches = (*mismatches, unknown)
    wrong = {one.field for one in mismatches}
    unpaid = () if calibration is None else _unpaid(calibration, then, book, stated.plan_hash)
    absent = {name for name in SINCE if not getattr(stated, name)}
    return LedgerCheck(
        ledger=ledger.name,
        rows=stated.ledger_length,
        later_rows=head.length - stated.ledger_length,
        agreed=tuple(name for name in stated.__struct_fields__ if name not in wrong | absent),
        mismatches=(*mismatches, *unpaid),
        not_checked=_unchecked(stated, proofs[0], then, book, absent, calibration),
        paid_row=paid.row,
    )


def _require_row(stated: PrivacyPassport, ledger: Reader, head: Head) -> None:
    """Refuse a ledger that does not contain the passport's head where it says."""
    restore = "name the ledger of this release, or restore it from a copy and tell the auditor"
    if head.length < stated.ledger_length:
        raise LedgerError(
            f"ledger_length: the passport says {stated.ledger_length}, the ledger has {head.length} rows: rolled back",
            restore,
        )
    found = {row.seq: row.hash for row in ledger.rows()}
    here = found.get(stated.ledger_length, "")
    if here == stated.ledger_head:
        return
    elsewhere = [seq for seq, sha256 in found.items() if sha256 == stated.ledger_head]
    if elsewhere:
        raise LedgerError(
            f"ledger_length: the passport says {stated.ledger_length}, its ledger_head is row {elsewhere[0]}", restore
        )
    raise LedgerError(
        f"ledger_head: the passport says {stated.ledger_head or 'none'}, row {stated.ledger_length} of the ledger is "
        f"{here or 'none'}: another ledger, or rewritten",
        restore,
    )


def _unpaid(calibration: Calibration, then: Reader, book: Book, plan_hash: str) -> tuple[Mismatch, ...]:
    """Where a head names a measurement that the ledger did not pay for and commit as it says."""
    entries, hashes = {entry.seq: entry for entry in then.entries()}, {row.seq: row.hash for row in then.rows()}
    committed = {one.reservation: one for one in entries.values() if isinstance(one, Committed)}
    # Empty where the plan is the best of a selection: then other rows paid.
    trained = {run for run, plan, _, _ in book.uses if plan == plan_hash}
    found = []
    for head in calibration.heads:
        said = head.source
        if said is None:
            continue
        row = entries.get(said.ledger_row)
        bill = row if isinstance(row, Reserved) else None
        settled = committed.get(said.ledger_row)
        stated = {
            "ledger_hash": said.ledger_hash,
            "purpose": "calibration",
            "run_id": said.run_id,
            "number": said.number,
            "artifact_sha256": said.artifact_sha256,
            "trained_by_this_run": True,
        }
        held = {
            "ledger_hash": hashes.get(said.ledger_row),
            "purpose": None if bill is None else bill.purpose,
            "run_id": None if bill is None else bill.run_id,
            "number": None if bill is None else bill.round,
            "artifact_sha256": None if settled is None else settled.artifact_sha256,
            "trained_by_this_run": not trained or said.run_id in trained,
        }
        found += [
            Mismatch(
                field=f"calibration.{head.head}.{name}",
                stated=_text(value),
                ledger=_text(held[name]),
                file="calibration.json",
            )
            for name, value in stated.items()
            if held[name] != value
        ]
    return tuple(found)


def _plans(book: Book, wanted: str) -> list[MechanismPlan]:
    """The plan that is wanted, if it is one of the ledger's sums over devices; else all of these."""
    found: dict[str, MechanismPlan] = {}
    for name, planned in book.plans.items():
        try:
            plan = MechanismPlan.read(planned.plan)
        except ConfigError:
            continue  # a plan of measurements or of a selection
        if plan.digest() == name:
            found[name] = plan
    return [found[wanted]] if wanted in found else list(found.values())


def _compare(stated: PrivacyPassport, proof: PrivacyPassport) -> tuple[Mismatch, ...]:
    return tuple(
        Mismatch(field=name, stated=_text(getattr(stated, name)), ledger=_text(getattr(proof, name)))
        for name in stated.__struct_fields__
        if not _agree(name, getattr(stated, name), getattr(proof, name))
    )


def _agree(name: str, stated: object, proven: object) -> bool:
    """Whether a field is what the ledger comes to, or is not stated where older passports have none."""
    if name in SINCE and not stated:
        return True
    if name == "label" and isinstance(stated, str) and isinstance(proven, str):
        return stated == proven or bool(_added(stated, proven))
    if name.startswith("epsilon") and isinstance(stated, float) and isinstance(proven, float):
        return math.isclose(stated, proven, rel_tol=CLOSE)
    return stated == proven


def _added(stated: str, proven: str) -> str:
    """What a label says after the ledger's claims."""
    if proven in ("", SIMULATION) or not stated.startswith(proven + "; "):
        return ""
    return stated[len(proven) + 2 :]


def _unchecked(
    stated: PrivacyPassport,
    proof: PrivacyPassport,
    then: Reader,
    book: Book,
    absent: set[str],
    calibration: Calibration | None,
) -> tuple[str, ...]:
    """What this comparison cannot show."""
    found = []
    if calibration is not None and not calibration.identity:
        found.append("calibration: slope and intercept; whoever holds the measurement with that digest can fit them")
    if added := _added(stated.label, proof.label):
        found.append(f"label: what the signer adds in words of their own: {added}")
    found += [f"{name}: not stated, the bundle is of an older version" for name in sorted(absent)]
    if len(then.realised(book)) < len(book.realised):
        found.append(
            "participation: restricted records cannot be seen here, so epsilon_known_cohort may come out higher"
        )
    return tuple(found)


def _text(value: object) -> str:
    """A value as JSON."""
    return msgspec.json.encode(dict(sorted(value.items())) if isinstance(value, Mapping) else value).decode()
