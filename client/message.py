"""What a coordinator asks of a node, what a node answers, and nothing else.

These records are the whole traffic of training. A reply holds the sum of clipped updates of the devices asked, the
round it belongs to, and the number of devices asked, which the coordinator already knows: no count, loss or statistic
of the data behind it. Every field is checked on arrival; a reply that fails a check is dropped, the round goes on.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.wire import FloatArrays as FloatArrays
from sottovoce.client.wire import arrays as _arrays
from sottovoce.client.wire import config as _config
from sottovoce.client.wire import exactly as _exactly
from sottovoce.client.wire import read_arrays as _numpy
from sottovoce.privacy.clip import SLACK
from sottovoce.privacy.errors import UpdateError
from sottovoce.privacy.record import RecordTarget

_TRAINING: dict[str, type] = {"steps": int, "learning_rate": float, "max_rows": int, "max_participations": int}

_RECORD = ("epsilon", "delta", "clip_norm", "sampling_rate", "noise_multiplier")
"""Fields of the record-level target, sent as `record_NAME`; all are 0 without one."""

MOST_DEVICES = 2**40
"""Devices that one node may claim to host; keeps the numbering of a population within 64 bits."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A node's answer to "whom do you host?".

    Attributes:
        devices: number of devices, each numbered 0 ... devices - 1 at that node.
        order: position of the node among all nodes, which fixes the numbering of the whole population.
    """

    devices: int
    order: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """Train these devices from these parameters.

    Attributes:
        run_id: of the run.
        round: from 1.
        plan_hash: digest of the mechanism plan; the reply repeats it.
        clip_norm: C.
        training: local steps.
        parameters: by name, float32.
        devices: indices at the node, int64.
        schema_digest: of the features that the parameters were made for.
        max_participations: most rounds of this run that a device joins; None for no cap.
    """

    run_id: str
    round: int
    plan_hash: str
    clip_norm: float
    training: LocalTraining
    parameters: FloatArrays
    devices: npt.NDArray[np.int64]
    schema_digest: str
    max_participations: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The sum of the clipped updates of the devices asked.

    Attributes:
        run_id: as asked.
        round: as asked.
        plan_hash: as asked.
        total: by name, float32, shapes of the parameters.
        devices: how many were asked.
    """

    run_id: str
    round: int
    plan_hash: str
    total: FloatArrays
    devices: int


def enrolment_record(enrolment: Enrolment) -> RecordDict:
    """For the wire."""
    return RecordDict({"enrolment": ConfigRecord({"devices": enrolment.devices, "order": enrolment.order})})


def read_enrolment(record: RecordDict) -> Enrolment:
    """From the wire; raises UpdateError when it is not a sensible enrolment."""
    _exactly(record, "enrolment")
    fields = _config(record, "enrolment", {"devices": int, "order": int})
    enrolment = Enrolment(fields["devices"], fields["order"])
    if not 0 <= enrolment.devices <= MOST_DEVICES:
        raise UpdateError(f"node enrols {enrolment.devices} devices", "the node is left out")
    return enrolment


def instruction_record(instruction: Instruction) -> RecordDict:
    """For the wire."""
    training = instruction.training
    return RecordDict(
        {
            "parameters": _arrays(instruction.parameters),
            "cohort": ArrayRecord({"devices": Array(instruction.devices)}),
            "instruction": ConfigRecord(
                {
                    "run_id": instruction.run_id,
                    "round": instruction.round,
                    "plan_hash": instruction.plan_hash,
                    "schema_digest": instruction.schema_digest,
                    "clip_norm": instruction.clip_norm,
                    "steps": training.steps,
                    "learning_rate": training.learning_rate,
                    "max_rows": training.max_rows,
                    "max_participations": instruction.max_participations or 0,
                    **{f"record_{name}": float(getattr(training.record, name, 0.0)) for name in _RECORD},
                }
            ),
        }
    )


