"""The Flower ClientApp of a node: enrol its devices, train or measure those that are asked.

One ClientApp runs unchanged in the process, on Flower's simulation runtime and on its deployment runtime. What differs
is where the node's devices come from, which is the caller's function.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from sottovoce.client.examples import Examples
from sottovoce.client.fleet import fleet_update
from sottovoce.client.measurement import bounded_sum
from sottovoce.client.message import (
    Enrolment,
    Reply,
    enrolment_record,
    read_instruction,
    reply_record,
)
from sottovoce.client.question import Answer, answer_record, read_question
from sottovoce.client.wire import FloatArrays
from sottovoce.models.ranker import RankerConfig, shapes
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import DataError, UpdateError


@dataclass(frozen=True, slots=True)
class Node:
    """The devices a node hosts.

    Attributes:
        examples: their rows; a phone hosts one device.
        schema: of the ids in `examples`.
        config: sizes of the ranker.
        order: position of this node among all nodes.
        held_out: later rows of the same devices, never trained on; None where the node keeps none.

    Raises:
        DataError: an id, label or ad that the schema and catalogue do not have. One such row would spill into another
            device's update, and the bound on each would no longer hold. Or held-out rows of other devices.
    """

    examples: Examples
    schema: FeatureSchema
    config: RankerConfig
    order: int
    held_out: Examples | None = None

    def __post_init__(self) -> None:
        """Check every row once, before any round."""
        self._check(self.examples)
        if self.held_out is not None:
            self._check(self.held_out)
            if self.held_out.devices != self.examples.devices:
                raise DataError("held-out rows are of other devices", "build both from the same devices, in order")

    def _check(self, rows: Examples) -> None:
        ids = self.schema.rows
        columns = (("device", rows.device, ids), ("context", rows.context, ids), ("catalogue", rows.catalogue, ids))
        for name, column, end in (*columns, ("ad", rows.ad, len(rows.catalogue)), ("labels", rows.labels, 2)):
            if column.size and not 0 <= column.min() <= column.max() < end:
                raise DataError(
                    f"{name} holds {column.min()} ... {column.max()}, not 0 ... {end - 1}",
                    "encode the rows with the schema of the model",
                )
        if np.any(np.diff(rows.offsets) < 0):
            raise DataError("offsets of the devices fall", "sort the rows by device")


def client_app(open_node: Callable[[Context], Node]) -> ClientApp:
    """A ClientApp over the devices that `open_node` finds for the node's context.

    Messages: `query` answers with an enrolment, `train` with the sum of clipped updates, `evaluate` with the sum of
    clipped measurements.
    """
    app = ClientApp()

    @app.query()
    def enrol(message: Message, context: Context) -> Message:
        node = open_node(context)
        return Message(enrolment_record(Enrolment(node.examples.devices, node.order)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        node = open_node(context)
        asked = read_instruction(message.content)
        _require_hosted(asked.devices, node)
        _require_model(asked.parameters, node)
        # On the wire the sum is rounded to float32, which can part two neighbouring sums by half a unit in the last
        # place of each device's share on both sides: this much is taken off the bound.
        slack = 1.0 + len(asked.devices) * float(np.finfo(np.float32).eps)
        update = fleet_update(
            {name: torch.from_numpy(value) for name, value in asked.parameters.items()},
            node.examples,
            node.schema,
            node.config,
            asked.training,
            asked.clip_norm / slack,
            asked.devices,
        )
        total = {name: value.astype(np.float32) for name, value in update.total.items()}
        reply = Reply(asked.run_id, asked.round, asked.plan_hash, total, update.devices)
        return Message(reply_record(reply), reply_to=message)

    @app.evaluate()
    def measure(message: Message, context: Context) -> Message:
        node = open_node(context)
        asked = read_question(message.content)
        _require_hosted(asked.devices, node)
        if asked.query != "popularity":
            _require_model(asked.parameters, node)
        if asked.query == "quality" and node.held_out is None:
            raise UpdateError("this node keeps no held-out rows", "ask it for calibration instead")
        total = bounded_sum(asked, node.examples, node.held_out, node.schema, node.config)
        answer = Answer(asked.run_id, asked.number, asked.plan_hash, asked.query, len(asked.devices), total)
        return Message(answer_record(answer), reply_to=message)

    return app


def _require_hosted(devices: npt.NDArray[np.int64], node: Node) -> None:
    if len(devices) and not 0 <= devices.min() <= devices.max() < node.examples.devices:
        raise UpdateError("asked for a device this node does not host", "enrol again")


def _require_model(parameters: FloatArrays, node: Node) -> None:
    if {name: value.shape for name, value in parameters.items()} != shapes(node.schema, node.config):
        raise UpdateError("parameters are of another model", "start the run and the node with one experiment")
