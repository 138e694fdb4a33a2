"""A file is the old one or the new one."""

import os
import stat

import pytest

from sottovoce.models import atomic
from sottovoce.models.atomic import write_atomically


def test_the_new_content_replaces_the_old_with_the_asked_for_permissions(tmp_path):
    path = tmp_path / "bundle.svb"
    for data in (b"one", b"", b"two" * 1000):
        write_atomically(path, data, mode=0o640)
        assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["chmod", "fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    path = tmp_path / "bundle.svb"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, step, fail)
    with pytest.raises(OSError, match="space"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_forced_to_disk_before_it_takes_its_name_and_the_folder_after(tmp_path, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(atomic.os, name, lambda *a, name=name, real=real: (steps.append(name), real(*a))[1])
    write_atomically(tmp_path / "a", b"x")
    assert steps == ["fsync", "replace", "fsync"]


def test_a_missing_folder_is_reported_by_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "a", b"x")
