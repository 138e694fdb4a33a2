"""The gate as a server: TLS on the outside, TLS to a SuperLink on loopback, `server.gate` in between."""

import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from sottovoce.privacy.errors import ConfigError
from sottovoce.server.certificates import is_loopback
from sottovoce.server.gate import MOST_BODY, Gate, Refusal

Event = MutableMapping[str, Any]
log = logging.getLogger("uvicorn.error")

_PASSED_ON = ("content-type", "accept")
"""Headers that pass besides Flower's own, which begin with `flwr-`."""


@dataclass(frozen=True, slots=True)
class GateServer:
    """Passes what the rules admit on to the SuperLink, as an ASGI application.

    Attributes:
        gate: the rules.
        superlink: its address, https.
        client: how it is reached.
    """

    gate: Gate
    superlink: str
    client: httpx.AsyncClient

    async def __call__(
        self, scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
    ) -> None:
        """One request, answered."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body = await _whole(receive)
        if body is None:
            refusal: Refusal | None = Refusal(413, f"a request that breaks off, or of more than {MOST_BODY:,} bytes")
        elif len(headers) != len(scope["headers"]):
            refusal = Refusal(400, "a header twice")
        else:
            refusal = self.gate.judge(scope["method"], scope["path"], headers, body, time.monotonic())
        if refusal is not None or body is None:
            log.warning("refused: %s", refusal and refusal.why)
            await _answer(send, refusal.status if refusal else 400, {}, b"")
            return
        # A request that the SuperLink may have seen is not sent again: its signature is used up.
        passed = {name: value for name, value in headers.items() if name in _PASSED_ON or name.startswith("flwr-")}
        try:
            told = await self.client.request(
                scope["method"], self.superlink + scope["path"], content=body, headers=passed
            )
        except httpx.HTTPError as error:
            log.warning("the SuperLink does not answer: %r", error)
            await _answer(send, 502, {}, b"")
            return
        if told.status_code == httpx.codes.UNAUTHORIZED:
            self.gate.forget(headers)
        kept = {"content-type": told.headers["content-type"]} if "content-type" in told.headers else {}
        await _answer(send, told.status_code, kept, told.content)


def serve(listen: tuple[str, int], superlink: tuple[str, int], certificate: Path, key: Path, authority: Path) -> None:
    """Serve until the process is ended.

    Args:
        listen: address and port for the nodes.
        superlink: address and port of the SuperLink, on loopback.
        certificate: of this server, PEM.
        key: of the certificate.
        authority: whose certificate the SuperLink shows, PEM.

    Raises:
        ConfigError: a file cannot be used, or the SuperLink is not on loopback, where others would reach it too.
    """
    if not is_loopback(superlink[0]):
        raise ConfigError(f"the SuperLink is at {superlink[0]}", "let it listen on 127.0.0.1, behind the gate")
    try:
        trusted = ssl.create_default_context(cafile=str(authority))
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{certificate}, {key} or {authority} cannot be used: {error}", "restore them") from error
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    client = httpx.AsyncClient(verify=trusted, timeout=30.0, limits=limits, trust_env=False)
    application = GateServer(Gate(), f"https://{superlink[0]}:{superlink[1]}", client)
    uvicorn.run(
        application,
        host=listen[0],
        port=listen[1],
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
        lifespan="off",
        access_log=False,
        server_header=False,
        timeout_keep_alive=60,
        workers=1,
    )


async def _whole(receive: Callable[[], Awaitable[Event]]) -> bytes | None:
    """The body; None when it is longer than may be, without reading on, or breaks off."""
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        body += event.get("body", b"")
        if len(body) > MOST_BODY:
            return None
        if not event.get("more_body"):
            return bytes(body)


async def _answer(send: Callable[[Event], Awaitable[None]], status: int, headers: dict[str, str], body: bytes) -> None:
    listed = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    listed.append((b"content-length", str(len(body)).encode()))
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": status, "headers": listed})
        await send({"type": "http.response.body", "body": body})
