"""Download a public data set from its official address: resumed where it broke off, refused unless its digest is right.

Bytes arrive in `<name>.part`; the file gets its name only when its SHA-256 is the one this version was built with, so a
file without `.part` is always the whole official file.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sottovoce.privacy.errors import DataError
from sottovoce.simulations.data_sources import Source, SourceFile

CHUNK = 1 << 16
TIMEOUT_S = 30.0

Opener = Callable[[urllib.request.Request, float], Any]
"""Opens a request with a timeout in seconds; as `urllib.request.urlopen`, which is the default."""

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes at hand, and the bytes in all where the server tells."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is now on disk.

    Attributes:
        folder: that holds the files.
        files: their paths.
        downloaded: bytes that came over the network this time.
        notice: licence, citation and note, to be shown to whoever fetched.
    """

    folder: Path
    files: tuple[Path, ...]
    downloaded: int
    notice: str


def open_url(request: urllib.request.Request, timeout_s: float) -> Any:
    """The response to a request over http or https."""
    return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 - the scheme is checked by `fetch`


def fetch(
    source: Source,
    into: Path,
    *,
    base: str | None = None,
    opener: Opener = open_url,
    progress: Progress = lambda _name, _done, _total: None,
) -> Fetched:
    """Bring every file of the set into its folder below `into`; files already there and right are left alone.

    Args:
        source: from `data_sources.source`.
        into: the data folder.
        base: a mirror; its files are `base`/<file name> and must have the same digests.
        opener: opens a request.
        progress: told after every chunk.

    Raises:
        DataError: the set cannot be fetched, the server cannot be reached or ends early (what came is kept and resumed
            next time), the digest is wrong (what came is removed), or a file of that name with other content exists.
    """
    if not source.files:
        raise DataError(f"{source.name}: cannot be downloaded: {source.instead}", "bring the files yourself")
    folder = into / source.folder
    downloaded = 0
    for file in source.files:
        url = file.url if base is None else f"{base.rstrip('/')}/{file.name}"
        if not url.startswith(("https://", "http://")):
            raise DataError(f"{url}: not an http address", "give an address that starts with https://")
        target = folder / file.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if target.exists():
                if digest(target) != file.sha256:
                    raise DataError(f"{target}: exists with other content", "move it away and run the command again")
                continue
            downloaded += _download(file, url, target, opener, progress)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise DataError(
                f"{url}: {getattr(error, 'reason', None) or error}",
                "check the network and run the command again; it resumes where it stopped",
            ) from error
    return Fetched(folder, tuple(folder / file.name for file in source.files), downloaded, notice(source, folder))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def notice(source: Source, folder: Path) -> str:
    """Licence, citation and note of a set, for a person to read."""
    legal = folder / "LICENSE"
    text = f"\nLicence text: {legal}" if legal.exists() else ""
    return f"{source.title}\nLicence: {source.licence}\nCite: {source.citation}\n{source.note}{text}"


def _download(file: SourceFile, url: str, target: Path, opener: Opener, progress: Progress) -> int:
    """Get one file, from where an earlier attempt stopped if the server allows; returns the bytes received."""
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - checked
    received = 0
    try:
        response = opener(request, TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        # 416: nothing lies beyond what is here. It is the whole file, or not this file at all: the digest knows.
    else:
        with response:
            # Whether the bytes really continue the part is for the digest to say.
            have = have if response.status == 206 else 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length and length.isdecimal() else None
            with part.open("ab" if have else "wb") as out:
                while chunk := response.read(CHUNK):
                    out.write(chunk)
                    received += len(chunk)
                    progress(file.name, have + received, total)
            if total is not None and have + received < total:
                raise DataError(
                    f"{url}: the connection ended after {have + received} of {total} bytes",
                    "run the command again; it resumes where it stopped",
                )
    seen = digest(part)
    if seen != file.sha256:
        part.unlink()
        raise DataError(
            f"{file.name}: SHA-256 is {seen}, expected {file.sha256}; the download was removed",
            "run the command again; if it stays so, the address does not serve the official file",
        )
    part.replace(target)
    return received
