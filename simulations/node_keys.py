"""Long-term keys of simulated nodes, from the experiment's seed.

In a simulation all nodes live in one process: nothing is hidden from it, whatever the keys are. In the field a node
makes its own key, and whoever enrols nodes registers the public half and hands the list to every node.
"""

import hashlib
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec

from sottovoce.client.secure_node import Member
from sottovoce.client.secure_sum import Registry
from sottovoce.models.signing import PrivateKey


def simulated_key(seed: int, place: int) -> PrivateKey:
    """The key of the node at `place`: the same in every process that simulates it."""
    words = hashlib.sha512(f"sottovoce simulated node key 1|{seed}|{place}".encode()).digest()
    # Far below the order of the curve, whichever words they are.
    return ec.derive_private_key(1 + int.from_bytes(words[:31], "big"), ec.SECP256R1())


@cache
def simulated_registry(seed: int, nodes: int) -> Registry:
    """Public keys of the nodes at places 0 ... nodes - 1."""
    return {place: simulated_key(seed, place).public_key() for place in range(nodes)}


def simulated_member(seed: int, place: int, nodes: int) -> Member:
    """What the node at `place` of `nodes` needs for secure sums."""
    return Member(simulated_key(seed, place), simulated_registry(seed, nodes))
