"""The pages of a running coordinator: `/metrics`, `/healthz`, `/readyz`, and `/metrics/restricted` where asked for.

Plain HTTP without any login, so on loopback only, unless the operator says otherwise; the restricted page never
elsewhere. A login and TLS are the business of a proxy in front of it.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client.exposition import choose_encoder

from sottovoce.privacy.errors import ConfigError
from sottovoce.server.metrics_address import is_loopback, require_safe
from sottovoce.server.readiness import obstacles
from sottovoce.server.run_metrics import RunMetrics

_PLAIN = "text/plain; charset=utf-8"


@contextmanager
def serving(
    metrics: RunMetrics,
    port: int,
    host: str = "127.0.0.1",
    *,
    elsewhere: bool = False,
    restricted: bool = False,
    least_nodes: int = 1,
) -> Iterator[int]:
    """Serve the pages while the block runs; gives the port.

    Args:
        metrics: what to show.
        port: to listen on; 0 for a free one.
        host: address to listen on.
        elsewhere: whether an address that is not loopback was meant.
        restricted: whether to show the restricted page as well.
        least_nodes: below it `/readyz` says no.

    Raises:
        ConfigError: an address outside loopback that was not meant, or together with the restricted page; or the port
            is taken.
    """
    require_safe(host, elsewhere, restricted)
    try:
        server = _Server((host, port), metrics, restricted, least_nodes, is_loopback(host))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"metrics on {host}:{port}: {error}", "choose another --metrics-port") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """Holds what the pages show."""

    daemon_threads = True

    def __init__(
        self, at: tuple[str, int], metrics: RunMetrics, restricted: bool, least_nodes: int, local: bool
    ) -> None:
        self.metrics, self.restricted, self.least_nodes, self.local = metrics, restricted, least_nodes, local
        if ":" in at[0]:
            self.address_family = socket.AF_INET6
        super().__init__(at, _Pages)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that hangs up is no event of the run."""


class _Pages(BaseHTTPRequestHandler):
    """Answers GET; everything else is refused by the base class."""

    server: _Server
    timeout = 5.0
    """Seconds a reader may take for its request."""

    def do_GET(self) -> None:
        """One page."""
        host = self.headers.get("Host", "")
        if self.server.local and host and not is_loopback(host.rpartition(":")[0] if _has_port(host) else host):
            # A web page that was given a name for 127.0.0.1 would otherwise read along in the operator's browser.
            self._answer(403, _PLAIN, b"ask for 127.0.0.1 or localhost\n")
        elif self.path == "/healthz":
            self._answer(200, _PLAIN, b"alive\n")
        elif self.path == "/readyz":
            self._ready()
        elif self.path == "/metrics":
            self._exposition(self.server.metrics.open)
        elif self.path == "/metrics/restricted" and self.server.restricted:
            self._exposition(self.server.metrics.restricted)
        else:
            self._answer(404, _PLAIN, b"no such page\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Who reads metrics is not written to standard error."""

    def version_string(self) -> str:
        """Without the versions of Python and its server."""
        return "sottovoce"

    def _ready(self) -> None:
        metrics = self.server.metrics
        watched = metrics.watched
        since = watched.wall() - metrics.last_s
        found = obstacles(watched.ledger(), metrics.nodes, self.server.least_nodes, since, watched.overdue_s)
        body = json.dumps({"ready": not found, "obstacles": found}).encode() + b"\n"
        self._answer(503 if found else 200, "application/json", body)

    def _exposition(self, registry: Any) -> None:
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        self._answer(200, kind, encode(registry))

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)


def _has_port(host: str) -> bool:
    """Whether a Host header ends in a port; IPv6 addresses stand in brackets there."""
    return host.rpartition(":")[2].isdigit() and (host.count(":") == 1 or "]:" in host)
