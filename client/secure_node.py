"""How a node answers the four questions of a secure sum, message by message.

What it must remember between two messages lies in Flower's context, which the runtime keeps for the node, whatever
process answers next. A new session forgets the one before.
"""

import hashlib
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, RecordDict

from sottovoce.client.message import Instruction, read_instruction
from sottovoce.client.secure_messages import RECORD, Adverts, Boxes, Masked, Session, Unmask, read, record
from sottovoce.client.secure_sum import (
    REFUSED,
    Registry,
    State,
    begin,
    masked,
    open_boxes,
    require_distinct,
    reveal,
    share,
)
from sottovoce.models.signing import PrivateKey
from sottovoce.privacy.clip import Clipper
from sottovoce.privacy.entropy import Entropy, OsSource
from sottovoce.privacy.errors import UpdateError


@dataclass(frozen=True, slots=True)
class Member:
    """What makes a node a member of secure sums.

    Attributes:
        key: its long-term key, whose public half whoever enrols nodes has registered.
        registry: the registered keys of all nodes, not taken from the coordinator.

    Raises:
        ConfigError: two places have one key: one node would count as two.
    """

    key: PrivateKey
    registry: Registry

    def __post_init__(self) -> None:
        """Refuse a node that is registered twice."""
        require_distinct(self.registry)


def told_to_all(instruction: Instruction) -> bytes:
    """SHA-256 of an instruction but for its devices: what a coordinator has to tell every node alike.

    Otherwise it could give all nodes but one weights at which they learn nothing, and read that one's update, noisy as
    it is, off the sum.

    Source: Pasquini, Francati, Ateniese 2022, arXiv:2111.07380.
    """
    one = instruction
    facts = (
        one.run_id,
        one.round,
        one.plan_hash,
        one.clip_norm,
        one.training,
        one.schema_digest,
        one.max_participations,
    )
    told = hashlib.sha256(msgspec.msgpack.encode(facts))
    for name in sorted(one.parameters):
        value = np.ascontiguousarray(one.parameters[name], "<f4")
        told.update(msgspec.msgpack.encode((name, value.shape)) + value.tobytes())
    return told.digest()


def answer_session(content: RecordDict, context: Context, place: int, devices: int, member: Member) -> RecordDict:
    """Keys for a new session.

    Args:
        content: the question.
        context: where the node's memory lies.
        place: of the node.
        devices: how many it hosts.
        member: its long-term key.

    Raises:
        UpdateError: the node takes no part in such a session.
    """
    session = read(content, Session)
    if session.phones and devices != 1:
        raise UpdateError(f"a sum of phones, and this node hosts {devices} devices", REFUSED)
    state, advert = begin(session, place, member.key, _os_bytes)
    _keep(context, state)
    return record(advert)


def answer_adverts(content: RecordDict, context: Context, member: Member) -> RecordDict:
    """Boxes of shares for the neighbours; raises UpdateError as `secure_sum.share` does."""
    state, boxes = share(_kept(context), read(content, Adverts), member.registry)
    _keep(context, state)
    return record(boxes)


def read_masking(content: RecordDict, context: Context) -> tuple[State, Instruction]:
    """The state in which a vector may be masked, once, and how to come by the vector.

    Raises:
        UpdateError: boxes that do not open; another instruction than the session was begun for, to which the neighbours
            agreed: weights made for one node alone would let its part be told from the others'.
    """
    if RECORD not in content:
        raise UpdateError("an instruction without boxes", REFUSED)
    boxes = read(RecordDict({RECORD: content[RECORD]}), Boxes)
    asked = read_instruction(RecordDict({name: part for name, part in content.items() if name != RECORD}))
    state = open_boxes(_kept(context), boxes)
    session = state.session
    size = sum(value.size for value in asked.parameters.values())
    told = (told_to_all(asked), asked.run_id, asked.round, size, Clipper(asked.clip_norm).sensitivity)
    if told != (session.told, session.run_id, session.round, session.size, session.sensitivity):
        raise UpdateError("an instruction that does not belong to the session", REFUSED)
    # Before anything is computed: two vectors under one mask would show their difference.
    _keep(context, state)
    return state, asked


def answer_masking(
    state: State, asked: Instruction, total: dict[str, npt.NDArray[np.float64]], entropy: Entropy
) -> RecordDict:
    """The masked vector.

    Args:
        state: of `read_masking`.
        asked: of `read_masking`.
        total: by name, sum of the clipped updates of the devices asked.
        entropy: of rounding and noise.
    """
    encoding = state.session.encoding()
    flat = np.concatenate([total[name].ravel() for name in sorted(total)])
    rounding = entropy.generator(f"secure rounding {state.place}", asked.round)
    noise = entropy.generator(f"secure noise {state.place}", asked.round)
    answer: Masked = masked(state, encoding.encode(flat, rounding, noise, len(asked.devices)))
    return record(answer)


def answer_unmask(content: RecordDict, context: Context) -> RecordDict:
    """Shares of the others' secrets; raises UpdateError as `secure_sum.reveal` does."""
    state, shares = reveal(_kept(context), read(content, Unmask))
    _keep(context, state)
    return record(shares)


def _os_bytes(size: int) -> bytes:
    return OsSource().bits(-(-size // 8)).tobytes()[:size]


def _keep(context: Context, state: State) -> None:
    context.state[RECORD] = ConfigRecord({"state": msgspec.msgpack.encode(state)})


def _kept(context: Context) -> State:
    found = context.state.config_records.get(RECORD)
    raw = None if found is None else found.get("state")
    if not isinstance(raw, bytes):
        raise UpdateError("no session has begun", REFUSED)
    return msgspec.msgpack.decode(raw, type=State)
