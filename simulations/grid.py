"""Flower's Grid without a network: nodes live in this process and answer when asked.

The same ServerApp and ClientApp run on it as on Flower's simulation and deployment runtimes. There is nothing to start
and nothing to poll. Nodes run side by side, one to a core; torch releases the interpreter during its work.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from sottovoce.privacy.errors import SottovoceError

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Cores that this process may use."""

_REFUSED = 1
"""Error code of a reply from a node that refused its instruction."""


class InProcessGrid(Grid):
    """Nodes 1 ... `nodes` of one ClientApp, each with `partition-id` and `num-partitions` in its node config.

    Args:
        app: the ClientApp of every node.
        nodes: how many there are.
    """

    def __init__(self, app: ClientApp, nodes: int) -> None:
        if nodes < 1:
            raise ValueError(f"a grid needs at least one node, got {nodes}")
        self._app = app
        self._run = Run.create_empty(run_id=1)
        # Flower stamps messages with the identity of the process's task, as each of its runtimes does at its start.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, self._run.run_id, SUPERLINK_NODE_ID
        self._contexts = {
            node: Context(
                run_id=self._run.run_id,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": nodes},
                state=RecordDict(),
                run_config={},
            )
            for node in range(1, nodes + 1)
        }
        self._answers: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Take another run's identity."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message as Flower's constructor makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every node, in order."""
        return tuple(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver the messages and keep the answers for `pull_messages`."""
        return list(self._deliver(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answers to the given messages, each handed out once."""
        return [self._answers.pop(number) for number in message_ids if number in self._answers]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        """All answers; nodes in this process always answer, so there is nothing to time out."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        with ThreadPoolExecutor(max_workers=CORES) as pool:
            for message, answer in zip(sent, pool.map(self._answer, sent), strict=True):
                self._answers[message.metadata.message_id] = answer
                yield message.metadata.message_id

    def _answer(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = str(uuid4())
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except SottovoceError as error:
            return Message(Error(_REFUSED, error.what), reply_to=message)
