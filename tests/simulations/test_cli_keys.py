"""`keys` as people meet it, and the whole story: keys, bundles, a server, a device, a rotation."""

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from bundle_line import key_set, scorer_of, version

from sottovoce.models.key_set import claimed
from sottovoce.models.signing import generate_key, load_private_key, load_public_key
from sottovoce.simulations import cli_update


@pytest.fixture
def people(call, tmp_path, monkeypatch):
    """A folder with the key pairs of four people, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    for name in ("ann", "ben", "cem", "dee"):
        assert call("keys", "new", f"{name}.pem")[0] == 0
    return tmp_path


def refused(told, *words):
    code, out, err = told
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "\n  -> " in err
    assert "Traceback" not in err
    assert all(word in err for word in words), err


def listed(*names):
    return [word for name in names for word in ("--key", f"{name}.pub.pem")]


def signed(*names):
    return [word for name in names for word in ("--sign", f"{name}.pem")]


@pytest.fixture
def first(call, people):
    """The record of the app's keys: Ann and Ben, both of whom must sign."""
    told = call(
        "keys", "set", "--out", "1.json", "--line", "line", "--version", 1, *listed("ann", "ben"), "--threshold", 2,
        *signed("ann", "ben"),
    )  # fmt: skip
    assert told[0] == 0, told
    return people / "1.json"


