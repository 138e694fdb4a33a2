"""A node's part in a secure sum: it gives away one masked vector, and one kind of share of each other node.

Double masking. A node's vector is hidden by a mask of its own, from a seed b, and by one mask with every neighbour,
from an agreed key, which cancels against the neighbour's. The coordinator takes off the own masks of those whose
vector arrived and the pair masks of those whose vector did not, from shares that the neighbours hold. Both kinds of
shares of one node would open its vector: a node hands out one.

The coordinator carries all messages and may read, drop, delay and repeat them. Keys are signed with long-term keys that
were registered beforehand, so that it cannot stand in the middle.

Pure functions of a state: the caller keeps it from message to message, see `client.app`. A step is taken once.

Source: Bonawitz et al. 2017; sparse graph: Bell et al. 2020, "Secure single-server aggregation with
(poly)logarithmic overhead".
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sottovoce.client.secure_messages import (
    Advert,
    Adverts,
    Boxes,
    Key,
    Masked,
    Place,
    Session,
    Share,
    Shares,
    Unmask,
    once,
)
from sottovoce.models.dsse import holds, signature_of
from sottovoce.models.signing import PrivateKey, PublicKey, key_id
from sottovoce.privacy.errors import ConfigError, UpdateError
from sottovoce.privacy.masks import Words, mask, pack, word_type
from sottovoce.privacy.secret_sharing import SHARE_BYTES, split

Registry = Mapping[int, PublicKey]
"""Long-term public key by place, as whoever enrols nodes vouches for it."""

REFUSED = "the node takes no part in this sum"


def require_distinct(registry: Registry) -> None:
    """Refuse one key at two places: whoever has it would count as two nodes, towards thresholds and noise.

    Raises:
        ConfigError: names the places.
    """
    seen: dict[str, int] = {}
    for place, key in registry.items():
        other = seen.setdefault(key_id(key), place)
        if other != place:
            raise ConfigError(f"places {other} and {place} have one key", "register each node once, with its own key")


class Held(msgspec.Struct, frozen=True, array_like=True):
    """What a node holds of another: its keys, and a share of each of its secrets."""

    mask_key: Key
    seed: Share
    key: Share


class State(msgspec.Struct, frozen=True, array_like=True):
    """A node's memory during a session; secret, and gone when the session is over.

    Attributes:
        session: what it is about.
        step: what was answered last.
        place: of this node.
        cipher_key: private.
        mask_key: private.
        seed: b, of its own mask.
        adverts: of the neighbours it made boxes for, by place.
        held: shares of itself and, once boxes came, of its neighbours.
    """

    session: Session
    step: Literal["keys", "shares", "masked", "done"]
    place: Place
    cipher_key: Key
    mask_key: Key
    seed: Annotated[bytes, msgspec.Meta(min_length=0, max_length=32)]
    adverts: dict[int, Advert] = {}
    held: dict[int, Held] = {}


def begin(session: Session, place: int, key: PrivateKey, random: Callable[[int], bytes]) -> tuple[State, Advert]:
    """Fresh keys for a session.

    Args:
        session: as the coordinator told it.
        place: of this node.
        key: its long-term key.
        random: bytes from the operating system.

    Raises:
        UpdateError: the node is not asked to take part.
    """
    if place not in session.ring:
        raise UpdateError(f"node {place} is not in this session", REFUSED)
    cipher, masks, seed = random(32), random(32), random(32)
    commitment = hashlib.sha256(seed).digest()
    advert = Advert(place, public_key(cipher), public_key(masks), commitment, bytes(8))
    signature = signature_of(key, advert.signed(session.digest()))
    return (
        State(session, "keys", place, cipher, masks, seed),
        msgspec.structs.replace(advert, signature=signature),
    )


def share(state: State, told: Adverts, registry: Registry) -> tuple[State, Boxes]:
    """Shares of both secrets, one box for each neighbour.

    Raises:
        UpdateError: another session or step; a signature that does not hold; somebody who is no neighbour, or twice;
            too few neighbours for the secrets to come back.
    """
    _require(state, told.session, "keys")
    session, neighbours = state.session, set(state.session.circle(state.place)) - {state.place}
    adverts = {one.place: one for one in told.adverts}
    if not once((one.place for one in told.adverts), "keys") <= neighbours:
        raise UpdateError("keys of a node that is no neighbour", REFUSED)
    for place, advert in adverts.items():
        known = registry.get(place)
        if known is None or not holds(known, advert.signature, advert.signed(told.session)):
            raise UpdateError(f"the keys of node {place} are not signed by its registered key", REFUSED)
        require_agreeable(advert.mask_key)
    holders = sorted((*adverts, state.place))
    if len(holders) < session.threshold:
        raise UpdateError(f"{len(holders)} nodes share keys, {session.threshold} are needed", REFUSED)
    points = [one + 1 for one in holders]
    seeds = split(int.from_bytes(state.seed, "big"), session.threshold, points)
    keys = split(int.from_bytes(state.mask_key, "big"), session.threshold, points)
    pairs = {one: (_share(seeds[one + 1]), _share(keys[one + 1])) for one in holders}
    boxes, mine = [], X25519PrivateKey.from_private_bytes(state.cipher_key)
    for place, advert in adverts.items():
        cipher = _cipher(mine, advert.cipher_key, told.session, state.place, place)
        boxes.append((place, cipher.encrypt(bytes(12), b"".join(pairs[place]), told.session)))
    own = Held(public_key(state.mask_key), *pairs[state.place])
    after = msgspec.structs.replace(state, step="shares", adverts=adverts, held={state.place: own})
    return after, Boxes(told.session, tuple(boxes))


def open_boxes(state: State, told: Boxes) -> State:
    """The state with the neighbours' shares, in which a vector may be masked: once.

    Raises:
        UpdateError: another session or step; a box that does not open, of somebody who gave no keys, or twice; too
            few of them.
    """
    _require(state, told.session, "shares")
    if not once((place for place, _ in told.boxes), "boxes") <= set(state.adverts):
        raise UpdateError("a box of a node whose keys are not known", REFUSED)
    held, mine = dict(state.held), X25519PrivateKey.from_private_bytes(state.cipher_key)
    for place, box in told.boxes:
        advert = state.adverts[place]
        try:
            cipher = _cipher(mine, advert.cipher_key, told.session, place, state.place)
            both = cipher.decrypt(bytes(12), box, told.session)
        except InvalidTag:
            raise UpdateError(f"the box of node {place} does not open", REFUSED) from None
        held[place] = Held(advert.mask_key, both[:SHARE_BYTES], both[SHARE_BYTES:])
    if len(held) < state.session.threshold:
        raise UpdateError(f"{len(held)} nodes gave shares, {state.session.threshold} are needed", REFUSED)
    return msgspec.structs.replace(state, step="masked", held=held)


def masked(state: State, whole: npt.NDArray[np.int64]) -> Masked:
    """The vector under its masks, for a state that `open_boxes` has just made.

    Args:
        state: with the shares of those who take part.
        whole: (size,) whole numbers, noise included.
    """
    bits = state.session.encoding().bits
    total = whole.astype(word_type(bits)) + mask(state.seed, len(whole), bits)
    mine = X25519PrivateKey.from_private_bytes(state.mask_key)
    for place, held in state.held.items():
        if place != state.place:
            add_pair_mask(total, mine, held.mask_key, state.place, place, state.session, bits)
    return Masked(state.session.digest(), pack(total, bits))


def reveal(state: State, told: Unmask) -> tuple[State, Shares]:
    """One share of each node it holds shares of: of the seed of a survivor, of the key of one that dropped out.

    Raises:
        UpdateError: another session or step; a node named twice, or asked about in both ways; a sum over too few
            nodes; somebody who takes no part.
    """
    _require(state, told.session, "masked")
    survivors, dropped = once(told.survivors, "shares"), once(told.dropped, "shares")
    both = survivors & dropped
    if both:
        raise UpdateError(f"asked for both kinds of shares of node {min(both)}", REFUSED)
    if not survivors | dropped <= set(state.session.ring):
        raise UpdateError("asked about a node that takes no part", REFUSED)
    if state.place not in survivors:
        raise UpdateError("this node's vector is not in the sum", REFUSED)
    if len(survivors) < state.session.survivors:
        raise UpdateError(f"a sum over {len(survivors)} nodes, {state.session.survivors} are promised", REFUSED)
    seeds = tuple((place, one.seed) for place, one in state.held.items() if place in survivors)
    keys = tuple((place, one.key) for place, one in state.held.items() if place in dropped)
    # Nothing secret is kept for a question that will not be answered.
    after = State(state.session, "done", state.place, bytes(32), bytes(32), b"")
    return after, Shares(told.session, seeds, keys)


def add_pair_mask(
    total: Words, mine: X25519PrivateKey, theirs: bytes, place: int, other: int, session: Session, bits: int
) -> None:
    """Add the mask that `place` shares with `other`, in place; the lower place adds it, the higher subtracts it."""
    low, high = sorted((place, other))
    seed = _agreed(mine, theirs, b"mask", session.digest(), low, high)
    drawn = mask(seed, len(total), bits)
    if place == low:
        total += drawn
    else:
        total -= drawn


def public_key(private: bytes) -> bytes:
    """The X25519 public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def require_agreeable(public: bytes) -> None:
    """Refuse an X25519 public key of low order, with which everybody agrees on the same known secret.

    Raises:
        UpdateError: it is one.
    """
    _exchanged(X25519PrivateKey.from_private_bytes(bytes(32)), public)


