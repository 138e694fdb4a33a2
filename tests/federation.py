"""A real federation on loopback for tests: Flower's own programs, the gate and the workers, each a process."""

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

BIN = Path(sys.executable).parent
READY_S = 90


def free_ports(count):
    """As many ports as asked, next to each other, free a moment ago."""
    for _ in range(100):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            start = first.getsockname()[1]
        taken = []
        try:
            for port in range(start, start + count):
                taken.append(socket.create_server(("127.0.0.1", port)))
            return start
        except OSError:
            continue
        finally:
            for one in taken:
                one.close()
    raise RuntimeError("no ports free")


class Federation:
    """What `deploy init` wrote, and the processes that were started from it."""

    def __init__(self, folder, told):
        self.folder, self.told = folder, told
        self.programs = {one["name"]: one for one in told["programs"]}
        self.processes = {}
        self.tls = ssl.create_default_context(cafile=folder / "dep" / "coordinator" / "ca.crt")

    @classmethod
    def written(cls, folder, experiment, nodes):
        start = free_ports(nodes + 5)
        done = subprocess.run(
            [
                *(BIN / "sottovoce", "deploy", "init", folder / "dep", "--experiment", experiment, "--json"),
                *("--nodes", str(nodes), "--port", str(start), "--superlink-port", str(start + 1)),
                *("--node-port", str(start + 2), "--programs", BIN),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        made = cls(folder, json.loads(done.stdout))
        made.gate, made.superlink = start, start + 1
        made.spare = [start + 2 + nodes + number for number in range(3)]
        return made

    def start(self, name, command=None):
        """A program in a process group of its own, so that all it starts can be ended with it."""
        program = self.programs.get(name, self.programs["sottovoce-node-0"])
        environment = os.environ | program["environment"] | {"OMP_NUM_THREADS": "1"}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command or program["command"], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def ended(self, name):
        """The log of a program that ends by itself."""
        with suppress(subprocess.TimeoutExpired):
            self.processes[name].wait(READY_S)
        assert self.processes[name].poll() is not None, f"{name} goes on:\n{self.logs()}"
        return self.log(name)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def logs(self):
        return "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self.processes)

    def until(self, true, what, seconds=READY_S, pause=0.3):
        deadline = time.monotonic() + seconds
        while not true():
            dead = [name for name, one in self.processes.items() if one.poll() not in (None, 0) and "sotto" in name]
            assert not dead, f"{dead} ended before {what}\n{self.logs()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.logs()}"
            time.sleep(pause)

    def healthy(self, port):
        with suppress(OSError):
            return self.post(port, "/health", None, {}) == 200
        return False

    def operator(self, *commands):
        """What `flwr` says to each of the commands, run side by side."""
        environment = os.environ | self.told["operator_environment"]
        begun = [
            subprocess.Popen(
                [*command, "--format", "json"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for command in commands
        ]
        said = []
        for process in begun:
            out, err = process.communicate(timeout=READY_S)
            assert process.returncode == 0, (out, err, self.logs())
            said.append(json.loads(out))
        return said

    def flwr(self, *words):
        return [str(BIN / "flwr"), *words, "deployment"]

    def online(self):
        (told,) = self.operator(self.flwr("supernode", "list"))
        return sum(one["status"] == "online" for one in told["nodes"])

    def signed(self, key_file):
        """Headers with which the holder of a key speaks to the Fleet API."""
        key = load_ssh_private_key(Path(key_file).read_bytes(), None)
        now = datetime.now(UTC).isoformat()
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return {
            "flwr-public-key": base64.b64encode(public).decode(),
            "flwr-timestamp": now,
            "flwr-signature": base64.b64encode(key.sign(now.encode(), ec.ECDSA(hashes.SHA256()))).decode(),
            "content-type": "application/protobuf",
            "accept": "application/protobuf",
        }

    def post(self, port, path, body, headers, scheme="https"):
        """The status of one request."""
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{port}{path}", body, headers)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=20) as told:  # noqa: S310
                return told.status
        except urllib.error.HTTPError as error:
            return error.code

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            if number == signal.SIGTERM:
                deadline = time.monotonic() + 5
                while any(one.poll() is None for one in self.processes.values()) and time.monotonic() < deadline:
                    time.sleep(0.1)
        for process in self.processes.values():
            process.wait()
