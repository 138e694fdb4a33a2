"""What `sottovoce bench faults` measures: rounds with every fault, ever more dropouts, a coordinator killed."""

from collections.abc import Callable

import msgspec
import numpy as np

from sottovoce.simulations.fault_soak import DROPOUTS, Dropped, Soak, dropped, soak
from sottovoce.simulations.kill_trial import Killed, trial

_NODES, _PLACES = 20, 100
"""Of the rounds with dropouts: nodes of one device, and coordinates for each."""


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How much is tried.

    Attributes:
        rounds: with every fault.
        devices: in each of them.
        rate: of every fault.
        kills: of a coordinator.
        dropout_rounds: at each share of dropouts.
        seed: of faults and kills.
    """

    rounds: int = 1000
    devices: int = 1000
    rate: float = 0.05
    kills: int = 200
    dropout_rounds: int = 100
    seed: int = 0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        rounds: asked for, with every fault and with dropouts alone.
        rounds_closed: of those, closed by their deadline.
        violations: promises broken in those rounds, or otherwise seen to be broken between two lives.
        kills: of a coordinator.
        resumes: of those, after how many the same command went on.
        double_counts: devices that were in a model twice for one round.
        wrong_rounds: devices missing from a round of a model, or in a round that is not in it.
        epsilon_fell: times that less was spent after a kill than before.
        noise_ratio: standard deviation of the measured noise / the promised one, over all shares of dropouts.
        noise_error: its standard error.
        soak: every fault.
        dropouts: by share.
        killed: the kills.
    """

    rounds: int
    rounds_closed: int
    violations: int
    kills: int
    resumes: int
    double_counts: int
    wrong_rounds: int
    epsilon_fell: int
    noise_ratio: float
    noise_error: float
    soak: Soak
    dropouts: list[Dropped]
    killed: Killed


def bench(effort: Effort, say: Callable[[str], None] = lambda _: None) -> Found:
    """Try all of it."""
    say(f"{effort.rounds:,} rounds of {effort.devices:,} devices, every fault at {effort.rate:.0%}")
    soaked = soak(effort.rounds, effort.devices, effort.rate, effort.seed)
    say("dropouts")
    dropouts = [dropped(rate, effort.dropout_rounds, _NODES, _PLACES, effort.seed) for rate in DROPOUTS]
    killed = trial(effort.kills, effort.seed, say)
    draws = np.array([one.draws for one in dropouts], np.float64)
    squares = np.array([one.noise_ratio for one in dropouts]) ** 2
    ratio = float(np.sqrt((squares * draws).sum() / draws.sum()))
    return Found(
        rounds=soaked.rounds + sum(one.rounds for one in dropouts),
        rounds_closed=soaked.closed + sum(one.closed for one in dropouts),
        violations=len(soaked.violations) + len(killed.problems) + killed.wrong_rounds + killed.epsilon_fell,
        kills=killed.kills,
        resumes=killed.resumes,
        double_counts=killed.double_counts,
        wrong_rounds=killed.wrong_rounds,
        epsilon_fell=killed.epsilon_fell,
        noise_ratio=ratio,
        noise_error=float(ratio / np.sqrt(2 * draws.sum())),
        soak=soaked,
        dropouts=dropouts,
        killed=killed,
    )
