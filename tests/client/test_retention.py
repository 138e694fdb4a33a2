from hypothesis import given
from hypothesis import strategies as st

from sottovoce.client.retention import DAY, HOLD, STEP, Clock, Kept, Retention, observed, outdated

HOUR = DAY // 24
TODAY = 20_000
START = TODAY * DAY
YEARS = 54 * 365 * DAY


def after(clock, *looks):
    for now in looks:
        clock = observed(clock, now)
    return clock


def row(number, kind="event", age=0, size=100, pinned=False):
    return Kept(number, kind, TODAY - age, size, pinned)


def test_small_steps_are_believed_both_ways():
    assert after(Clock(START), START + STEP).seen == START + STEP
    assert after(Clock(START), START - HOUR).seen == START - HOUR


def test_a_clock_that_was_once_years_away_is_not_believed():
    for jump in (YEARS, -YEARS):
        assert after(Clock(START), START + jump).seen == START
        assert after(Clock(START), START + jump, START + jump + HOUR, START + HOUR) == Clock(START + HOUR)


def test_a_jump_is_believed_once_it_has_held_a_day():
    for jump in (YEARS, -YEARS):
        there = START + jump
        assert after(Clock(START), there, there + HOLD - 1).seen == START
        assert after(Clock(START), there, there + HOLD).seen == there + HOLD


def test_a_device_used_every_other_month_still_learns_the_time():
    months = [START + n * 60 * DAY for n in range(1, 3)]
    assert after(Clock(START), *months).seen == months[-1]


def test_a_clock_that_leaps_about_is_never_believed():
    leaps = [START + YEARS, START - YEARS, START + 2 * YEARS, START + YEARS + 9 * DAY, START - 2 * YEARS]
    assert after(Clock(START), *leaps * 5).seen == START


def test_events_stay_sixty_days_and_pages_thirty():
    rows = [row(1, age=60), row(2, age=59), row(3, "page", age=30), row(4, "page", age=29), row(5, "state", age=999)]
    assert outdated(rows, TODAY, Retention()) == [1, 3]


def test_pinned_events_do_not_age_but_there_is_a_bound():
    rows = [row(n, age=90, pinned=True) for n in range(5)]
    assert outdated(rows, TODAY, Retention()) == []
    assert outdated(rows, TODAY, Retention(most_pinned=3)) == [0, 1]


def test_the_oldest_go_first_and_pinned_ones_last():
    rows = [row(n, pinned=n < 2) for n in range(21)]
    assert outdated(rows, TODAY, Retention(most_events=20)) == [2, 3]
    big = [row(n, size=1000, pinned=n < 2) for n in range(10)]
    assert outdated(big, TODAY, Retention(most_bytes=5000)) == [2, 3, 4, 5, 6, 7]


kept = st.builds(
    Kept,
    st.integers(1, 50),
    st.sampled_from(["event", "page", "state"]),
    st.integers(TODAY - 100, TODAY),
    st.integers(284, 5000),
    st.booleans(),
)


@given(st.lists(kept, unique_by=lambda one: one.number, max_size=40), st.integers(1, 20), st.integers(4096, 50_000))
def test_whatever_comes_in_the_bounds_hold(rows, most, most_bytes):
    rows.sort()
    rules = Retention(most_events=most, most_pages=most, most_pinned=most, most_bytes=most_bytes)
    gone = set(outdated(rows, TODAY, rules))
    left = [one for one in rows if one.number not in gone and one.kind != "state"]
    assert not any(one.number in gone for one in rows if one.kind == "state")
    assert sum(one.kind == "event" for one in left) <= most
    assert sum(one.kind == "page" for one in left) <= most
    assert sum(one.size for one in left) <= most_bytes