def read_instruction(record: RecordDict) -> Instruction:
    """From the wire.

    Raises:
        UpdateError: a field is missing, foreign or of the wrong type; a bound that is none; a device asked twice, which
            would count twice.
    """
    _exactly(record, "instruction", "cohort", "parameters")
    types: dict[str, type] = {"run_id": str, "round": int, "plan_hash": str, "schema_digest": str}
    fields = _config(
        record, "instruction", types | {"clip_norm": float} | _TRAINING | {f"record_{name}": float for name in _RECORD}
    )
    told = {name: fields[f"record_{name}"] for name in _RECORD}
    try:
        target = RecordTarget(**told) if any(told.values()) else None
        if target is not None and not target.noise_multiplier:
            raise ValueError("record-level training without noise")
        training = LocalTraining(fields["steps"], fields["learning_rate"], fields["max_rows"], target)
    except ValueError as error:
        raise UpdateError(f"instruction cannot be followed: {error}", "correct the experiment") from error
    cohort = _numpy(record, "cohort").get("devices")
    if cohort is None or cohort.dtype != np.int64 or cohort.ndim != 1 or np.any(np.diff(cohort) <= 0):
        raise UpdateError("instruction names no devices in rising order", "the node answers with an error")
    if fields["max_participations"] < 0:
        raise UpdateError(f"{fields['max_participations']} is no cap", "the node answers with an error")
    if not 0 < fields["clip_norm"] < math.inf:
        raise UpdateError(f"clip norm {fields['clip_norm']} is no bound", "the node answers with an error")
    parameters = _numpy(record, "parameters")
    if any(value.dtype != np.float32 for value in parameters.values()):
        raise UpdateError("parameters are not float32", "the node answers with an error")
    return Instruction(
        fields["run_id"],
        fields["round"],
        fields["plan_hash"],
        fields["clip_norm"],
        training,
        parameters,
        cohort,
        fields["schema_digest"],
        fields["max_participations"] or None,
    )


def reply_record(reply: Reply) -> RecordDict:
    """For the wire."""
    config = ConfigRecord(
        {"run_id": reply.run_id, "round": reply.round, "plan_hash": reply.plan_hash, "devices": reply.devices}
    )
    return RecordDict({"total": _arrays(reply.total), "reply": config})


def read_reply(record: RecordDict, asked: Instruction) -> Reply:
    """A reply that is safe to add up.

    Raises:
        UpdateError: another run, round or plan; wrong names, shapes or dtype; NaN or infinity; a sum longer than its
            devices could have made it. The caller drops the reply and goes on.
    """
    _exactly(record, "reply", "total")
    fields = _config(record, "reply", {"run_id": str, "round": int, "plan_hash": str, "devices": int})
    total = _numpy(record, "total")
    reply = Reply(fields["run_id"], fields["round"], fields["plan_hash"], total, fields["devices"])
    belongs = (reply.run_id, reply.round, reply.plan_hash, reply.devices)
    expected = (asked.run_id, asked.round, asked.plan_hash, len(asked.devices))
    if belongs != expected:
        raise UpdateError(f"reply is for {belongs}, asked was {expected}", "the reply is dropped")
    if total.keys() != asked.parameters.keys():
        raise UpdateError(f"reply names {sorted(total)}", "the reply is dropped")
    squares = 0.0
    for name, value in total.items():
        want = asked.parameters[name]
        if value.shape != want.shape or value.dtype != np.float32:
            raise UpdateError(
                f"{name} is {value.dtype}{list(value.shape)}, not float32{list(want.shape)}", "the reply is dropped"
            )
        squares += float(np.square(value, dtype=np.float64).sum())
    if not np.isfinite(squares):
        raise UpdateError("reply holds NaN or infinity", "the reply is dropped")
    bound = asked.clip_norm * len(asked.devices)
    if math.sqrt(squares) > bound * (1 + SLACK):
        raise UpdateError(f"reply of norm {squares**0.5:.3g} exceeds {bound:.3g}", "the reply is dropped")
    return reply
