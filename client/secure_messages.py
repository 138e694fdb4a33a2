"""The messages of a secure sum, and nothing else: four questions of the coordinator, four answers of a node.

Each is one struct as MessagePack in a record of its own. Unknown fields, other types and wrong lengths are refused on
arrival. `Session` is what all nodes must agree on: its digest is part of every signature, so that a coordinator which
tells two nodes different things gets no keys that fit.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec
from flwr.app import ConfigRecord, RecordDict

from sottovoce.client.wire import exactly
from sottovoce.models.dsse import signed_message
from sottovoce.privacy.distributed_noise import Encoding
from sottovoce.privacy.errors import ConfigError, UpdateError
from sottovoce.privacy.secret_sharing import SHARE_BYTES

KEYS, SHARES, MASKED, UNMASK = (
    "train.secure_keys",
    "train.secure_shares",
    "train.secure_masked",
    "train.secure_unmask",
)
"""Message types, in order."""

RECORD = "secure_sum"

KEYS_TYPE = "application/vnd.sottovoce.secure-sum-keys"
"""Type of what a node signs: no signature of another kind passes for it."""

MOST_NODES = 2**16
LEAST_NODES = 3
"""Of two, each knows the other's part from the sum."""

LEAST_NEIGHBOURS = 100
"""Where not everybody is everybody's neighbour, a node takes part with so many or none: among fewer, a handful that
collude or drop out could open a vector, or cut the sum in two."""

