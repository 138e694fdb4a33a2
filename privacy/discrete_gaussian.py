"""Discrete Gaussian noise: whole numbers drawn exactly, with no floating-point number in any decision.

The scale is fixed at `SCALE` = 2**30 grid units. Every probability is then built from ratios of whole numbers whose
denominators are powers of two, so that whole numbers of 64 bits decide everything.

Why it counts as Gaussian noise. Let G be a Gaussian of standard deviation s grid units. Adding round(G) to a sum of
whole numbers gives round(sum + G), a function of what the Gaussian mechanism releases, so it has exactly that
mechanism's privacy, whatever the accountant. The discrete Gaussian differs from round(G) by next to nothing:

    with x = k/s and K ~ round(G): log P[round(G) = k] - log P[discrete = k] = (x**2 - 1) / (24 s**2) + O(s**-4)
    (the mean of the density over a unit cell), so KL = Var[x**2] / (2 * 24**2 * s**4) = 1 / (576 s**4) to first order.

At s = 2**30 that is 1.3e-39 a coordinate. KL adds up over coordinates and rounds, also when each round depends on the
last, so over 10**10 released numbers the total variation is at most sqrt(KL / 2) < 3e-15 (Pinsker), and delta grows by
at most 1 + exp(epsilon) times that: no accountant is as precise.

Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, algorithms 1 to 3.
"""

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.entropy import Source

SCALE_BITS = 30
SCALE = 1 << SCALE_BITS
"""Standard deviation of `discrete_gaussian`, in grid units; public, never derived from data."""

BLOCK = 2**16
"""Candidates drawn at a time: their arrays stay in the processor's cache."""

_Whole = npt.NDArray[np.uint64]
_Mask = npt.NDArray[np.bool_]

_ONE = 2**63
"""Probability 1: probabilities are whole numbers of units of 2**-63."""


def discrete_gaussian(source: Source, size: int, scale_bits: int = SCALE_BITS) -> npt.NDArray[np.int64]:
    """Independent draws of the discrete Gaussian N_Z(0, SCALE**2), shape (size,), in grid units.

    With another scale, 2**scale_bits, all that is said here of SCALE holds for it, but for the figures.

    Guarantees: the probability of k is proportional to exp(-k**2 / (2 SCALE**2)) exactly, if the bits are fair. The
    mean is 0; the variance falls short of SCALE**2 by less than a part in 10**100. Beyond 2**40 there is less than
    1e-200000 of the probability.

    Not promised: constant time. How long a draw takes says a little about it to whoever can measure that.

    Args:
        source: fair bits; about 110 bytes are taken for each number.
        size: how many numbers, 0 or more.
        scale_bits: 1 to 30.

    Raises:
        ValueError: a scale that 64 bits cannot decide on.
    """
    if not 1 <= scale_bits <= SCALE_BITS:
        raise ValueError(f"scale_bits must lie between 1 and {SCALE_BITS}, got {scale_bits}")
    return _draw(source, size, scale_bits)


def _draw(source: Source, size: int, scale_bits: int) -> npt.NDArray[np.int64]:
    """Algorithm 3 at scale s = t = 2**scale_bits, 1 <= scale_bits <= 30.

    A proposal Y is kept with probability exp(-a**2 / (2 s**2)), a = | |Y| - s |. With a = i * s + r and 0 <= r < s that
    is exp(-1/2)**(i*i) * exp(-r/s)**i * exp(-r**2 / (2 s**2)).
    """
    scale = 1 << scale_bits
    kept: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    missing = size
    while missing > 0:
        # About half of the candidates become a number; those left over are independent of those taken.
        proposals = _discrete_laplace(source, min(BLOCK, 2 * missing + 64), scale_bits)
        distance = np.abs(np.abs(proposals) - scale).astype(np.uint64)
        times, rest = distance >> np.uint64(scale_bits), distance & np.uint64(scale - 1)
        # The commonest reason to refuse first: the others then concern fewer proposals.
        keep = _exp_minus(source, rest * rest << np.uint64(62 - 2 * scale_bits))
        for gamma, power in ((rest << np.uint64(63 - scale_bits), times), (np.full_like(rest, _ONE // 2), times**2)):
            keep[keep] = _exp_minus_power(source, gamma[keep], power[keep])
        kept.append(proposals[keep][:missing])
        missing -= len(kept[-1])
    return np.concatenate(kept)


def _discrete_laplace(source: Source, candidates: int, scale_bits: int) -> npt.NDArray[np.int64]:
    """Algorithm 2 at scale t = 2**scale_bits: P[k] in proportion to exp(-|k| / t); the survivors of `candidates`."""
    words = source.bits(candidates)
    # One word gives the low part of the size, from its low bits, and the sign, from its top bit.
    low = words & np.uint64((1 << scale_bits) - 1)
    alive = np.flatnonzero(_exp_minus(source, low << np.uint64(63 - scale_bits)))
    size = low[alive] + (_geometric(source, len(alive)) << np.uint64(scale_bits))
    negative = words[alive] >> np.uint64(63) == 1
    # Zero has one sign only, or it would come up twice as often as it should.
    once = ~(negative & (size == 0))
    signed: npt.NDArray[np.int64] = size[once].astype(np.int64)
    signed[negative[once]] *= -1
    return signed


def _geometric(source: Source, size: int) -> _Whole:
    """How often Bernoulli(exp(-1)) succeeds before it fails, shape (size,)."""
    runs = np.zeros(size, np.uint64)
    alive = np.arange(size)
    while len(alive):
        alive = alive[_exp_minus(source, np.full(len(alive), _ONE, np.uint64))]
        runs[alive] += np.uint64(1)
    return runs


def _exp_minus_power(source: Source, gamma: _Whole, power: _Whole) -> _Mask:
    """Bernoulli(exp(-gamma)**power): `power` successes in a row; gamma in units of 2**-63."""
    success = np.ones(len(gamma), np.bool_)
    alive = np.flatnonzero(power)
    left = power[alive]
    while len(alive):
        again = _exp_minus(source, gamma[alive])
        success[alive[~again]] = False
        left = left - np.uint64(1)
        again &= left > 0
        alive, left = alive[again], left[again]
    return success


def _exp_minus(source: Source, gamma: _Whole) -> _Mask:
    """Bernoulli(exp(-gamma)), algorithm 1: gamma in units of 2**-63, 0 <= gamma <= 1, shape of `gamma`.

    Bernoulli(gamma / k) for k = 1, 2, ... until one fails; the answer is whether that k is odd.
    """
    success = np.ones(len(gamma), np.bool_)
    alive = np.arange(len(gamma))
    k = 1
    while len(alive):
        alive = alive[_below(source, gamma[alive], k)]
        success[alive] = k % 2 == 0
        k += 1
    return success


def _below(source: Source, gamma: _Whole, k: int) -> _Mask:
    """Bernoulli(gamma / k), gamma in units of 2**-63: whether a uniform real number lies below it.

    63 bits of that number decide, unless they equal those of gamma / k; then the rest of it decides.
    """
    words = source.bits(len(gamma)) >> np.uint64(1)
    threshold = gamma // np.uint64(k)
    below = words < threshold
    for tie in np.flatnonzero(words == threshold):
        below[tie] = _uniform_below(source, k) < int(gamma[tie]) % k
    return below


def _uniform_below(source: Source, k: int) -> int:
    """0 ... k - 1, each as likely as any other: words past the last multiple of k are drawn again."""
    while (word := int(source.bits(1)[0])) >= 2**64 - 2**64 % k:
        pass
    return word % k
