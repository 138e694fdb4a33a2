"""What a store keeps, for how long, and what of it is readable on the disk: nothing."""

import sys
import threading
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import DAY, NOW, files_in, filled, happened, in_memory, opened, quick_folder

from sottovoce.client.controls import Controls, edit, mute
from sottovoce.client.events import Event, EventLog, encode_log
from sottovoce.client.store_rows import MOST_NAMES, MOST_ROW, MOST_STATE, PageVisit
from sottovoce.privacy.errors import DeviceError

tmp_path = in_memory
YEARS = 54 * 365 * DAY


def page(*categories, number=0):
    return PageVisit(NOW + timedelta(seconds=number), tuple((category, 7) for category in categories))


def test_events_come_back_in_the_order_in_which_they_came_in(tmp_path):
    events = (happened(5), happened(1, what="click"), happened(3, extra=1.5, none=None, word="w"))
    with closing(opened(tmp_path)) as store:
        assert all(store.append(event, NOW) for event in events)
        assert store.log == EventLog(events)
    with closing(opened(tmp_path)) as store:
        assert store.log == EventLog(events)
        assert (store.complete, store.fault, store.notes) == (True, "", ())


def test_every_change_makes_a_new_log_and_an_old_one_stays_as_it_was(tmp_path):
    with closing(opened(tmp_path)) as store:
        before = store.log
        store.append(happened(1), NOW)
        assert before == EventLog()
        assert store.log is not before


def test_nothing_that_was_planted_can_be_read_in_any_file(tmp_path):
    mark = "PLANTED"
    event = Event(
        NOW, "impression", f"{mark}-crid", f"{mark}-cid", {f"{mark}-f": f"{mark}-v"}, {f"{mark}-c": f"{mark}-w"}
    )
    controls = edit(mute(mute(Controls(), "seats", f"{mark}-seat"), "crids", f"{mark}-ad"), f"{mark}-cat", 7, "less")
    with closing(opened(tmp_path)) as store:
        for _ in range(50):  # so that pages split and are moved
            store.append(event, NOW)
            store.visit(PageVisit(NOW, ((f"{mark}-page", 7),)), NOW)
        store.put("controls", controls)
        store.put(f"{mark}-name", {f"{mark}-key": f"{mark}-value"}, learned=True)
        store.pin([f"{mark}-pinned"])
        found = [files_in(tmp_path)]
        assert len(list((tmp_path / "store").iterdir())) > 1
        store.delete(lambda one: True, lambda one: False, NOW)
        found.append(files_in(tmp_path))
    found.append(files_in(tmp_path))
    for data in found:
        for text in (mark, "impression", "483", "2026"):
            assert text.encode() not in data
            assert text.encode("utf-16-le") not in data
            assert text[::-1].encode() not in data


def test_only_its_owner_may_read_the_files(tmp_path):
    with closing(opened(tmp_path)) as store:
        store.append(happened(1), NOW)
        for path in (tmp_path / "store").iterdir():
            assert path.stat().st_mode & 0o077 == 0
        assert (tmp_path / "store").stat().st_mode & 0o077 == 0


def test_of_a_page_only_harmless_categories_are_kept(tmp_path):
    with closing(opened(tmp_path)) as store:
        assert store.visit(page("483", "286"), NOW)  # 286: Medical Health
        assert store.visit(page("286"), NOW)
        assert store.pages == (page("483"),)


def test_values_are_kept_by_name_and_type(tmp_path):
    controls = mute(Controls(), "crids", "a1")
    with closing(opened(tmp_path)) as store:
        assert store.get("controls", Controls) is None
        store.put("controls", Controls())
        store.put("controls", controls)
        store.put("posterior", [0.1, 2.0], learned=True)
    with closing(opened(tmp_path)) as store:
        assert store.get("controls", Controls) == controls
        assert store.get("posterior", list[float]) == [0.1, 2.0]
        assert store.get("posterior", Controls) is None
        assert "another type" in store.notes[0]


def test_values_are_bounded(tmp_path):
    with closing(opened(tmp_path)) as store:
        with pytest.raises(DeviceError, match="too many to keep"):
            store.put("big", "x" * MOST_STATE)
        with pytest.raises(DeviceError):
            store.put("no json", object())
        with pytest.raises(DeviceError):
            store.put("store", 1)
        for number in range(MOST_NAMES - 1):
            store.put(f"n{number}", number)
        with pytest.raises(DeviceError, match="no place"):
            store.put("one more", 1)
        assert store.put("n0", "again")


@pytest.mark.parametrize(
    "bad",
    [
        Event(datetime(2026, 1, 1), "impression", "a", "c"),
        Event(NOW, "view", "a", "c"),
        Event(NOW, "click", "", "c"),
        Event(NOW, "click", "\ud800", "c"),
        Event(NOW, "click", "a", "c", {"f": 2**80}),
        Event(NOW, "click", "a", "c", {"f": object()}),
        Event(NOW, "click", "a" * 129, "c"),
    ],
)
def test_what_is_no_event_is_refused_and_nothing_happened(tmp_path, bad):
    with closing(opened(tmp_path)) as store:
        with pytest.raises(DeviceError, match="cannot be kept"):
            store.append(bad, NOW)
        assert store.log == EventLog()