Place = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Share = Annotated[bytes, msgspec.Meta(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
Box = Annotated[bytes, msgspec.Meta(min_length=2 * SHARE_BYTES + 16, max_length=2 * SHARE_BYTES + 16)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Without names on the wire; another number of fields is refused."""


class Session(_Strict, frozen=True):
    """What one secure sum is about.

    Attributes:
        run_id: of the run.
        round: from 1.
        plan_hash: digest of the mechanism plan.
        told: digest of what all nodes are told alike, weights included, see `secure_node.told_to_all`.
        nonce: 32 random bytes; no two sessions have one and the same.
        ring: places of the nodes that take part, in the random order in which they are neighbours.
        neighbours: with how many nodes each shares masks: an even number, or all others.
        survivors: least number of nodes whose sum is unmasked.
        colluders: so many of them may tell the coordinator all they know.
        threshold: shares that give back a secret, more than half of its holders.
        size: numbers in a vector.
        sensitivity: largest L2 norm of one device's update.
        noise_multiplier: z.
        devices: most devices in the sum.
        phones: whether every node hosts one device.
    """

    run_id: str
    round: int
    plan_hash: str
    told: Key
    nonce: Key
    ring: Annotated[tuple[Place, ...], msgspec.Meta(min_length=LEAST_NODES, max_length=MOST_NODES)]
    neighbours: int
    survivors: int
    colluders: Annotated[int, msgspec.Meta(ge=0)]
    threshold: int
    size: Annotated[int, msgspec.Meta(ge=1, le=2**30)]
    sensitivity: float
    noise_multiplier: float
    devices: Annotated[int, msgspec.Meta(ge=1, le=2**40)]
    phones: bool

    def __post_init__(self) -> None:
        """Refuse a session in which somebody could be seen alone, or told two stories."""
        nodes = len(self.ring)
        if len(set(self.ring)) < nodes:
            raise ValueError("a node takes part twice")
        if not (
            self.neighbours == nodes - 1
            or (self.neighbours % 2 == 0 and LEAST_NEIGHBOURS <= self.neighbours < nodes - 1)
        ):
            raise ValueError(f"{self.neighbours} neighbours among {nodes} nodes")
        if not nodes < 2 * self.survivors <= 2 * nodes:
            raise ValueError(f"a sum over {self.survivors} of {nodes} nodes: not more than half of them")
        if not self.neighbours + 1 < 2 * self.threshold <= 2 * (self.neighbours + 1):
            raise ValueError(f"threshold {self.threshold} of {self.neighbours + 1} shares: not more than half of them")
        if self.neighbours == nodes - 1 and not nodes + self.colluders < 2 * self.threshold:
            # Colluders would give both kinds of shares of somebody, of the others each half one kind.
            raise ValueError(
                f"threshold {self.threshold} of {nodes} shares, {self.colluders} nodes may give both kinds"
            )

    def digest(self) -> bytes:
        """SHA-256 of the whole session."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()

    def circle(self, place: int) -> tuple[int, ...]:
        """The node itself and its neighbours, rising: they hold its shares."""
        if self.neighbours == len(self.ring) - 1:
            return tuple(sorted(self.ring))
        middle, half = self.ring.index(place), self.neighbours // 2
        return tuple(sorted(self.ring[(middle + step) % len(self.ring)] for step in range(-half, half + 1)))

    def encoding(self) -> Encoding:
        """How vectors become whole numbers: every node derives it from the public figures.

        Raises:
            ConfigError: these figures allow none.
        """
        return Encoding(
            self.size,
            self.sensitivity,
            self.noise_multiplier,
            len(self.ring),
            self.survivors - max(1, self.colluders),
            self.devices,
            self.phones,
        )


class Advert(_Strict, frozen=True):
    """Answer to a session: one node's keys for it, signed with its long-term key.

    Attributes:
        place: of the node.
        cipher_key: X25519, for boxes of shares.
        mask_key: X25519, for masks.
        commitment: SHA-256 of the seed of its own mask, by which a false share is found out.
        signature: over the session's digest and all of the above.
    """

    place: Place
    cipher_key: Key
    mask_key: Key
    commitment: Key
    signature: Annotated[bytes, msgspec.Meta(min_length=8, max_length=72)]

    def signed(self, session: bytes) -> bytes:
        """What the signature covers."""
        payload = session + self.place.to_bytes(8, "big") + self.cipher_key + self.mask_key + self.commitment
        return signed_message(payload, KEYS_TYPE)


class Adverts(_Strict, frozen=True):
    """Question for shares: the keys of a node's neighbours.

    Attributes:
        session: digest.
        adverts: of the neighbours that are still there.
    """

    session: Key
    adverts: Annotated[tuple[Advert, ...], msgspec.Meta(max_length=MOST_NODES)]


class Boxes(_Strict, frozen=True):
    """Answer with shares, and the question for a masked vector that hands them on.

    Attributes:
        session: digest.
        boxes: by place of the recipient (in the answer) or of the sender (in the question), each encrypted.
    """

    session: Key
    boxes: Annotated[tuple[tuple[Place, Box], ...], msgspec.Meta(max_length=MOST_NODES)]


class Masked(_Strict, frozen=True):
    """Answer with the masked vector.

    Attributes:
        session: digest.
        vector: packed into the bits of the modulus.
    """

    session: Key
    vector: bytes


class Unmask(_Strict, frozen=True):
    """Question for shares: who answered and who did not, of those who handed on shares.

    Attributes:
        session: digest.
        survivors: places whose masked vector is in the sum: shares of their own masks' seeds are asked for.
        dropped: places whose vector is missing: shares of their mask keys are asked for.
    """

    session: Key
    survivors: Annotated[tuple[Place, ...], msgspec.Meta(max_length=MOST_NODES)]
    dropped: Annotated[tuple[Place, ...], msgspec.Meta(max_length=MOST_NODES)]


class Shares(_Strict, frozen=True):
    """Answer with shares.

    Attributes:
        session: digest.
        seeds: by place of a survivor.
        keys: by place of a node that dropped out.
    """

    session: Key
    seeds: Annotated[tuple[tuple[Place, Share], ...], msgspec.Meta(max_length=MOST_NODES)]
    keys: Annotated[tuple[tuple[Place, Share], ...], msgspec.Meta(max_length=MOST_NODES)]


M = TypeVar("M", Session, Advert, Adverts, Boxes, Masked, Unmask, Shares)


def record(message: msgspec.Struct) -> RecordDict:
    """For the wire."""
    return RecordDict({RECORD: ConfigRecord({"body": msgspec.msgpack.encode(message)})})


def read(content: RecordDict, kind: type[M]) -> M:
    """From the wire.

    Raises:
        UpdateError: anything but one message of this kind.
    """
    exactly(content, RECORD)
    found = content.config_records.get(RECORD)
    body = None if found is None or set(found) != {"body"} else found["body"]
    if not isinstance(body, bytes):
        raise UpdateError("message without a body", "the message is dropped")
    try:
        message = msgspec.msgpack.decode(body, type=kind)
        if isinstance(message, Session):
            message.encoding()
    except (msgspec.DecodeError, ConfigError, OverflowError) as error:
        raise UpdateError(f"not a {kind.__name__.lower()}: {error}", "the message is dropped") from None
    return message


def once(places: Iterable[int], what: str) -> frozenset[int]:
    """The places as a set; raises UpdateError when one is named twice."""
    named = list(places)
    if len(set(named)) < len(named):
        raise UpdateError(f"{what} of one node twice", "the message is dropped")
    return frozenset(named)
