"""What an ad is worth beyond what it pays: cheap clicks that come to nothing, and ads that tire people, do not win.

    worth = value + conversion_worth * P(click) * P(conversion | click)
                  - dismissal_cost * P(dismissal) - repeat_cost * (recent impressions of its campaign)

`value` is the auction's (`auction.value`), per thousand impressions; so is every term. Ads are ranked by worth. What is
held against the floor of the place, and what an ad can pay at most, stay its value: the terms move the rank only.

The chance of a dismissal comes from the device's own log: the share of the category's impressions that were dismissed,
drawn towards the person's share over all ads, and that one towards `usual_dismissals`, as if each had been seen for
`strength` impressions more. With the default settings every term is 0 and nothing is refused.

Amounts are whole micro-units and chances millionths, each term rounded down, so that every runtime ranks alike.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sottovoce.client.auction import INCREMENT, MICRO, millionths
from sottovoce.client.reasons import Loss

Whole = npt.NDArray[np.int64]
Amount = Annotated[float, Meta(ge=0, le=1000)]
Chance = Annotated[float, Meta(ge=0, le=1)]

MOST_REPEATS = 1000
"""Impressions of one campaign just now; more count as that many."""


class QualityRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What counts besides money; every default is off.

    Attributes:
        conversion_worth: of one expected conversion, in the catalogue's currency, whoever pays for what.
        dismissal_cost: of one expected dismissal.
        repeat_cost: of one impression of the same campaign just before, for one more; it halves every `half_life_s`.
        least_quality: least P(conversion | click) of an ad, whatever it pays; needs a model with a conversion head.
        usual_dismissals: share of impressions that people dismiss, before anything is known of this person.
        strength: impressions that this share and the person's own count for.
        half_life_s: seconds.
    """

    conversion_worth: Amount = 0.0
    dismissal_cost: Amount = 0.0
    repeat_cost: Amount = 0.0
    least_quality: Chance = 0.0
    usual_dismissals: Chance = 0.01
    strength: Annotated[float, Meta(ge=1, le=10_000)] = 20.0
    half_life_s: Annotated[int, Meta(ge=60, le=8_640_000)] = 86_400


def dismissal_chances(rule: QualityRule, shown: Whole, dismissed: Whole) -> Whole:
    """Millionths for each category, shape (categories,).

    Args:
        rule: see `QualityRule`.
        shown: (categories,) impressions on this device.
        dismissed: (categories,) dismissals; more of them than impressions count as all.
    """
    shown = np.maximum(shown, 0).astype(np.int64)
    dismissed = np.clip(dismissed, 0, shown)
    overall = (dismissed.sum() + rule.strength * rule.usual_dismissals) / (shown.sum() + rule.strength)
    share = (dismissed + rule.strength * overall) / (shown + rule.strength)
    return np.asarray(np.floor(share * MICRO), np.int64)


def recent(rule: QualityRule, ages_s: Iterable[float]) -> int:
    """Recent impressions of one campaign in millionths: one just now counts 1, one a half-life ago a half.

    Args:
        rule: see `QualityRule`.
        ages_s: seconds since each; one that lies in the future counts as just now, since clocks are set back.
    """
    total = sum(0.5 ** (max(age, 0.0) / rule.half_life_s) for age in ages_s)
    return millionths(min(total, MOST_REPEATS))


def click_part(rule: QualityRule, chances: Whole) -> Whole:
    """Part of the term that is proportional to P(click), micro-units per thousand impressions, shape (n,).

    Args:
        rule: see `QualityRule`.
        chances: (n, heads) millionths: click, and conversion given a click where the model has it.
    """
    if not rule.conversion_worth or chances.shape[1] < 2:
        return np.zeros(len(chances), np.int64)
    clicked = 1000 * millionths(rule.conversion_worth) * chances[:, 0] // MICRO
    return np.asarray(clicked * chances[:, 1] // MICRO)


def long_term(rule: QualityRule, chances: Whole, dismissals: Whole, repeats: Whole) -> Whole:
    """The term, micro-units per thousand impressions, shape (n,): what is added to the auction's values.

    Args:
        rule: see `QualityRule`.
        chances: (n, heads) millionths, as in `click_part`.
        dismissals: (n,) millionths, of each ad's category, from `dismissal_chances`.
        repeats: (n,) millionths, of each ad's campaign, from `recent`.
    """
    dismissed = 1000 * millionths(rule.dismissal_cost) * dismissals // MICRO
    # 1000 / MICRO as one division: the product of both would not fit into 64 bits.
    repeated = millionths(rule.repeat_cost) * np.minimum(repeats, MOST_REPEATS * MICRO) // (MICRO // 1000)
    return np.asarray(click_part(rule, chances) - dismissed - repeated, np.int64)


def refused(rule: QualityRule, chances: Whole, values: Whole, terms: Whole) -> Whole:
    """Loss code of each ad that the rule refuses, 0 for the others, shape (n,).

    Args:
        rule: see `QualityRule`.
        chances: (n, heads) millionths; without a conversion head nothing is refused for its quality.
        values: (n,) of the auction.
        terms: (n,) from `long_term`.
    """
    codes = np.where(values + terms < 0, Loss.NOT_WORTH_SHOWING, 0).astype(np.int64)
    if chances.shape[1] > 1:
        codes[chances[:, 1] < millionths(rule.least_quality)] = Loss.LOW_QUALITY
    return codes


def price(value: int, worth: int, behind: Sequence[int], floor: int, at: int) -> int:
    """What the shown ad pays, micro-units per thousand impressions: never more than its value, never below the floor.

    First price: its value. Second price plus: the least value with which it would still have been ranked above the
    best of another seat that stands behind it, and 0.01 more; its own term counts for it or against it. With all terms
    0 this is what `auction.sell` asks.

    Args:
        value: its own, at least `floor`.
        worth: its own value and term.
        behind: worth of each ad of another seat that is ranked behind it; may be empty.
        floor: of the place.
        at: 1 first price, 2 second price plus.

    Raises:
        ValueError: an unknown auction type.
    """
    if at not in (1, 2):
        raise ValueError(f"auction type {at} is neither 1 nor 2")
    if at == 1:
        return value
    least = max(behind) + INCREMENT - (worth - value) if behind else 0
    return min(value, max(floor, least))
