"""From privacy events to epsilon: the figures that are published, against either observer.

Against an outsider it is PLD (privacy loss distributions, `dp_accounting`): an upper bound within about 1e-3 of the
truth. Renyi DP (`renyi`) is looser; it alone knows random stopping, so that it is published where tuning used it. A
closed formula covers the observer from whom sampling hides nothing. `cross_check` recomputes both with other people's
code. The central-limit approximation (GDP) is not offered: it reports too little.

Third-party accountants are imported when first used, so that a phone can import this package without them. Results are
cached: accounting is a pure function of (events, delta).
"""

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from sottovoce.privacy.composition import Counts, Group, Private, check_delta, grouped
from sottovoce.privacy.events import (
    MICRO,
    Gaussian,
    Noisy,
    PoissonGaussian,
    Pure,
    RepeatAndSelect,
    TruncatedPoissonGaussian,
)
from sottovoce.privacy.renyi import epsilon_rdp

Accountant = Literal["PLD", "Renyi DP"]

FINE, COARSE, WIDE = 1e-4, 1e-3, 1e-2
"""Grid widths of the privacy loss: the published figure, progress displays, losses too large to matter."""


@lru_cache(maxsize=64)
def _loss(event: Noisy | Pure, width: float) -> Any:
    """Privacy loss distribution of one event, on a grid of `width`."""
    from dp_accounting.pld import common, privacy_loss_distribution
    from dp_accounting.privacy_accountant import NeighboringRelation

    if isinstance(event, Pure):
        return privacy_loss_distribution.from_privacy_parameters(
            common.DifferentialPrivacyParameters(event.micro_epsilon / MICRO, 0.0), value_discretization_interval=width
        )
    if isinstance(event, TruncatedPoissonGaussian):
        return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=event.population,
            sampling_probability=event.sampling_rate,
            truncated_batch_size=event.cap,
            noise_multiplier=event.noise_multiplier,
            value_discretization_interval=width,
            neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
        )
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=event.noise_multiplier,
        value_discretization_interval=width,
        sampling_prob=_rate(event),
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )


def _rate(event: PoissonGaussian | Gaussian) -> float:
    """Chance of a device to take part."""
    return event.sampling_rate if isinstance(event, PoissonGaussian) else 1.0


@lru_cache(maxsize=1024)
def _pld(group: tuple[tuple[Noisy | Pure, int], ...], delta: float, width: float) -> float:
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

    Raises:
        ValueError: random stopping is among the events, which only Renyi DP knows: see `published`.

    Source: Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380 (the grid).
    """
    check_delta(delta)
    group = grouped(counts)
    if group is None:
        return math.inf
    if not group:
        return 0.0
    plain = tuple((event, count) for event, count in group if not isinstance(event, RepeatAndSelect))
    if len(plain) < len(group):
        raise ValueError("random stopping has no privacy loss distribution; ask `published`")
    if any(isinstance(event, TruncatedPoissonGaussian) for event, _ in plain):
        # Each of its losses takes seconds on the finest grid, and gains less than 1e-4 there.
        finest = max(finest, COARSE)
    rough = epsilon_rdp(group, delta)
    return _pld(plain, delta, max(finest, FINE if rough <= 60 else COARSE if rough <= 300 else WIDE))


def published(counts: Counts, delta: float, finest: float = FINE) -> tuple[float, Accountant]:
    """The epsilon to publish against an outsider, and how it was computed: PLD where it can be, else Renyi DP.

    What holds against an observer who knows more, for a device in every release, holds against an outsider: the figure
    without sampling is taken when it is the smaller one.
    """
    group = grouped(counts)
    if group is not None and any(isinstance(event, RepeatAndSelect) for event, _ in group):
        return epsilon_rdp(group, delta), "Renyi DP"
    return min(epsilon_pld(counts if group is None else group, delta, finest), _unsampled(group, delta)), "PLD"


def epsilon_without_sampling(counts: Counts, delta: float, participations: int | None = None) -> float:
    """Epsilon for an observer who knows in which rounds a device took part: exact for Gaussians, no amplification.

    k Gaussian releases with multipliers z_1 ... z_k are one with multiplier (sum of z_i**-2)**-1/2. Pure releases add
    their epsilons. Random stopping is composed by Renyi DP.

    Args:
        counts: what was released, and how often.
        delta: probability with which the bound may fail.
        participations: most rounds any one device took part in; the k Gaussian releases with the least noise are then
            taken. None: every round.

    Raises:
        ValueError: `participations` is negative.

    Source: Balle and Wang 2018, arXiv:1805.06530, theorem 8.
    """
    check_delta(delta)
    if participations is not None and participations < 0:
        raise ValueError(f"participations must be 0 or more, got {participations}")
    group = grouped(counts)
    if group is None:
        return 0.0 if participations == 0 else math.inf
    if participations is None:
        return _unsampled(group, delta)
    kept: list[tuple[Private, int]] = [pair for pair in group if isinstance(pair[0], Pure | RepeatAndSelect)]
    left = participations
    noisy = [(event, count) for event, count in group if not isinstance(event, Pure | RepeatAndSelect)]
    for event, count in sorted(noisy, key=lambda pair: pair[0].noise_multiplier):
        kept.append((event, min(count, left)))
        left -= min(count, left)
    return _unsampled(tuple(kept), delta)


def _unsampled(group: Group | None, delta: float) -> float:
    """Epsilon of a device that took part in everything, for an observer who knows it."""
    if group is None:
        return math.inf
    precision, pure = 0.0, 0
    selected: list[tuple[Private, int]] = []
    for event, count in group:
        if isinstance(event, Pure):
            pure += count * event.micro_epsilon
        elif isinstance(event, RepeatAndSelect):
            inner = Gaussian(noise_multiplier=event.event.noise_multiplier)
            selected.append(
                (RepeatAndSelect(event=inner, rounds=event.rounds, mean=event.mean, shape=event.shape), count)
            )
        else:
            precision += count * event.noise_multiplier**-2
    if selected:
        if precision:
            selected.append((Gaussian(noise_multiplier=precision**-0.5), 1))
        return epsilon_rdp(selected, delta) + pure / MICRO
    return _gaussian_epsilon(math.sqrt(precision), delta) + pure / MICRO


@lru_cache(maxsize=1024)
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
