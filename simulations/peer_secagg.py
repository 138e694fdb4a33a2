"""Flower's own SecAgg+, run in this process and measured as `secure_bench` measures ours.

Its workflow and its client mod do all the work; clients hand in a vector without training. It adds no noise. What it
promises is less: see decision 0022.
"""

import logging
import statistics
import threading
import time

import msgspec
import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server import LegacyContext, ServerConfig
from flwr.server.client_manager import SimpleClientManager
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

from sottovoce.simulations.grid import InProcessGrid

SHARES = 15
"""Of each secret, one of them its owner's. With shares for all of 100 nodes a round was not over after five minutes."""


class PeerCost(msgspec.Struct, frozen=True, kw_only=True):
    """One SecAgg+ round.

    Attributes:
        nodes: that took part.
        lost: nodes that dropped out after sharing their keys.
        up_bytes: from a node, in all answers; median.
        down_bytes: to a node, in all questions, without weights; median.
        trips: questions to each node.
        node_ms: processor time of a node for keys, shares and masks; median.
        server_s: processor time of the coordinator.
    """

    nodes: int
    lost: int
    up_bytes: int
    down_bytes: int
    trips: int
    node_ms: float
    server_s: float


class _Measured(InProcessGrid):
    """Nodes one after the other; the last `lost` of them fail when asked for their vectors."""

    def __init__(self, app: ClientApp, nodes: int, lost: int) -> None:
        super().__init__(app, nodes)
        self.stayed = range(1, nodes - lost + 1)
        self.up = dict.fromkeys(range(1, nodes + 1), 0)
        self.down, self.trips = self.up.copy(), self.up.copy()
        self.seconds = dict.fromkeys(self.up, 0.0)
        self._turn = threading.Lock()

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        with self._turn:
            # As on a wire: the mod takes entries out of a record that all messages of a stage share.
            wire = recorddict_to_proto(message.content)
            message.content = recorddict_from_proto(wire)
            self.down[node] += wire.ByteSize()
            self.trips[node] += 1
            stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
            if stage == Stage.COLLECT_MASKED_VECTORS and node not in self.stayed:
                return Message(Error(2, "gone"), reply_to=message)
            began = time.thread_time()
            answer = super()._answer(message)
            self.seconds[node] += time.thread_time() - began
            if answer.has_content():
                self.up[node] += recorddict_to_proto(answer.content).ByteSize()
            return answer


def bench_secaggplus(nodes: int, size: int, lost: float) -> PeerCost:
    """One round of SecAgg+ among `nodes` clients; 60 % of the shares open a secret.

    Args:
        nodes: 3 or more.
        size: numbers in a vector.
        lost: share of the nodes that drop out after they shared their keys, 0 to 0.3.
    """
    vector = np.linspace(-1, 1, size, dtype=np.float32)
    app = ClientApp(mods=[secaggplus_mod])

    @app.train()
    def fit(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([vector]), 1, {})
        return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)

    grid = _Measured(app, nodes, int(lost * nodes))
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=nodes,
        min_available_clients=nodes,
        # One number instead of weights: what every round sends down is not counted.
        initial_parameters=ndarrays_to_parameters([np.zeros(1, np.float32)]),
    )
    context = LegacyContext(
        Context(1, 0, {}, RecordDict(), {}), ServerConfig(num_rounds=1), strategy, SimpleClientManager()
    )
    workflow = DefaultWorkflow(
        fit_workflow=SecAggPlusWorkflow(num_shares=min(SHARES, nodes - 1 + nodes % 2), reconstruction_threshold=0.6)
    )
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    began = time.process_time()
    try:
        workflow(grid, context)
    finally:
        logger.setLevel(level)
    spent = time.process_time() - began
    return PeerCost(
        nodes=nodes,
        lost=nodes - len(grid.stayed),
        up_bytes=round(statistics.median(grid.up[node] for node in grid.stayed)),
        down_bytes=round(statistics.median(grid.down[node] for node in grid.stayed)),
        trips=round(statistics.median(grid.trips[node] for node in grid.stayed)),
        node_ms=round(1e3 * statistics.median(grid.seconds[node] for node in grid.stayed), 1),
        server_s=round(spent - sum(grid.seconds.values()), 2),
    )
