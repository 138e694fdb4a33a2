"""What the long-term term does, in the synthetic market whose true chances are known.

Every visit is an auction over some eligible ads at their true chances, once by value alone and once by worth. Clicks
and conversions are the expected ones of the ads that win, so that the two differ by nothing but the rule.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.client import value
from sottovoce.client.auction import MICRO
from sottovoce.client.value import QualityRule
from sottovoce.simulations.market import DAY_S, DAYS, HOUR_PARTS, PRICINGS, VISITS, Market

Whole = npt.NDArray[np.int64]


class Earned(msgspec.Struct, frozen=True, kw_only=True):
    """Expected results of a thousand visits.

    Attributes:
        clicks: of the ads that were shown.
        conversions: of them.
        conversion_rate: conversions by click.
        value: in USD, what the shown ads offered.
        shown: visits with an ad.
    """

    clicks: float
    conversions: float
    conversion_rate: float
    value: float
    shown: float


def trial(market: Market, rule: QualityRule, visits: int = 2000, eligible: int = 40) -> Earned:
    """The market under a rule; the same visits and eligible ads for every rule.

    Args:
        market: its people, ads and chances.
        rule: dismissals and repeats are the same for all ads here, so only its quality settings matter.
        visits: how many, each of another person.
        eligible: ads that fit each visit.

    Raises:
        ValueError: no visit, or more eligible ads than there are.
    """
    if visits < 1 or not 1 <= eligible <= len(market.share):
        raise ValueError(f"needs visits >= 1 and 1 ... {len(market.share)} eligible ads, got {visits} and {eligible}")
    rng = market.stream(VISITS, 0)
    device = np.arange(visits)
    people = market.people(device)
    hour = rng.integers(0, DAYS * DAY_S, visits) % DAY_S // (DAY_S // HOUR_PARTS)
    context = market.contexts(rng, people, device, hour)
    ads = rng.random((visits, len(market.share))).argpartition(eligible - 1, axis=1)[:, :eligible]
    rows = np.repeat(device, eligible)
    truth = market.probabilities(people, rows, context[rows], ads.ravel())
    chances = np.rint(truth.astype(np.float64) * MICRO).astype(np.int64)
    values = _values(market, ads.ravel(), chances)
    none = np.zeros(len(rows), np.int64)
    terms = value.long_term(rule, chances, none, none)
    refused = value.refused(rule, chances, values, terms) != 0
    worth = np.where(refused, -1, values + terms).reshape(visits, eligible)
    best = np.arange(visits) * eligible + worth.argmax(1)
    won = best[worth.max(1) >= 0]
    clicks = chances[won, 0] / MICRO
    conversions = clicks * chances[won, 1] / MICRO
    return Earned(
        clicks=1000 * float(clicks.sum()) / visits,
        conversions=1000 * float(conversions.sum()) / visits,
        conversion_rate=float(conversions.sum() / clicks.sum()) if len(won) else 0.0,
        value=float(values[won].sum()) / MICRO / visits,
        shown=1000 * len(won) / visits,
    )


def _values(market: Market, ads: npt.NDArray[np.integer], chances: Whole) -> Whole:
    """As `auction.value`, for many ads at once."""
    campaign = market.campaign[ads]
    price = np.rint(market.price * MICRO).astype(np.int64)[campaign]
    heads = np.array([PRICINGS.index(name) for name in ("cpc", "cpa")])
    kind = market.pricing[campaign]
    clicked = 1000 * price * chances[:, 0] // MICRO
    # The auction divides once, by 10**12, which 64 bits do not hold; dividing twice is a micro-unit less at most.
    bought = 1000 * price * chances[:, 0] // MICRO * chances[:, 1] // MICRO
    return np.asarray(np.where(kind == heads[0], clicked, np.where(kind == heads[1], bought, price)))
