"""What a person decides holds from the next decision on, and nothing that was put behind comes back."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_market import NOW, campaign, catalogue, market
from small_store import happened

from sottovoce.client.caps import Counts
from sottovoce.client.catalogue import Cap
from sottovoce.client.controls import (
    MOST,
    Controls,
    InterestWeights,
    edit,
    mute,
    pause,
    reset,
    resume,
    settled,
    unmute,
    visible,
)
from sottovoce.client.events import EventLog
from sottovoce.privacy.errors import DeviceError

ADS = market(3)
LOG = EventLog(tuple(happened(n, f"a{n % 3}", f"c{n % 3}") for n in range(6)))
SECOND = timedelta(seconds=1)
YEARS = timedelta(days=54 * 365)


def crids(controls, log=LOG, ads=ADS):
    return [event.crid for event in visible(controls, log, ads).events]


def test_without_controls_the_model_sees_the_very_log():
    assert visible(Controls(), LOG, ADS) is LOG


def test_controls_are_read_as_written_and_can_be_compared_and_hashed():
    controls = edit(
        mute(mute(reset(pause(Controls()), LOG, NOW), "crids", "a"), "categories", "483", 7), "1", 8, "more"
    )
    assert msgspec.json.decode(msgspec.json.encode(controls), type=Controls) == controls
    assert hash(msgspec.json.decode(msgspec.json.encode(controls), type=Controls)) == hash(controls)


def test_the_narrowest_thing_that_is_muted_is_named():
    controls = mute(mute(mute(Controls(), "categories", "1", 8), "seats", "s"), "crids", "a")
    assert controls.muted("a", "s", ("1",), 8) == "ad"
    assert controls.muted("b", "s", ("1",), 8) == "advertiser"
    assert controls.muted("b", "t", ("2", "1"), 8) == "category"
    assert controls.muted("b", "t", ("1",), 7) is None
    assert controls.muted("b", "t", (), 8) is None


def test_what_is_muted_twice_is_unmuted_once():
    once = mute(Controls(), "seats", "s")
    assert mute(once, "seats", "s") == once
    assert unmute(once, "seats", "s") == Controls()
    assert unmute(Controls(), "seats", "s") == Controls()


def test_never_is_as_good_as_muted_and_a_wish_can_be_taken_back():
    never = edit(Controls(), "1", 8, "never")
    assert never.muted("a", "s", ("1",), 8) == "category"
    assert edit(never, "1", 8, "more").muted("a", "s", ("1",), 8) is None
    assert edit(never, "1", 8, None) == Controls()


def test_a_wish_weighs_the_value_and_less_outweighs_more():
    weights = InterestWeights(more=3.0, less=0.25)
    controls = edit(edit(Controls(), "1", 8, "more"), "2", 8, "less")
    assert controls.weight(("1", "3"), 8, weights) == 3.0
    assert controls.weight(("1", "2"), 8, weights) == 0.25
    assert controls.weight(("1",), 7, weights) == controls.weight((), 8, weights) == 1.0


def test_the_model_sees_nothing_of_what_is_muted():
    assert crids(mute(Controls(), "crids", "a1")) == ["a0", "a2", "a0", "a2"]
    assert crids(mute(Controls(), "seats", "advertiser-c0")) == ["a1", "a2", "a1", "a2"]
    category = ADS.campaigns[2].cat[0]
    assert crids(mute(Controls(), "categories", category, ADS.cattax)) == ["a0", "a1", "a0", "a1"]
    assert crids(edit(Controls(), category, ADS.cattax, "never")) == ["a0", "a1", "a0", "a1"]
    assert crids(mute(Controls(), "categories", category, 7)) == [event.crid for event in LOG.events]


def test_a_pause_hides_everything_and_its_end_brings_it_back():
    assert crids(pause(Controls())) == []
    assert visible(resume(pause(Controls())), LOG, ADS) is LOG


def test_a_reset_hides_what_was_and_shows_what_comes():
    now = LOG.events[-1].ts
    controls = reset(Controls(), LOG, now)
    after = LOG.appended(happened(6, "a1", "c1"))
    assert crids(controls) == []
    assert crids(controls, after) == ["a1"]


def test_caps_count_what_a_reset_and_a_pause_hide():
    cap = Cap(level="campaign", event="impression", max=1, window_s=3600)
    ads = catalogue((campaign("c0", caps=(cap,)),), ())
    now = LOG.events[-1].ts
    assert crids(pause(reset(Controls(), LOG, now)), LOG, ads) == []
    assert Counts(LOG, ads, now).within(cap, "c0") == 2


@pytest.mark.parametrize("shift", [-YEARS, YEARS])
def test_a_reset_under_a_wrong_clock_hides_everything_from_before_it(shift):
    controls = reset(Controls(), LOG, NOW + shift)
    assert crids(controls) == []
    assert crids(settled(controls, LOG, NOW + 10 * SECOND)) == []


def test_a_reset_that_lies_in_the_future_is_moved_to_now_once_the_clock_is_right():
    controls = settled(reset(Controls(), LOG, NOW + YEARS), LOG, NOW + 10 * SECOND)
    assert crids(controls) == []
    assert crids(controls, LOG.appended(happened(11, "a1", "c1"))) == ["a1"]


def test_moving_a_reset_never_moves_it_further_away():
    controls = reset(Controls(), LOG, NOW + YEARS)
    later = LOG.appended(happened((2 * YEARS).total_seconds(), "a1", "c1"))
    assert settled(controls, later, NOW + 10 * SECOND) == controls


times = st.integers(-(10**9), 10**9)


@given(st.lists(times, max_size=8), times, times)
def test_under_whatever_clock_nothing_from_before_a_reset_comes_back(seconds, then, later):
    log = EventLog(tuple(happened(n, "a0", "c0") for n in seconds))
    controls = reset(Controls(), log, NOW + then * SECOND)
    assert crids(controls, log) == []
    assert crids(settled(controls, log, NOW + later * SECOND), log) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda: mute(Controls(), "crids", ""),
        lambda: mute(Controls(), "seats", "s" * 129),
        lambda: mute(Controls(), "categories", "1", 0),
        lambda: edit(Controls(), "1", 8, "sometimes"),
        lambda: mute(Controls(muted_crids=tuple(map(str, range(MOST)))), "crids", "x"),
    ],
)
def test_what_cannot_be_kept_is_refused(change):
    with pytest.raises(DeviceError, match="controls:"):
        change()
