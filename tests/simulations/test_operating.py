"""A real run with log, metrics and terminal view: what an operator types, over real HTTP and a real terminal."""

import fcntl
import http.client
import json
import os
import re
import socket
import struct
import termios
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sottovoce.simulations.cli import run
from sottovoce.simulations.folder import RunFolder

SECRET = "pgpassword-hunter2"  # noqa: S105 - planted, to be looked for


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Scraper(threading.Thread):
    """Reads the pages as long as they are served, like Prometheus, only faster."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.seen, self.ended = port, {}, threading.Event()

    def run(self):
        while not self.ended.wait(0.03):
            for path in ("/metrics", "/metrics/restricted", "/healthz", "/readyz"):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
                try:
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    self.seen.setdefault(path, []).append((answer.status, answer.read().decode()))
                except OSError:
                    pass
                finally:
                    connection.close()


@pytest.fixture(scope="module")
def operated(tmp_path_factory):
    """A finished run, what was scraped during it, and its log."""
    place = tmp_path_factory.mktemp("operated")
    port = free_port()
    scraper = Scraper(port)
    scraper.start()
    small = ["--devices", "200", "--rounds", "6", "--delta", "1e-3", "--no-baselines"]
    small += ["--set", "data.rows_per_device=8", "--set", "privacy.sampling=none", "--set", "evaluate_every=3"]
    watching = ["--log-file", str(place / "log.jsonl"), "--log-json", "--metrics-port", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", SECRET)
        assert run(["simulate", *small, *watching, "--out", str(place / "run")]) == 0
    scraper.ended.set()
    scraper.join()
    return place, scraper.seen


def samples(text):
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_a_real_run_is_seen_over_http(operated):
    _, seen = operated
    pages = [samples(text) for status, text in seen["/metrics"] if status == 200]
    last = pages[-1]
    rounds = [page[("sottovoce_rounds_total", "released")] for page in pages]
    assert rounds == sorted(rounds)
    assert rounds[-1] >= 1
    assert last[("sottovoce_devices_enrolled",)] == 200
    assert last[("sottovoce_ledger_ok",)] == 1
    assert 0 not in {page.get(("sottovoce_ledger_ok",)) for page in pages}, "a false alarm while the run wrote"
    assert 0 < last[("sottovoce_epsilon_spent", "outsider")] <= last[("sottovoce_epsilon_budget",)] == 4
    assert {status for status, _ in seen["/healthz"]} == {200}
    assert 200 in {status for status, _ in seen["/readyz"]}
    assert {status for status, _ in seen["/metrics/restricted"]} == {404}
    assert f"{SECRET}" not in json.dumps(seen)


def test_a_real_runs_log_tells_no_cohort_and_no_secret(operated):
    place, _ = operated
    text = (place / "log.jsonl").read_text()
    told = [json.loads(line) for line in text.splitlines()]
    events = [line["event"] for line in told]
    assert (events[0], events[-1], events.count("round_released")) == ("run_started", "run_ended", 6)
    assert SECRET not in text
    # No number of the log changes with the cohort: each is a public one, a round, or seconds.
    public = {"nodes", "devices", "left_out", "round", "rounds_planned", "ledger_rows", "pay_s", "release_s", "keep_s"}
    for line in told:
        assert {name for name, value in line.items() if isinstance(value, int | float)} <= public


def test_watching_shows_the_run_in_json(operated, call):
    place, _ = operated
    code, out, _ = call("watch", place / "run", "--json")
    told = json.loads(out)
    points = RunFolder(place / "run").points()
    assert (code, told["state"], told["rounds"], told["rounds_planned"]) == (0, "finished", 6, 6)
    assert told["auc"].keys() == {"3", "6"}
    assert told["epsilon"] == pytest.approx(points[-1].epsilon)
    assert told["replies"] == {"used": 12}
    assert set(told["phases"]) == {"pay", "draw", "ask", "release", "keep"}
    assert told["left_s"] is None


def test_into_a_pipe_it_writes_plain_lines_and_ends_with_the_run(operated, call):
    place, _ = operated
    code, out, _ = call("watch", place / "run")
    assert code == 0
    assert re.fullmatch(r"round 6/6  finished  epsilon 3\.\d{4}  AUC 0\.\d{4}\n", out)
    code, out, _ = call("watch", place / "run", "--once")
    assert (code, "\x1b" in out, out.splitlines()[1].startswith("rounds")) == (0, False, True)


class Terminal:
    """A real terminal of a given size; gives what was written to it."""

    def __init__(self, columns, rows):
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.file = os.fdopen(slave, "w")

    def text(self):
        self.file.close()
        told = b""
        try:
            while part := os.read(self._master, 65536):
                told += part
        except OSError:  # Linux: the other end is closed
            pass
        os.close(self._master)
        return told.decode()


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (30, 4), (200, 60), (1, 1)])
def test_on_a_terminal_it_redraws_within_its_width_and_height(operated, monkeypatch, columns, rows):
    place, _ = operated
    terminal = Terminal(columns, rows)
    monkeypatch.setattr("sys.stdout", terminal.file)
    code = run(["watch", str(place / "run")])
    monkeypatch.undo()
    text = terminal.text()
    assert code == 0
    assert text.startswith("\x1b[?25l")
    assert text.endswith("\x1b[?25h")
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", one) for one in text.split("\r\n")]
    assert len(shown) <= rows
    assert all(len(one) <= max(1, columns - 1) for one in shown)
    if columns >= 30:
        assert "6/6" in "".join(shown)


def test_ctrl_c_gives_the_cursor_back(operated, monkeypatch):
    place, _ = operated

    def interrupted(seconds):
        raise KeyboardInterrupt

    terminal = Terminal(80, 24)
    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.setattr("sys.stdout", terminal.file)
    metrics = place / "run" / "metrics.jsonl"
    whole = metrics.read_bytes()
    try:
        metrics.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]) + b'{"record": {"rou')
        code = run(["watch", str(place / "run")])
    finally:
        metrics.write_bytes(whole)
    monkeypatch.undo()
    text = terminal.text()
    assert code == 0
    assert "4/6" in text
    assert text.endswith("\x1b[?25h")


def test_what_is_no_run_is_refused(call, tmp_path):
    code, out, err = call("watch", tmp_path, "--once")
    assert (code, out) == (1, "")
    assert "no experiment.toml" in err


def test_metrics_elsewhere_are_refused_before_anything_is_spent(call, tmp_path):
    small = ["--devices", "100", "--rounds", "1", "--delta", "1e-3", "--set", "data.rows_per_device=8"]
    code, _, err = call(
        *("simulate", *small, "--out", tmp_path / "run", "--metrics-port", "0", "--metrics-host", "192.0.2.1")
    )
    assert (code, "other machines" in err) == (1, True)
    assert not (tmp_path / "run" / "ledger.db").exists()
