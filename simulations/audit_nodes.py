"""The devices of an audit block, and the witness that writes down what happens to them.

The ClientApp answers the same messages as `client.app`; its devices do not train but hand out an update that was fixed
beforehand, through the clipper that every device uses.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from sottovoce.client.message import (
    Enrolment,
    Instruction,
    Reply,
    enrolment_record,
    read_instruction,
    reply_record,
)
from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import Reserved
from sottovoce.privacy.clip import Clipper
from sottovoce.privacy.events import Event
from sottovoce.privacy.ledger import Ledger

LENGTH = 5.0
"""Length of a canary's own update, in clip norms. A much longer one, left unclipped, would be refused by the
coordinator as a sum that its devices cannot have made, and the bound kept by the device would not be tested."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """All devices of a block: every second one is a canary, the others are the crowd.

    Attributes:
        population: how many devices there are, twice the canaries.
        included: (canaries,) whether each contributes.
        clip_norm: C, for the length of the updates.
        clipper: who bounds them, for the clip norm that the coordinator asks for.
    """

    population: int
    included: npt.NDArray[np.bool_]
    clip_norm: float
    clipper: Callable[[float], Clipper]

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """(canaries,) number of each canary in the population."""
        return 2 * np.arange(len(self.included), dtype=np.int64)

    def total(self, devices: npt.NDArray[np.int64], bound: float) -> dict[str, npt.NDArray[np.float64]]:
        """Sum of the clipped updates of `devices`, numbers in the population."""
        table, dense = np.zeros((len(self.included) + 2, 1)), np.zeros(len(self.included))
        clipper = self.clipper(bound)
        mine = devices[devices % 2 == 0] // 2
        mine = mine[self.included[mine]]
        half = np.full(len(mine), LENGTH * self.clip_norm / np.sqrt(2.0))
        halves = half * clipper.factors(np.hypot(half, half))
        table[mine + 2, 0] = halves
        dense[mine] = halves
        crowd = np.full(np.count_nonzero(devices % 2), self.clip_norm)
        table[1, 0] = crowd @ clipper.factors(crowd)
        return {"table": table, "dense": dense}


class Witness:
    """Sees what devices see: who is asked, in which round, and what is on the ledger's file at that moment.

    Args:
        ledger_file: looked at from outside, through a connection of its own.
        rounds: that are planned.
        population: enrolled devices.
        event: that every reservation should name.
    """

    def __init__(self, ledger_file: Path, rounds: int, population: int, event: Event) -> None:
        self.asked = np.zeros((rounds, population), np.bool_)
        self.before = [-1] * rounds
        self.strangers = 0
        self._file = ledger_file
        self._event = event
        self._book = Book()
        self._lock = threading.Lock()

    def saw(self, round: int, devices: npt.NDArray[np.int64]) -> None:
        """Devices were asked in a round."""
        with self._lock:
            self.asked[round - 1, devices] = True
            if self.before[round - 1] < 0:
                self.before[round - 1] = self._releases()

    def releases(self) -> int:
        """Releases that the ledger holds now."""
        with self._lock:
            return self._releases()

    def _releases(self) -> int:
        with Ledger.open_unchecked(self._file) as ledger:
            for row in ledger.rows(self._book.head.length):
                entry = self._book.add(row)
                if isinstance(entry, Reserved) and entry.event != self._event:
                    self.strangers += 1
        return self._book.releases


def canary_app(devices: Canaries, witness: Witness) -> ClientApp:
    """The ClientApp of nodes that host the block's devices, in equal shares."""
    app = ClientApp()

    def hosted(context: Context) -> tuple[int, int, int]:
        place, of = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
        return place, devices.population * place // of, devices.population * (place + 1) // of

    @app.query()
    def enrol(message: Message, context: Context) -> Message:
        place, first, end = hosted(context)
        return Message(enrolment_record(Enrolment(end - first, place)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        _, first, _ = hosted(context)
        asked: Instruction = read_instruction(message.content)
        numbers = asked.devices + first
        witness.saw(asked.round, numbers)
        # The same allowance for float32 on the wire as in `client.app`.
        slack = 1.0 + len(numbers) * float(np.finfo(np.float32).eps)
        total = {
            name: value.astype(np.float32) for name, value in devices.total(numbers, asked.clip_norm / slack).items()
        }
        reply = Reply(asked.run_id, asked.round, asked.plan_hash, total, len(numbers))
        return Message(reply_record(reply), reply_to=message)

    return app
