"""The coordinator's part in a secure sum: carry keys and shares around, add up masked vectors, take the masks off.

Whoever does not answer, or answers with what cannot be used, is left out from that step on. As long as enough nodes go
through with it, the sum of their vectors comes out exactly; below that there is no sum, and no vector of anybody's.

Source: Bonawitz et al. 2017; sparse graph: Bell et al. 2020.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import RecordDict

from sottovoce.client.secure_messages import (
    KEYS,
    MASKED,
    SHARES,
    UNMASK,
    Advert,
    Adverts,
    Boxes,
    M,
    Masked,
    Session,
    Shares,
    Unmask,
    once,
    read,
    record,
)
from sottovoce.client.secure_sum import Registry, add_pair_mask, public_key, require_agreeable
from sottovoce.models.dsse import holds
from sottovoce.privacy.errors import AggregationError, UpdateError
from sottovoce.privacy.masks import Words, centred, mask, packed_bytes, unpack, word_type
from sottovoce.server.recovered_secrets import by_owner, false_share, recover

Ask = Callable[[str, Mapping[int, RecordDict]], Mapping[int, RecordDict]]
"""Sends one message of a type to each place and returns what came back, by place."""

Judge = Callable[[int, UpdateError | None], None]
"""Is told of each answer whose it was, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class SecureTotal:
    """A sum that was unmasked.

    Attributes:
        total: (size,) whole numbers, noise of all of `places` included.
        places: whose vectors are in it, rising.
    """

    total: npt.NDArray[np.int64]
    places: tuple[int, ...]


def secure_sum(
    session: Session,
    registry: Registry,
    ask: Ask,
    instructions: Mapping[int, RecordDict],
    judge: Judge = lambda _place, _error: None,
) -> SecureTotal:
    """Four questions, and the sum of those who answered all but perhaps the last.

    Args:
        session: of `secure_session.open_session`.
        registry: long-term public keys, as the nodes know them too.
        ask: the way to the nodes.
        instructions: what each place is told together with its neighbours' shares: how to come by its vector.
        judge: called with every answer.

    Raises:
        AggregationError: too few nodes are left; shares that do not give back what their owner committed to.
    """
    return _Gathering(session, registry, ask, judge).run(instructions)


