"""The Flower ClientApp of a node: enrol its devices, train those that are asked.

One ClientApp runs unchanged in the process, on Flower's simulation runtime and on its deployment runtime. What differs
is where the node's devices come from, which is the caller's function.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from sottovoce.client.examples import Examples
from sottovoce.client.fleet import fleet_update
from sottovoce.client.message import (
    Enrolment,
    Reply,
    enrolment_record,
    read_instruction,
    reply_record,
)
from sottovoce.models.ranker import RankerConfig
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import UpdateError


@dataclass(frozen=True, slots=True)
class Node:
    """The devices a node hosts.

    Attributes:
        examples: their rows; a phone hosts one device.
        schema: of the ids in `examples`.
        config: sizes of the ranker.
        order: position of this node among all nodes.
    """

    examples: Examples
    schema: FeatureSchema
    config: RankerConfig
    order: int


def client_app(open_node: Callable[[Context], Node]) -> ClientApp:
    """A ClientApp over the devices that `open_node` finds for the node's context.

    Messages: `query` answers with an enrolment, `train` with the sum of clipped updates.
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
        if len(asked.devices) and not 0 <= asked.devices.min() <= asked.devices.max() < node.examples.devices:
            raise UpdateError("asked for a device this node does not host", "enrol again")
        update = fleet_update(
            {name: torch.from_numpy(value) for name, value in asked.parameters.items()},
            node.examples,
            node.schema,
            node.config,
            asked.training,
            asked.clip_norm,
            asked.devices,
        )
        total = {name: value.astype(np.float32) for name, value in update.total.items()}
        reply = Reply(asked.run_id, asked.round, asked.plan_hash, total, update.devices)
        return Message(reply_record(reply), reply_to=message)

    return app
