"""The personal layer on the phone: fitted on the device's own impressions, added to what the shared model says.

The impressions are scored as they were met, each with the ones before it as its history; the same was done where the
model was evaluated (`client.scoring.personal_offsets`).
"""

from collections.abc import Sequence

import numpy as np

from sottovoce.client.catalogue import FeatureValue
from sottovoce.client.events import EventLog
from sottovoce.client.features import Encoder, Inputs
from sottovoce.client.personal import NEWEST, offsets, shifted
from sottovoce.client.request import Request
from sottovoce.client.scorer import Scorer, ask, checked
from sottovoce.models.request import Scores
from sottovoce.models.schema import Ids

_ALONE = np.zeros(1, np.intp)


def fitted_offset(
    scorer: Scorer,
    past: Sequence[Inputs],
    clicked: Sequence[bool],
    variance: float,
    known: dict[bytes, float] | None = None,
) -> float:
    """What this device adds to every click logit; 0 when it remembers nothing.

    Args:
        scorer: the shared model.
        past: one request for each impression, its ad the only candidate.
        clicked: whether it was clicked or acted on.
        variance: of the offsets among people, above 0.
        known: chances that this scorer gave before, by what it was asked; those of `past` are left in it.

    Raises:
        DeviceError: the model cannot score the past.
    """
    if not past:
        return 0.0
    known = {} if known is None else known
    before = dict(known)
    known.clear()
    asked = []
    for one in past:
        key = b"".join(array.tobytes() for array in (one.context, one.events, one.outcomes, one.ad))
        if key not in known:
            chance = before.get(key)
            known[key] = chance if chance is not None else _chance(scorer, one)
        asked.append(known[key])
    owner = np.zeros(len(asked), np.int64)
    chances, clicks = np.asarray(asked, np.float64), np.asarray(clicked, np.int64)
    return float(offsets(chances, clicks, owner, 1, variance)[0])


def _chance(scorer: Scorer, one: Inputs) -> float:
    return float(ask(scorer, one.context, one.events, one.outcomes, one.ad, _ALONE)[0, 0])


class PersonalScorer:
    """The shared model with the offset of one device; see `Scorer`.

    A request without history is scored by the shared model alone: what the device remembers is all that the offset is
    made of, so that "without history" in an explanation means without it too.

    Args:
        scorer: the shared model.
        offset: from `fitted_offset`.

    Attributes:
        scorer, offset: as given.
    """

    def __init__(self, scorer: Scorer, offset: float) -> None:
        self.scorer, self.offset = scorer, offset

    def scores(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        """See `Scorer.scores`."""
        # Checked before it is moved: the sigmoid would turn any number into a probability.
        scores = checked(self.scorer.scores(context, events, outcomes, ad), len(ad))
        if not outcomes.any():
            return scores
        moved = scores.copy()
        moved[:, 0] = shifted(scores[:, 0].astype(np.float64), self.offset)
        return moved


class PersonalLayer:
    """The personal layer of one device over one model: fitted when it is asked for, and again when it would differ.

    Args:
        encoder: of the model's schema and the catalogue.
        scorer: the shared model.
        variance: of the offsets among people, above 0.
    """

    def __init__(self, encoder: Encoder, scorer: Scorer, variance: float) -> None:
        self._encoder, self._scorer, self._variance = encoder, scorer, variance
        self._known: dict[bytes, float] = {}
        self._kept: tuple[EventLog, dict[str, FeatureValue], PersonalScorer] | None = None

    def over(self, request: Request, log: EventLog) -> PersonalScorer:
        """The model with this device's offset in place.

        A log is another one when it is another object, as `EventLog.appended` makes it. Pages may change from request
        to request: only what the device is goes into the fit.

        Raises:
            DeviceError: the model cannot score the past.
        """
        device = self._encoder.device(request)
        if self._kept is None or self._kept[0] is not log or self._kept[1] != device:
            asked, clicked = self._encoder.past(request, log, NEWEST)
            offset = fitted_offset(self._scorer, asked, clicked, self._variance, self._known)
            self._kept = log, device, PersonalScorer(self._scorer, offset)
        return self._kept[2]
