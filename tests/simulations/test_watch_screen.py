import msgspec
import pytest

from sottovoce.simulations.run_standing import Standing
from sottovoce.simulations.watch_screen import duration, line, screen

TOLD = Standing(
    run="shop",
    data="market",
    state="running",
    rounds=30,
    rounds_planned=60,
    since_s=3.0,
    round_s=2.5,
    left_s=75.0,
    auc={10: 0.6, 20: 0.7, 30: 0.65},
    epsilon=2.0,
    epsilon_known_cohort=9.5,
    budget=4.0,
    ledger_rows=62,
    ledger_problem="",
    phases={"ask": 2.0},
    replies={"used": 60, "late": 3},
    sent=1234,
    received=5_000_000,
    dropped=1,
)


def text(width=100, **changes):
    return "\n".join(screen(msgspec.structs.replace(TOLD, **changes), width, 50))


def test_everything_that_matters_is_shown():
    shown = text()
    for part in ("30/60", "1 min 15 s left", "2.000 of 4", "9.50", "0.6500 in round 30", "used 60", "5 MB", "late 3"):
        assert part in shown


def test_half_a_run_is_half_a_bar():
    bar = text().splitlines()[1].partition("[")[2].partition("]")[0]
    assert abs(bar.count("#") - bar.count("-")) <= 1


@pytest.mark.parametrize("width", [1, 10, 40, 80, 300])
@pytest.mark.parametrize("height", [0, 1, 3, 50])
def test_it_fits(width, height):
    shown = screen(TOLD, width, height)
    assert len(shown) <= height
    assert all(len(one) <= width for one in shown)


def test_a_broken_ledger_comes_second_and_gives_no_epsilon():
    shown = text(ledger_problem="row 3 was changed", epsilon=None)
    assert shown.splitlines()[1] == "LEDGER: row 3 was changed"
    assert "unknown" in shown
    assert "LEDGER DOES NOT HOLD" in line(msgspec.structs.replace(TOLD, ledger_problem="x"))


def test_a_name_from_a_file_cannot_move_the_cursor():
    assert "\x1b" not in text(run="\x1b[2Jx", data="a\nb")
    assert len(text(data="a\nb").splitlines()) == len(text().splitlines())


def test_nothing_known_is_said_in_words():
    shown = text(state="starting", rounds=0, round_s=None, left_s=None, auc={}, phases={}, replies={}, epsilon=None)
    for part in ("no round yet", "not judged yet", "no finite figure"):
        assert part in shown


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (75, "1 min 15 s"), (3700, "1 h 01 min"), (200_000, "2 d 07 h")]
)
def test_times_are_told_in_the_units_that_matter(seconds, words):
    assert duration(seconds) == words
