"""From privacy events to epsilon, by four independent computations.

The figure that is published is PLD (privacy loss distributions, `dp_accounting`): an upper bound within about 1e-3 of
the truth. Renyi DP, also from `dp_accounting`, is looser and fast. Opacus' PRV and RDP accountants recompute both with
other people's code. A closed formula covers the observer from whom sampling hides nothing. The central-limit
approximation (GDP) is not offered: it reports too little.

Third-party accountants are imported when first used, so that a phone can import this package without them. Equal events
are grouped, and results are cached: accounting is a pure function of (events, delta).
"""

import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.events import Event, NonPrivate, PoissonGaussian

Counts = Mapping[Event, int] | Iterable[tuple[Event, int]]
"""How often each event happened; pairs may repeat an event, their counts then add up."""

_Group = tuple[tuple[PoissonGaussian, int], ...]

FINE, COARSE, WIDE = 1e-4, 1e-3, 1e-2
"""Grid widths of the privacy loss: the published figure, progress displays, losses too large to matter."""


def _group(counts: Counts) -> _Group | None:
    """Equal events together, in an order of their own; None when any release had no noise.

    Raises:
        ValueError: a negative count.
    """
    total: Counter[Event] = Counter()
    for event, count in counts.items() if isinstance(counts, Mapping) else counts:
        if count < 0:
            raise ValueError(f"an event cannot have happened {count} times")
        total[event] += count
    noisy = []
    for event, count in total.items():
        if count and isinstance(event, NonPrivate):
            return None
        if count and isinstance(event, PoissonGaussian):
            noisy.append((event, count))
    return tuple(sorted(noisy, key=lambda pair: (pair[0].sampling_rate, pair[0].noise_multiplier)))


def _check_delta(delta: float) -> None:
    """Refuse a delta for which epsilon has no meaning."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, got {delta}")


@lru_cache(maxsize=64)
def _loss(event: PoissonGaussian, width: float) -> Any:
    """Privacy loss distribution of one event, on a grid of `width`."""
    from dp_accounting.pld import privacy_loss_distribution
    from dp_accounting.privacy_accountant import NeighboringRelation

    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=event.noise_multiplier,
        value_discretization_interval=width,
        sampling_prob=event.sampling_rate,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )


@lru_cache(maxsize=1024)
def _pld(group: _Group, delta: float, width: float) -> float:
    losses = [_loss(event, width).self_compose(count) for event, count in group]
    total = losses[0]
    for loss in losses[1:]:
        total = total.compose(loss)
    return max(0.0, float(total.get_epsilon_for_delta(delta)))


def epsilon_pld(counts: Counts, delta: float, finest: float = FINE) -> float:
    """Epsilon by privacy loss distributions: the published figure.

    Every grid gives an upper bound; a coarser one is looser and cheaper. Losses beyond 60 are computed on a coarser
    grid whatever `finest` is: nobody needs the fourth decimal of an epsilon of 160.

    Args:
        counts: what was released, and how often.
        delta: probability with which the bound may fail, 0 < delta < 1.
        finest: finest grid width to use, `FINE` or `COARSE`.

    Returns:
        Epsilon for zero-out adjacency; 0 for nothing, `inf` as soon as one release had no noise.

    Source: Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380 (the grid).
    """
    _check_delta(delta)
    group = _group(counts)
    if group is None:
        return math.inf
    if not group:
        return 0.0
    rough = _rdp(group, delta)
    return _pld(group, delta, max(finest, FINE if rough <= 60 else COARSE if rough <= 300 else WIDE))


@lru_cache(maxsize=256)
def _curve(event: PoissonGaussian) -> npt.NDArray[np.float64]:
    """Renyi divergence of one event at each of `dp_accounting`'s default orders."""
    from dp_accounting import dp_event, rdp
    from dp_accounting.privacy_accountant import NeighboringRelation

    gaussian = dp_event.GaussianDpEvent(event.noise_multiplier)
    accountant = rdp.RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
    logger = logging.getLogger("absl")
    level = logger.level
    # Below z = 0.5 a few orders near 1 do not converge; leaving them out only loosens the bound.
    logger.setLevel(logging.ERROR)
    try:
        accountant.compose(dp_event.PoissonSampledDpEvent(event.sampling_rate, gaussian))
    finally:
        logger.setLevel(level)
    return np.asarray(accountant.rdp, np.float64)