def _require(state: State, session: bytes, step: str) -> None:
    if state.session.digest() != session:
        raise UpdateError("a message of another session", REFUSED)
    if state.step != step:
        raise UpdateError(f"a message out of turn: this node's last step was {state.step!r}", REFUSED)


def _share(value: int) -> bytes:
    return value.to_bytes(SHARE_BYTES, "big")


def _cipher(mine: X25519PrivateKey, theirs: bytes, session: bytes, sender: int, recipient: int) -> ChaCha20Poly1305:
    """A key for one box: each direction of each pair has its own, so that the nonce need not change."""
    return ChaCha20Poly1305(_agreed(mine, theirs, b"box", session, sender, recipient))


def _agreed(mine: X25519PrivateKey, theirs: bytes, purpose: bytes, session: bytes, first: int, second: int) -> bytes:
    """32 bytes that only two nodes can know, for one purpose."""
    secret = _exchanged(mine, theirs)
    info = b"sottovoce secure sum 1 %s %d %d" % (purpose, first, second)
    return HKDF(hashes.SHA256(), 32, salt=session, info=info).derive(secret)


def _exchanged(mine: X25519PrivateKey, theirs: bytes) -> bytes:
    """The secret of two keys; raises UpdateError for a public key of low order."""
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise UpdateError("a public key that agrees on nothing", REFUSED) from error
