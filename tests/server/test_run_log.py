import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sottovoce.privacy.errors import ConfigError, LedgerError
from sottovoce.server.observer import OUTCOMES, PHASES, Traffic
from sottovoce.server.run_log import EVENTS, LONGEST, logging_to, redacted

PLANTED = {
    "postgresql://coordinator:hunter2@db.example/ledger": "hunter2",
    "postgresql://coordinator:hun@ter2@db.example/ledger": "ter2",
    "host=db password=hunter2 dbname=x": "hunter2",
    "PGPASSWORD='hunter 2' sottovoce": "hunter 2",
    '{"client_secret": "hunter2"}': "hunter2",
    "Authorization: Bearer abcdefgh12345678": "abcdefgh12345678",
    "sent bearer abcdefgh12345678": "abcdefgh12345678",
    "api_key=hunter2, next": "hunter2",
    "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----": "MHcCAQEE",
    "-----BEGIN PRIVATE KEY-----\nMHcCAQEE": "MHcCAQEE",
    "node 4711 was not asked": "4711",
    "devices 4712, 4713, 4714 at their cap": "4713",
}
"""Texts, and what of them must not be found in a log."""


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def a_run(log, replies=2, ask=0.5):
    log.enrolled(3, 8, 0)
    log.opened(1)
    log.answered(1, Traffic(sent=100 * replies, received=50 * replies))
    log.released(1, dict.fromkeys(PHASES, 0.25) | {"ask": ask}, 7)
    log.skipped(2, "round 2 would exceed epsilon 4")


def written(restricted=False, **more):
    stream = io.StringIO()
    with logging_to("shop", stream, None, restricted) as log:
        a_run(log, **more)
    return lines(stream)


def test_every_line_is_one_json_object_with_its_time_in_utc():
    told = written()
    assert [line["event"] for line in told] == [
        *("enrolled", "round_opened", "round_released", "round_skipped", "run_ended")
    ]
    for line in told:
        assert line["time"].endswith("Z")
        age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
        assert -1 < age.total_seconds() < 60
        assert line["run"] == "shop"
        assert line.keys() - {"time", "level", "event", "run"} <= EVENTS[line["event"]]


def test_two_cohorts_of_different_size_leave_the_same_log():
    def without_time(told):
        return [{**line, "time": ""} for line in told]

    assert without_time(written(replies=2, ask=0.5)) == without_time(written(replies=900, ask=70.0))
    assert without_time(written(True, replies=2)) != without_time(written(True, replies=900))


def test_restricted_events_are_written_only_where_they_were_asked_for():
    told = written(restricted=True)
    answered = next(line for line in told if line["event"] == "round_answered")
    assert answered["sent_bytes"] == 200
    assert next(line for line in told if line["event"] == "round_released")["ask_s"] == 0.5
    assert {"ask_s", "draw_s", *OUTCOMES} <= EVENTS["round_answered"] | EVENTS["round_released"]


@pytest.mark.parametrize(("text", "secret"), PLANTED.items())
def test_a_planted_secret_is_not_found_in_the_log(text, secret):
    stream = io.StringIO()

    def refused():
        with logging_to("shop", stream, None) as log:
            log.tell("note", text=text)
            log.skipped(1, text)
            raise LedgerError(f"x.db: {text}")

    with pytest.raises(LedgerError):
        refused()
    assert secret in text
    assert secret not in stream.getvalue()
    assert len(lines(stream)) == 3


def test_ordinary_reasons_stay_readable():
    text = "round 12 of run 5e would exceed epsilon 4 at delta 1e-05: 60 releases spent 3.9921"
    assert redacted(text) == text
    assert len(redacted("x" * 10 * LONGEST)) < LONGEST + 10


def test_of_an_unexpected_error_only_the_type_is_told():
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), logging_to("shop", stream, None):
        raise ZeroDivisionError("row of Alice")
    (told,) = lines(stream)
    assert (told["event"], told["outcome"], told["kind"]) == ("run_ended", "failed", "ZeroDivisionError")
    assert "Alice" not in stream.getvalue()


def test_a_text_cannot_break_out_of_its_line():
    stream = io.StringIO()
    with logging_to("shop", stream, None) as log:
        log.tell("note", text='a\n{"event": "forged"}\x1b[2J\u2028')
    assert len(lines(stream)) == 2
    assert stream.getvalue().isascii()
    assert "\x1b" not in stream.getvalue()


def test_a_field_that_is_not_declared_is_refused():
    with logging_to("shop", io.StringIO(), None) as log:
        with pytest.raises(ValueError, match="cohort"):
            log.tell("round_released", round=1, cohort=17)
        with pytest.raises(ValueError, match="gossip"):
            log.tell("gossip")


def test_a_file_is_for_its_owner_is_appended_to_and_may_be_rotated(tmp_path):
    file = tmp_path / "log.jsonl"
    for _ in range(2):
        with logging_to("shop", None, file) as log:
            log.opened(1)
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text().splitlines()) == 4
    with logging_to("shop", None, file) as log:
        file.rename(tmp_path / "log.1")
        log.opened(2)
    assert len(file.read_text().splitlines()) == 2


def test_a_full_disk_loses_lines_and_says_so_once(capsys):
    with logging_to("shop", None, Path("/dev/full")) as log:
        a_run(log)
    assert capsys.readouterr().err.count("lines are lost") == 1


def test_a_file_that_cannot_be_opened_is_refused_before_the_run(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"), logging_to("shop", None, tmp_path / "nowhere" / "log"):
        pass