def test_new_makes_a_pair_that_belongs_together_and_keeps_the_private_one_private(call, people):
    private, public = people / "ann.pem", people / "ann.pub.pem"
    assert load_private_key(private).public_key() == load_public_key(public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    code, out, _ = call("keys", "new", "other", "--json")
    assert (code, json.loads(out)["public"]) == (0, "other.pub.pem")
    assert "PRIVATE" not in out


@pytest.mark.parametrize("there", ["ann.pem", "ann.pub.pem", "a link to nothing", "a folder"])
def test_new_overwrites_nothing(call, people, there):
    if there.startswith("ann"):
        (people / {"ann.pem": "ann.pub.pem", "ann.pub.pem": "ann.pem"}[there]).unlink()
    else:
        for name in ("ann.pem", "ann.pub.pem"):
            (people / name).unlink()
        (people / "ann.pem").mkdir() if there == "a folder" else (people / "ann.pem").symlink_to("nothing")
    before = {path.name: path.read_bytes() for path in people.iterdir() if path.is_file()}
    refused(call("keys", "new", "ann.pem"), "ann", "not overwritten")
    assert {path.name: path.read_bytes() for path in people.iterdir() if path.is_file()} == before
    refused(call("keys", "new", "no/folder/ann.pem"), "folder")


def test_a_set_goes_round_and_is_complete_once_enough_of_both_sets_signed(call, first):
    make = ("keys", "set", "--out", "2.json", "--after", first, *listed("ben", "cem"), "--last-version", 7)
    code, out, _ = call(*make, *signed("ben"))
    assert code == 0
    assert "1 of 2 needed keys of the set before it" in out
    assert "no device would follow it" in out
    code, out, _ = call("keys", "sign", "2.json", "--after", first, *signed("cem"))
    assert (code, "no device would follow it: 1 of 2 needed keys of the old set" in out) == (0, True)
    code, out, _ = call("keys", "sign", "2.json", *signed("ann"), "--out", "3.json")
    assert code == 0
    assert "not checked" in out
    for file, words in (("2.json", "no device"), ("3.json", "complete: ")):
        assert words in call("keys", "show", file, "--after", first)[1]
    told = json.loads(call("keys", "show", "3.json", "--after", first, "--json")[1])
    assert (told["line"], told["version"], told["threshold"], told["last_version"]) == ("line", 2, 2, 7)
    assert (told["refusal"], len(told["signed_by"]), len(told["old_signed_by"]), told["signatures"]) == (None, 2, 2, 3)
    again = call("keys", "sign", "3.json", *signed("ann"))
    assert again[0] == 0
    assert json.loads(call("keys", "show", "3.json", "--json")[1])["signatures"] == 3
    refused(call(*make, *signed("ben")), "2.json", "not overwritten")
    refused(call("keys", "sign", "2.json", *signed("ann"), "--out", "3.json"), "3.json", "not overwritten")


def test_what_is_not_said_is_taken_from_the_set_before(call, first):
    code, _, err = call("keys", "set", "--out", "2.json", "--after", first, *signed("ann", "ben"), "--expires-days", 9)
    assert code == 0, err
    old, new = (claimed(path.read_bytes()) for path in (first, first.parent / "2.json"))
    assert (new.model_id, new.version, new.keys, new.threshold) == ("line", 2, old.keys, 2)
    assert timedelta(days=8) < new.expires - datetime.now(UTC) <= timedelta(days=9)


WRONG = {
    "a threshold that nobody can reach": ([*listed("cem"), *signed("ann")], "above the number of keys"),
    "a key twice": ([*listed("cem", "cem"), *signed("ann")], "twice"),
    "nine keys": ([*listed(*["cem"] * 9), *signed("ann")], "at most 8"),
    "a version that does not follow": (["--version", 3, *signed("ann")], "the next is 2"),
    "another line": (["--line", "another", *signed("ann")], "line"),
    "a signer of neither set": ([*listed("ben", "cem"), *signed("dee")], "dee.pem"),
    "a private key for a public one": (["--key", "cem.pem", *signed("ann")], "cem.pem"),
    "a public key for a private one": (["--sign", "ann.pub.pem"], "ann.pub.pem"),
    "no such key": (["--sign", "none.pem"], "none.pem"),
    "a folder that is not there": ([*signed("ann"), "--out", "no/2.json"], "no/2.json"),
}


@pytest.mark.parametrize(("options", "word"), WRONG.values(), ids=WRONG)
def test_set_refuses_in_words_and_writes_nothing(call, first, options, word):
    refused(call("keys", "set", "--out", "2.json", "--after", first, *options), word)
    assert not (first.parent / "2.json").exists()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_files_that_are_no_key_sets_are_named(call, people, content):
    if content is not None:
        (people / "bad.json").write_bytes(content)
    for words in (
        ("show", "bad.json"),
        ("sign", "bad.json", *signed("ann")),
        ("set", "--out", "x.json", "--after", "bad.json", *signed("ann")),
    ):
        refused(call("keys", *words))
    assert not (people / "x.json").exists()


def test_wrong_usage_ends_with_2(call, people):
    for words in (
        ("keys", "set", "--out", "x.json", *signed("ann")),
        ("keys", "set", "--out", "x.json", "--line", "a b", *signed("ann")),
        ("keys", "sign", "x.json"),
        ("publish", "--to", people / "www"),
    ):
        assert call(*words)[0] == 2
    assert not (people / "www").exists()


def test_show_cannot_be_made_to_forge_a_line(call, people):
    (people / "odd.json").write_bytes(key_set(2, [generate_key()], [generate_key()], line="a\x1b[2K\ncomplete: yes"))
    out = call("keys", "show", "odd.json")[1]
    assert "\x1b" not in out
    assert "\ncomplete" not in out


@pytest.fixture
def address(tmp_path):
    """Where the standard library's web server serves the update folder."""
    (tmp_path / "www").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_whole_story_from_new_keys_to_a_key_that_was_taken_away(call, first, address, monkeypatch):
    """The bundles' model is a table, so the device scores with that; all else is what people run."""
    monkeypatch.setattr(cli_update, "BundleStore", partial(cli_update.BundleStore, scorer=scorer_of))
    today = datetime.now(UTC).replace(microsecond=0)

    def release(number, *names):
        file = first.parent / f"{number}-{'-'.join(names)}.svb"
        keys = tuple(load_private_key(first.parent / f"{name}.pem") for name in names)
        file.write_bytes(version(number, created=today, key=keys))
        return file

    def publish(*words):
        code, _, err = call("publish", *words, "--to", "www")
        assert code == 0, err

    def update():
        code, out, err = call("update", address, "--store", "phone", *listed("ann", "ben"), "--threshold", 2, "--json")
        return json.loads(out) if code == 0 else err

    publish(release(1, "ann", "ben"), "--keys", first)
    told = update()
    assert (told["outcome"], told["version"], told["key_version"], told["key_sets"]) == ("installed", 1, 1, 0)

    assert call("keys", "set", "--out", "2.json", "--after", first, *listed("ben", "cem"), *signed("ben"))[0] == 0
    refused(call("publish", "--keys", "2.json", "--to", "www"), "1 of 2")
    for name in ("ann", "cem"):
        assert call("keys", "sign", "2.json", *signed(name))[0] == 0
    publish("--keys", "2.json")
    told = update()
    assert (told["outcome"], told["version"], told["key_version"], told["key_sets"]) == ("current", 1, 2, 1)

    publish(release(2, "ann", "ben"))
    assert "1 of 2 needed trusted keys" in update()
    publish(release(3, "ben", "cem"))
    told = update()
    assert (told["outcome"], told["version"], told["key_version"], told["key_sets"]) == ("installed", 3, 2, 0)

    code, out, _ = call("update", address, "--store", "new phone", *listed("ann", "ben"), "--threshold", 2)
    assert code == 0
    assert "1 new key set followed, to version 2" in out
    assert "installed" in out
    newer = ("--store", "newer app", *listed("ben", "cem"), "--threshold", 2, "--key-version", 2, "--json")
    told = json.loads(call("update", address, *newer)[1])
    assert (told["version"], told["key_version"], told["key_sets"]) == (3, 2, 0)
