"""The device's own count of rounds survives what its owner deletes and what its disk does."""

from datetime import UTC, datetime, timedelta

import pytest

from sottovoce.client.training_past import RUNS, JoinedRun, TrainingPast, read_past, write_past

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_what_is_written_is_read_back_and_counts_by_run(tmp_path):
    past = TrainingPast().joined("a", 3, NOW).joined("b", 1, NOW).joined("a", 5, NOW + HOUR)
    assert write_past(tmp_path / "rounds.json", past)
    read = read_past(tmp_path / "rounds.json")
    assert read == past
    assert read.run("a") == JoinedRun("a", 2, 5)
    assert read.run("c") is None
    assert read.since_s(NOW + 2 * HOUR) == 3600.0
    assert (tmp_path / "rounds.json").stat().st_mode & 0o777 == 0o600


def test_a_device_that_never_trained_has_an_empty_past(tmp_path):
    assert read_past(tmp_path / "rounds.json") == TrainingPast()
    assert TrainingPast().since_s(NOW) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"runs":[{"run_id":"a","rounds":0,"last":1}]}', b"{}" * 40_000])
def test_a_damaged_past_is_none_at_all_and_not_an_empty_one(tmp_path, data):
    (tmp_path / "rounds.json").write_bytes(data)
    assert read_past(tmp_path / "rounds.json") is None


def test_a_past_that_cannot_be_written_is_noticed(tmp_path):
    assert not write_past(tmp_path / "gone" / "rounds.json", TrainingPast())
    (tmp_path / "folder").mkdir()
    assert read_past(tmp_path / "folder") is None


def test_the_run_not_joined_for_longest_is_forgotten_first():
    past = TrainingPast()
    for number in range(RUNS):
        past = past.joined(f"run {number}", 1, NOW)
    past = past.joined("run 0", 2, NOW).joined("one more", 1, NOW)
    assert len(past.runs) == RUNS
    assert past.run("run 0").rounds == 2
    assert past.run("run 1") is None


def test_an_earlier_round_does_not_take_the_newest_back():
    assert TrainingPast().joined("a", 9, NOW).joined("a", 2, NOW).run("a").last == 9


def test_a_clock_that_was_ahead_keeps_nobody_out_for_ever():
    past = TrainingPast().joined("a", 1, NOW + 9_999 * 24 * HOUR)
    assert past.since_s(NOW) == 0.0
    settled = past.settled(NOW)
    assert settled.since_s(NOW + HOUR) == 3600.0
    assert settled.settled(NOW + HOUR) is settled
    assert settled.runs == past.runs
