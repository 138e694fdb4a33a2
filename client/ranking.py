"""What the ranking of one catalogue goes by besides money: what tires a person, what they asked for, what they like.

Reads only the events it is given: those that the model may see, and none where the page alone chooses.
"""

from dataclasses import replace
from datetime import datetime

import numpy as np

from sottovoce.client import value
from sottovoce.client.auction import MICRO, millionths
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.columns import Columns, Ints, Places
from sottovoce.client.controls import Controls
from sottovoce.client.events import EventLog, micros
from sottovoce.client.exploration import Candidates
from sottovoce.client.offers import Offers, weighed
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.posterior import Posterior, arm_of
from sottovoce.client.value import QualityRule

_NOTHING_LEARNT = Posterior()
_SECOND = 1_000_000


class Ranking:
    """Ranks by the policy of one app.

    Args:
        catalogue: all campaigns.
        columns: of this catalogue.
        policy: of the app.
    """

    def __init__(self, catalogue: Catalogue, columns: Columns, policy: PickerPolicy) -> None:
        self._catalogue, self._columns, self._policy = catalogue, columns, policy
        self._tires = bool(policy.quality.dismissal_cost or policy.quality.repeat_cost)
        self._counts = policy.quality != QualityRule()
        self._arms = [arm_of(campaign) for campaign in catalogue.campaigns]
        number = {name: place for place, name in enumerate(dict.fromkeys(self._arms))}
        self._arm = np.asarray([number[name] for name in self._arms], np.int64)
        self._place = {campaign.cid: place for place, campaign in enumerate(catalogue.campaigns)}
        self._taken: tuple[EventLog, Ints, Ints, Ints] = EventLog(), *_told([])
        self._wished: tuple[Controls, Ints] | None = None

    def ranked(self, offers: Offers, seen: EventLog, controls: Controls, now: datetime) -> Offers:
        """The offers with what they are worth by the policy, and with codes for those it refuses.

        Args:
            offers: by money alone.
            seen: events that may be used.
            controls: of the person.
            now: with time zone.
        """
        campaign = self._columns.campaign[offers.ads]
        if self._counts:
            offers = self._long_term(offers, campaign, seen, now)
        if controls.interests:
            weight = self._weights(controls)[campaign]
            offers = replace(offers, weight=weight, worth=weighed(offers.worth, weight))
        return offers

    def candidates(self, offers: Offers, rows: Places, posterior: Posterior | None) -> Candidates:
        """Some of the offers as exploration sees them.

        The expected offset of the click logit is not in the chances: what one person likes decides how often an ad is
        drawn, and nobody's price.

        Args:
            offers: ranked.
            rows: best first.
            posterior: of the person; None where it may not be read.
        """
        campaign = self._columns.campaign[offers.ads[rows]]
        chances = offers.chances[rows]
        moving = np.where(self._columns.pricing[campaign] == 0, 0, offers.value[rows])
        moving = weighed(moving + value.click_part(self._policy.quality, chances), offers.weight[rows])
        names = [self._arms[place] for place in campaign.tolist()]
        arm, mean, variance = (posterior or _NOTHING_LEARNT).beliefs(names)
        return Candidates(offers.value[rows], offers.worth[rows], moving, chances[:, 0] / MICRO, arm, mean, variance)

    def _long_term(self, offers: Offers, campaign: Places, seen: EventLog, now: datetime) -> Offers:
        rule = self._policy.quality
        dismissals = repeats = np.zeros(len(campaign), np.int64)
        if self._tires:
            shown, dismissed, times = self._events(seen)
            arms = int(self._arm.max()) + 1
            counts = [np.bincount(self._arm[places], minlength=arms) for places in (shown, dismissed)]
            dismissals = value.dismissal_chances(rule, counts[0], counts[1])[self._arm[campaign]]
            repeats = self._repeats(shown, times, now)[campaign]
        term = value.long_term(rule, offers.chances, dismissals, repeats)
        refused = value.refused(rule, offers.chances, offers.value, term)
        codes = np.where(offers.codes == 0, refused, offers.codes).astype(np.int16)
        return replace(offers, term=term, worth=offers.value + term, codes=codes)

    def _repeats(self, shown: Ints, times: Ints, now: datetime) -> Ints:
        """`value.recent` of every campaign at once."""
        ages = np.maximum(micros(now) - times, 0) / _SECOND
        size = len(self._arms)
        total = np.bincount(shown, 0.5 ** (ages / self._policy.quality.half_life_s), minlength=size)
        return np.asarray(np.rint(np.minimum(total, value.MOST_REPEATS) * MICRO), np.int64)

    def _events(self, seen: EventLog) -> tuple[Ints, Ints, Ints]:
        """Campaign of each impression, of each dismissal, and time of each impression; kept while the log grows."""
        kept, *before = self._taken
        if kept is not seen:
            known = len(kept.events)
            if seen.events[:known] != kept.events:
                known, before = 0, list(_told([]))
            told = [
                (self._place[event.cid], micros(event.ts), event.event == "dismiss")
                for event in seen.events[known:]
                if event.cid in self._place and event.event in ("impression", "dismiss")
            ]
            shown, dismissed, times = (np.concatenate(pair) for pair in zip(before, _told(told), strict=True))
            self._taken = seen, shown, dismissed, times
        return self._taken[1:]

    def _weights(self, controls: Controls) -> Ints:
        """(campaigns,) millionths."""
        if self._wished is None or self._wished[0] != controls:
            cattax, weights = self._catalogue.cattax, self._policy.interests
            factors = [controls.weight(campaign.cat, cattax, weights) for campaign in self._catalogue.campaigns]
            self._wished = controls, np.asarray([millionths(factor) for factor in factors], np.int64)
        return self._wished[1]


def _told(events: list[tuple[int, int, bool]]) -> tuple[Ints, Ints, Ints]:
    """Campaign, time and whether it was dismissed, as the columns that `Ranking` keeps."""
    campaign, time, dismissed = np.asarray(events, np.int64).reshape(-1, 3).T
    return campaign[dismissed == 0], campaign[dismissed == 1], time[dismissed == 0]
