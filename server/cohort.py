"""Who is enrolled, and which node hosts which device of the cohort.

The population is numbered through in the order of the nodes, so that a cohort is a set of numbers and the same numbers
mean the same devices on every grid.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import numpy.typing as npt
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import RunNotRunningException

from sottovoce.client.message import read_enrolment
from sottovoce.privacy.errors import SottovoceError, UpdateError

log = logging.getLogger(__name__)

POLL_S = 0.25
"""Seconds between two looks for replies."""


@dataclass(frozen=True, slots=True)
class Population:
    """Enrolled devices by node.

    Attributes:
        nodes: node ids, in the order that numbers the population.
        first: (nodes + 1,) number of each node's first device; the last entry is the size of the population.
        orders: what each node calls its own place, rising; nodes know one another by it.
    """

    nodes: tuple[int, ...]
    first: npt.NDArray[np.int64]
    orders: tuple[int, ...] = ()

    @property
    def devices(self) -> int:
        """Size of the population."""
        return int(self.first[-1])

    def split(
        self, cohort: npt.NDArray[np.int64], *, everybody: bool = False
    ) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """The cohort by node: (node id, device indices at that node); nodes without any only with `everybody`."""
        bounds = np.searchsorted(cohort, self.first)
        for place, node in enumerate(self.nodes):
            mine = cohort[bounds[place] : bounds[place + 1]] - self.first[place]
            if everybody or len(mine):
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
    return Population(tuple(node for _, node, _ in found), first, tuple(order for order, _, _ in found))


def replies(
    grid: Grid,
    messages: Iterable[Message],
    timeout_s: float,
    failed: Callable[[Message | None], None] = lambda _: None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    unanswered: set[str] | None = None,
) -> Iterator[Message]:
    """Replies with content, as they arrive; errors, silence and what cannot be read are ordinary and left out.

    Flower's own `send_and_receive` hands out nothing before the last reply, and measures its timeout on a clock that
    somebody may set. Its grid raises at a reply whose bytes are no message, and all that were fetched together with it
    would be lost: each is fetched on its own.

    Args:
        grid: any of Flower's grids, or the in-process one.
        messages: to send.
        timeout_s: how long to wait for answers, in seconds.
        failed: called with each reply that is an error, and with None for one that cannot be read.
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
        unanswered: on return holds the ids of messages that nobody answered in time; whoever stops early finds those
            not answered so far.

    Raises:
        httpx.HTTPError: the SuperLink refuses; it is waited for while it is away.
        RunNotRunningException: the run was stopped.
    """
    waiting = set() if unanswered is None else unanswered
    until = clock() + timeout_s
    sent = [number for number in grid.push_messages(list(messages)) if number]
    waiting.update(sent)
    while waiting:
        began = clock()
        for number in sent:
            if number not in waiting:
                continue
            found = _fetched(grid, number)
            if found is None:
                waiting.discard(number)
                failed(None)
                continue
            for message in found:
                waiting.discard(message.metadata.reply_to_message_id)
                if message.has_error():
                    failed(message)
                else:
                    yield message
        now = clock()
        if not waiting or now >= until:
            return
        # Asking for many takes long; at least half of the time the SuperLink is left to the nodes.
        sleep(min(max(POLL_S, now - began), until - now))


def stragglers(grid: Grid, unanswered: set[str]) -> int:
    """Late replies to messages of an earlier round: fetched once, counted and thrown away. Empties `unanswered`."""
    fetched = [_fetched(grid, number) for number in unanswered]
    unanswered.clear()
    return sum(not message.has_error() for found in fetched if found for message in found)


def _fetched(grid: Grid, number: str) -> list[Message] | None:
    """What has come in answer to a message; None where it cannot be read, whatever error the parsers came upon."""
    try:
        return list(grid.pull_messages([number]))
    except (httpx.HTTPError, RunNotRunningException):
        raise
    except Exception as error:
        log.warning("a reply cannot be read: %s", type(error).__name__)
        return None
