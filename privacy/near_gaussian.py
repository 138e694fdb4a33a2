"""What a sum of discrete Gaussians is worth: the Gaussian release that costs no less, by a proof without estimates.

Nodes add n discrete Gaussians of standard deviation sigma to every one of d whole numbers. Let s**2 = n sigma**2, P the
law of such a sum, Q that of a rounded continuous Gaussian of deviation s. Whole numbers plus Q are a rounding of the
Gaussian mechanism: (D / s)-GDP for a sensitivity of D. P is held against Q in three steps.

1. P against one discrete Gaussian of variance s**2. Adding the (k + 1)-th completes a square: the law changes from the
   discrete Gaussian of its variance by a sum of exp(-(x - c)**2 / (2 h**2)) over all whole x, h**2 = sigma**2 k / (k +
   1), which depends on c by a factor within 1 +- 2.01 exp(-2 pi**2 h**2) (Poisson summation). So the logarithm of the
   ratio of the two probabilities is at most tau = 10 (sum over k = 1 ... n - 1 of exp(-2 pi**2 sigma**2 k / (k + 1))).
2. The discrete Gaussian against Q. Q at k is the mean of the density over k - 1/2 ... k + 1/2. With x = k / s it is at
   least 1 - 1 / (24 s**2) times the density at k, as exp(-u) >= 1 - u and cosh >= 1, and at most exp(x**2 / (24 s**2))
   times, as sinh(w) / w <= exp(w**2 / 6). The sum that normalises the discrete Gaussian is within 1 + 2.01 exp(-2 pi**2
   s**2) of the integral. Over d numbers the logarithm of the ratio is therefore at most

       epsilon_0 = (sum of x**2 + 1.01 d) / (24 s**2) + d (tau + 3 exp(-2 pi**2 s**2)).

   The sum of x**2 exceeds 2 d ln 2 + 512 ln 2 with a chance below 2**-127 under either law: the mean of exp(x**2 / 4)
   is at most sqrt(2) exp(1 / (11 s**2)), and Markov's inequality gives 2**-128 exp(d / (11 s**2)), for d <= 7 s**2.
3. A ratio within exp(+-epsilon_0) moves the odds of any event by a factor of exp(2 epsilon_0) at most, and so its
   quantile in standard deviations by 2 epsilon_0 sqrt(2 pi) / 4: the derivative p (1 - p) / phi of the one by the other
   is largest at p = 1/2. mu-GDP bounds the difference of two such quantiles, each of which moves so far:

       mu = D / s + sqrt(2 pi) epsilon_0.

So the sum is within total variation 2**-127 of one that is mu-GDP: the law that is P where the sum of x**2 is small,
and Q elsewhere. `worth` is 1 / mu, and a ledger that charges a Gaussian of that multiplier charges enough for that law,
by whichever formula for Gaussians, also over rounds that depend on one another. What is not charged adds at most (1 +
e**epsilon) 2**-127 to delta for each round: below 1e-17 for a thousand rounds up to epsilon 40, and not to be neglected
beyond 60. Concentrated DP alone would not do: it does not imply the Gaussian's curve of epsilon and delta.

Sources: Dong, Roth, Su 2019, arXiv:1905.02383 (GDP and its composition); Kairouz, Liu, Steinke 2021, arXiv:2102.06387
(tau, and a bound by concentrated DP). Steps 2 and 3 are our own: `tests/privacy/test_near_gaussian.py` holds all three
against exact sums.
"""

import math

LEAST_SCALE = 8.0
"""Steps 1 and 2 are proven from here on."""

_SQUARES = 2 * math.log(2)
_TAIL = 512 * math.log(2)


def tau(parts: int, scale: float) -> float:
    """By what factor, exp(tau), a sum of discrete Gaussians may differ from the discrete Gaussian of its variance.

    Args:
        parts: n, how many are added up.
        scale: sigma of each, in cells.
    """
    return 10 * sum(math.exp(-2 * (math.pi * scale) ** 2 * k / (k + 1)) for k in range(1, parts))


def drift(scale: float, least: int, most: int, size: int) -> float:
    """epsilon_0: how far, as a logarithm, the noise is from rounded Gaussian noise, for all numbers of a sum together.

    Args:
        scale: sigma of each node's noise, in cells.
        least: nodes whose noise counts, at least.
        most: and at most.
        size: d, how many numbers the sum has.

    Raises:
        ValueError: a scale for which nothing is proven.
    """
    if scale < LEAST_SCALE:
        raise ValueError(f"noise of {scale} cells a node, {LEAST_SCALE} are needed")
    variance = least * scale**2
    squares = (_SQUARES + 1.01) * size + _TAIL
    return squares / (24 * variance) + size * (tau(most, scale) + 3 * math.exp(-2 * math.pi**2 * variance))


def worth(sensitivity: float, scale: float, parts: int, size: int) -> float:
    """The noise multiplier of a Gaussian release that costs no less than a sum of discrete Gaussians does.

    Args:
        sensitivity: D, largest L2 change by one device, in cells.
        scale: sigma of each node's noise, in cells.
        parts: nodes that added noise, 1 or more.
        size: d, how many numbers the sum has.

    Raises:
        ValueError: a scale, or a size for that scale, for which nothing is proven.
    """
    if size > 7 * parts * scale**2:
        raise ValueError(f"{size} numbers are too many for noise of {scale} cells from {parts} nodes")
    plain = sensitivity / (math.sqrt(parts) * scale)
    return 1 / (plain + math.sqrt(2 * math.pi) * drift(scale, parts, parts, size))
