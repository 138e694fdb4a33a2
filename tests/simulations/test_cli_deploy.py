"""`deploy` as people meet it."""

import json
import stat

import pytest

EXPERIMENT = '[data]\nname = "market"\ndevices = 100\n'


@pytest.fixture
def experiment(tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text(EXPERIMENT)
    return file


def refused(told, *words):
    code, out, err = told
    assert (code, out) == (1, "")
    assert "\n  -> " in err
    assert all(word in err for word in words), err


def test_a_folder_holds_each_machines_secrets_and_nobody_elses(call, tmp_path, experiment):
    made = tmp_path / "dep"
    code, out, _ = call("deploy", "init", made, "--experiment", experiment, "--nodes", 2, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["server_names"] == ["127.0.0.1", "localhost", "::1"]
    assert [one["name"] for one in told["programs"]][:2] == ["sottovoce-superlink", "sottovoce-gate"]
    keys = {file.relative_to(made).as_posix() for file in made.rglob("*") if b"PRIVATE KEY" in _bytes(file)}
    assert keys == {"ca/ca.key", "coordinator/server.key", "node-0/node.key", "node-1/node.key"}
    for name in (*keys, "node-0/worker.secret", "node-1/worker.secret"):
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600
    for folder in ("ca", "coordinator", "node-0", "node-1"):
        assert stat.S_IMODE((made / folder).stat().st_mode) == 0o700
    assert (made / "node-0" / "worker.secret").read_bytes() != (made / "node-1" / "worker.secret").read_bytes()
    assert (made / "node-1" / "experiment.toml").read_text() == EXPERIMENT


def _bytes(file):
    return file.read_bytes() if file.is_file() else b""


def test_nothing_is_overwritten(call, tmp_path, experiment):
    made = tmp_path / "dep"
    assert call("deploy", "init", made, "--experiment", experiment, "--nodes", 1)[0] == 0
    before = {file: _bytes(file) for file in made.rglob("*")}
    refused(call("deploy", "init", made, "--experiment", experiment, "--nodes", 1), "is there already")
    assert {file: _bytes(file) for file in made.rglob("*")} == before


def test_bad_input_is_named_and_leaves_nothing(call, tmp_path, experiment):
    made = tmp_path / "dep"
    start = ("deploy", "init", made, "--experiment", experiment, "--nodes", 2)
    refused(call(*start, "--address", "no such name"), "neither a host name nor an IP address")
    refused(call(*start, "--port", 8000), "two programs on one port")
    refused(call(*start, "--user", "a$b"), "cannot stand in a unit")
    refused(call("deploy", "init", made, "--experiment", tmp_path / "none.toml", "--nodes", 2), "none.toml")
    assert call(*start, "--days", 9999)[0] == 2
    assert not made.exists()


def test_a_renewed_certificate_is_of_the_same_authority_and_lies_apart(call, tmp_path, experiment):
    made = tmp_path / "dep"
    call("deploy", "init", made, "--experiment", experiment, "--nodes", 1)
    code, out, _ = call("deploy", "renew", made, "--name", "fl.example.org", "--days", 9, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["server_names"][0] == "fl.example.org"
    new = tmp_path / "dep" / told["folder"].rsplit("/", 1)[1]
    assert (new / "server.crt").read_bytes() != (made / "coordinator" / "server.crt").read_bytes()
    assert stat.S_IMODE((new / "server.key").stat().st_mode) == 0o600
    refused(call("deploy", "renew", made, "--name", "fl.example.org"), "renew tomorrow")
    refused(call("deploy", "renew", tmp_path / "none", "--name", "a"), "ca.key")


def test_gate_and_worker_keep_plain_text_on_this_machine(call, tmp_path, experiment):
    made = tmp_path / "dep"
    call("deploy", "init", made, "--experiment", experiment, "--nodes", 1)
    at = made / "coordinator"
    files = ("--certificate", at / "server.crt", "--key", at / "server.key", "--authority", at / "ca.crt")
    gate = ("deploy", "gate", *files, "--listen", "127.0.0.1:1")
    refused(call(*gate, "--superlink", "10.0.0.1:8000"), "behind the gate")
    refused(call(*gate, "--superlink", "localhost"), "no address and port")
    files = ("--certificate", at / "none.crt", *files[2:])
    refused(call("deploy", "gate", *files, "--listen", "127.0.0.1:1", "--superlink", "127.0.0.1:2"), "none.crt")
    worker = ("deploy", "worker", "--secret", made / "node-0" / "worker.secret")
    refused(call(*worker, "--supernode", "10.0.0.1:9100"), "plain text")
    (tmp_path / "short").write_bytes(b"x")
    refused(call("deploy", "worker", "--secret", tmp_path / "short", "--supernode", "127.0.0.1:1"), "1 bytes")
