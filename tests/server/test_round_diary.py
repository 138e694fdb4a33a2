from sottovoce.server.observer import Traffic
from sottovoce.server.round_diary import RoundDiary, read


def keep(diary, number, used=2):
    traffic = Traffic(sent=10, received=5)
    traffic.replies["used"] += used
    diary.opened(number)
    diary.answered(number, traffic)
    diary.released(number, {"ask": 1.5}, 3)


def test_a_round_that_was_run_again_counts_once_and_a_torn_line_is_passed_over(tmp_path):
    file = tmp_path / "restricted" / "rounds.jsonl"
    keep(RoundDiary(file), 1)
    keep(RoundDiary(file), 2)
    file.write_bytes(file.read_bytes()[:-5])
    again = RoundDiary(file)
    keep(again, 2, used=7)
    keep(again, 3)
    found = read(file)
    assert [(number, line.replies["used"]) for number, line in found.items()] == [(1, 2), (2, 7), (3, 2)]
    assert (found[1].sent, found[1].received, found[1].seconds) == (10, 5, {"ask": 1.5})
    assert file.parent.stat().st_mode & 0o077 == 0


def test_no_diary_is_an_empty_one(tmp_path):
    assert read(tmp_path / "none") == {}
