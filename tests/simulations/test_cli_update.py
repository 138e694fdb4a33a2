"""`delta` and `publish` as people and scripts meet them."""

import hashlib
import json

import pytest
from bundle_line import version

from sottovoce.models.delta import apply_patch
from sottovoce.server import publishing


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


def files(folder):
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.*")}


def test_publish_writes_bundles_patches_and_an_index_and_twice_is_once(call, line, tmp_path):
    everything = [line / f"{number}.svb" for number in range(1, 7)]
    code, out, _ = call("publish", *everything, "--to", tmp_path / "www", "--json")
    index = json.loads(out)
    assert code == 0
    assert index == json.loads((tmp_path / "www" / "latest.json").read_text())
    new = version(6)
    assert (index["line"], index["version"], index["length"]) == ("line", 6, len(new))
    assert index["sha256"] == hashlib.sha256(new).hexdigest()
    assert len(list((tmp_path / "www" / "bundles").iterdir())) == 6
    for old in map(version, (2, 3, 4, 5)):
        part = index["patches"].pop(hashlib.sha256(old).hexdigest())
        patch = (tmp_path / "www" / "patches" / f"{part['sha256']}.svd").read_bytes()
        assert (len(patch), hashlib.sha256(patch).hexdigest()) == (part["length"], part["sha256"])
        assert apply_patch(old, patch) == new
    assert index["patches"] == {}
    before = files(tmp_path / "www")
    for again in (everything, everything[5:]):
        assert call("publish", *again, "--to", tmp_path / "www")[0] == 0
        assert files(tmp_path / "www") == before


def test_versions_published_one_after_the_other_make_the_same_folder(call, line, tmp_path):
    for number in range(1, 7):
        assert call("publish", line / f"{number}.svb", "--to", tmp_path / "one")[0] == 0
    call("publish", *(line / f"{number}.svb" for number in range(1, 7)), "--to", tmp_path / "all")
    assert (tmp_path / "one" / "latest.json").read_bytes() == (tmp_path / "all" / "latest.json").read_bytes()


@pytest.mark.parametrize("odd", ["older", "same version", "other line", "damaged folder", "no bundle", "no folder"])
def test_publish_refuses_what_would_lead_devices_astray_and_changes_nothing(call, line, tmp_path, odd):
    www = tmp_path / "www"
    call("publish", line / "2.svb", line / "3.svb", "--to", www)
    made = {
        "same version": lambda: version(3, size=4002),
        "other line": lambda: version(4, model_id="another"),
        "no bundle": lambda: b"no bundle",
        "older": lambda: version(1),
    }
    (tmp_path / "odd.svb").write_bytes(made.get(odd, lambda: version(4))())
    if odd == "damaged folder":
        next((www / "bundles").iterdir()).write_bytes(version(1))
    before = files(www)
    target = tmp_path / "odd.svb" / "www" if odd == "no folder" else www
    code, out, err = call("publish", tmp_path / "odd.svb", "--to", target)
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert files(www) == before


def test_the_index_is_written_last_and_in_one_step(line, tmp_path, monkeypatch):
    written = []
    real = publishing.write_atomically
    monkeypatch.setattr(publishing, "write_atomically", lambda path, data: (written.append(path), real(path, data)))
    publishing.publish([version(1), version(2)], tmp_path)
    assert [path.suffix for path in written] == [".svb", ".svb", ".svd", ".json"]


def test_a_patch_that_saves_nothing_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "WORTH", 0.01)
    index = publishing.publish([version(1), version(2)], tmp_path)
    assert not (tmp_path / "patches").exists()
    assert index.patches == {}
