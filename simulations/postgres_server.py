"""A throw-away PostgreSQL server from the system's packages, for tests and benchmarks; nothing else can reach it.

It listens on a Unix socket in a folder of its own and ends with the context. PostgreSQL refuses to run as root: then it
runs as the system's user `postgres`.
"""

import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sottovoce.privacy.errors import SottovoceError

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian keeps its servers, one folder per version."""

WAIT_S = 60.0
"""How long the server may take to start or to stop."""


class NoServerError(SottovoceError):
    """No PostgreSQL server can be started here."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        folder: that holds its socket.
        password: of its superuser, `postgres`.
        process: the server's first process.
        log: what it says.
    """

    folder: Path
    password: str
    process: subprocess.Popen[bytes]
    log: Path

    def address(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """How to reach one of its databases; without a password given, as one who has the superuser's."""
        return f"postgresql://{user}:{password or self.password}@/{database}?host={self.folder}"

    def execute(self, *statements: str, database: str = "postgres") -> list[Any]:
        """Run statements as the superuser, each on its own; the rows of the last."""
        import psycopg

        with psycopg.connect(self.address(database), autocommit=True) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """Name of a new, empty database."""
        name = f"ledger_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return name


def programs() -> Path:
    """The folder that holds `initdb` and `postgres`, of the newest version.

    Raises:
        NoServerError: they are not installed.
    """
    found = shutil.which("initdb")
    places = sorted(DEBIAN.glob("*/bin"), key=lambda place: (len(place.parent.name), place.parent.name), reverse=True)
    places += [Path(found).resolve().parent] if found else []
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise NoServerError("PostgreSQL's server is not installed", "install it with: apt-get install postgresql")


@contextmanager
def server(*, fsync: bool = True) -> Iterator[Server]:
    """Start a server; stop it by its process id and remove its folder at the end.

    Args:
        fsync: whether it waits for the disk.

    Raises:
        NoServerError: it is not installed, or does not start.
    """
    place = programs()
    as_user: dict[str, Any] = {}
    root = os.geteuid() == 0
    if root:
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            raise NoServerError("root cannot run PostgreSQL", "make a system user called postgres") from None
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    # Not within pytest's folders: those are closed to other users. A socket's path must be short as well.
    folder = Path(tempfile.mkdtemp(prefix="sottovoce-pg-"))
    try:
        password, secret, log = secrets.token_hex(12), folder / "password", folder / "log"
        secret.touch(mode=0o600)
        secret.write_text(password)
        log.touch()
        if root:
            for path in (folder, secret, log):
                os.chown(path, account.pw_uid, account.pw_gid)
        options = {"-D": str(folder / "data"), "-E": "UTF8", "-U": "postgres", "--pwfile": str(secret)}
        made = subprocess.run(
            [
                place / "initdb",
                "--no-locale",
                "--no-sync",
                "--auth=scram-sha-256",
                *itertools.chain.from_iterable(options.items()),
            ],
            capture_output=True,
            cwd=folder,
            text=True,
            **as_user,
        )
        if made.returncode:
            raise NoServerError(f"initdb failed: {' '.join(made.stderr.split())}", "see its message")
        with log.open("ab") as out:
            settings = {"listen_addresses": "", "fsync": "on" if fsync else "off", "max_connections": "50"}
            process = subprocess.Popen(
                [place / "postgres", "-D", folder / "data", "-k", folder, *(f"--{k}={v}" for k, v in settings.items())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=folder,
                start_new_session=True,
                **as_user,
            )
        running = Server(folder, password, process, log)
        try:
            _await(running)
            yield running
        finally:
            stop(running)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stop(running: Server) -> None:
    """End a server: orderly, with its clients cut off, or at once if that takes too long."""
    for number, patience in ((signal.SIGINT, WAIT_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if running.process.poll() is None:
            running.process.send_signal(number)
        try:
            running.process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        return


def _await(running: Server) -> None:
    """Return when the server answers."""
    import psycopg

    end = time.monotonic() + WAIT_S
    while running.process.poll() is None and time.monotonic() < end:
        try:
            psycopg.connect(running.address(), connect_timeout=5).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise NoServerError(f"PostgreSQL does not start: {running.log.read_text()[-500:]!r}", "see its message")
