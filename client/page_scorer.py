"""Scores from the page alone, out of a table: what chooses when the model worked yesterday and does not today.

The table is asked of the model itself while it works, once for each catalogue, so nothing more travels in the bundle
and no person is in it: each ad with an empty history and a page that is not known, and each kind of ad (its campaign's
categories) once more with each value of each page feature. In log odds,

    score(ad, page) = base(ad) + sum over page features of effect(value, kind of ad),

where an effect is the mean over a few ads of that kind. For a model that is linear in page and ad this is the model;
for any other one it is the part of it that counts page features one by one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.features import Encoder
from sottovoce.client.personal import Floats, logit, sigmoid
from sottovoce.client.scorer import Scorer, ask
from sottovoce.models.request import Scores, without_twins
from sottovoce.models.schema import Ids
from sottovoce.privacy.errors import DeviceError

SAMPLE = 4
"""Ads of each kind that an effect is the mean of."""

MOST_SCORED = 65_536
"""Scores that the table may cost; page features with the most values are left out first."""

_GOLDEN = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: its powers spread whole numbers over 64 bits. Source: Knuth, TAOCP 3, 6.4."""

Keys = npt.NDArray[np.int64]


class _Effect(NamedTuple):
    """Of one page feature: its column of the context, its first row, and (values, kinds, heads) log odds."""

    column: int
    first: int
    moves: Floats


class PageScorer:
    """See the module; a `Scorer` that reads the page and the ads, and nothing else. Make it with `page_scorer`.

    Args:
        keys: (D,) of the different ads, rising.
        base: (D, heads) log odds.
        kind: (D,) of ad.
        effects: of page features.
    """

    def __init__(self, keys: Keys, base: Floats, kind: npt.NDArray[np.intp], effects: Sequence[_Effect]) -> None:
        self._keys, self._base, self._kind, self._effects = keys, base, kind, tuple(effects)

    def scores(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:  # noqa: ARG002 - the person is not looked at
        """See `Scorer.scores`.

        Raises:
            DeviceError: an ad that was not in the catalogue.
        """
        asked = _keys(ad)
        place = np.minimum(np.searchsorted(self._keys, asked), len(self._keys) - 1)
        if (self._keys[place] != asked).any():
            raise DeviceError("the page table does not know an ad", "make it again from the catalogue in use")
        odds = self._base[place]
        for column, first, moves in self._effects:
            value = int(context[0, column]) - first
            if 0 <= value < len(moves):
                odds = odds + moves[value, self._kind[place]]
        return sigmoid(odds).astype(np.float32)


def page_scorer(encoder: Encoder, scorer: Scorer, catalogue: Catalogue) -> PageScorer:
    """The table of one model and one catalogue; some 20 ms for a thousand ads, so not at a request.

    Args:
        encoder: of the model's schema and the catalogue.
        scorer: the model.
        catalogue: all ads.

    Raises:
        DeviceError: there are no ads, or the model cannot score them.
    """
    if not catalogue.ads:
        raise DeviceError("there are no ads to make a page table of", "make it when the catalogue has some")
    schema = encoder.schema
    ads, like = without_twins(encoder.ads(np.arange(len(catalogue.ads))))
    _, some = np.unique(like, return_index=True)
    kinds: dict[tuple[str, ...], int] = {}
    named = [catalogue.campaign[catalogue.ads[place].cid].cat for place in some.tolist()]
    kind = np.asarray([kinds.setdefault(categories, len(kinds)) for categories in named], np.intp)
    keys = _keys(ads)
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        raise DeviceError("two ads cannot be told apart by the page table", "go on without it")
    events = np.zeros((schema.history_length, len(schema.history)), np.int32)
    outcomes = np.zeros(schema.history_length, np.int32)

    def odds(context: Ids, rows: Ids) -> Floats:
        return logit(ask(scorer, context, events, outcomes, rows).astype(np.float64))

    nothing = np.zeros((1, len(schema.context)), np.int32)
    base = odds(nothing, ads)
    sample = np.concatenate([np.flatnonzero(kind == one)[:SAMPLE] for one in range(len(kinds))])
    effects, left = [], MOST_SCORED
    for column in sorted(encoder.page_columns, key=lambda one: schema.context[one].buckets):
        feature = schema.context[column]
        left -= feature.buckets * len(sample)
        if left < 0:
            break
        first = schema.offsets[feature.name]
        moves = np.empty((feature.buckets, len(kinds), base.shape[1]))
        for value in range(feature.buckets):
            page = nothing.copy()
            page[0, column] = first + value
            moved = odds(page, ads[sample]) - base[sample]
            for head in range(base.shape[1]):
                moves[value, :, head] = np.bincount(kind[sample], moved[:, head]) / np.bincount(kind[sample])
        effects.append(_Effect(column, first, moves))
    return PageScorer(keys[order], base[order], kind[order], effects)


def _keys(ad: Ids) -> Keys:
    """(N,) one number for each row."""
    powers = np.array([pow(_GOLDEN, place + 1, 2**64) for place in range(ad.shape[1])], np.uint64).astype(np.int64)
    # Wraps around on purpose: a hash.
    return np.asarray((ad.astype(np.int64) * powers).sum(axis=1))
