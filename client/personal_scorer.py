"""The personal layer on the phone: fitted on the device's own impressions, added to what the shared model says.

The impressions are scored as they were met, each with the ones before it as its history; the same was done where the
model was evaluated (`client.scoring.personal_offsets`).
"""

from collections.abc import Sequence

import numpy as np

from sottovoce.client.features import Inputs
from sottovoce.client.personal import offsets, shifted
from sottovoce.client.scorer import Scorer, ask
from sottovoce.models.request import Scores
from sottovoce.models.schema import Ids


def fitted_offset(scorer: Scorer, past: Sequence[Inputs], clicked: Sequence[bool], variance: float) -> float:
    """What this device adds to every click logit; 0 when it remembers nothing.

    Args:
        scorer: the shared model.
        past: one request for each impression, its ad the only candidate.
        clicked: whether it was clicked or acted on.
        variance: of the offsets among people, above 0.

    Raises:
        DeviceError: the model cannot score the past.
    """
    if not past:
        return 0.0
    asked = [ask(scorer, one.context, one.events, one.outcomes, one.ad)[0, 0] for one in past]
    owner = np.zeros(len(asked), np.int64)
    chances, clicks = np.asarray(asked, np.float64), np.asarray(clicked, np.int64)
    return float(offsets(chances, clicks, owner, 1, variance)[0])


class PersonalScorer:
    """The shared model with the offset of one device; see `Scorer`.

    A request without history is scored by the shared model alone: what the device remembers is all that the offset is
    made of, so that "without history" in an explanation means without it too.

    Args:
        scorer: the shared model.
        offset: from `fitted_offset`.
    """

    def __init__(self, scorer: Scorer, offset: float) -> None:
        self._scorer, self._offset = scorer, offset

    def scores(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        """See `Scorer.scores`."""
        scores = self._scorer.scores(context, events, outcomes, ad)
        if not outcomes.any():
            return scores
        moved = scores.copy()
        moved[:, 0] = shifted(scores[:, 0].astype(np.float64), self._offset)
        return moved
