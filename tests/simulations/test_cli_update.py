"""`delta` and `publish` as people and scripts meet them."""

import json

import pytest
from bundle_line import version

from sottovoce.models.delta import apply_patch


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Bundles of a line, a step of training apart."""
    folder = tmp_path_factory.mktemp("line")
    for number in range(1, 7):
        (folder / f"{number}.svb").write_bytes(version(number))
    return folder


def test_delta_writes_a_patch_that_works_and_says_what_it_saves(call, line, tmp_path):
    code, out, _ = call("delta", line / "1.svb", line / "2.svb", "--out", tmp_path / "p", "--json")
    told = json.loads(out)
    old, new, patch = (path.read_bytes() for path in (line / "1.svb", line / "2.svb", tmp_path / "p"))
    assert code == 0
    assert told == {"old": len(old), "new": len(new), "patch": len(patch), "ratio": len(patch) / len(new)}
    assert apply_patch(old, patch) == new
    assert len(patch) < len(new) / 2
    code, out, _ = call("delta", line / "1.svb", line / "2.svb", "--out", tmp_path / "p")
    assert f"{len(patch):,} bytes" in out
    assert f"{told['ratio']:.1%} of the new bundle" in out


@pytest.mark.parametrize("broken", ["old", "new", "out", "missing"])
def test_delta_refuses_what_it_cannot_read_or_write_and_leaves_nothing(call, line, tmp_path, broken):
    (tmp_path / "bad").write_bytes(b"no bundle")
    old = {"old": tmp_path / "bad", "missing": tmp_path / "none"}.get(broken, line / "1.svb")
    new = tmp_path / "bad" if broken == "new" else line / "2.svb"
    out = tmp_path / "none" / "p" if broken == "out" else tmp_path / "p"
    code, said, err = call("delta", old, new, "--out", out)
    assert (code, said) == (1, "")
    assert "Traceback" not in err
    assert not out.exists()
