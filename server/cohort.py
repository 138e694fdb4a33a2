"""Who is enrolled, and which node hosts which device of the cohort.

The population is numbered through in the order of the nodes, so that a cohort is a set of numbers and the same numbers
mean the same devices on every grid.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from sottovoce.client.message import read_enrolment
from sottovoce.privacy.errors import SottovoceError, UpdateError

POLL_S = 0.25
"""Seconds between two looks for replies."""


@dataclass(frozen=True, slots=True)
class Population:
    """Enrolled devices by node.

    Attributes:
        nodes: node ids, in the order that numbers the population.
        first: (nodes + 1,) number of each node's first device; the last entry is the size of the population.
    """

    nodes: tuple[int, ...]
    first: npt.NDArray[np.int64]

    @property
    def devices(self) -> int:
        """Size of the population."""
        return int(self.first[-1])

    def split(self, cohort: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """The cohort by node: (node id, device indices at that node), nodes without any left out."""
        bounds = np.searchsorted(cohort, self.first)
        for place, node in enumerate(self.nodes):
            mine = cohort[bounds[place] : bounds[place + 1]] - self.first[place]
            if len(mine):
                yield node, mine


def enrol(
    grid: Grid,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Population:
    """Ask every node whom it hosts.

    Args:
        grid: any of Flower's grids, or the in-process one.
        timeout_s: how long to wait for answers, in seconds.
        clock: seconds, monotonic.
        sleep: waits for so many seconds.

    Raises:
        SottovoceError: no node answered, or two nodes claim the same place.
    """
    ids = list(grid.get_node_ids())
    messages = [Message(RecordDict(), node, MessageType.QUERY, group_id="enrol") for node in ids]
    found: list[tuple[int, int, int]] = []
    for message in replies(grid, messages, timeout_s, clock=clock, sleep=sleep):
        if message.metadata.src_node_id not in ids or message.metadata.src_node_id in (node for _, node, _ in found):
            continue
        try:
            enrolment = read_enrolment(message.content)
        except UpdateError:
            continue
        found.append((enrolment.order, message.metadata.src_node_id, enrolment.devices))
    if not found:
        raise SottovoceError(f"none of {len(ids)} nodes enrolled", "start the nodes, or look at their logs")
    found.sort()
    if len({order for order, _, _ in found}) != len(found):
        raise SottovoceError("two nodes claim the same place in the population", "give each node its own partition")
    first = np.concatenate([[0], np.cumsum([devices for _, _, devices in found])]).astype(np.int64)
    return Population(tuple(node for _, node, _ in found), first)


def replies(
    grid: Grid,
    messages: Iterable[Message],
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    unanswered: set[str] | None = None,
) -> Iterator[Message]:
    """Replies with content, as they arrive; errors and silence are ordinary and left out.

    Flower's own `send_and_receive` hands out nothing before the last reply, and measures its timeout on a clock that
    somebody may set.

    Args:
        grid: any of Flower's grids, or the in-process one.
        messages: to send.
        timeout_s: how long to wait for answers, in seconds.
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
        unanswered: on return holds the ids of messages that nobody answered in time; whoever stops early finds those
            not answered so far.
    """
    waiting = set() if unanswered is None else unanswered
    until = clock() + timeout_s
    waiting.update(number for number in grid.push_messages(messages) if number)
    while waiting:
        for message in grid.pull_messages(set(waiting)):
            waiting.discard(message.metadata.reply_to_message_id)
            if not message.has_error():
                yield message
        left = until - clock()
        if not waiting or left <= 0:
            return
        sleep(min(POLL_S, left))


def stragglers(grid: Grid, unanswered: set[str]) -> int:
    """Late replies to messages of an earlier round: fetched once, counted and thrown away. Empties `unanswered`."""
    late = sum(not message.has_error() for message in grid.pull_messages(set(unanswered))) if unanswered else 0
    unanswered.clear()
    return late