def _rdp(group: _Group, delta: float) -> float:
    from dp_accounting.rdp import rdp_privacy_accountant

    total = sum((count * _curve(event) for event, count in group), start=np.zeros(1))
    epsilon, _ = rdp_privacy_accountant.compute_epsilon(rdp_privacy_accountant.DEFAULT_RDP_ORDERS, total, delta)
    return max(0.0, float(epsilon))


def epsilon_rdp(counts: Counts, delta: float) -> float:
    """Epsilon by Renyi DP: looser than PLD, and under a millisecond once an event is known.

    Source: Mironov, Talwar, Zhang 2019, arXiv:1908.10530; conversion of Canonne et al. 2020, arXiv:2004.00010.
    """
    _check_delta(delta)
    group = _group(counts)
    if group is None:
        return math.inf
    return _rdp(group, delta) if group else 0.0


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
    """Run one of Opacus' accountants; it knows Poisson sampling with add/remove adjacency, equal here to zero-out."""
    _check_delta(delta)
    group = _group(counts)
    if group is None:
        return math.inf
    if not group:
        return 0.0
    chosen = accountant()
    chosen.history = [(event.noise_multiplier, event.sampling_rate, count) for event, count in group]
    with warnings.catch_warnings():
        # Opacus warns of log(0) at q = 1 and of a short list of orders; both only loosen its bound.
        warnings.simplefilter("ignore")
        return max(0.0, float(chosen.get_epsilon(delta)))


def epsilon_without_sampling(counts: Counts, delta: float, participations: int | None = None) -> float:
    """Epsilon for an observer who knows in which rounds a device took part: exact, no amplification.

    k Gaussian releases with multipliers z_1 ... z_k are one with multiplier (sum of z_i**-2)**-1/2.

    Args:
        counts: what was released, and how often.
        delta: probability with which the bound may fail.
        participations: most rounds any one device took part in; the k releases with the least noise are then taken.
            None: every round.

    Raises:
        ValueError: `participations` is negative.

    Source: Balle and Wang 2018, arXiv:1805.06530, theorem 8.
    """
    _check_delta(delta)
    if participations is not None and participations < 0:
        raise ValueError(f"participations must be 0 or more, got {participations}")
    group = _group(counts)
    left = math.inf if participations is None else participations
    if group is None:
        return math.inf if left else 0.0
    precision = 0.0
    for event, count in sorted(group, key=lambda pair: pair[0].noise_multiplier):
        taken = min(count, left)
        precision += taken * event.noise_multiplier**-2
        left -= taken
    return _gaussian_epsilon(math.sqrt(precision), delta)


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon, rounded up, of one Gaussian release whose means lie `mu` standard deviations apart."""
    from scipy.special import log_ndtr

    def fails(epsilon: float) -> float:
        shift = epsilon / mu
        first, second = log_ndtr(mu / 2 - shift), log_ndtr(-mu / 2 - shift)
        return float(np.exp(first) - np.exp(epsilon + second))

    if mu == 0 or fails(0.0) <= delta:
        return 0.0
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if fails(middle) > delta else (low, middle)
    return high


def cross_check(counts: Counts, delta: float) -> dict[str, float | None]:
    """The same releases by every accountant: `pld`, `rdp`, `opacus_prv`, `opacus_rdp`.

    None where an accountant is out of its range: PRV below z = 0.3, above epsilon 50 or with more than 20 distinct
    events takes minutes or gives infinity; below delta 1e-12 it gives up.
    """
    group = _group(counts)
    pld = epsilon_pld(counts, delta)
    fits = group is not None and len(group) <= 20 and pld <= 50 and delta >= 1e-12
    fits = fits and all(event.noise_multiplier >= 0.3 for event, _ in group or ())
    return {
        "pld": pld,
        "rdp": epsilon_rdp(counts, delta),
        "opacus_prv": epsilon_prv(counts, delta) if fits else None,
        "opacus_rdp": epsilon_opacus_rdp(counts, delta),
    }
