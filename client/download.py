"""Bytes from a web server, over a connection that may break and from a server that may lie.

TLS is required off loopback, redirects included. Lengths are capped while bytes arrive. A download that breaks off goes
on where it stopped, within the call and in the next one. What a server learns: an address, which file, from which byte
on. There is no cookie, no device id, no user agent that tells one device from another.
"""

import contextlib
import hashlib
import http.client
import ipaddress
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sottovoce.models.update_index import Part
from sottovoce.privacy.errors import DeviceError, DigestError, TransferError

_LATER = "keep the bundle in use and ask again later"
_HEADERS = {"User-Agent": "sottovoce", "Accept-Encoding": "identity"}
_RANGE = re.compile(r"bytes ([0-9]{1,12})-([0-9]{1,12})/([0-9]{1,12})", re.ASCII)
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a device waits.

    Attributes:
        silence_s: seconds without a byte.
        whole_s: seconds for one download; a server that sends a byte now and then must not keep a phone awake.
        attempts: connections for one download.
    """

    silence_s: float = 20.0
    whole_s: float = 300.0
    attempts: int = 3


def check_address(url: str) -> None:
    """Let an address pass that is https, or http to this very machine.

    Raises:
        TransferError: it is not, or it holds a user, a query or a fragment, which could name a device.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TransferError(f"not an address: {error}", "give an https address") from error
    if not host or port == 0 or parts.username is not None or parts.query or parts.fragment:
        raise TransferError("an update address holds a host and a path, no user, query or fragment", "shorten it")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise TransferError(f"{parts.scheme or 'no scheme'}: updates come over https only", "give an https address")


class Web:
    """Downloads under one patience.

    Args:
        patience: see there.
        tls: certificates to trust; None for the system's.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        patience: Patience = Patience(),
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience
        self._tls = tls or ssl.create_default_context()
        self._clock = clock
        self.received = 0

    def small(self, url: str, most: int, tag: str | None) -> bytes | None:
        """A file of at most `most` bytes; None when the server says that it is the one of that tag.

        Raises:
            TransferError: anything went wrong.
        """
        return self._small(url, most, {"If-None-Match": tag} if tag else {}, {304} if tag else set())

    def next(self, url: str, most: int) -> bytes | None:
        """A file of at most `most` bytes that may not be there yet: then None.

        Stores that do not let strangers list them answer 403 for what is not there.

        Raises:
            TransferError: anything else went wrong.
        """
        return self._small(url, most, {}, {403, 404})

    def file(self, url: str, part: Part, into: Path) -> bytes:
        """The file that `part` names; what arrives is kept in `into` until it is whole, and then stays there.

        Args:
            url: its address; under it the bytes never change.
            part: digest and length.
            into: grows while bytes arrive.

        Raises:
            DigestError: other bytes came; they are removed.
            TransferError: the server cannot be reached, breaks off or sends more; what came is kept for the next time.
            DeviceError: `into` cannot be written.
        """
        deadline = self._clock() + self._patience.whole_s
        tag: str | None = None
        problem = TransferError(f"{url}: nothing came", _LATER)
        try:
            for _ in range(self._patience.attempts):
                have = into.stat().st_size if into.exists() else 0
                if have < part.length:
                    try:
                        tag = self._more(url, part, into, have, tag, deadline)
                    except TransferError as error:
                        problem = error
                        continue
                    have = into.stat().st_size
                if have == part.length:
                    data = into.read_bytes()
                    if hashlib.sha256(data).hexdigest() == part.sha256:
                        return data
                if have >= part.length:
                    into.unlink()
                    raise DigestError(f"{url}: not the bytes that the index names", _LATER)
                problem = TransferError(f"{url}: the server broke off at {have} of {part.length} bytes", _LATER)
        except OSError as error:
            raise DeviceError(f"{into}: {error.strerror or error}", "free space; the bundle in use stays") from error
        raise problem

    def _small(self, url: str, most: int, headers: Mapping[str, str], none: Collection[int]) -> bytes | None:
        deadline = self._clock() + self._patience.whole_s
        with self._open(url, headers) as answer:
            if answer.status in none:
                return None
            if answer.status != 200:
                raise TransferError(f"{url}: the server answers {answer.status}", _LATER)
            data = b"".join(self._chunks(answer, most + 1, deadline))
            if len(data) > most:
                raise TransferError(f"{url}: more than {most} bytes", _LATER)
            return data

    def _more(self, url: str, part: Part, into: Path, have: int, tag: str | None, deadline: float) -> str | None:
        """Append what one connection brings; returns the tag under which this very download may go on.

        The server's tag lives as long as this call: kept any longer, it would tell this phone from others. Across calls
        the name of the file vouches for the range, and in the end its digest.
        """
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and tag:
            headers["If-Range"] = tag
        with self._open(url, headers) as answer:
            if answer.status == 206 and have:
                found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                if found is None or int(found[1]) != have or int(found[3]) != part.length:
                    raise TransferError(f"{url}: the server sends another range than was asked for", _LATER)
            elif answer.status == 200:
                have = 0
            elif answer.status == 416:
                into.unlink()
                raise TransferError(f"{url}: the server has less than the index says", _LATER)
            else:
                raise TransferError(f"{url}: the server answers {answer.status}", _LATER)
            fresh: str | None = answer.headers.get("ETag")
            with into.open("r+b" if have else "wb") as file:
                file.seek(have)
                with contextlib.suppress(TransferError):  # what came stays, and the next connection goes on from there
                    for chunk in self._chunks(answer, part.length - have + 1, deadline):
                        have += len(chunk)
                        if have > part.length:
                            break
                        file.write(chunk)
            if have > part.length:
                into.unlink()
                raise TransferError(f"{url}: more than the {part.length} bytes that the index names", _LATER)
        return fresh if fresh and not fresh.startswith("W/") else None

    def _chunks(self, answer: Any, most: int, deadline: float) -> Iterator[bytes]:
        """What arrives, at most `most` bytes in all."""
        while most > 0:
            if self._clock() > deadline:
                raise TransferError("the server is too slow", _LATER)
            try:
                chunk: bytes = answer.read1(min(_CHUNK, most))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise TransferError(f"the connection broke: {error}", _LATER) from error
            if not chunk:
                return
            self.received += len(chunk)
            most -= len(chunk)
            yield chunk

    @contextmanager
    def _open(self, url: str, headers: Mapping[str, str]) -> Iterator[Any]:
        check_address(url)
        handlers: list[Any] = [_CheckedRedirects(), urllib.request.HTTPSHandler(context=self._tls)]
        if urlsplit(url).scheme == "http":
            handlers.append(urllib.request.ProxyHandler({}))  # plain text stays on this machine
        opener = urllib.request.build_opener(*handlers)
        opener.addheaders = []
        request = urllib.request.Request(url, headers=_HEADERS | dict(headers))  # noqa: S310 - checked above
        try:
            answer = opener.open(request, timeout=self._patience.silence_s)
        except urllib.error.HTTPError as error:
            answer = error
        except TransferError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransferError(f"{url}: {getattr(error, 'reason', error)}", _LATER) from error
        with contextlib.closing(answer):
            yield answer


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where a first request could have gone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """See `urllib.request.HTTPRedirectHandler`."""
        try:
            check_address(newurl)
            if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
                raise TransferError("the server redirects to plain text", _LATER)
        except TransferError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