def test_an_event_too_large_still_counts_for_caps(tmp_path):
    with closing(opened(tmp_path)) as store:
        assert store.append(happened(1, **{f"f{n}": "x" * 500 for n in range(MOST_ROW // 500 + 1)}), NOW)
        assert store.log.events == (msgspec.structs.replace(happened(1), features={}),)


def test_events_go_after_sixty_days_pages_after_thirty_and_pinned_ones_stay(tmp_path):
    with closing(opened(tmp_path)) as store:
        store.append(happened(1, "saved"), NOW)
        store.append(happened(2, "other"), NOW)
        store.visit(page("483"), NOW)
        store.pin(["saved"])
        for days in (25, 29):
            store.append(happened(days, "later"), NOW + days * DAY)
        assert len(store.pages) == 1
        store.append(happened(30, "later"), NOW + 30 * DAY)
        assert store.pages == ()
        store.append(happened(59, "later"), NOW + 59 * DAY)
        assert "other" in [event.crid for event in store.log.events]
    with closing(opened(tmp_path, now=NOW + 60 * DAY)) as store:
        assert [event.crid for event in store.log.events] == ["saved"] + ["later"] * 4
    with closing(opened(tmp_path)) as store:
        assert [event.crid for event in store.log.events] == ["saved"] + ["later"] * 4


def test_a_clock_that_was_once_in_2080_erases_nothing(tmp_path):
    events = filled(tmp_path)
    for moment in (NOW + YEARS, NOW + YEARS + DAY / 2, NOW - YEARS, NOW + DAY):
        with closing(opened(tmp_path, now=moment)) as store:
            assert store.log.events == events


def test_a_device_that_lay_in_a_drawer_for_a_year_lets_go_a_day_later(tmp_path):
    events = filled(tmp_path)
    with closing(opened(tmp_path, now=NOW + 365 * DAY)) as store:
        assert store.log.events == events
    with closing(opened(tmp_path, now=NOW + 366 * DAY)) as store:
        assert store.log.events == ()


def test_rows_of_a_clock_that_was_believed_to_be_in_2080_do_not_stay_for_ever(tmp_path):
    ahead = NOW + YEARS
    with closing(opened(tmp_path, now=ahead)) as store:
        store.append(happened(1), ahead)
        for day in range(2):
            store.append(happened(2 + day), NOW + day * DAY)
        assert len(store.log.events) == 3
    with closing(opened(tmp_path, now=NOW + 15 * DAY)) as store:
        assert len(store.log.events) == 3
        store.append(happened(8), NOW + 40 * DAY)
        store.append(happened(9), NOW + 61 * DAY)
        assert len(store.log.events) == 2


def test_the_oldest_events_go_when_there_are_too_many(tmp_path):
    with closing(opened(tmp_path, most_events=100)) as store:
        for number in range(101):
            store.append(happened(number), NOW, wait=False)
        assert store.log.events == tuple(happened(number) for number in range(6, 101))
    with closing(opened(tmp_path)) as store:
        assert len(store.log.events) == 95


def test_an_event_that_did_not_wait_is_on_the_disk_after_a_flush(tmp_path):
    with closing(opened(tmp_path)) as store:
        before = files_in(tmp_path)
        assert not store.append(happened(1), NOW, wait=False)
        assert files_in(tmp_path) == before
        assert store.log.events == (happened(1),)
        assert store.flush()
        assert files_in(tmp_path) != before


def test_many_threads_append_and_none_loses_an_event():
    with quick_folder() as name, closing(opened(Path(name))) as store:
        work = [
            threading.Thread(target=lambda n=n: [store.append(happened(n * 100 + i), NOW) for i in range(25)])
            for n in range(4)
        ]
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in work:
                thread.start()
            for thread in work:
                thread.join()
        finally:
            sys.setswitchinterval(before)
        assert (store.notes, len(store.log.events)) == ((), 100)
        assert len({event.features["ad_id"] for event in store.log.events}) == 100


def test_days_of_use_are_counted_once_each_and_a_jump_counts_as_one(tmp_path):
    for moment in (NOW, NOW + DAY / 8, NOW + DAY, NOW + 10 * DAY):
        with closing(opened(tmp_path, now=moment)) as store:
            assert store.memory.since == NOW
    assert store.memory.days == 2
    for moment in (NOW + YEARS, NOW + YEARS + DAY, NOW + YEARS + 2 * DAY):
        with closing(opened(tmp_path, now=moment)) as store:
            pass
    assert store.memory.days == 4


features = st.dictionaries(
    st.text(max_size=9), st.none() | st.integers(-(2**53), 2**53) | st.text(max_size=9), max_size=4
)
events = st.builds(
    Event,
    st.datetimes(timezones=st.just(NOW.tzinfo)),
    st.sampled_from(["impression", "click", "conversion", "dismiss"]),
    st.text(min_size=1, max_size=128),
    st.text(min_size=1, max_size=128),
    features,
    features,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(events, max_size=5))
def test_whatever_event_comes_in_comes_back(given_events):
    with quick_folder() as name:
        folder = Path(name)
        with closing(opened(folder)) as store:
            for event in given_events:
                store.append(event, NOW)
        with closing(opened(folder)) as store:
            assert encode_log(store.log.events) == encode_log(given_events)