class _Gathering:
    """A session in progress."""

    def __init__(self, session: Session, registry: Registry, ask: Ask, judge: Judge) -> None:
        self._session, self._digest = session, session.digest()
        self._registry, self._ask, self._judge = registry, ask, judge
        self._circles = {place: set(session.circle(place)) for place in session.ring}

    def run(self, instructions: Mapping[int, RecordDict]) -> SecureTotal:
        adverts = self._keys()
        boxes = self._shares(adverts)
        vectors = self._masked(boxes, instructions)
        total = self._unmasked(adverts, boxes.keys() - vectors.keys(), vectors)
        return SecureTotal(centred(total, self._session.encoding().bits), tuple(sorted(vectors)))

    def _keys(self) -> dict[int, Advert]:
        """Keys of those whose signature holds."""

        def check(place: int, advert: Advert) -> None:
            known = self._registry.get(place)
            if (
                advert.place != place
                or known is None
                or not holds(known, advert.signature, advert.signed(self._digest))
            ):
                raise UpdateError("keys that its registered key did not sign", "the node is left out")
            # Its neighbours would refuse them and leave, one and all.
            for key in (advert.cipher_key, advert.mask_key):
                require_agreeable(key)

        told = record(self._session)
        return self._answers(KEYS, dict.fromkeys(self._session.ring, told), Advert, check)

    def _shares(self, adverts: Mapping[int, Advert]) -> dict[int, dict[int, bytes]]:
        """Boxes by sender and recipient."""

        def near(place: int) -> set[int]:
            return (self._circles[place] & adverts.keys()) - {place}

        def check(place: int, answer: Boxes) -> None:
            if once((one for one, _ in answer.boxes), "boxes") != near(place) or answer.session != self._digest:
                raise UpdateError("boxes for others than its neighbours", "the node is left out")

        told = {
            place: record(Adverts(self._digest, tuple(adverts[one] for one in sorted(near(place)))))
            for place in adverts
        }
        found = self._answers(SHARES, told, Boxes, check)
        return {place: dict(answer.boxes) for place, answer in found.items()}

    def _masked(
        self, boxes: Mapping[int, Mapping[int, bytes]], instructions: Mapping[int, RecordDict]
    ) -> dict[int, Words]:
        """Masked vectors by place."""
        size, bits = self._session.size, self._session.encoding().bits

        def check(place: int, answer: Masked) -> None:  # noqa: ARG001 - one of many rules
            if answer.session != self._digest or len(answer.vector) != packed_bytes(size, bits):
                raise UpdateError("a vector of another session or size", "the node is left out")

        told = {}
        for place in boxes:
            near = sorted((self._circles[place] & boxes.keys()) - {place})
            handed = Boxes(self._digest, tuple((one, boxes[one][place]) for one in near))
            told[place] = RecordDict({**instructions[place], **record(handed)})
        found = self._answers(MASKED, told, Masked, check)
        return {place: unpack(answer.vector, size, bits) for place, answer in found.items()}

    def _unmasked(self, adverts: Mapping[int, Advert], dropped: set[int], vectors: Mapping[int, Words]) -> Words:
        """The sum without masks, modulo 2**bits."""
        session = self._session
        asked = Unmask(self._digest, tuple(sorted(vectors)), tuple(sorted(dropped)))

        def check(place: int, answer: Shares) -> None:
            mine = self._circles[place]
            seeds, keys = (
                once((one for one, _ in answer.seeds), "shares"),
                once((one for one, _ in answer.keys), "shares"),
            )
            if answer.session != self._digest or seeds != mine & vectors.keys() or keys != mine & dropped:
                raise UpdateError("shares that were not asked for", "the node is left out")

        told = record(asked)
        answers = self._answers(UNMASK, dict.fromkeys(sorted(vectors), told), Shares, check, session.threshold)
        seeds, keys = by_owner(answers, "seeds"), by_owner(answers, "keys")
        bits, threshold = session.encoding().bits, session.threshold
        total = np.zeros(session.size, word_type(bits))
        for vector in vectors.values():
            total += vector
        for place in vectors:
            seed = recover(place, seeds.get(place, {}), threshold)
            if hashlib.sha256(seed).digest() != adverts[place].commitment:
                raise false_share(place)
            total -= mask(seed, session.size, bits)
        for place in sorted(dropped):
            key = recover(place, keys.get(place, {}), threshold)
            if public_key(key) != adverts[place].mask_key:
                raise false_share(place)
            private = X25519PrivateKey.from_private_bytes(key)
            for other in self._circles[place] & vectors.keys():
                # The survivor's vector holds its side of the pair's mask: the lost node's side takes it off.
                add_pair_mask(total, private, adverts[other].mask_key, place, other, session, bits)
        return total

    def _answers(
        self,
        kind: str,
        told: Mapping[int, RecordDict],
        answer: type[M],
        check: Callable[[int, M], None],
        least: int | None = None,
    ) -> dict[int, M]:
        """Usable answers by place, rising; raises AggregationError when they are too few to go on."""
        usable: dict[int, M] = {}
        came = self._ask(kind, told)
        for place in sorted(came):
            if place not in told:
                continue
            try:
                message = read(came[place], answer)
                check(place, message)
            except UpdateError as error:
                self._judge(place, error)
            else:
                self._judge(place, None)
                usable[place] = message
        needed = self._session.survivors if least is None else least
        if len(usable) < needed:
            raise AggregationError(
                f"{len(usable)} of {len(self._session.ring)} nodes are left after {kind!r}, {needed} are needed",
                "nothing was learnt of anybody; raise privacy.dropout, or wait for more nodes",
            )
        return usable
