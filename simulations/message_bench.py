"""What a message costs on Flower's deployment runtime: through a real SuperLink and the gate, with TLS and signatures.

This process plays the ServerApp and the nodes, without training: it takes the run's task as Flower's own worker would,
sends an instruction to every node, answers each as a SuperNode does, and collects the replies. SuperLink and gate are
processes of their own, on loopback. All figures are of one client at a time; a core is shared where there are few.
"""

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import httpx
import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, ArrayRecord, Message, MessageType, RecordDict
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode.fleet_http_connection import http_request_response

from sottovoce.privacy.errors import SottovoceError
from sottovoce.server.certificates import authority, server_certificate
from sottovoce.server.deployment import QUIET, Deployment
from sottovoce.simulations.deployment_folder import write_folder

_READY_S = 60.0
_EXPERIMENT = '[data]\nname = "market"\n'


class MessageCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of instructions and replies of one size.

    Attributes:
        nodes: each was sent one instruction and sent one reply.
        arrays: in a message.
        values: float32, in all arrays of a message together.
        bytes_down: that left the SuperLink for one node's instruction, by the SuperLink's own count.
        bytes_up: that one node's reply brought.
        register_ms: letting one node in.
        push_ms: the ServerApp handing one instruction over; arrays that several share are stored once.
        node_ms: a node fetching its instruction and sending its reply, through the gate.
        pull_ms: the ServerApp collecting one reply.
        idle_poll_ms: a node asking for work when there is none, through the gate.
        superlink_mib_before: its memory with all nodes registered.
        superlink_mib_after: with all replies waiting.
        serverapp_kib_per_reply: memory that this process took for each reply it collected.
        database_kib_per_reply: by which the SuperLink's file grew for each exchange.
    """

    nodes: int
    arrays: int
    values: int
    bytes_down: int
    bytes_up: int
    register_ms: float
    push_ms: float
    node_ms: float
    pull_ms: float
    idle_poll_ms: float
    superlink_mib_before: float
    superlink_mib_after: float
    serverapp_kib_per_reply: float
    database_kib_per_reply: float


def bench(nodes: int, values: int, arrays: int, say: Callable[[str], None]) -> MessageCosts:
    """Measure; nothing is left behind.

    Args:
        nodes: how many exchange one message each way.
        values: float32 in a message.
        arrays: over which they are spread.
        say: told what is being done.

    Raises:
        SottovoceError: a program of Flower's does not start or refuses.
    """
    failed: Exception | None = None
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        try:
            costs = _measured(Path(name) / "dep", stack, nodes, values, arrays, say)
        except Exception as error:
            # Flower's connection to a SuperLink would swallow it on the way out.
            failed = error
    if failed is not None:
        raise failed
    return costs


def _measured(
    folder: Path, stack: ExitStack, nodes: int, values: int, arrays: int, say: Callable[[str], None]
) -> MessageCosts:
    plan = _written(folder, nodes)
    say("starting a SuperLink and a gate")
    superlink = stack.enter_context(_superlink(plan))
    certificate = (folder / "coordinator" / "ca.crt").read_bytes()
    where = f"127.0.0.1:{plan.superlink_port}"
    control = ControlHttpClient.from_server_address(
        where, False, certificate, [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
    )
    stack.callback(control.close)
    say(f"registering {nodes} nodes")
    keys = [_key(folder / f"node-{number}" / "node.key") for number in range(nodes)]
    began = time.perf_counter()
    for key in keys:
        control.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(key.public_key())))
    register_s = time.perf_counter() - began
    gate = f"127.0.0.1:{plan.port}"
    node = [
        stack.enter_context(http_request_response(gate, False, certificate, (key, key.public_key()))) for key in keys
    ]
    began = time.perf_counter()
    for one in node:
        one[1]()
    idle_s = time.perf_counter() - began
    grid = stack.enter_context(_serverapp(plan, where, certificate))
    before, database = _rss_mib(superlink), _size(folder)

    say("sending")
    content = _content(values, arrays, 0)
    messages = [Message(content, one[0], MessageType.TRAIN, group_id="1") for one in node]
    began = time.perf_counter()
    ids = list(grid.push_messages(messages))
    push_s = time.perf_counter() - began
    say("answering")
    began = time.perf_counter()
    for number, one in enumerate(node):
        _answer(one, _content(values, arrays, number + 1))
    node_s = time.perf_counter() - began
    after, grown = _rss_mib(superlink), _size(folder) - database
    say("collecting")
    own = _rss_mib(os.getpid())
    began = time.perf_counter()
    collected = list(grid.pull_messages(ids))
    pull_s = time.perf_counter() - began
    if len(collected) != nodes or any(one.has_error() for one in collected):
        raise SottovoceError(f"{len(collected)} of {nodes} replies arrived whole", "take fewer values")
    taken = _rss_mib(os.getpid()) - own
    run = next(iter(control.ListRuns(ListRunsRequest()).run_dict.values()))
    each = 1000.0 / nodes
    return MessageCosts(
        nodes=nodes,
        arrays=arrays,
        values=values,
        bytes_down=run.bytes_sent // nodes,
        bytes_up=run.bytes_recv // nodes,
        register_ms=register_s * each,
        push_ms=push_s * each,
        node_ms=node_s * each,
        pull_ms=pull_s * each,
        idle_poll_ms=idle_s * each,
        superlink_mib_before=before,
        superlink_mib_after=after,
        serverapp_kib_per_reply=taken * 1024 / nodes,
        database_kib_per_reply=grown / 1024 / nodes,
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _written(folder: Path, nodes: int) -> Deployment:
    plan = Deployment(
        address="127.0.0.1",
        port=_free_port(),
        superlink_port=_free_port(),
        node_port=20_000,
        nodes=nodes,
        folder=PurePosixPath(folder),
        programs=PurePosixPath(Path(sys.executable).parent),
        user="nobody",
    )
    now = datetime.now(UTC)
    signer = authority(now)
    write_folder(folder, plan, _EXPERIMENT, signer, server_certificate(signer, ["127.0.0.1"], now, 1))
    return plan


@contextmanager
def _superlink(plan: Deployment) -> Iterator[int]:
    """The process id of a SuperLink that, behind a gate, is up."""
    # Without a worker of its own, so that this process can take the run's task.
    programs = ((*plan.superlink().command, "--isolation", "process"), plan.gate().command)
    environment = os.environ | dict(plan.superlink().environment)
    started: list[subprocess.Popen[bytes]] = []
    log = Path(plan.coordinator) / "bench.log"
    try:
        with log.open("wb") as said:
            for command in programs:
                started.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))
        for port in (plan.superlink_port, plan.port):
            _wait(port, str(plan.coordinator / "ca.crt"), started, log)
        yield started[0].pid
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(port: int, certificate: str, started: Sequence["subprocess.Popen[bytes]"], log: Path) -> None:
    trusted = ssl.create_default_context(cafile=certificate)
    deadline = time.monotonic() + _READY_S
    while True:
        with suppress(httpx.HTTPError):
            if httpx.get(f"https://127.0.0.1:{port}/health", verify=trusted, trust_env=False).is_success:
                return
        if time.monotonic() > deadline or any(one.poll() is not None for one in started):
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise SottovoceError(f"SuperLink or gate did not start: {said}", "look at the message; is flwr installed?")
        time.sleep(0.2)


@contextmanager
def _serverapp(plan: Deployment, where: str, certificate: bytes) -> Iterator[HttpGrid]:
    """A run's grid, taken as Flower's worker takes it."""
    told = subprocess.run(plan.run("bench"), env=os.environ | plan.operator() | QUIET, capture_output=True, text=True)
    if told.returncode:
        raise SottovoceError(f"flwr run: {(told.stderr or told.stdout).strip()[-300:]}", "look at the message")
    version = RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")
    asking = RuntimeHttpClient.from_server_address(where, False, certificate, [version])
    token = asking.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])).token
    asking.close()
    taking = RuntimeHttpClient.from_server_address(
        where, False, certificate, [version, RuntimeTokenHttpInterceptor(token=token)]
    )
    given = taking.PullTaskInput(PullTaskInputRequest())
    taking.close()
    TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
    TaskIdentity.node_id = given.context.node_id
    grid = HttpGrid(where, False, certificate, token=token)
    grid.set_run(run_from_proto(given.run))
    try:
        yield grid
    finally:
        grid.close()


def _content(values: int, arrays: int, seed: int) -> RecordDict:
    """Random values, so that no two nodes' arrays are stored as one."""
    parts = np.array_split(np.random.default_rng(seed).standard_normal(values, np.float32), arrays)
    return RecordDict({"total": ArrayRecord({str(place): Array(part) for place, part in enumerate(parts)})})


