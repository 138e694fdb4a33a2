from datetime import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_market import NOW, event, refusal

from sottovoce.client.events import MAX_BYTES, MAX_EVENTS, EventLog, decode_log, encode_log, micros
from sottovoce.privacy.errors import DeviceError

LINE = b'{"ts":"2026-11-23T10:00:00Z","event":"impression","crid":"a1","cid":"c1","features":{"ad_id":1}}'


def test_a_log_is_read_as_written():
    log = EventLog((event("impression", 1), event("click", 1, 30)))
    assert decode_log(encode_log(log.events)) == log


def test_empty_lines_and_an_empty_log_are_fine():
    assert decode_log(b"") == EventLog()
    assert len(decode_log(b"\n" + LINE + b"\r\n\n" + LINE).events) == 2


@pytest.mark.parametrize(
    "bad",
    [
        LINE.replace(b"impression", b"view"),
        LINE.replace(b"Z", b""),
        LINE.replace(b'"crid":"a1",', b""),
        LINE.replace(b'"cid"', b'"cod"'),
        LINE[:-1],
        b"[]",
        b"\xff",
        b"[" * 200_000,
    ],
)
def test_a_bad_line_is_named_by_its_number(bad):
    with pytest.raises(DeviceError, match=r"log\.jsonl, line 3: "):
        decode_log(LINE + b"\n\n" + bad + b"\n", "log.jsonl")


def test_too_many_events_and_too_many_bytes_are_refused():
    assert len(decode_log((LINE + b"\n") * MAX_EVENTS).events) == MAX_EVENTS
    with pytest.raises(DeviceError, match="more than"):
        decode_log((LINE + b"\n") * (MAX_EVENTS + 1))
    with pytest.raises(DeviceError, match="bytes"):
        decode_log(b"\n" * (MAX_BYTES + 1))


def test_times_may_go_back_because_clocks_are_set():
    log = EventLog((event("impression", 1, 10), event("impression", 1, 20)))
    assert log.micros[0] > log.micros[1]


def test_appending_leaves_the_old_log_as_it_was():
    old = EventLog((event("impression", 1),))
    new = old.appended(event("click", 1))
    assert (len(old.events), len(new.events)) == (1, 2)


def test_microseconds_are_exact_and_need_a_time_zone():
    assert micros(NOW.replace(microsecond=1)) - micros(NOW) == 1
    with pytest.raises(ValueError, match="time zone"):
        micros(datetime(2026, 1, 1))


@given(
    st.binary(max_size=300)
    | st.dictionaries(
        st.sampled_from(["ts", "event", "crid", "cid", "features"]),
        st.text(max_size=30) | st.integers() | st.none(),
        max_size=5,
    ).map(msgspec.json.encode)
)
def test_whatever_the_bytes_only_a_device_error_comes_out(data):
    said = refusal(decode_log, data)
    assert said is None or said.startswith("events.jsonl")
