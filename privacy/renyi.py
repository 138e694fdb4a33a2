"""Renyi DP by `dp_accounting`: looser than PLD, additive, and under a millisecond once an event is known.

It serves three purposes: a gate that never lets too much pass, the only account of random stopping, and the filter for
events that were chosen after seeing earlier releases.
"""

import logging
import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.composition import Counts, Group, Private, check_delta, grouped
from sottovoce.privacy.events import MICRO, PoissonGaussian, Pure, RepeatAndSelect


@lru_cache(maxsize=256)
def _curve(event: Private) -> npt.NDArray[np.float64]:
    """Renyi divergence of one event at each of `dp_accounting`'s default orders."""
    from dp_accounting import dp_event, rdp
    from dp_accounting.privacy_accountant import NeighboringRelation

    accountant = rdp.RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
    if isinstance(event, Pure):
        # Randomized response dominates every pure mechanism (Kairouz, Oh, Viswanath 2015, arXiv:1311.0776).
        orders, epsilon = np.asarray(accountant.orders, np.float64), event.micro_epsilon / MICRO
        moments = np.logaddexp(orders * epsilon, (1 - orders) * epsilon) - np.logaddexp(0.0, epsilon)
        return np.asarray(moments / (orders - 1), np.float64)
    single = event.event if isinstance(event, RepeatAndSelect) else event
    # Zeroing a device moves nobody's place in a truncated cohort: there the bound without sampling holds.
    rate = single.sampling_rate if isinstance(single, PoissonGaussian) else 1.0
    release: dp_event.DpEvent = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(single.noise_multiplier))
    if isinstance(event, RepeatAndSelect):
        run = dp_event.SelfComposedDpEvent(release, event.rounds)
        release = dp_event.RepeatAndSelectDpEvent(run, event.mean, event.shape)
    logger = logging.getLogger("absl")
    level = logger.level
    # Below z = 0.5 a few orders near 1 do not converge; leaving them out only loosens the bound.
    logger.setLevel(logging.ERROR)
    try:
        accountant.compose(release)
    finally:
        logger.setLevel(level)
    return np.asarray(accountant.rdp, np.float64)


def _best(group: Group, delta: float) -> tuple[float, float]:
    """Epsilon and the order that gives it."""
    from dp_accounting.rdp import rdp_privacy_accountant

    total = np.sum([count * _curve(event) for event, count in group], axis=0)
    epsilon, order = rdp_privacy_accountant.compute_epsilon(_orders(), total, delta)
    return max(0.0, float(epsilon)), float(order)


@lru_cache(maxsize=1)
def _orders() -> npt.NDArray[np.float64]:
    """The orders that `dp_accounting` knows, ascending."""
    from dp_accounting.rdp import rdp_privacy_accountant

    return np.asarray(rdp_privacy_accountant.DEFAULT_RDP_ORDERS, np.float64)


def _price(orders: npt.NDArray[np.float64], delta: float) -> npt.NDArray[np.float64]:
    """What turning a Renyi divergence of each order into an epsilon adds to it."""
    return np.asarray(np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1), np.float64)


def epsilon_rdp(counts: Counts, delta: float) -> float:
    """Epsilon by Renyi DP; 0 for nothing, `inf` as soon as one release had no noise.

    Source: Mironov, Talwar, Zhang 2019, arXiv:1908.10530; conversion of Canonne et al. 2020, arXiv:2004.00010;
    random stopping: Papernot and Steinke 2021, arXiv:2110.03620.
    """
    check_delta(delta)
    group = grouped(counts)
    if group is None:
        return math.inf
    return _best(group, delta)[0] if group else 0.0


def best_order(counts: Counts, delta: float) -> float | None:
    """The Renyi order at which `counts` cost least; None when they cost nothing or have no finite cost."""
    check_delta(delta)
    group = grouped(counts)
    if not group:
        return None
    epsilon, order = _best(group, delta)
    return order if math.isfinite(epsilon) else None


def epsilon_at_order(counts: Counts, delta: float, order: float) -> float:
    """Epsilon by Renyi DP at one order fixed beforehand: what a filter for adaptively chosen events goes by.

    Args:
        counts: what was released, and how often.
        delta: probability with which the bound may fail.
        order: one of `dp_accounting`'s default orders, declared before the first release.

    Raises:
        ValueError: an order that is not among them.

    Source: Feldman and Zrnic 2021, arXiv:2008.11193, section 4 (the filter); Canonne et al. 2020, arXiv:2004.00010,
    proposition 12 (the conversion).
    """
    check_delta(delta)
    places = np.flatnonzero(_orders() == order)
    if not len(places):
        raise ValueError(f"order {order} is not among the accountant's")
    group = grouped(counts)
    if group is None:
        return math.inf
    if not group:
        return 0.0
    divergence = sum(count * float(_curve(event)[places[0]]) for event, count in group)
    return max(0.0, divergence + float(_price(_orders()[places], delta)[0]))


def widest_order(epsilon: float, delta: float) -> float:
    """The order at which a budget lets most Gaussian noise-to-signal through: for campaigns that declare no plan.

    A Gaussian's divergence is proportional to the order. The best order of a Gaussian that costs exactly `epsilon` by
    Renyi DP is the one that leaves most per order, once the price of turning divergence into epsilon is paid.

    Args:
        epsilon: of the campaign, above 0.
        delta: of the campaign.
    """
    check_delta(delta)
    left = (epsilon - _price(_orders(), delta)) / _orders()
    # A budget too small for any Gaussian at these orders is spent on pure releases, if at all.
    return float(_orders()[np.argmax(left)])
