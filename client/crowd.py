"""How many combinations a creative may have, so that which one is shown does not single out a person.

The danger: a device that learned what its person likes shows a combination that hardly anybody else is shown. Whoever
sees the screen, or is sent a picture of it, would then know something. Three things stand against that:

1. The list of combinations is the same on all devices; a device cannot make one up.
2. With probability epsilon a device ignores everything it learned and draws uniformly among the C combinations. Devices
   draw independently. Of N devices that show the creative, the number that show a given combination for no reason of
   their own is Binomial(N, epsilon / C), whatever the others learned.
3. C is so small that this number is below k, for any combination at all, with probability at most `MISS`:

       N epsilon / C >= k + L + sqrt(L^2 + 2 k L),   L = ln(C / MISS)

   by Chernoff's bound for the lower tail, P(X <= (1 - t) m) <= exp(-m t^2 / 2), and a union bound over combinations.

What this is not: a bound on what many showings to one person tell together, or on what a reader of one showing may
guess. One showing moves the odds of any two beliefs about the person by at most `odds`, and n showings by its n-th
power. Nothing about a combination leaves the device here; counting them is the measurement's business, under its
budget.

Source: Mitzenmacher and Upfal, Probability and Computing, theorem 4.5 (Chernoff).
"""

import math

MOST = 256
"""Most combinations of one creative, however large the crowd."""

MISS = 1e-6
"""Chance that any combination has too small a crowd."""


def most_combinations(audience: int, epsilon: float, crowd: int = 50) -> int:
    """The largest C that keeps the promise, 1 ... 256. One combination is always allowed: it tells nothing.

    Args:
        audience: N, fewest devices that will show the creative.
        epsilon: share of showings that are drawn uniformly, 0 ... 1.
        crowd: k, fewest devices that show each combination for no reason of their own.

    Raises:
        ValueError: a number out of range.
    """
    if audience < 0 or not 0 <= epsilon <= 1 or crowd < 1:
        raise ValueError("needs audience >= 0, 0 <= epsilon <= 1, crowd >= 1")
    for count in range(min(MOST, int(audience * epsilon / crowd)), 1, -1):
        spread = math.log(count / MISS)
        if audience * epsilon / count >= crowd + spread + math.sqrt(spread * spread + 2 * crowd * spread):
            return count
    return 1


def odds(count: int, epsilon: float) -> float:
    """How much one showing can change the odds between two beliefs about the person: the largest ratio of chances.

    Args:
        count: C combinations.
        epsilon: share drawn uniformly; 0 leaves no bound.
    """
    return 1.0 if count == 1 else math.inf if epsilon == 0 else (1 - epsilon + epsilon / count) / (epsilon / count)
