"""What a secure sum costs a node and the coordinator, in time and bytes: what `sottovoce bench secagg` measures.

Nodes and coordinator are the real ones, in one thread, one after the other; only the wire is missing. Bytes are those
of the records as Flower serializes them. What every round sends anyway, secure or not, is not in them: the weights that
go down.
"""

import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
from flwr.app import RecordDict
from flwr.common.serde import recorddict_to_proto

from sottovoce.client.secure_messages import (
    KEYS,
    MASKED,
    SHARES,
    Adverts,
    Boxes,
    Session,
    Unmask,
    read,
    record,
)
from sottovoce.client.secure_sum import Registry, State, begin, masked, open_boxes, reveal, share
from sottovoce.models.signing import PrivateKey
from sottovoce.privacy.entropy import OsSource
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.secure_session import open_session
from sottovoce.server.secure_sum import secure_sum
from sottovoce.simulations.node_keys import simulated_key
from sottovoce.simulations.peer_secagg import PeerCost, bench_secaggplus

ENCODED = 8
"""Nodes that round and add noise while they are timed; the vectors of the others are random whole numbers."""

INT64 = 8
"""Bytes for a value in Flower's SecAgg+, which sends masked vectors as 64-bit integers."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """One secure sum.

    Attributes:
        nodes: that took part.
        neighbours: of each.
        lost: nodes that dropped out after sharing their keys: the dearest moment.
        bits: of the modulus.
        up_bytes: from a node, in all four answers; median over nodes.
        up_by_question: of those, by answer.
        down_bytes: to a node, in all four questions; median.
        vector_bytes: of `up_bytes`, the packed vector.
        to_int64: `up_bytes` as a share of the vector in 64-bit integers.
        node_ms: processor time of a node for keys, shares and masks; median over nodes, least and most beside it.
        node_ms_range: least and most.
        encode_ms: of a node besides: rounding and noise; median of a few.
        server_s: processor time of the coordinator.
        exact: whether the sum equals that of the vectors in clear.
        flower: the same by Flower's SecAgg+, which adds no noise; None where it was not run.
    """

    nodes: int
    neighbours: int
    lost: int
    bits: int
    up_bytes: int
    up_by_question: dict[str, int]
    down_bytes: int
    vector_bytes: int
    to_int64: float
    node_ms: float
    node_ms_range: tuple[float, float]
    encode_ms: float
    server_s: float
    exact: bool
    flower: PeerCost | None = None


@dataclass(slots=True)
class _Fleet:
    """All nodes, and what they cost."""

    keys: Mapping[int, PrivateKey]
    registry: Registry
    lost: frozenset[int]
    vectors: dict[int, npt.NDArray[np.int64]]
    states: dict[int, State] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    up: dict[str, dict[int, int]] = field(default_factory=dict)
    down: dict[int, int] = field(default_factory=dict)

    def ask(self, kind: str, told: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        sizes: dict[int, int] = {}
        answers: dict[int, RecordDict] = {}
        for place, content in told.items():
            self.down[place] = self.down.get(place, 0) + recorddict_to_proto(content).ByteSize()
            if kind == MASKED and place in self.lost:
                continue
            began = time.process_time()
            answers[place] = self._answer(kind, place, content)
            self.seconds[place] = self.seconds.get(place, 0.0) + time.process_time() - began
            sizes[place] = recorddict_to_proto(answers[place]).ByteSize()
        self.up[kind.removeprefix("train.secure_")] = sizes
        return answers

    def _answer(self, kind: str, place: int, content: RecordDict) -> RecordDict:
        if kind == KEYS:
            self.states[place], advert = begin(read(content, Session), place, self.keys[place], os.urandom)
            return record(advert)
        if kind == SHARES:
            self.states[place], boxes = share(self.states[place], read(content, Adverts), self.registry)
            return record(boxes)
        if kind == MASKED:
            self.states[place] = open_boxes(self.states[place], read(content, Boxes))
            return record(masked(self.states[place], self.vectors[place]))
        self.states[place], shares = reveal(self.states[place], read(content, Unmask))
        return record(shares)


def bench(nodes: int, size: int, lost: float, against_flower: bool = False) -> Cost:
    """One secure sum of `nodes` phones at noise multiplier 1.

    Args:
        nodes: 3 or more.
        size: numbers in a vector.
        lost: share of the nodes that drop out after they shared their keys, 0 to 0.3.
        against_flower: whether Flower's SecAgg+ is run too.

    Raises:
        ConfigError: too few nodes.
    """
    if not 0 <= lost <= 0.3:
        raise ConfigError(f"--lost {lost}: a bench tolerates 0 to 0.3", "choose a share in between")
    plan = MechanismPlan(nodes, 1.0, 1.0, 1.0, 1, 0.5 / nodes, sampling="none", noise="discrete_gaussian")
    session = open_session(
        plan, "bench", 1, range(nodes), size, bytes(32), dropout=0.3, collusion=0.0, phones=True, random=os.urandom
    )
    encoding = session.encoding()
    keys = {place: simulated_key(0, place) for place in range(nodes)}
    source, encode = OsSource(), []
    update = np.full(size, 0.99 / size**0.5)
    for _ in range(min(nodes, ENCODED)):
        began = time.process_time()
        whole = encoding.encode(update, source, source, 1)
        encode.append(time.process_time() - began)
    # Whatever is summed, masks cost the same: the others send the last one's vector, turned around.
    vectors = {place: np.roll(whole, place) for place in keys}
    fleet = _Fleet(
        keys, {place: key.public_key() for place, key in keys.items()}, frozenset(range(int(lost * nodes))), vectors
    )
    began = time.process_time()
    found = secure_sum(session, fleet.registry, fleet.ask, {place: RecordDict() for place in keys})
    spent = time.process_time() - began
    stayed = found.places
    clear = np.zeros(size, np.int64)
    for place in stayed:
        clear += vectors[place]
    seconds = [fleet.seconds[place] for place in stayed]
    up = {name: round(statistics.median(sizes[place] for place in stayed)) for name, sizes in fleet.up.items()}
    total = round(statistics.median(sum(sizes[place] for sizes in fleet.up.values()) for place in stayed))
    return Cost(
        nodes=nodes,
        neighbours=session.neighbours,
        lost=nodes - len(stayed),
        bits=encoding.bits,
        up_bytes=total,
        up_by_question=up,
        down_bytes=round(statistics.median(fleet.down[place] for place in stayed)),
        vector_bytes=-(-size * encoding.bits // 8),
        to_int64=round(total / (INT64 * size), 3),
        node_ms=round(1e3 * statistics.median(seconds), 1),
        node_ms_range=(round(1e3 * min(seconds), 1), round(1e3 * max(seconds), 1)),
        encode_ms=round(1e3 * statistics.median(encode), 1),
        server_s=round(spent - sum(fleet.seconds.values()), 2),
        exact=bool(np.array_equal(clear, found.total)),
        flower=bench_secaggplus(nodes, size, lost) if against_flower else None,
    )
