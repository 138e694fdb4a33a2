import http.client
import json
import socket

import pytest

from sottovoce.privacy.errors import ConfigError
from sottovoce.server.ledger_look import LedgerLook
from sottovoce.server.metrics_address import is_loopback
from sottovoce.server.metrics_server import serving
from sottovoce.server.run_metrics import RunMetrics, Watched

EVERYWHERE, NOWHERE = "0.0.0.0", "192.0.2.1"  # noqa: S104 - it is never bound to

GOOD = LedgerLook(rows=9, last_row_s=990.0, outsider=3.9, knows_cohorts=13.0, budget=4.0)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def told(tmp_path):
    self = {"look": GOOD}
    made = RunMetrics(Watched(ledger=lambda: self["look"], folder=tmp_path, rounds=6, overdue_s=300.0, wall=Clock()))
    made.settings = self
    return made


def get(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_pages_answer_and_nothing_else_does(told):
    with serving(told, 0) as port:
        assert get(port, "/healthz") == (200, "alive\n")
        assert get(port, "/metrics")[0] == 200
        assert "sottovoce_rounds_total" in get(port, "/metrics")[1]
        for path in ("/", "/metrics/", "/metrics/restricted", "/../etc/passwd", "/metrics?name=x"):
            assert get(port, path)[0] == 404, path
        assert get(port, "/metrics", "POST")[0] == 501
    with pytest.raises(ConnectionRefusedError):
        get(port, "/healthz")


def test_the_restricted_page_is_there_only_when_asked_for(told):
    with serving(told, 0, restricted=True) as port:
        status, text = get(port, "/metrics/restricted")
        assert (status, "sottovoce_restricted_replies_total" in text) == (200, True)
        assert "restricted" not in get(port, "/metrics")[1]


def test_readiness_names_each_obstacle_and_no_file(told):
    with serving(told, 0, least_nodes=3) as port:
        assert get(port, "/readyz")[0] == 503
        told.enrolled(3, 8, 0)
        assert get(port, "/readyz") == (200, '{"ready": true, "obstacles": []}\n')
        told.watched.wall.now += 301
        told.settings["look"] = LedgerLook(problem="/secret/place/ledger.db: row 3")
        told.enrolled(2, 8, 0)
        status, text = get(port, "/readyz")
        assert status == 503
        assert [one.partition(":")[0] for one in json.loads(text)["obstacles"]] == ["ledger", "nodes", "round"]
        assert "secret" not in text


def test_another_address_than_loopback_is_refused_unless_it_is_meant(told):
    for host in (EVERYWHERE, "::", NOWHERE, "example.org", ""):
        with pytest.raises(ConfigError, match="other machines"), serving(told, 0, host):
            pass
    # Meant, it is tried; this address is set aside for examples, so that nobody's machine has it.
    with pytest.raises(ConfigError, match="choose|" + NOWHERE) as refusal, serving(told, 0, NOWHERE, elsewhere=True):
        pass
    assert "other machines" not in str(refusal.value)


def test_restricted_figures_never_leave_loopback_even_where_it_is_meant(told):
    with pytest.raises(ConfigError, match="cohort"), serving(told, 0, EVERYWHERE, elsewhere=True, restricted=True):
        pass


def test_a_web_page_cannot_read_along_under_a_name_of_its_own(told):
    with serving(told, 0) as port:
        assert get(port, "/metrics", Host="evil.example")[0] == 403
        assert get(port, "/metrics", Host=f"evil.example:{port}")[0] == 403
        for good in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}", "[::1]"):
            assert get(port, "/healthz", Host=good)[0] == 200, good


def test_a_reader_that_says_nothing_keeps_nobody_waiting(told):
    with serving(told, 0) as port, socket.create_connection(("127.0.0.1", port)):
        assert get(port, "/healthz")[0] == 200


def test_a_port_that_is_taken_is_refused_with_its_number(told):
    with serving(told, 0) as port, pytest.raises(ConfigError, match=str(port)), serving(told, port):
        pass


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), (EVERYWHERE, False), ("", False)],
)
def test_loopback_is_told_from_the_rest(host, local):
    assert is_loopback(host) is local
