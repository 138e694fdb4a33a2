"""What a coordinator proposes to the nodes before a secure sum: who is whose neighbour, and how many may be lost."""

import hashlib
import math
from collections.abc import Callable, Sequence

from sottovoce.client.secure_messages import LEAST_NEIGHBOURS, LEAST_NODES, Session
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.plan import MechanismPlan

COMPLETE = 128
"""Up to so many nodes everybody is everybody's neighbour."""

SPARSE = LEAST_NEIGHBOURS
"""Neighbours of each node beyond that: at 1,000 nodes of which 30 % drop out, fewer than 1 sum in 100 fails; and a
coalition of 20 % of the nodes holds more than half of somebody's shares with a chance below 1e-8."""

MOST_SPARSE_DROPOUT = 0.3
MOST_SPARSE_COLLUSION = 0.2


def open_session(
    plan: MechanismPlan,
    run_id: str,
    round: int,
    places: Sequence[int],
    size: int,
    told: bytes,
    *,
    dropout: float,
    collusion: float,
    phones: bool,
    random: Callable[[int], bytes],
) -> Session:
    """A fresh session of the nodes at `places`.

    Args:
        plan: of the run: clip norm, noise and the largest cohort.
        run_id: of the run.
        round: from 1.
        places: who takes part; all enrolled nodes, so that nobody learns from it who was drawn.
        size: numbers in a vector.
        told: digest of what all nodes are told alike.
        dropout: share of the nodes that may be lost, 0 to below 0.5; the noise of those who stay suffices.
        collusion: share of the nodes that may collude with the coordinator; what is left without theirs suffices.
        phones: whether every node hosts one device.
        random: bytes from the operating system.

    Raises:
        ConfigError: too few nodes, or no encoding fits.
    """
    nodes = len(places)
    if nodes < LEAST_NODES:
        raise ConfigError(
            f"{nodes} nodes cannot hide their parts from one another", f"start at least {LEAST_NODES} nodes"
        )
    if not 0 <= dropout < 0.5:
        # More than half have to stay: two halves that were told different things could otherwise each be unmasked.
        raise ConfigError(f"dropout = {dropout} is not in [0, 0.5)", "set privacy.dropout below 0.5")
    complete = nodes <= COMPLETE
    if not complete and (dropout > MOST_SPARSE_DROPOUT or collusion > MOST_SPARSE_COLLUSION):
        raise ConfigError(
            f"dropout = {dropout} and collusion = {collusion} of {nodes} nodes: too few of a node's neighbours would "
            "often stay, or too many collude",
            f"set privacy.dropout to {MOST_SPARSE_DROPOUT} and privacy.collusion to {MOST_SPARSE_COLLUSION} or less",
        )
    survivors, colluders = nodes - int(dropout * nodes), math.ceil(collusion * nodes)
    if collusion < 0 or survivors <= max(1, colluders) or (complete and 2 * survivors <= nodes + colluders):
        raise ConfigError(
            f"dropout = {dropout} and collusion = {collusion} of {nodes} nodes: those who collude and a coordinator "
            "that lies about dropouts could open a vector",
            "keep privacy.collusion well below 1 - 2 privacy.dropout",
        )
    shuffle = random(32)
    ring = sorted(places, key=lambda place: hashlib.sha256(shuffle + b"%d" % place).digest())
    session = Session(
        run_id,
        round,
        plan.digest(),
        told,
        random(32),
        tuple(ring),
        nodes - 1 if complete else SPARSE,
        survivors,
        colluders,
        survivors if complete else SPARSE // 2 + 1,
        size,
        plan.clipper().sensitivity,
        float(plan.noise_multiplier),
        plan.cap or plan.population,
        phones,
    )
    session.encoding()
    return session
