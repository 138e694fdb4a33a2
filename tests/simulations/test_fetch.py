import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sottovoce.privacy.errors import DataError
from sottovoce.simulations.data_sources import SOURCES, Source, SourceFile, source
from sottovoce.simulations.fetch import fetch

BODY = bytes(range(256)) * 2000
LICENCE = b"Do as you like.\n"


@dataclass
class Site:
    """A web server over a dictionary, with the habits of good and bad servers."""

    files: dict[str, bytes]
    ranges: bool = True
    stop_after: int | None = None
    say_length: bool = True
    shift: int = 0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        body = self.files.get(handler.path.rsplit("/", 1)[-1])
        if body is None:
            handler.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start and start >= len(body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = max(start - self.shift, 0)
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.say_length:
            handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        handler.wfile.write(body[start:][: self.stop_after])


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site({"data.bin": BODY, "LICENSE": LICENCE})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def offered(url: str, content: bytes = BODY) -> Source:
    files = (
        SourceFile("LICENSE", f"{url}/LICENSE", hashlib.sha256(LICENCE).hexdigest()),
        SourceFile("data.bin", f"{url}/data.bin", hashlib.sha256(content).hexdigest()),
    )
    return Source("toy", "toy_set", "A toy", "MIT", "Nobody, 2026", "Be kind.", files)


def test_every_file_arrives_whole_and_the_licence_is_told(site: Site, tmp_path: Path) -> None:
    fetched = fetch(offered(site.url), tmp_path)
    assert (tmp_path / "toy_set" / "data.bin").read_bytes() == BODY
    assert fetched.files == (tmp_path / "toy_set" / "LICENSE", tmp_path / "toy_set" / "data.bin")
    assert fetched.downloaded == len(BODY) + len(LICENCE)
    for word in ("A toy", "Licence: MIT", "Cite: Nobody, 2026", "Be kind.", str(tmp_path / "toy_set" / "LICENSE")):
        assert word in fetched.notice
    assert sorted(path.name for path in fetched.folder.iterdir()) == ["LICENSE", "data.bin"]


def test_progress_counts_up_to_the_whole(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    fetch(offered(site.url), tmp_path, progress=lambda *step: seen.append(step))
    done = [step[1] for step in seen if step[0] == "data.bin"]
    assert len(done) > 3
    assert done == sorted(done)
    assert seen[-1] == ("data.bin", len(BODY), len(BODY))


def test_what_is_there_already_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    fetch(offered(site.url), tmp_path)
    site.asked.clear()
    assert fetch(offered(site.url), tmp_path).downloaded == 0
    assert site.asked == []


def test_an_interrupted_download_is_resumed_where_it_broke_off(site: Site, tmp_path: Path) -> None:
    site.stop_after = 100_000
    with pytest.raises(DataError, match=rf"data\.bin: the connection ended after 100000 of {len(BODY)} bytes") as error:
        fetch(offered(site.url), tmp_path)
    assert "resumes" in error.value.todo
    assert not (tmp_path / "toy_set" / "data.bin").exists()
    assert (tmp_path / "toy_set" / "data.bin.part").read_bytes() == BODY[:100_000]
    site.stop_after = None
    assert fetch(offered(site.url), tmp_path).downloaded == len(BODY) - 100_000
    assert site.asked[-1] == ("/data.bin", "bytes=100000-")
    assert (tmp_path / "toy_set" / "data.bin").read_bytes() == BODY


def test_many_interruptions_in_a_row_end_with_the_whole_file(site: Site, tmp_path: Path) -> None:
    site.stop_after = 70_001
    for _ in range(len(BODY) // 70_001):
        with pytest.raises(DataError, match="connection ended"):
            fetch(offered(site.url), tmp_path)
    fetch(offered(site.url), tmp_path)
    assert (tmp_path / "toy_set" / "data.bin").read_bytes() == BODY


def test_a_person_who_stops_the_download_keeps_what_came(site: Site, tmp_path: Path) -> None:
    def stop(name: str, done: int, _total: int | None) -> None:
        if name == "data.bin" and done > 150_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(offered(site.url), tmp_path, progress=stop)
    have = (tmp_path / "toy_set" / "data.bin.part").stat().st_size
    assert have > 150_000
    assert fetch(offered(site.url), tmp_path).downloaded == len(BODY) - have


def test_a_server_that_ignores_ranges_starts_the_file_anew(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "toy_set"
    folder.mkdir()
    (folder / "data.bin.part").write_bytes(BODY[:5000])
    site.ranges = False
    assert fetch(offered(site.url), tmp_path).downloaded == len(BODY) + len(LICENCE)
    assert (folder / "data.bin").read_bytes() == BODY


def test_a_server_that_answers_with_another_range_does_not_corrupt_the_file(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "toy_set"
    folder.mkdir()
    (folder / "data.bin.part").write_bytes(BODY[:5000])
    site.shift = 10
    with pytest.raises(DataError, match="SHA-256"):
        fetch(offered(site.url), tmp_path)
    assert not (folder / "data.bin").exists()
    site.shift = 0
    fetch(offered(site.url), tmp_path)
    assert (folder / "data.bin").read_bytes() == BODY


def test_a_part_that_is_already_whole_becomes_the_file(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "toy_set"
    folder.mkdir()
    (folder / "data.bin.part").write_bytes(BODY)
    assert fetch(offered(site.url), tmp_path).downloaded == len(LICENCE)
    assert (folder / "data.bin").read_bytes() == BODY


@pytest.mark.parametrize("part", [b"x" * 500, BODY + b"x"])
def test_a_part_of_something_else_is_removed_and_then_fetched_anew(site: Site, tmp_path: Path, part: bytes) -> None:
    folder = tmp_path / "toy_set"
    folder.mkdir()
    (folder / "data.bin.part").write_bytes(part)
    with pytest.raises(DataError, match="SHA-256"):
        fetch(offered(site.url), tmp_path)
    assert not (folder / "data.bin.part").exists()
    fetch(offered(site.url), tmp_path)
    assert (folder / "data.bin").read_bytes() == BODY


def test_a_wrong_digest_is_refused_and_nothing_is_left(site: Site, tmp_path: Path) -> None:
    site.files["data.bin"] = BODY[:-1] + b"!"
    with pytest.raises(DataError, match=r"data\.bin: SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        fetch(offered(site.url), tmp_path)
    assert [path.name for path in (tmp_path / "toy_set").iterdir()] == ["LICENSE"]


def test_a_body_cut_short_without_a_length_is_caught_by_its_digest(site: Site, tmp_path: Path) -> None:
    site.say_length, site.stop_after = False, 1000
    with pytest.raises(DataError, match="SHA-256"):
        fetch(offered(site.url), tmp_path)
    assert not (tmp_path / "toy_set" / "data.bin").exists()


def test_a_file_of_that_name_with_other_content_is_never_overwritten(site: Site, tmp_path: Path) -> None:
    (tmp_path / "toy_set").mkdir()
    (tmp_path / "toy_set" / "data.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="exists with other content"):
        fetch(offered(site.url), tmp_path)
    assert (tmp_path / "toy_set" / "data.bin").read_bytes() == b"mine"


def test_a_mirror_must_serve_the_same_bytes(site: Site, tmp_path: Path) -> None:
    fetch(offered("https://data.example"), tmp_path, base=f"{site.url}/mirror/")
    assert [path for path, _ in site.asked] == ["/mirror/LICENSE", "/mirror/data.bin"]
    assert (tmp_path / "toy_set" / "data.bin").read_bytes() == BODY


def test_a_file_that_the_server_does_not_have_is_named(site: Site, tmp_path: Path) -> None:
    del site.files["data.bin"]
    with pytest.raises(DataError, match=rf"{site.url}/data\.bin: "):
        fetch(offered(site.url), tmp_path)


def test_a_server_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/LICENSE: .*refused") as error:
        fetch(offered("http://127.0.0.1:9"), tmp_path)
    assert "run the command again" in error.value.todo


@pytest.mark.parametrize("address", ["file:///etc", "ftp://data.example", "data.example"])
def test_only_web_addresses_are_opened(tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match="not an http address"):
        fetch(offered(address), tmp_path)


def test_a_set_with_another_official_layout_says_so_and_opens_nothing(tmp_path: Path) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a connection was opened")

    for name in ("kuairand", "completejourney"):
        with pytest.raises(DataError, match=f"{name}: cannot be downloaded: the official") as error:
            fetch(source(name), tmp_path, opener=never)
        assert error.value.todo


def test_a_name_that_is_no_set_is_refused_with_those_that_are() -> None:
    with pytest.raises(DataError, match="no data set 'movielens'") as error:
        source("movielens")
    assert "movietweetings" in error.value.todo


def test_every_offered_file_has_a_pinned_https_address_and_a_digest() -> None:
    files = [file for one in SOURCES.values() for file in one.files]
    assert len(files) == 3
    for file in files:
        assert file.url.startswith("https://raw.githubusercontent.com/sidooms/MovieTweetings/")
        assert "/master/" not in file.url
        assert len(bytes.fromhex(file.sha256)) == 32
    assert all(bool(one.files) != bool(one.instead) for one in SOURCES.values())


def test_the_offered_digests_are_those_of_the_files_the_loader_reads(real_set: Callable[[str], Path]) -> None:
    root = real_set("movietweetings_100k")
    offer = source("movietweetings")
    for file in offer.files:
        assert hashlib.sha256((root / offer.folder / file.name).read_bytes()).hexdigest() == file.sha256
