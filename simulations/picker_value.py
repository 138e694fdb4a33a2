"""What the picker earns in the synthetic market, where the true chances are known.

Three pickers answer the same held-out requests of the same people, under the same floors and caps: the learned one with
the person's history, the same one by the page alone, and one whose model is the truth. Each ad they show is counted at
what its campaign offers times its true chances, so that luck plays no part.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.client.catalogue import Catalogue, decode_catalogue
from sottovoce.client.consent import Consent
from sottovoce.client.events import EventLog, decode_log
from sottovoce.client.picker import Picker
from sottovoce.client.request import Request, decode_request
from sottovoce.models.request import Scores
from sottovoce.models.schema import Ids
from sottovoce.simulations import phone
from sottovoce.simulations.market import BLOCK, PRICINGS, Ints, Log, Market, People

Floats = npt.NDArray[np.float64]

PERSONALISED = Consent(serve_personalised=True, notes=("the person allows it",))
CONTEXTUAL = Consent(notes=("the page alone",))
RESAMPLES = 1_000
"""Of people, for the intervals."""


class Asked(NamedTuple):
    """One held-out request of one person.

    Attributes:
        person: device number.
        request: of the page.
        log: what happened on the device before.
        now: when.
        context: (1, 3) indices of page category, hour part and connection.
    """

    person: int
    request: Request
    log: EventLog
    now: datetime
    context: Ints


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """What was earned, in true expected USD per thousand requests.

    Attributes:
        people: who asked, all of whom allow personalised ads; none of them trained the model.
        requests: of theirs.
        personalised: by the learned picker.
        contextual: by the same one, from the page alone.
        oracle: by one that knows the true chances.
        vs_contextual: personalised / contextual.
        vs_contextual_range: 95 % interval over people.
        vs_oracle: personalised / oracle.
        vs_oracle_range: likewise.
    """

    people: int
    requests: int
    personalised: float
    contextual: float
    oracle: float
    vs_contextual: float
    vs_contextual_range: tuple[float, float]
    vs_oracle: float
    vs_oracle_range: tuple[float, float]


class OneBlock(Market):
    """The market, with the people and the log of the block that was asked for last kept at hand."""

    def block_people(self, block: int) -> People:
        """See `Market`."""
        if block != getattr(self, "_block", None):
            self._block, self._people = block, super().block_people(block)
            self._log: Log | None = None
        return self._people

    def block_log(self, block: int, people: People) -> Log:
        """See `Market`."""
        self.block_people(block)
        if self._log is None:
            self._log = super().block_log(block, people)
        return self._log


class Truth:
    """A scorer that knows the true chances of whoever it is told; see `client.scorer.Scorer`.

    Args:
        market: whose truth.
    """

    def __init__(self, market: Market) -> None:
        self._market = market
        self._place = {row: number for number, row in enumerate(market.catalogue[:, 0].tolist())}

    def of(self, asked: Asked) -> None:
        """Answer for this person on this page from now on."""
        self._people = self._market.people(np.array([asked.person]))
        self._context = asked.context

    def scores(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:  # noqa: ARG002 - a scorer's
        """See `Scorer.scores`; of what it is given it reads the ads."""
        return self.chances([self._place[row] for row in ad[:, 0].tolist()])

    def chances(self, ads: Sequence[int]) -> Scores:
        """P(click) and P(conversion | click) of these ads of the market, shape (ads, 2)."""
        rows = np.zeros(len(ads), np.int64)
        return self._market.probabilities(self._people, rows, self._context[rows], np.asarray(ads))


def held_out(market: Market, block: int, people: int, visits: int) -> list[Asked]:
    """Requests after the training days, of the first people of a block who allow personalised ads.

    Args:
        market: an instance that keeps the block at hand is a hundred times as fast.
        block: of devices.
        people: how many.
        visits: of each.

    Raises:
        ValueError: there are not so many in the block.
    """
    able = np.flatnonzero(market.block_people(block).serve)[:people] + block * BLOCK
    if len(able) < people:
        raise ValueError(f"block {block} holds {len(able)} people who allow personalised ads, not {people}")
    found = []
    for person in able.tolist():
        log = decode_log(phone.events_jsonl(market, person))
        for number in range(visits):
            visit = phone.visit(market, person, number)
            request = decode_request(phone.request_json(market, person, number))
            found.append(Asked(person, request, log, visit.time, visit.context))
    return found


def compare(picker: Callable[[Catalogue], Picker], market: Market, asked: Sequence[Asked]) -> Value:
    """What the three pickers earn.

    Args:
        picker: makes the learned one.
        market: its people, ads and truth.
        asked: requests, all of one person in a row.
    """
    catalogue = decode_catalogue(phone.catalogue_json(market))
    learned, truth = picker(catalogue), Truth(market)
    oracle = Picker(market.schema, truth, catalogue)
    earned = np.zeros((len(asked), 3))
    for row, one in enumerate(asked):
        truth.of(one)
        for column, (chooser, consent) in enumerate(
            ((learned, PERSONALISED), (learned, CONTEXTUAL), (oracle, PERSONALISED))
        ):
            winner = chooser.pick(one.request, one.log, consent, one.now).winner
            if winner is not None:
                earned[row, column] = worth(market, truth, catalogue.place[winner.crid])
    _, owner = np.unique([one.person for one in asked], return_inverse=True)
    by_person = np.stack([np.bincount(owner, column) for column in earned.T], 1).astype(np.float64)
    personalised, contextual, best = (float(1000 * total / len(asked)) for total in earned.sum(0))
    return Value(
        people=len(by_person),
        requests=len(asked),
        personalised=round(personalised, 4),
        contextual=round(contextual, 4),
        oracle=round(best, 4),
        vs_contextual=round(personalised / contextual, 4),
        vs_contextual_range=interval(by_person[:, 0], by_person[:, 1]),
        vs_oracle=round(personalised / best, 4),
        vs_oracle_range=interval(by_person[:, 0], by_person[:, 2]),
    )


def worth(market: Market, truth: Truth, ad: int) -> float:
    """True expected USD of one impression of an ad: its campaign's offer times the true chances."""
    campaign = market.campaign[ad]
    price, kind = float(market.price[campaign]), PRICINGS[market.pricing[campaign]]
    click, conversion = truth.chances([ad])[0].astype(np.float64).tolist()
    return price / 1000 if kind == "cpm" else price * click * (conversion if kind == "cpa" else 1.0)


def interval(one: Floats, other: Floats) -> tuple[float, float]:
    """95 % interval of the ratio of two sums over people, by resampling people."""
    drawn = np.random.default_rng(0).multinomial(len(one), np.full(len(one), 1 / len(one)), RESAMPLES)
    low, high = np.quantile((drawn @ one) / (drawn @ other), [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)
