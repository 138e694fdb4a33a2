"""The files of a federation on Flower's deployment runtime: programs to start, units that start them, and who is whom.

    ca/            ca.crt, ca.key                      stays with whoever signs certificates
    coordinator/   the gate and the SuperLink          one machine
    node-0/ ...    a SuperNode and its worker each     one folder for each machine

Everything is text made of a `Deployment`, without the disk. There is no option for plain text.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from sottovoce.privacy.errors import ConfigError
from sottovoce.server.certificates import is_loopback

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Flower's programs report to their maker, twice, unless told not to when they start."""

CONNECTION = "deployment"
"""What `flwr` calls the SuperLink."""

MOST_NODES = 10_000


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs until it is stopped.

    Attributes:
        name: of its systemd unit, and of the program in messages.
        folder: where on its machine its files lie.
        says: what it is, one line.
        command: the program and its arguments.
        environment: what it must find there.
        after: unit that is started before it on the same machine.
    """

    name: str
    folder: PurePosixPath
    says: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """One coordinator and its nodes.

    Attributes:
        address: host name or IP address under which nodes reach the coordinator.
        port: of the gate, the only one that other machines reach.
        superlink_port: of the SuperLink, on loopback.
        node_port: of node 0's own Runtime API, on loopback; node K takes the Kth after it.
        nodes: how many.
        folder: where the files lie on every machine, absolute.
        programs: folder with `flower-superlink`, `flower-supernode`, `flwr` and `sottovoce`, absolute.
        user: whom the units run as.
        data: folder of the public data sets, if the experiment needs one.

    Raises:
        ConfigError: a port, number or path that cannot be.
    """

    address: str
    port: int
    superlink_port: int
    node_port: int
    nodes: int
    folder: PurePosixPath
    programs: PurePosixPath
    user: str
    data: str | None = None

    def __post_init__(self) -> None:
        """Check what the files could not say."""
        if not 1 <= self.nodes <= MOST_NODES:
            raise ConfigError(f"{self.nodes} nodes", f"take 1 to {MOST_NODES:,}")
        ports = (self.port, self.superlink_port, self.node_port, self.node_port + self.nodes - 1)
        if not all(1 <= port < 2**16 for port in ports):
            raise ConfigError(f"port {min(ports)} ... {max(ports)}", "take ports from 1 to 65535; each node needs one")
        hosted = range(self.node_port, self.node_port + self.nodes)
        if self.port == self.superlink_port or self.port in hosted or self.superlink_port in hosted:
            raise ConfigError("two programs on one port", "set --port, --superlink-port and --node-port further apart")
        for path in (str(self.folder), str(self.programs), self.user, self.data or ""):
            if any(sign in path for sign in "\n\r\"'\\$%"):
                raise ConfigError(
                    f"{path!r} cannot stand in a unit", "take a name without quotes, backslashes, $ and %"
                )

    @property
    def coordinator(self) -> PurePosixPath:
        """Folder of the coordinator's machine."""
        return self.folder / "coordinator"

    def node(self, number: int) -> PurePosixPath:
        """Folder of a node's machine."""
        return self.folder / f"node-{number}"

    @property
    def listen(self) -> str:
        """Where the gate listens: everywhere, unless nodes reach it on loopback."""
        return "127.0.0.1" if is_loopback(self.address) else "0.0.0.0"  # noqa: S104 - TLS, and nodes come from outside

    def superlink(self) -> Program:
        """The SuperLink, on loopback, its registered nodes in a file."""
        at = self.coordinator
        command = (
            *(str(self.programs / "flower-superlink"), "--host", "127.0.0.1", "--port", str(self.superlink_port)),
            *("--ssl-ca-certfile", str(at / "ca.crt"), "--ssl-certfile", str(at / "server.crt")),
            *("--ssl-keyfile", str(at / "server.key"), "--enable-supernode-auth"),
            *("--database", str(at / "superlink.db"), "--disable-runtime-dependency-installation"),
        )
        return Program("sottovoce-superlink", at, "Flower SuperLink", command, self._environment(at))

    def gate(self) -> Program:
        """The gate, the only program that other machines reach."""
        at = self.coordinator
        command = (
            *(str(self.programs / "sottovoce"), "deploy", "gate", "--listen", f"{self.listen}:{self.port}"),
            *("--superlink", f"127.0.0.1:{self.superlink_port}", "--authority", str(at / "ca.crt")),
            *("--certificate", str(at / "server.crt"), "--key", str(at / "server.key")),
        )
        return Program(
            "sottovoce-gate", at, "Gate before the SuperLink", command, self._environment(at), "sottovoce-superlink"
        )

    def supernode(self, number: int) -> Program:
        """The SuperNode that hosts the devices of partition `number`."""
        at = self.node(number)
        host = f"[{self.address}]" if ":" in self.address else self.address
        hosts = f'partition-id={number} num-partitions={self.nodes} experiment="{at / "experiment.toml"}"'
        command = (
            *(str(self.programs / "flower-supernode"), "--superlink", f"{host}:{self.port}"),
            *("--root-certificates", str(at / "ca.crt"), "--auth-supernode-private-key", str(at / "node.key")),
            *("--node-config", hosts, "--host", "127.0.0.1", "--port", str(self.node_port + number)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(at / "worker.secret")),
        )
        return Program(f"sottovoce-node-{number}", at, f"Flower SuperNode {number}", command, self._environment(at))

    def worker(self, number: int) -> Program:
        """The process that trains for SuperNode `number`, on the same machine."""
        at = self.node(number)
        command = (
            *(str(self.programs / "sottovoce"), "deploy", "worker"),
            *("--supernode", f"127.0.0.1:{self.node_port + number}", "--secret", str(at / "worker.secret")),
        )
        name = f"sottovoce-node-{number}"
        return Program(f"{name}-worker", at, f"Worker of SuperNode {number}", command, self._environment(at), name)

    def _environment(self, at: PurePosixPath) -> dict[str, str]:
        found = {**QUIET, "FLWR_HOME": str(at / "flower"), "PATH": f"{self.programs}:/usr/local/bin:/usr/bin:/bin"}
        return found | ({"SOTTOVOCE_DATA": self.data} if self.data else {})

    def register(self, number: int) -> tuple[str, ...]:
        """The operator's command that lets a node in, run on the coordinator."""
        key = self.coordinator / "nodes" / f"node-{number}.pub"
        return (str(self.programs / "flwr"), "supernode", "register", str(key), CONNECTION, "--name", f"node-{number}")

    def run(self, out: str) -> tuple[str, ...]:
        """The operator's command that trains into `runs/OUT`, run on the coordinator."""
        settings = f'out="{self.coordinator / "runs" / out}"'
        app = str(self.coordinator / "app")
        return (str(self.programs / "flwr"), "run", app, CONNECTION, "--run-config", settings)

    def operator(self) -> dict[str, str]:
        """Environment of the operator's commands."""
        return {**QUIET, "FLWR_HOME": str(self.coordinator / "flower")}

    def files(self, experiment: str) -> Iterator[tuple[str, str]]:
        """Every text file, as (path below the folder, content); keys and certificates are not among them.

        Args:
            experiment: the experiment's TOML, which coordinator and nodes must have alike.
        """
        yield "coordinator/experiment.toml", experiment
        yield "coordinator/flower/config.toml", self._connection()
        yield "coordinator/app/pyproject.toml", self._app()
        yield "coordinator/commands.sh", self.commands()
        for program in (self.superlink(), self.gate()):
            yield f"coordinator/{program.name}.service", unit(program, self.user)
        for number in range(self.nodes):
            yield f"node-{number}/experiment.toml", experiment
            for program in (self.supernode(number), self.worker(number)):
                yield f"node-{number}/{program.name}.service", unit(program, self.user)

    def commands(self) -> str:
        """Every command in its order, as a script to read and to copy from."""
        # What the programs write holds updates in clear.
        lines = [
            "umask 077",
            "",
            "# On the coordinator. Each program runs until it is stopped: a unit, or a terminal, of its own.",
        ]
        lines += [shell(program.command, program.environment) for program in (self.superlink(), self.gate())]
        lines += ["", "# Once, on the coordinator, while the SuperLink runs: let the nodes in."]
        lines += [shell(self.register(number), self.operator()) for number in range(self.nodes)]
        lines += ["", "# On each node's machine, from its own folder."]
        nodes = [program for number in range(self.nodes) for program in (self.supernode(number), self.worker(number))]
        lines += [shell(program.command, program.environment) for program in nodes]
        lines += ["", "# On the coordinator, when every node is online: see them, train, watch."]
        flwr = str(self.programs / "flwr")
        lines += [shell((flwr, "supernode", "list", CONNECTION), self.operator())]
        lines += [shell(self.run("first"), self.operator()), shell((flwr, "list", CONNECTION), self.operator())]
        return "\n".join(lines) + "\n"

    def _connection(self) -> str:
        return (
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{self.superlink_port}"\nroot-certificates = "{self.coordinator / "ca.crt"}"\n'
        )

    def _app(self) -> str:
        return f"""# Names two objects of the installed package and holds no code.
[project]
name = "sottovoce-federation"
version = "0.1.0"
description = "sottovoce on Flower's runtimes"
license = "Apache-2.0"
requires-python = ">=3.11"
dependencies = ["flwr>=1.41,<1.42"]

[tool.flwr.app]
publisher = "sottovoce"

[tool.flwr.app.components]
serverapp = "sottovoce.simulations.flower:server_app"
clientapp = "sottovoce.simulations.flower:client_app"

[tool.flwr.app.config]
experiment = "{self.coordinator / "experiment.toml"}"
out = ""
# Log and metrics of the coordinator, see docs/runbook.md. Port 0 serves no metrics; Prometheus' usual one is 9187.
log-json = false
log-file = "{self.coordinator / "rounds.jsonl"}"
restricted = false
metrics-port = 0
overdue = 1800.0
least-nodes = {self.nodes}
watch-certificates = "{self.coordinator / "ca.crt"},{self.coordinator / "server.crt"}"
"""


def unit(program: Program, user: str) -> str:
    """A systemd unit: `systemctl enable --now` starts the program, also after a crash and a reboot."""
    settings = "\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in program.environment.items())
    after = f"network-online.target {program.after}.service" if program.after else "network-online.target"
    wants = f"Wants=network-online.target\nAfter={after}"
    return f"""[Unit]
Description=sottovoce: {program.says}
{wants}

[Service]
User={user}
{settings}
ExecStart={" ".join(_quoted(word) for word in program.command)}
Restart=on-failure
RestartSec=5
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
ReadWritePaths={_quoted(str(program.folder))}

[Install]
WantedBy=multi-user.target
"""


def shell(command: tuple[str, ...], environment: Mapping[str, str]) -> str:
    """The command as a line for a shell; PATH is added to, not replaced."""
    settings = [
        f"PATH={shlex.quote(value.partition(':')[0])}:$PATH" if name == "PATH" else f"{name}={shlex.quote(value)}"
        for name, value in environment.items()
    ]
    return " ".join([*settings, shlex.join(command)])


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '\\"') + '"'
