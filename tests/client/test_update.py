"""A device asks a real web server for updates: what it takes, what it refuses, and all that the server sees."""

import hashlib
import re
import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import msgspec
import pytest
from bundle_line import KEY, NOW, key_set, store_in, version
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sottovoce.client.download import Patience, Web, check_address
from sottovoce.client.update import check
from sottovoce.models.signing import generate_key
from sottovoce.models.update_index import INDEX, bundle_name, key_set_name
from sottovoce.privacy.errors import (
    BundleError,
    DigestError,
    ExpiredError,
    RollbackError,
    SignatureError,
    TransferError,
)
from sottovoce.server.key_folder import publish_key_sets
from sottovoce.server.publishing import publish

SIZE = 40_000


def release(number, **changed):
    return version(number, size=SIZE, **changed)


class Server:
    """Serves a folder with ranges and tags, remembers every request, and misbehaves as told."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []
        self.cut = []  # for each answer with a file: after how many bytes the connection breaks; 0 for never
        self.answers = {}  # path: (status, headers, body) instead of the file
        self.ranges = True
        self.tag = None  # of every file; None for the digest
        self.index_tag = True

    def answer(self, handler):
        path = handler.path.lstrip("/").removeprefix("line/")
        self.seen.append((path, dict(handler.headers)))
        if path in self.answers:
            return self.answers[path]
        file = self.folder / path
        if not file.is_file():
            return 404, {}, b"none"
        data = file.read_bytes()
        if path == INDEX:
            tag = f'"{msgspec.json.decode(data)["sha256"]}"'
            if self.index_tag and handler.headers.get("If-None-Match") == tag:
                return 304, {"ETag": tag}, b""
            return 200, {"ETag": tag} if self.index_tag else {}, data
        tag = self.tag or f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if asked and self.ranges and handler.headers.get("If-Range", tag) == tag:
            start = int(asked[1])
            if start >= len(data):
                return 416, {}, b""
            return 206, {"ETag": tag, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:]
        return 200, {"ETag": tag}, data

    def paths(self):
        return [path for path, _ in self.seen]


@contextmanager
def serving(server, tls=None):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = server.answer(self)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            cut = server.cut.pop(0) if server.cut and self.path.endswith((".svb", ".svd")) else 0
            try:
                self.wfile.write(body[:cut] if cut else body)
                self.wfile.flush()
            except OSError:
                pass  # the device hung up
            self.close_connection = True

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.handle_error = lambda *_: None  # a device that does not trust us hangs up
    if tls is not None:
        httpd.socket = tls.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{httpd.server_port}/line"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path / "www")


@pytest.fixture
def url(server):
    with serving(server) as address:
        yield address


@pytest.fixture
def store(tmp_path):
    return store_in(tmp_path / "phone")


def look(url, store, **more):
    return check(url, store, NOW, web=Web(Patience(silence_s=5, whole_s=20)), **more)


def test_a_new_phone_downloads_the_whole_and_an_old_one_the_patch(server, url, store):
    publish([release(1)], server.folder)
    first = look(url, store)
    assert (first.outcome, first.by, first.bundle.manifest.version) == ("installed", "whole", 1)
    assert first.received == (server.folder / INDEX).stat().st_size + len(release(1))
    publish([release(2)], server.folder)
    second = look(url, store)
    assert (second.outcome, second.by, second.bundle.manifest.version) == ("installed", "patch", 2)
    assert second.received < first.received / 2
    assert store.load(NOW).manifest.version == 2
    assert not list(store.folder.glob("*.part"))


def test_nothing_new_costs_an_empty_answer_or_the_index(server, url, store):
    publish([release(1)], server.folder)
    look(url, store)
    again = look(url, store)
    assert (again.outcome, again.received) == ("current", 0)
    server.index_tag = False
    again = look(url, store)
    assert (again.outcome, again.received) == ("current", (server.folder / INDEX).stat().st_size)


def test_the_server_sees_an_address_and_nothing_that_tells_phones_apart(server, url, store, tmp_path):
    """Two phones with the same history send the same bytes, whatever a server hands out."""
    server.tag = '"chosen-for-this-phone-7f3a"'
    histories = []
    for phone in (store, store_in(tmp_path / "other phone")):
        phone.secret()
        for number in (1, 2):
            server.folder = tmp_path / f"www{number}"
            publish([release(one) for one in range(1, number + 1)], server.folder)
            server.cut = [10_000] if number == 1 else []
            look(url, phone)
            look(url, phone)
        histories.append(server.seen)
        server.seen = []
    assert histories[0] == histories[1]
    allowed = {"Host", "User-Agent", "Accept-Encoding", "Connection", "If-None-Match", "Range", "If-Range"}
    for _, headers in histories[0]:
        assert headers.keys() <= allowed
        assert headers["User-Agent"] == "sottovoce"
    for path, headers in histories[0]:
        if path == INDEX:
            assert headers.get("If-None-Match") in (
                None,
                *(f'"{hashlib.sha256(release(n)).hexdigest()}"' for n in (1, 2)),
            )
    # The server's own tag comes back within one download, never later.
    assert [path for path, headers in histories[0] if "If-Range" in headers] == [
        bundle_name(hashlib.sha256(release(1)).hexdigest())
    ]


def test_a_broken_download_goes_on_where_it_stopped_in_the_same_call_and_in_the_next(server, url, store):
    index = publish([release(1)], server.folder)
    server.cut = [30_000, 20_000, 10_000]
    with pytest.raises(TransferError, match="broke off at 60000 of"):
        look(url, store)
    assert store.load(NOW) is None
    done = look(url, store)
    assert done.outcome == "installed"
    ranges = [headers.get("Range") for path, headers in server.seen if path == bundle_name(index.sha256)]
    assert ranges == [None, "bytes=30000-", "bytes=50000-", "bytes=60000-"]
    assert done.received == index.length - 60_000 + (server.folder / INDEX).stat().st_size


def test_a_file_that_changed_under_way_or_a_server_without_ranges_starts_over(server, url, store):
    publish([release(1)], server.folder)
    server.cut = [30_000]
    server.ranges = False
    assert look(url, store).outcome == "installed"
    assert [headers.get("Range") for path, headers in server.seen if path.endswith(".svb")] == [None, "bytes=30000-"]


def test_a_patch_that_is_missing_damaged_or_for_another_bundle_gives_way_to_the_whole(server, url, tmp_path):
    publish([release(1)], server.folder)
    for spoiled in ("missing", "damaged", "lying index"):
        server.answers = {}
        phone = store_in(tmp_path / spoiled)
        phone.offer(release(1), NOW)
        index = publish([release(2)], server.folder)
        (part,) = index.patches.values()
        path = f"patches/{part.sha256}.svd"
        if spoiled == "missing":
            server.answers[path] = (404, {}, b"")
        elif spoiled == "damaged":
            server.answers[path] = (200, {}, bytes(part.length))
        else:
            (server.folder / "patches" / f"{hashlib.sha256(b'no patch').hexdigest()}.svd").write_bytes(b"no patch")
            lie = {"sha256": hashlib.sha256(b"no patch").hexdigest(), "length": 8}
            index = msgspec.to_builtins(index) | {"patches": dict.fromkeys(index.patches, lie)}
            server.answers[INDEX] = (200, {}, msgspec.json.encode(index))
        done = look(url, phone)
        assert (done.outcome, done.by) == ("installed", "whole"), spoiled


@pytest.mark.parametrize(
    "lie", ["longer body", "shorter body", "no length", "other bytes", "wrong range", "endless index"]
)
def test_lying_lengths_and_bytes_are_refused_and_the_bundle_in_use_stays(server, url, store, lie):
    store.offer(release(1), NOW)
    index = publish([release(2)], server.folder)
    path, new = bundle_name(index.sha256), release(2)
    server.answers = {
        "longer body": {path: (200, {}, new + bytes(1_000_000))},
        "shorter body": {path: (200, {"Content-Length": str(len(new))}, new[:-1])},
        "no length": {path: (200, {"Content-Length": None}, new + bytes(1_000_000))},
        "other bytes": {path: (200, {}, bytes(len(new)))},
        "wrong range": {path: (206, {"Content-Range": f"bytes 0-9/{len(new)}"}, new[:10])},
        "endless index": {INDEX: (200, {}, b" " * 1_000_000)},
    }[lie]
    web = Web(Patience(silence_s=5, whole_s=20))
    with pytest.raises((TransferError, DigestError)):
        check(url, store, NOW, web=web)
    assert web.received < 3 * (len(new) + 70_000)
    assert sum(file.stat().st_size for file in store.folder.glob("*.part")) < len(new)
    assert store.load(NOW).manifest.version == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[1]", b'{"line":"line","version":0}'])
def test_an_index_of_garbage_is_refused(server, url, store, body):
    server.answers[INDEX] = (200, {}, body)
    with pytest.raises(BundleError):
        look(url, store)


def test_an_older_version_another_line_and_a_stranger_are_refused(server, url, store, tmp_path):
    store.offer(release(3), NOW)
    for odd, error in (
        (release(2), RollbackError),
        (release(3, key=generate_key()), RollbackError),
        (release(4, model_id="another"), BundleError),
        (release(5, key=generate_key()), SignatureError),
    ):
        server.folder = tmp_path / hashlib.sha256(odd).hexdigest()
        publish([odd], server.folder)
        server.seen = []
        with pytest.raises(error):
            look(url, store)
        # Only a stranger's signature needs the bytes to be seen through.
        assert set(server.paths()) <= {key_set_name(2), INDEX} or error is SignatureError
        assert store.load(NOW).manifest.version == 3


def test_a_version_that_is_not_wanted_yet_is_kept_and_not_downloaded_again(server, url, store):
    publish([release(1)], server.folder)
    asked = []
    for _ in range(2):
        held = look(url, store, wanted=lambda manifest: asked.append(manifest.version))
        assert (held.outcome, held.bundle) == ("held back", None)
    assert asked == [1, 1]
    assert len(server.seen) == 5
    assert store.load(NOW) is None
    assert look(url, store).outcome == "installed"
    assert server.paths()[5:] == [key_set_name(2), INDEX]


def test_a_lost_bundle_is_fetched_again_though_its_version_is_not_new(server, url, store):
    publish([release(1)], server.folder)
    look(url, store)
    next(store.folder.glob("*.svb")).unlink()
    assert look(url, store).outcome == "installed"
    assert store.load(NOW).manifest.version == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://updates.example/line",
        "http://127.0.0.1.example/line",
        "http://10.0.0.1/line",
        "ftp://127.0.0.1/line",
        "file:///etc/passwd",
        "https://phone7@updates.example/line",
        "https://updates.example/line?phone=7",
        "https://updates.example/line#7",
        "https://:443/",
        "https://[::1/line",
        "updates.example/line",
        "",
    ],
)
def test_plain_text_off_loopback_and_addresses_that_could_name_a_phone_are_refused(address, store):
    with pytest.raises(TransferError):
        look(address, store)


def test_https_and_loopback_are_addresses():
    for address in ("https://updates.example/line", "http://127.0.0.1:80/", "http://[::1]:8080/a", "http://localhost/"):
        check_address(address)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine that signed itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "updates")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_over_tls_the_certificate_counts_and_a_redirect_to_plain_text_is_refused(server, url, store, certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    publish([release(1)], server.folder)
    trusting = Web(Patience(silence_s=5), ssl.create_default_context(cafile=str(certificate)))
    with serving(server, tls) as address:
        with pytest.raises(TransferError, match="certificate"):
            look(address, store)
        assert server.seen == []
        server.answers[INDEX] = (302, {"Location": f"{url}/{INDEX}"}, b"")  # plain text, if on this machine
        with pytest.raises(TransferError, match="plain text"):
            check(address, store, NOW, web=trusting)
        server.answers = {}
        assert check(address, store, NOW, web=trusting).outcome == "installed"


@pytest.mark.parametrize("target", ["http://updates.example/line/latest.json", "file:///etc/passwd", "https://x/?id=7"])
def test_a_redirect_leads_only_where_a_first_request_could_go(server, url, store, target):
    server.answers[INDEX] = (302, {"Location": target}, b"")
    with pytest.raises(TransferError):
        look(url, store)
    server.answers[INDEX] = (302, {"Location": f"{url}/moved.json"}, b"")
    publish([release(1)], server.folder)
    server.answers["moved.json"] = (200, {}, (server.folder / INDEX).read_bytes())
    assert look(url, store).outcome == "installed"


def test_a_server_that_is_silent_slow_or_away_ends_in_time(store):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/line"
        with pytest.raises(TransferError):
            check(address, store, NOW, web=Web(Patience(silence_s=0.05)))
    with pytest.raises(TransferError):
        look(address, store)


def test_a_trickle_is_given_up_after_the_time_for_one_download(server, url, store):
    publish([release(1)], server.folder)
    ticks = iter(range(0, 10_000, 100))
    with pytest.raises(TransferError):
        check(url, store, NOW, web=Web(Patience(silence_s=5, whole_s=50), clock=lambda: next(ticks)))


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(server, url, store, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    publish([release(1)], server.folder)
    assert look(url, store).outcome == "installed"


SECOND, THIRD, THIEF = (generate_key() for _ in range(3))
CHAIN = (
    key_set(2, [SECOND], [KEY, SECOND], days=-1),  # expired while phones were off
    key_set(3, [THIRD], [SECOND, THIRD]),
)


def test_key_sets_are_walked_to_the_end_before_the_bundle_and_only_once(server, url, store):
    publish([release(1)], server.folder)
    look(url, store)
    publish_key_sets(CHAIN, server.folder, NOW)
    publish([release(2, key=THIRD)], server.folder)
    server.seen = []
    done = look(url, store)
    assert (done.outcome, done.key_sets, done.bundle.manifest.version) == ("installed", 2, 2)
    assert server.paths()[:4] == [key_set_name(2), key_set_name(3), key_set_name(4), INDEX]
    assert done.received > sum(map(len, CHAIN))
    again = store_in(store.folder)  # after a restart
    server.seen = []
    assert (look(url, again).key_sets, server.paths()) == (0, [key_set_name(4), INDEX])


def test_keys_are_followed_though_there_is_no_new_bundle_and_the_one_in_use_stays(server, url, store):
    publish([release(1)], server.folder)
    look(url, store)
    publish_key_sets(CHAIN, server.folder, NOW)
    done = look(url, store)
    assert (done.outcome, done.key_sets) == ("current", 2)
    assert store.load(NOW).manifest.version == 1
    publish([release(2)], server.folder)  # by the first key, which was taken away
    with pytest.raises(SignatureError):
        look(url, store)
    assert store.load(NOW).manifest.version == 1


BAD_CHAINS = {
    "a thief's set": (SignatureError, {2: key_set(2, [THIEF], [THIEF])}),
    "a set of another line": (BundleError, {2: key_set(2, [SECOND], [KEY, SECOND], line="another")}),
    "the set after the next": (SignatureError, {2: CHAIN[1]}),
    "the set before": (RollbackError, {2: CHAIN[0], 3: key_set(2, [SECOND], [KEY, SECOND])}),
    "a good set and then a thief's": (SignatureError, {2: CHAIN[0], 3: key_set(3, [THIEF], [KEY, THIEF])}),
    "an end that has expired": (ExpiredError, {2: CHAIN[0]}),
    "a page for people": (BundleError, {2: b"<html>not found</html>"}),
    "nothing": (BundleError, {2: b""}),
    "too much": (TransferError, {2: bytes(1_000_000)}),
}


@pytest.mark.parametrize(("error", "served"), BAD_CHAINS.values(), ids=BAD_CHAINS)
def test_a_bad_key_set_is_refused_and_nothing_after_it_is_asked_for(server, url, store, error, served):
    store.offer(release(1), NOW)
    server.answers = {key_set_name(number): (200, {}, data) for number, data in served.items()}
    with pytest.raises(error):
        look(url, store)
    assert set(server.paths()) == set(map(key_set_name, served)) | (
        {key_set_name(3)} if error is ExpiredError else set()
    )
    assert store.trust().key_version == 1
    assert store.load(NOW).manifest.version == 1


def test_after_a_bad_key_set_the_bundle_in_use_stays_and_the_right_ones_are_taken(server, url, store):
    store.offer(release(1), NOW)
    publish([release(2, key=THIEF)], server.folder)
    server.answers = {key_set_name(2): (200, {}, key_set(2, [THIEF], [THIEF]))}
    with pytest.raises(SignatureError):
        look(url, store)
    assert store.load(NOW).manifest.version == 1
    server.answers = {}
    publish_key_sets(CHAIN, server.folder, NOW)
    publish([release(3, key=THIRD)], server.folder)
    assert look(url, store).bundle.manifest.version == 3


@pytest.mark.parametrize(("status", "end"), [(404, True), (403, True), (500, False), (304, False), (204, False)])
def test_only_a_set_that_is_not_there_ends_the_walk(server, url, store, status, end):
    publish([release(1)], server.folder)
    server.answers[key_set_name(2)] = (status, {}, b"")
    if end:
        assert look(url, store).outcome == "installed"
        return
    with pytest.raises(TransferError, match=str(status)):
        look(url, store)
    assert server.paths() == [key_set_name(2)]


def test_a_walk_has_an_end_however_many_key_sets_there_are(server, url, store, monkeypatch):
    from sottovoce.client import update

    monkeypatch.setattr(update, "MOST_LINKS", 3)
    sets = [key_set(number, [KEY], [KEY]) for number in range(2, 9)]
    publish_key_sets(sets, server.folder, NOW)
    publish([release(1)], server.folder)
    assert look(url, store).key_sets == 3
    assert server.paths()[:4] == [*map(key_set_name, (2, 3, 4)), INDEX]


def test_damaged_keys_on_the_phone_are_fetched_again_before_any_bundle(server, url, store):
    publish_key_sets(CHAIN, server.folder, NOW)
    publish([release(1, key=THIRD)], server.folder)
    look(url, store)
    (store.folder / "keys.jsonl").write_bytes(b"damaged")
    assert store.load(NOW) is None
    for path in map(key_set_name, (2, 3)):  # a server that hides the chain gains nothing
        server.answers[path] = (404, {}, b"")
    publish([release(2)], server.folder)
    with pytest.raises(RollbackError, match="key sets"):
        look(url, store)
    server.answers = {}
    with pytest.raises(SignatureError):
        look(url, store)
    assert store.trust().key_version == 3
    assert store.load(NOW).manifest.version == 1
