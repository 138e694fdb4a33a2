"""What goes over the wire, and what of it is believed."""

import io
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import (
    MOST_DEVICES,
    Enrolment,
    Instruction,
    Reply,
    enrolment_record,
    instruction_record,
    read_enrolment,
    read_instruction,
    read_reply,
    reply_record,
)
from sottovoce.client.wire import read_arrays
from sottovoce.privacy.errors import UpdateError
from sottovoce.privacy.record import RecordTarget

ASKED = Instruction(
    "run", 3, "plan", 0.5, LocalTraining(2, 0.1, 7), {"table": np.ones((3, 2), np.float32)}, np.array([4, 9]), "schema"
)


def reply(**changes):
    fields = {"run_id": "run", "round": 3, "plan_hash": "plan", "total": {"table": np.zeros((3, 2), np.float32)}}
    return Reply(**{**fields, "devices": 2, **changes})


def npy(header, data=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def header(descr="'<f4'", fortran=False, shape="(3, 2)"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"


def zipped():
    file = io.BytesIO()
    np.savez(file, table=np.zeros((3, 2), np.float32))
    return file.getvalue()


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    return file.getvalue()


BYTES = {
    "nothing": b"",
    "a zip archive, which numpy would open": zipped(),
    "a pickle": pickled(),
    "a terabyte in no bytes": npy(header(shape="(274877906944,)")),
    "more numbers than fit a machine": npy(header(shape=f"({2**80},)")),
    "a negative length": npy(header(shape="(-1,)"), b"\0" * 4),
    "two negative lengths": npy(header(shape="(-3, -2)"), b"\0" * 24),
    "objects": npy(header("'|O'"), b"\0" * 48),
    "a hidden object": npy(header("[('a', '<f4'), ('b', '|O')]"), b"\0" * 72),
    "columns first": npy(header(fortran=True), b"\0" * 24),
    "one byte short": npy(header(), b"\0" * 23),
    "one byte long": npy(header(), b"\0" * 25),
    "a header that nests": npy("(" * 5000),
    "a header that recurses": npy("-" * 9000 + "1"),
    "a header of no meaning": npy("{'descr': 1}"),
    "another version": b"\x93NUMPY\x09\x00" + b"\0" * 60,
}


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES.keys())
def test_an_array_that_is_not_plain_is_an_unusable_reply_and_nothing_worse(data):
    record = reply_record(reply())
    record.array_records["total"] = ArrayRecord({"table": Array("float32", (3, 2), "numpy.ndarray", data)})
    with pytest.raises(UpdateError):
        read_reply(record, ASKED)


def test_an_array_of_another_serialization_is_unusable():
    record = reply_record(reply())
    good = record.array_records["total"]["table"]
    record.array_records["total"] = ArrayRecord({"table": Array("float32", (3, 2), "pickle", good.data)})
    with pytest.raises(UpdateError):
        read_reply(record, ASKED)


def test_headers_are_read_without_pythons_parser_which_fails_when_threads_share_it(monkeypatch):
    """CPython 3.11: `SystemError: AST constructor recursion depth mismatch`, which would end a run."""
    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", None)
    monkeypatch.setattr("ast.parse", None)
    for value in (np.ones((3, 2), np.float32), np.zeros((0, 2), np.float32), np.float32(4), np.ones(3, np.int64)):
        record = RecordDict({"total": ArrayRecord({"a": Array(np.asarray(value))})})
        got = read_arrays(record, "total")["a"]
        assert got.dtype == value.dtype
        assert got.shape == value.shape
        assert (got == value).all()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_bytes_come_only_update_errors_escape(data):
    good = bytearray(reply_record(reply()).array_records["total"]["table"].data)
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    record = reply_record(reply())
    record.array_records["total"] = ArrayRecord({"table": Array("float32", (3, 2), "numpy.ndarray", bytes(good))})
    try:
        got = read_reply(record, ASKED)
    except UpdateError:
        return
    assert got.total["table"].shape == (3, 2)
    assert got.total["table"].dtype == np.float32
    assert np.linalg.norm(got.total["table"]) <= 1.0 + 1e-4


def test_a_reply_survives_the_wire_and_owns_its_memory():
    sent = np.array([[0, 0], [0.25, -0.5], [0.5, 0.5]], np.float32)
    got = read_reply(reply_record(reply(total={"table": sent})), ASKED)
    np.testing.assert_array_equal(got.total["table"], sent)
    got.total["table"][0] = 1.0


def test_a_sum_at_its_bound_passes_and_one_above_does_not():
    total = np.zeros((3, 2), np.float32)
    total[1, 0] = 1.0  # two devices, each clipped to 0.5
    read_reply(reply_record(reply(total={"table": total})), ASKED)
    with pytest.raises(UpdateError, match="norm"):
        read_reply(reply_record(reply(total={"table": total * 1.001})), ASKED)


@pytest.mark.parametrize("clip", [1e-300, 1e300])
def test_an_extreme_clip_norm_is_compared_without_overflow(clip):
    asked = replace(ASKED, clip_norm=clip)
    read_reply(reply_record(reply()), asked)


@pytest.mark.parametrize("change", [{"round": True}, {"devices": 2.0}, {"run_id": b"run"}, {"plan_hash": "Plan"}])
def test_a_field_of_another_type_or_value_is_refused(change):
    with pytest.raises(UpdateError):
        read_reply(reply_record(reply(**change)), ASKED)


def test_a_reply_that_tells_more_than_it_should_is_refused():
    record = reply_record(reply())
    record.config_records["reply"] = ConfigRecord({**record.config_records["reply"], "loss": 0.3})
    with pytest.raises(UpdateError, match="proper 'reply'"):
        read_reply(record, ASKED)


def test_what_a_device_sends_is_the_declared_fields_and_nothing_else():
    record = reply_record(reply())
    assert set(record) == {"total", "reply"}
    assert set(record["reply"]) == {"run_id", "round", "plan_hash", "devices"}
    assert set(enrolment_record(Enrolment(3, 0))["enrolment"]) == {"devices", "order"}


@pytest.mark.parametrize("devices", [-1, MOST_DEVICES + 1, 2**62])
def test_a_node_cannot_enrol_an_impossible_number_of_devices(devices):
    with pytest.raises(UpdateError, match="enrols"):
        read_enrolment(enrolment_record(Enrolment(devices, 0)))


def test_an_enrolment_survives_the_wire():
    assert read_enrolment(enrolment_record(Enrolment(0, 7))) == Enrolment(0, 7)
    with pytest.raises(UpdateError):
        read_enrolment(RecordDict())


def without(key):
    def change(record):
        del record[key]

    return change


def setting(name, value):
    def change(record):
        record.config_records["instruction"][name] = value

    return change


def cohort(devices):
    def change(record):
        record.array_records["cohort"] = ArrayRecord({"devices": Array(devices)})

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("instruction"),
        without("parameters"),
        without("cohort"),
        setting("steps", 0),
        setting("steps", 1.0),
        setting("learning_rate", float("nan")),
        setting("max_rows", -1),
        setting("clip_norm", 1),
        setting("extra", 1),
        cohort(np.array([1.0])),
        cohort(np.array([[1]])),
        cohort(np.array([1], np.int32)),
    ],
)
def test_an_instruction_that_cannot_be_followed_is_refused(change):
    record = instruction_record(ASKED)
    change(record)
    with pytest.raises(UpdateError):
        read_instruction(record)


RECORD = RecordTarget(epsilon=3.0, delta=1e-6, clip_norm=0.7, sampling_rate=0.3, noise_multiplier=1.25)


def test_the_record_level_target_travels_whole_and_its_absence_too():
    asked = replace(ASKED, training=LocalTraining(2, 0.1, 7, RECORD))
    assert read_instruction(instruction_record(asked)).training == asked.training
    assert read_instruction(instruction_record(ASKED)).training.record is None


@pytest.mark.parametrize(
    "wrong",
    [{"noise_multiplier": 0.0}, {"noise_multiplier": -1.0}, {"epsilon": 0.0}, {"clip_norm": float("nan")}],
    ids=["no noise", "negative noise", "no budget", "no bound"],
)
def test_a_record_level_target_that_protects_nothing_is_refused(wrong):
    record = instruction_record(replace(ASKED, training=LocalTraining(2, 0.1, 7, RECORD)))
    for name, value in wrong.items():
        record["instruction"][f"record_{name}"] = value
    with pytest.raises(UpdateError, match="followed"):
        read_instruction(record)
