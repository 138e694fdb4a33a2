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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sottovoce.privacy.errors import SottovoceError

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian keeps its servers, one folder per version."""

WAIT_S = 60.0
"""How long the server may take to start or to stop."""


class NoServerError(SottovoceError):
    """No PostgreSQL server can be started here."""


class Server:
    """A running server.

    Args:
        folder: that holds its data and its socket.
        password: of its superuser, `postgres`.
        command: that starts it.
        as_user: who runs it, for `subprocess`.
    """

    def __init__(self, folder: Path, password: str, command: Sequence[str | Path], as_user: Mapping[str, Any]) -> None:
        self.folder = folder
        self.password = password
        self._command, self._as_user = command, as_user
        self._process: subprocess.Popen[bytes] | None = None

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

    def start(self) -> None:
        """Return when it answers.

        Raises:
            NoServerError: it does not start.
        """
        import psycopg

        log = self.folder / "log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                start_new_session=True,
                **self._as_user,
            )
        end = time.monotonic() + WAIT_S
        while self._process.poll() is None and time.monotonic() < end:
            try:
                psycopg.connect(self.address(), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise NoServerError(f"PostgreSQL does not start: {log.read_text()[-500:]!r}", "see its message")

    def stop(self) -> None:
        """End it by its process id, at once as in a crash: `start` then recovers what was on disk."""
        for number in (signal.SIGQUIT, signal.SIGKILL):
            if self._process is None or self._process.poll() is not None:
                return
            self._process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(WAIT_S)


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
        settings = {"listen_addresses": "", "fsync": "on" if fsync else "off", "max_connections": "50"}
        command: list[str | Path] = [place / "postgres", "-D", folder / "data", "-k", folder]
        command += [f"--{name}={value}" for name, value in settings.items()]
        running = Server(folder, password, command, as_user)
        try:
            running.start()
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