def _answer(node: tuple, content: RecordDict) -> None:  # type: ignore[type-arg]
    """What a SuperNode does with a message, without its waiting."""
    name, receive, send, _, _, pull_object, push_object, confirm = node
    found = receive()
    if found is None:
        raise SottovoceError(f"no message for node {name}", "try again")
    message, tree = found
    run = message.metadata.run_id
    objects = pull_objects([one.object_id for one in iterate_object_tree(tree)], lambda one: pull_object(run, one))
    confirm(run, message.metadata.message_id)
    asked = inflate_object_from_contents(tree.object_id, objects)
    if not isinstance(asked, Message):
        raise SottovoceError("the message is none", "try again")
    asked.metadata.__dict__["_message_id"] = tree.object_id
    identity = TaskIdentity.node_id
    TaskIdentity.node_id = name
    try:
        reply = Message(content, reply_to=asked)
    finally:
        TaskIdentity.node_id = identity
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        wanted, session = send(reply, get_object_tree(reply), 0.0)
        for key, part in get_all_nested_objects(reply).items():
            if key in wanted:
                push_object(run, session, key, part.deflate())


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_ssh_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SottovoceError(f"{path} is no key of a node", "try again")
    return key


def _rss_mib(process: int) -> float:
    """Memory of a process now; 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0.0


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "coordinator").glob("superlink.db*"))
