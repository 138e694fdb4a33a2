"""What a coordinator asks when it measures, and what a node answers: one vector, and nothing else.

All measurements are one mechanism: every device makes a vector of the length that the question fixes, bounds it, and
the node answers with the sum. An answer repeats what was asked and adds that sum: no count of rows, no loss, no device.
Every field is checked on arrival; an answer that fails a check is dropped and counts as zero.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.wire import FloatArrays, arrays, config, exactly, read_arrays
from sottovoce.privacy.clip import SLACK
from sottovoce.privacy.errors import UpdateError

Floats = npt.NDArray[np.float64]

Query = Literal["quality", "calibration", "clip", "popularity"]
"""`quality`: scores against clicks on held-out rows; `calibration`: the same on training rows; `clip`: whether the norm
of the device's update is at most each mark; `popularity`: impressions and clicks by ad."""

MOST_MARKS = 1_024
"""Longest list of marks that a question may hold."""

_FIELDS: dict[str, type] = {
    "run_id": str,
    "number": int,
    "plan_hash": str,
    "query": str,
    "clip_norm": float,
    "steps": int,
    "learning_rate": float,
    "max_rows": int,
}


@dataclass(frozen=True, slots=True)
class Question:
    """Measure these devices.

    Attributes:
        run_id: of the run.
        number: of the measurement, from 1.
        plan_hash: digest of the mechanism plan; the answer repeats it.
        query: what is asked.
        clip_norm: C, largest L2 norm of one device's vector.
        marks: rising: bin edges as logits for `quality` and `calibration`, norms for `clip`, none for `popularity`.
        training: what devices do in a round: its newest rows count for `calibration`, its steps for `clip`.
        parameters: by name, float32; none for `popularity`.
        devices: indices at the node, rising, int64.
    """

    run_id: str
    number: int
    plan_hash: str
    query: Query
    clip_norm: float
    marks: Floats
    training: LocalTraining
    parameters: FloatArrays
    devices: npt.NDArray[np.int64]

    def size(self, ads: int) -> int:
        """Length of the vector, given the number of ads in the catalogue: known before anybody is asked.

        Histograms hold, for each of marks + 1 bins, rows without and rows with a click; `clip` one number per mark;
        `popularity`, for each ad, impressions and clicks.
        """
        match self.query:
            case "quality" | "calibration":
                return 2 * (len(self.marks) + 1)
            case "clip":
                return len(self.marks)
            case "popularity":
                return 2 * ads


@dataclass(frozen=True, slots=True)
class Answer:
    """The sum of the bounded vectors of the devices asked.

    Attributes:
        run_id: as asked.
        number: as asked.
        plan_hash: as asked.
        query: as asked.
        devices: how many were asked.
        total: shape as `Question.size` says, float64.
    """

    run_id: str
    number: int
    plan_hash: str
    query: str
    devices: int
    total: Floats


def question_record(question: Question) -> RecordDict:
    """For the wire."""
    training = question.training
    fields = ConfigRecord(
        {
            "run_id": question.run_id,
            "number": question.number,
            "plan_hash": question.plan_hash,
            "query": question.query,
            "clip_norm": question.clip_norm,
            "steps": training.steps,
            "learning_rate": training.learning_rate,
            "max_rows": training.max_rows,
        }
    )
    return RecordDict(
        {
            "question": fields,
            "marks": ArrayRecord({"marks": Array(np.ascontiguousarray(question.marks, np.float64))}),
            "cohort": ArrayRecord({"devices": Array(question.devices)}),
            "parameters": arrays(question.parameters),
        }
    )


def read_question(record: RecordDict) -> Question:
    """From the wire.

    Raises:
        UpdateError: a field is missing, foreign or of the wrong type; a bound that is none; marks that do not rise; a
            device asked twice, which would count twice.
    """
    exactly(record, "question", "marks", "cohort", "parameters")
    fields = config(record, "question", _FIELDS)
    if fields["query"] not in get_args(Query):
        raise UpdateError(f"question {fields['query']!r} is not known here", "the node answers with an error")
    if not 0 < fields["clip_norm"] < math.inf:
        raise UpdateError(f"clip norm {fields['clip_norm']} is no bound", "the node answers with an error")
    try:
        training = LocalTraining(fields["steps"], fields["learning_rate"], fields["max_rows"])
    except ValueError as error:
        raise UpdateError(f"question cannot be followed: {error}", "correct the experiment") from error
    marks = read_arrays(record, "marks").get("marks")
    if marks is None or marks.dtype != np.float64 or marks.ndim != 1 or len(marks) > MOST_MARKS:
        raise UpdateError("question without a list of marks", "the node answers with an error")
    if not np.isfinite(marks).all() or np.any(np.diff(marks) <= 0):
        raise UpdateError("marks of a question do not rise", "the node answers with an error")
    cohort = read_arrays(record, "cohort").get("devices")
    if cohort is None or cohort.dtype != np.int64 or cohort.ndim != 1 or np.any(np.diff(cohort) <= 0):
        raise UpdateError("question names no devices in rising order", "the node answers with an error")
    parameters = read_arrays(record, "parameters")
    if any(value.dtype != np.float32 for value in parameters.values()):
        raise UpdateError("parameters are not float32", "the node answers with an error")
    return Question(
        fields["run_id"],
        fields["number"],
        fields["plan_hash"],
        fields["query"],
        fields["clip_norm"],
        marks,
        training,
        parameters,
        cohort,
    )


def answer_record(answer: Answer) -> RecordDict:
    """For the wire."""
    fields = ConfigRecord(
        {
            "run_id": answer.run_id,
            "number": answer.number,
            "plan_hash": answer.plan_hash,
            "query": answer.query,
            "devices": answer.devices,
        }
    )
    total = Array(np.ascontiguousarray(answer.total, np.float64))
    return RecordDict({"answer": fields, "sum": ArrayRecord({"sum": total})})


def read_answer(record: RecordDict, asked: Question, size: int) -> Answer:
    """An answer that is safe to add up.

    Args:
        record: as received.
        asked: what this node was asked.
        size: length of the vector, see `Question.size`.

    Raises:
        UpdateError: another run, measurement, plan or query; wrong names, shape or dtype; NaN or infinity; a sum longer
            than its devices could have made it. The caller drops the answer and goes on.
    """
    exactly(record, "answer", "sum")
    types = {"run_id": str, "number": int, "plan_hash": str, "query": str, "devices": int}
    fields = config(record, "answer", types)
    expected = (asked.run_id, asked.number, asked.plan_hash, asked.query, len(asked.devices))
    if tuple(fields[name] for name in types) != expected:
        raise UpdateError(f"answer is not to {asked.query} {asked.number} of this run", "the answer is dropped")
    found = read_arrays(record, "sum")
    if found.keys() != {"sum"}:
        raise UpdateError(f"answer names {len(found)} arrays", "the answer is dropped")
    total = found["sum"]
    if total.shape != (size,) or total.dtype != np.float64:
        raise UpdateError(f"sum is {total.dtype}{list(total.shape)}, not float64[{size}]", "the answer is dropped")
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(total))
    if not math.isfinite(norm):
        raise UpdateError("answer holds NaN or infinity", "the answer is dropped")
    bound = asked.clip_norm * len(asked.devices)
    if norm > bound * (1 + SLACK):
        raise UpdateError(f"answer of norm {norm:.3g} exceeds {bound:.3g}", "the answer is dropped")
    return Answer(asked.run_id, asked.number, asked.plan_hash, asked.query, len(asked.devices), total)
