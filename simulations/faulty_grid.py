"""A Grid between a coordinator and its nodes on which things go wrong, as `faults` has drawn them.

Any Grid can be wrapped, and whatever nodes it has. Time is the clock that is handed in: with a simulated one, an hour
of waiting costs nothing. Only training is disturbed; a population that changes while it enrols is another matter.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from sottovoce.client.message import read_instruction
from sottovoce.simulations.bent_replies import CORRUPTIONS, POISONS, Arrays, arrays, poisoned
from sottovoce.simulations.faults import Drawn, Faults

_YEAR_S = 365 * 86_400.0

_Stray = tuple[float, int, Message]
"""When it arrives, which one it is, and a copy of a reply for which nobody asks."""

_BROKEN = 2
"""Error code of a node that fails."""


class FaultyGrid(Grid):
    """`inner`, disturbed.

    Args:
        inner: where the nodes are; it answers at once.
        faults: what goes wrong.
        clock: seconds.
        deadline_s: of the coordinator, by which delays are measured.
        restart: makes a node forget what it knew.

    Attributes:
        struck: how often each fault struck.
        last: by node, what happened to its message of the last round.
        arrived: when the first copy of each node's reply of the last round arrives; no entry where there is none.
        sent: by node, what that reply is: `honest`, `stale`, `error`, or the name of the corruption or poison.
        offered: by node, the sum in it, where it is honest or poisoned.
    """

    def __init__(
        self,
        inner: Grid,
        faults: Faults,
        clock: Callable[[], float],
        deadline_s: float,
        restart: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._inner, self._faults, self._clock = inner, faults, clock
        self._deadline_s, self._restart = deadline_s, restart
        self._replies: dict[str, tuple[float, Message]] = {}
        self._strays: list[_Stray] = []
        self._number = count()
        self._before: dict[int, RecordDict] = {}
        self.struck: Counter[str] = Counter()
        self.last: dict[int, Drawn] = {}
        self.arrived: dict[int, float] = {}
        self.sent: dict[int, str] = {}
        self.offered: dict[int, Arrays] = {}

    def set_run(self, run: Run) -> None:
        """Take another run's identity."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """Run information."""
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See the inner grid."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Every node."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver what is to be delivered, and put what comes back on its way."""
        sent = list(messages)
        if any(message.metadata.message_type == MessageType.TRAIN for message in sent):
            self.last, self.arrived, self.sent, self.offered = {}, {}, {}, {}
            # Nobody asks for what is older than two deadlines.
            oldest = self._clock() - 4 * self._deadline_s
            self._replies = {number: one for number, one in self._replies.items() if one[0] > oldest}
            self._strays = [one for one in self._strays if one[0] > oldest]
            heapq.heapify(self._strays)
        drawn = {
            message.metadata.dst_node_id: self._faults.draw(message.metadata.group_id, message.metadata.dst_node_id)
            for message in sent
            if message.metadata.message_type == MessageType.TRAIN
        }
        for one in drawn.values():
            self.struck.update(one.kinds)
        self.last |= drawn
        reached = [m for m in sent if not self._unreached(drawn.get(m.metadata.dst_node_id), m.metadata.dst_node_id)]
        numbers = list(self._inner.push_messages(reached))
        asked = dict(zip(numbers, reached, strict=True))
        for answer in self._inner.pull_messages(numbers):
            self._return(asked[answer.metadata.reply_to_message_id], answer)
        lost = (f"lost {next(self._number)}" for _ in range(len(sent) - len(reached)))
        return [*numbers, *lost]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What has arrived by now of the replies asked for, and stray copies, asked for or not."""
        now = self._clock()
        come: list[Message] = []
        for number in message_ids:
            if number in self._replies and self._replies[number][0] <= now:
                come.append(self._replies.pop(number)[1])
        while self._strays and self._strays[0][0] <= now:
            come.append(heapq.heappop(self._strays)[2])
        return come

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        """What is there at once; whoever wants to wait pulls."""
        return self.pull_messages(self.push_messages(messages))

    def _unreached(self, drawn: Drawn | None, node: int) -> bool:
        if drawn is None:
            return False
        if "restart" in drawn:
            self._restart(node)
            return True
        return "dropout" in drawn

    def _return(self, asked: Message, answer: Message) -> None:
        """Put an answer on its way, as the faults will have it."""
        node, number = asked.metadata.dst_node_id, answer.metadata.reply_to_message_id
        drawn = self.last.get(node)
        if asked.metadata.message_type != MessageType.TRAIN or drawn is None:
            self._replies[number] = (self._clock(), answer)
            return
        if answer.has_error() or "silence" in drawn:
            if "silence" not in drawn:
                self._replies[number] = (self._clock(), answer)
            return  # a node that refuses has sent no sum
        content, rng, what = answer.content, drawn.rng, "honest"
        if "stale" in drawn and node in self._before:
            content, what = self._before[node], "stale"
        self._before[node] = answer.content
        if "corrupt" in drawn:
            what = list(CORRUPTIONS)[int(rng.integers(len(CORRUPTIONS)))]
            content = CORRUPTIONS[what](content, rng)
        elif "poison" in drawn and what == "honest":
            what = list(POISONS)[int(rng.integers(len(POISONS)))]
            content = poisoned(content, read_instruction(asked.content), what, rng)
        if what == "honest" or what in POISONS:
            self.offered[node] = arrays(content)
        reply = Message(content, reply_to=asked)
        if "error" in drawn:
            what, reply = "error", Message(Error(_BROKEN, "broken"), reply_to=asked)
        self.sent[node] = what
        reply.metadata.__dict__["_src_node_id"] = node
        if "skew" in drawn:
            reply.metadata.__dict__["_created_at"] += float(rng.uniform(-_YEAR_S, _YEAR_S))
        wait = 0.0 if "reorder" in drawn else float(rng.uniform(0.0, 0.5 * self._deadline_s))
        if "delay" in drawn:
            wait = float(rng.uniform(0.0, 2.0 * self._deadline_s))
        self.arrived[node] = self._clock() + wait
        self._replies[number] = (self._clock() + wait, reply)
        if "duplicate" in drawn:
            again = self._clock() + wait + float(rng.uniform(0.0, 2.0 * self._deadline_s))
            heapq.heappush(self._strays, (again, next(self._number), reply))
