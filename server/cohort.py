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

_LOOK_AGAIN_S = 1.0


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


def enrol(grid: Grid, timeout_s: float) -> Population:
    """Ask every node whom it hosts.

    Args:
        grid: any of Flower's grids, or the in-process one.
        timeout_s: how long to wait for answers, in seconds.

    Raises:
        SottovoceError: no node answered, or two nodes claim the same place.
    """
    ids = list(grid.get_node_ids())
    messages = [Message(RecordDict(), node, MessageType.QUERY, group_id="enrol") for node in ids]
    found: list[tuple[int, int, int]] = []
    for message in replies(grid, messages, timeout_s):
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
    grid: Grid, messages: Iterable[Message], timeout_s: float, failed: Callable[[Message | None], None] = lambda _: None
) -> Iterator[Message]:
    """Replies with content; errors, silence and what cannot be read are ordinary and left out.

    Each reply is fetched on its own. Flower's grid raises at one whose bytes are no message, whatever error its parsers
    come upon, and all that were fetched together with it would be lost.

    Args:
        grid: where the nodes are.
        messages: one for each node asked.
        timeout_s: how long to wait, in seconds.
        failed: called with each reply that is an error, and with None for one that cannot be read.

    Raises:
        httpx.HTTPError: the SuperLink refuses; it is waited for while it is away.
        RunNotRunningException: the run was stopped.
    """
    waiting = [number for number in grid.push_messages(list(messages)) if number]
    deadline = time.monotonic() + timeout_s
    while waiting:
        began, silent = time.monotonic(), []
        for number in waiting:
            try:
                found = list(grid.pull_messages([number]))
            except (httpx.HTTPError, RunNotRunningException):
                raise
            except Exception as error:
                log.warning("a reply cannot be read: %s", type(error).__name__)
                failed(None)
                continue
            if not found:
                silent.append(number)
            for message in found:
                if message.has_error():
                    failed(message)
                else:
                    yield message
        waiting = silent
        now = time.monotonic()
        if now >= deadline:
            return
        if waiting:
            # Asking for many takes long; at least half of the time the SuperLink is left to the nodes.
            time.sleep(min(max(_LOOK_AGAIN_S, now - began), deadline - now))
