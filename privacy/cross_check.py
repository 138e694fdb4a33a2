"""The same releases by other people's code: Opacus' accountants, beside ours.

Opacus knows Poisson sampling with add/remove adjacency, whose figures equal those of zero-out. Its central-limit
accountant (GDP) is left out: it reports too little.
"""

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sottovoce.privacy.accountant import epsilon_pld
from sottovoce.privacy.composition import Counts, check_delta, grouped
from sottovoce.privacy.events import Gaussian, PoissonGaussian, RepeatAndSelect
from sottovoce.privacy.renyi import epsilon_rdp


def epsilon_prv(counts: Counts, delta: float) -> float:
    """Upper bound by Opacus' PRV accountant, which overstates by up to 0.01.

    Source: Gopi et al. 2021, arXiv:2106.02848.
    """
    from opacus.accountants import PRVAccountant

    return _opacus(PRVAccountant, counts, delta)


def epsilon_opacus_rdp(counts: Counts, delta: float) -> float:
    """Epsilon by Opacus' own Renyi accountant; its orders stop at 63, so small epsilons come out too large."""
    from opacus.accountants import RDPAccountant

    return _opacus(RDPAccountant, counts, delta)


def _opacus(accountant: Any, counts: Counts, delta: float) -> float:
    """Run one of Opacus' accountants on plain Gaussian sums."""
    check_delta(delta)
    group = grouped(counts)
    if group is None:
        return math.inf
    if not group:
        return 0.0
    chosen = accountant()
    chosen.history = []
    for event, count in group:
        if not isinstance(event, PoissonGaussian | Gaussian):
            raise ValueError(f"Opacus does not know {type(event).__name__}")
        chosen.history.append(
            (event.noise_multiplier, event.sampling_rate if isinstance(event, PoissonGaussian) else 1.0, count)
        )
    with warnings.catch_warnings():
        # Opacus warns of log(0) at q = 1 and of a short list of orders; both only loosen its bound.
        warnings.simplefilter("ignore")
        return max(0.0, float(chosen.get_epsilon(delta)))


def cross_check(counts: Counts, delta: float) -> dict[str, float | None]:
    """The same releases by every accountant: `pld`, `rdp`, `opacus_prv`, `opacus_rdp`.

    None where an accountant is out of its range: PLD for random stopping; Opacus for all but plain Gaussian sums; PRV
    below z = 0.3, above epsilon 50 or with more than 20 distinct events takes minutes or gives infinity; below delta
    1e-12 it gives up.
    """
    total: Counter[Any] = Counter()
    for event, count in counts.items() if isinstance(counts, Mapping) else counts:
        total[event] += count
    group = grouped(total)
    events = [event for event, _ in group or ()]
    gaussian = [event for event in events if isinstance(event, PoissonGaussian | Gaussian)]
    plain = len(gaussian) == len(events)
    pld = None if any(isinstance(event, RepeatAndSelect) for event in events) else epsilon_pld(total, delta)
    fits = plain and group is not None and pld is not None and pld <= 50 and len(events) <= 20 and delta >= 1e-12
    fits = fits and all(event.noise_multiplier >= 0.3 for event in gaussian)
    return {
        "pld": pld,
        "rdp": epsilon_rdp(total, delta),
        "opacus_prv": epsilon_prv(total, delta) if fits else None,
        "opacus_rdp": epsilon_opacus_rdp(total, delta) if plain else None,
    }
