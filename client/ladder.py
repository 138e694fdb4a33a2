"""The ladder: who chooses when the model cannot, one step below the other, and how long each may take.

model -> previous (the last good bundle's) -> contextual (`client.page_scorer`) -> rotation -> house -> none. The first
three are steps here; what is below cannot fail and takes no model.

A step that answers late still counts while the whole deadline holds, because its answer is there. A model call cannot
be broken off: that takes a second thread, which costs a tail of 5 ms at every decision where both have work to do, and
a call into a native library that hangs would go on hanging. So the guarantee is: no model is asked once its time has
come, at most one call runs over the deadline in one decision, and after `FAILURES` failures or late answers in a row a
step is left out for `REST_S`. Then it is tried once; when that fails, too, it rests again.

Without a clock nothing is late and nothing rests, and a decision is a function of what it is given.

==============  =================================================
step            must have answered, as a share of the deadline
==============  =================================================
`model`         0.5
`previous`      0.8
`contextual`    none: a table, which is asked even after the deadline
==============  =================================================

Exceptions: every `Exception` of a step is its failure, `MemoryError` included, since the steps below need less. What is
no `Exception` (`KeyboardInterrupt`, `SystemExit`) ends the decision.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.decision import Climb, Level
from sottovoce.client.features import Encoder
from sottovoce.client.personal_scorer import PersonalLayer
from sottovoce.client.scorer import Scorer, said
from sottovoce.models.request import Scores
from sottovoce.models.schema import FeatureSchema, Ids

FAILURES = 3
REST_S = 300
SHARES: Mapping[Level, float] = {"model": 0.5, "previous": 0.8}
_MS, _S = 1_000_000, 1_000_000_000

Clock = Callable[[], int]
"""Nanoseconds that only ever rise, such as `time.monotonic_ns`."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Ranker:
    """A model as it comes out of a bundle.

    Attributes:
        schema: of its features.
        scorer: the model; None when it cannot be trusted or loaded.
        personal_variance: of the personal layer, 0 for none.
        name: what to call it in decisions.
    """

    schema: FeatureSchema
    scorer: Scorer | None
    personal_variance: float = 0.0
    name: str = ""


class Step:
    """One model that may choose.

    Args:
        level: of the ladder.
        encoder: of its schema and the catalogue.
        scorer: the model.
        personal_variance: of the personal layer, 0 for none.
        name: what to call the model in decisions.

    Attributes:
        level: as given.
        encoder: as given.
        scorer: the model, given copies, so that it cannot spoil what others read.
        layer: the personal layer, or None.
        name: as given.
    """

    def __init__(
        self, level: Level, encoder: Encoder, scorer: Scorer, personal_variance: float = 0.0, name: str = ""
    ) -> None:
        self.level, self.encoder, self.name = level, encoder, name
        self.scorer = _Apart(scorer)
        self.layer = PersonalLayer(encoder, self.scorer, personal_variance) if personal_variance else None


def steps(catalogue: Catalogue, newest: Ranker, previous: Ranker | None, page: Scorer | None) -> list[Step]:
    """Those that there are, best first; models of one schema share one encoder.

    Args:
        catalogue: all ads.
        newest: the model in use; the contextual step shares its schema.
        previous: the last good one.
        page: see `client.page_scorer`.
    """
    encoder, found = Encoder(newest.schema, catalogue), []
    if newest.scorer is not None:
        found.append(Step("model", encoder, newest.scorer, newest.personal_variance, newest.name))
    if previous is not None and previous.scorer is not None:
        own = encoder if previous.schema == newest.schema else Encoder(previous.schema, catalogue)
        found.append(Step("previous", own, previous.scorer, previous.personal_variance, previous.name))
    if page is not None:
        found.append(Step("contextual", encoder, page, name=newest.name))
    return found


class Ladder:
    """Asks one step after the other until one answers.

    Args:
        steps: best first.
        deadline_ms: for the whole decision.
        clock: None when nothing is to be timed.
    """

    def __init__(self, steps: Sequence[Step], deadline_ms: int, clock: Clock | None = None) -> None:
        self._steps, self._deadline, self._clock = tuple(steps), deadline_ms * _MS, clock
        self._failures = {step.level: 0 for step in steps}
        self._rests_until: dict[Level, int] = {}

    def begun(self) -> int | None:
        """The moment from which the deadline counts; None without a clock, or with one that fails."""
        try:
            return None if self._clock is None else int(self._clock())
        except Exception:  # a decision that cannot be timed is better than none
            return None

    def climb(
        self, begun: int | None, attempt: Callable[[Step], Answer], then: Climb | None = None
    ) -> tuple[Climb, Answer | None]:
        """The first step that answers with why each before it did not, and what it answers.

        Args:
            begun: when the decision began, from `begun`.
            attempt: what to ask of a step; any `Exception` is its failure.
            then: an earlier climb that is to be made again: only the step that answered then is asked, nothing is timed
                or counted, and why the others did not answer is taken from there.
        """
        if then is not None:
            return self._again(then, attempt)
        faults = [] if self._steps and self._steps[0].level == "model" else ["model: there is no model"]
        for step in self._steps:
            fault, answer = self._held(step, begun), None
            if not fault:
                try:
                    answer = attempt(step)
                except Exception as error:
                    fault = said(error)
                late = self._late(step, begun)
                if not fault and late and self._over(begun):
                    fault = f"its answer came after the deadline of {self._deadline // _MS} ms"
                self._count(step, bool(fault) or late)
            if not fault:
                return Climb(step.level, tuple(faults)), answer
            faults.append(f"{step.level}: {fault}")
        return Climb(None, tuple(faults)), None

    def _again(self, then: Climb, attempt: Callable[[Step], Answer]) -> tuple[Climb, Answer | None]:
        if then.asked is None:
            return then, None
        fault, step = "there is no such model", next((one for one in self._steps if one.level == then.asked), None)
        if step is not None:
            try:
                return then, attempt(step)
            except Exception as error:
                fault = said(error)
        return Climb(None, (*then.faults, f"{then.asked}: {fault}")), None

    def _held(self, step: Step, begun: int | None) -> str:
        """Why a step is not asked now; empty when it is."""
        now = self.begun()
        until = self._rests_until.get(step.level)
        if now is not None and until is not None and now < until:
            return f"it rests, because it failed or was late {FAILURES} times in a row"
        return "no time is left" if self._late(step, begun) else ""

    def _late(self, step: Step, begun: int | None) -> bool:
        return step.level in SHARES and self._since(begun) >= SHARES[step.level] * self._deadline

    def _over(self, begun: int | None) -> bool:
        return self._since(begun) > self._deadline

    def _since(self, begun: int | None) -> int:
        """Nanoseconds since then; 0 when they are not known."""
        now = self.begun()
        return 0 if now is None or begun is None else now - begun

    def _count(self, step: Step, failed: bool) -> None:
        """Note how a step that was asked did."""
        self._failures[step.level] = self._failures[step.level] + 1 if failed else 0
        now = self.begun()
        if now is not None and self._failures[step.level] >= FAILURES:
            self._rests_until[step.level] = now + REST_S * _S


class _Apart:
    """A scorer that gets copies; see `Scorer`."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def scores(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        """See `Scorer.scores`."""
        return self._scorer.scores(*(np.array(one) for one in (context, events, outcomes, ad)))
