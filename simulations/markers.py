"""Devices whose update says who they are and in which round: afterwards the model shows what went into it.

The update of a device is as long as it may be and lies in one coordinate, that of the device and the round. The sum of
all rounds then holds 1 for every pair that entered once, 2 for one that entered twice, and a pair in the wrong round
stands where nothing should be.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from sottovoce.client.message import Enrolment, Reply, enrolment_record, read_instruction, reply_record

TABLE = "table"
"""The weights in which markers lie; its first row is padding and left alone."""


@dataclass(frozen=True, slots=True)
class Markers:
    """Which coordinate belongs to whom.

    Attributes:
        hosted: devices of each node.
        rounds: rounds with places of their own; round r and round r + `rounds` share theirs.
    """

    hosted: tuple[int, ...]
    rounds: int

    @property
    def population(self) -> int:
        """Devices in all."""
        return sum(self.hosted)

    @property
    def size(self) -> int:
        """Coordinates that markers take, after the first row."""
        return self.rounds * self.population

    def first(self, round: int) -> int:
        """Place of the first device's marker of a round."""
        return (round - 1) % self.rounds * self.population

    def read(self, table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(rounds, population) markers in the table, in units of one device."""
        found: npt.NDArray[np.float64] = table[1:].reshape(-1)[: self.size].reshape(self.rounds, self.population)
        return found

    def app(self) -> ClientApp:
        """The ClientApp of every node; its partition says which devices it hosts."""
        app = ClientApp()
        starts = np.concatenate([[0], np.cumsum(self.hosted)])

        @app.query()
        def enrol(message: Message, context: Context) -> Message:
            number = int(context.node_config["partition-id"])
            return Message(enrolment_record(Enrolment(self.hosted[number], number)), reply_to=message)

        @app.train()
        def train(message: Message, context: Context) -> Message:
            number = int(context.node_config["partition-id"])
            asked = read_instruction(message.content)
            total = {name: np.zeros_like(value) for name, value in asked.parameters.items()}
            table = total[TABLE]
            width = int(table[0].size)
            places = width + self.first(asked.round) + int(starts[number]) + asked.devices
            table.reshape(-1)[places] = asked.clip_norm
            reply = Reply(asked.run_id, asked.round, asked.plan_hash, total, len(asked.devices))
            return Message(reply_record(reply), reply_to=message)

        return app
