"""Who is enrolled, and which node hosts which device of the cohort.

The population is numbered through in the order of the nodes, so that a cohort is a set of numbers and the same numbers
mean the same devices on every grid.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from sottovoce.client.message import read_enrolment
from sottovoce.privacy.errors import SottovoceError, UpdateError


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
    return Population(tuple(node for _, node, _ in found), first, tuple(order for order, _, _ in found))


def replies(grid: Grid, messages: Iterable[Message], timeout_s: float) -> Iterator[Message]:
    """Replies with content; errors and silence are ordinary and left out."""
    for message in grid.send_and_receive(messages, timeout=timeout_s):
        if not message.has_error():
            yield message
