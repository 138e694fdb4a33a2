"""What goes wrong between a coordinator and its nodes, how often, and when: drawn beforehand and the same every time.

Each (seed, round, node) has random numbers of its own. A fault therefore strikes the same reply whatever the order in
which nodes are asked, and a run that went wrong can be run again.
"""

import zlib
from dataclasses import dataclass
from typing import Annotated, Self

import msgspec
import numpy as np

Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Chance of each fault, for every message on its own.

    Attributes:
        dropout: the node never gets the instruction.
        silence: the node trains, and its reply is lost.
        restart: the node dies while it trains and comes back without its memory.
        error: the node answers with an error.
        delay: the reply takes up to twice the deadline.
        duplicate: the reply arrives twice, again up to two deadlines later, whether or not anybody asks for it.
        reorder: the reply overtakes all others.
        stale: the node sends the reply of an earlier round again.
        skew: the node's clock is wrong by up to a year.
        corrupt: the reply is damaged, see `bent_replies.CORRUPTIONS`.
        poison: the reply is well formed and meant to harm, see `bent_replies.POISONS`.
    """

    dropout: Rate = 0.0
    silence: Rate = 0.0
    restart: Rate = 0.0
    error: Rate = 0.0
    delay: Rate = 0.0
    duplicate: Rate = 0.0
    reorder: Rate = 0.0
    stale: Rate = 0.0
    skew: Rate = 0.0
    corrupt: Rate = 0.0
    poison: Rate = 0.0

    @classmethod
    def every(cls, rate: float) -> Self:
        """Every fault at the same rate."""
        return cls(**dict.fromkeys(cls.__struct_fields__, rate))


@dataclass(frozen=True, slots=True)
class Drawn:
    """What happens to one message and its reply.

    Attributes:
        kinds: names of fields of `Rates`.
        rng: for the details.
    """

    kinds: frozenset[str]
    rng: np.random.Generator

    def __contains__(self, kind: str) -> bool:
        """Whether this fault strikes."""
        return kind in self.kinds


@dataclass(frozen=True, slots=True)
class Faults:
    """A schedule of faults.

    Attributes:
        rates: of each.
        seed: of all.
    """

    rates: Rates
    seed: int

    def draw(self, group: str, node: int) -> Drawn:
        """What happens to a node's message of one group, which is a round."""
        rng = np.random.Generator(np.random.PCG64((self.seed, zlib.crc32(group.encode()), node)))
        names = self.rates.__struct_fields__
        strikes = rng.random(len(names)) < np.array([getattr(self.rates, name) for name in names])
        return Drawn(frozenset(name for name, yes in zip(names, strikes, strict=True) if yes), rng)


class SimulatedClock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Seconds since the start."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        self._now += seconds
