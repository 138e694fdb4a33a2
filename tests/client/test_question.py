"""What may stand in a question and in its answer: everything else is dropped."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.question import Answer, Question, answer_record, question_record, read_answer, read_question
from sottovoce.privacy.errors import UpdateError

ASKED = Question(
    run_id="run",
    number=3,
    plan_hash="plan",
    query="quality",
    clip_norm=2.0,
    marks=np.array([-1.0, 0.0, 1.0]),
    training=LocalTraining(),
    parameters={"w": np.ones((2, 3), np.float32)},
    devices=np.array([0, 4, 7]),
)
SIZE = ASKED.size(ads=100)
ANSWER = Answer("run", 3, "plan", "quality", 3, np.full(SIZE, 0.5))


def test_a_question_and_an_answer_arrive_as_they_were_sent():
    read = read_question(question_record(ASKED))
    assert (read.query, read.number, read.clip_norm, read.training) == ("quality", 3, 2.0, LocalTraining())
    for name in ("marks", "devices"):
        np.testing.assert_array_equal(getattr(read, name), getattr(ASKED, name))
    np.testing.assert_array_equal(read.parameters["w"], ASKED.parameters["w"])
    np.testing.assert_array_equal(read_answer(answer_record(ANSWER), ASKED, SIZE).total, ANSWER.total)


@pytest.mark.parametrize(("query", "size"), [("quality", 8), ("calibration", 8), ("clip", 3), ("popularity", 200)])
def test_the_length_of_the_vector_is_known_before_anybody_is_asked(query, size):
    assert replace(ASKED, query=query).size(ads=100) == size


def test_an_answer_is_these_records_and_fields_and_no_others():
    """`docs/egress.md` lists them; adding one here means declaring it there."""
    record = answer_record(ANSWER)
    assert set(record) == {"answer", "sum"}
    assert set(record.config_records["answer"]) == {"run_id", "number", "plan_hash", "query", "devices"}
    assert set(record.array_records["sum"]) == {"sum"}
    for extra in ({"metrics": MetricRecord({"rows": 3})}, {"note": ConfigRecord({"rows": 7})}):
        more = answer_record(ANSWER)
        more.update(extra)
        with pytest.raises(UpdateError, match="records"):
            read_answer(more, ASKED, SIZE)


BAD_QUESTIONS = {
    "an unknown query": {"query": "gender"},
    "no bound": {"clip_norm": float("inf")},
    "a bound of zero": {"clip_norm": 0.0},
    "a bound that is NaN": {"clip_norm": float("nan")},
    "marks that fall": {"marks": np.array([1.0, 0.0])},
    "marks that repeat": {"marks": np.array([1.0, 1.0])},
    "a mark that is NaN": {"marks": np.array([0.0, np.nan])},
    "more marks than may be": {"marks": np.arange(2000.0)},
    "a table of marks": {"marks": np.ones((2, 2))},
    "a device asked twice": {"devices": np.array([3, 3])},
    "devices out of order": {"devices": np.array([4, 3])},
}


@pytest.mark.parametrize("changes", BAD_QUESTIONS.values(), ids=BAD_QUESTIONS.keys())
def test_a_question_that_would_break_the_bound_is_refused(changes):
    with pytest.raises(UpdateError):
        read_question(question_record(replace(ASKED, **changes)))


BAD_ANSWERS = {
    "another run": {"run_id": "other"},
    "another number": {"number": 4},
    "another plan": {"plan_hash": "other"},
    "another query": {"query": "calibration"},
    "more devices than asked": {"devices": 10**9},
    "NaN": {"total": np.full(SIZE, np.nan)},
    "infinity": {"total": np.full(SIZE, np.inf)},
    "1e300": {"total": np.full(SIZE, 1e300)},
    "a sum longer than its devices can make": {"total": np.full(SIZE, 3.0)},
    "a shape that would broadcast": {"total": np.ones(1)},
    "one number more": {"total": np.zeros(SIZE + 1)},
}


@pytest.mark.parametrize("changes", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_an_answer_that_is_not_to_this_question_or_too_long_is_dropped(changes):
    with pytest.raises(UpdateError):
        read_answer(answer_record(replace(ANSWER, **changes)), ASKED, SIZE)


def test_an_answer_of_another_type_or_with_another_array_is_dropped():
    for total in ({"sum": np.zeros(SIZE, np.float32)}, {"sum": np.zeros(SIZE), "more": np.zeros(1)}, {}):
        record = answer_record(ANSWER)
        made = RecordDict({"answer": record["answer"], "sum": ArrayRecord({k: Array(v) for k, v in total.items()})})
        with pytest.raises(UpdateError):
            read_answer(made, ASKED, SIZE)


def test_the_longest_sum_that_honest_devices_can_make_is_taken():
    total = np.zeros(SIZE)
    total[0] = 3 * 2.0
    assert read_answer(answer_record(replace(ANSWER, total=total)), ASKED, SIZE).total[0] == 6.0
