"""A device at its cap is drawn and not asked, whatever crashes in between."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sottovoce.privacy.errors import CheckpointError
from sottovoce.server.participation import Participation

cohorts = st.lists(st.sets(st.integers(0, 9)).map(sorted), max_size=12)


@given(cohorts, st.integers(1, 5), st.data())
def test_nobody_is_asked_beyond_the_cap_across_any_number_of_restarts(tmp_path_factory, drawn, cap, data):
    file = tmp_path_factory.mktemp("asked") / "participation.safetensors"
    counts, total = Participation.begin(file, 10, cap), np.zeros(10, int)
    for cohort in drawn:
        asked = counts.admit(np.array(cohort, np.int64))
        assert set(asked) == {device for device in cohort if total[device] < cap}
        total[asked] += 1
        if data.draw(st.booleans()):
            counts = Participation.resume(file, 10, cap)
    assert counts.busiest == total.max() <= cap


def test_the_count_is_on_disk_before_anybody_is_asked(tmp_path):
    file = tmp_path / "restricted" / "participation.safetensors"
    Participation.begin(file, 4, 2).admit(np.array([1, 3]))
    assert Participation.resume(file, 4, 2).busiest == 1


def test_when_the_count_cannot_be_written_nobody_is_counted_or_asked(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    counts = Participation.begin(blocked / "participation.safetensors", 4, 2)
    with pytest.raises(CheckpointError) as caught:
        counts.admit(np.array([1]))
    assert caught.value.todo
    assert counts.busiest == 0


@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(b"x"), lambda f: f.write_bytes(b"")])
def test_lost_counts_end_the_run_because_the_cap_could_not_be_kept(tmp_path, damage):
    file = tmp_path / "participation.safetensors"
    Participation.begin(file, 4, 2).admit(np.array([1]))
    damage(file)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Participation.resume(file, 4, 2)


def test_counts_of_another_population_are_refused(tmp_path):
    file = tmp_path / "participation.safetensors"
    Participation.begin(file, 4, 2).admit(np.array([1]))
    with pytest.raises(CheckpointError, match="another population"):
        Participation.resume(file, 5, 2)


def test_without_a_cap_everybody_drawn_is_asked_and_still_counted(tmp_path):
    counts = Participation.begin(tmp_path / "asked", 3, None)
    for _ in range(5):
        assert counts.admit(np.array([0, 2])).tolist() == [0, 2]
    assert counts.busiest == 5
