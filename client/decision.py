"""One answer of the picker: small enough to be kept, complete enough to be made again.

What every other ad lost by, and what each signal did, is worked out when somebody asks for it. A decision read back
from a file no longer has what that takes: pick again with what `used` names.
"""

from datetime import datetime
from functools import cached_property
from typing import Any, Literal, Protocol

import msgspec

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.combination_choice import Choice as Combination
from sottovoce.client.consent import Consent
from sottovoce.client.reasons import Loss, NoBid
from sottovoce.privacy.errors import DeviceError

Mode = Literal["personalised", "contextual", "none"]
Level = Literal["model", "previous", "contextual", "rotation", "house", "none"]
Group = Literal["history", "habit", "page", "device"]
"""Earlier events; the personal layer's offset; features of the page; features of the device."""

PROFILED: frozenset[Level] = frozenset({"model", "previous"})
"""Levels whose choice may read what the person did, where that is allowed."""


class Winner(msgspec.Struct, frozen=True):
    """The chosen ad.

    Attributes:
        crid: creative id.
        cid: campaign id.
        seat: who pays.
        adomain: its domains.
        sponsored: who it speaks for.
        category: its first category in words.
        pricing: `cpm`, `cpc` or `cpa`.
        price: what it pays, per thousand impressions; None after a rotation, where no auction took place.
        charge: what one thousand impressions, one click or one conversion costs, by `pricing`; after a rotation that
            is the campaign's own offer.
        value: per thousand impressions; None after a rotation.
        scores: P(click) and, where the model has it, P(conversion | click); empty after a rotation.
    """

    crid: str
    cid: str
    seat: str
    adomain: tuple[str, ...]
    sponsored: str
    category: str
    pricing: str
    price: float | None
    charge: float
    value: float | None
    scores: tuple[float, ...]


class Loser(msgspec.Struct, frozen=True):
    """One ad that was not chosen.

    Attributes:
        crid: creative id.
        reason: code.
        words: the reason as a clause.
        rule: which rule or step decided.
        detail: what it saw.
        value: per thousand impressions, where it was scored.
        scores: as of the winner, where it was scored.
    """

    crid: str
    reason: Loss
    words: str
    rule: str
    detail: str
    value: float | None = None
    scores: tuple[float, ...] = ()


class Effect(msgspec.Struct, frozen=True):
    """What one group of signals did to a chance.

    Attributes:
        group: see `Group`.
        share: its Shapley value in log odds; above 0 the group raised the chance.
        without: the chance with everything but the group.
        alone: the chance with the group and nothing else but the ad.
    """

    group: Group
    share: float
    without: float
    alone: float


class Signals(msgspec.Struct, frozen=True):
    """What all groups that the model was given did to the winner's chance; see `client.signals`.

    Attributes:
        of: a click, or a click that is followed by a conversion.
        bare: the chance by the ad alone.
        given: with everything that the model was given. The shares add up to the log odds of `given` less those of
            `bare`.
        least, most: of all combinations of the groups.
        effects: one for each group, largest share first.
    """

    of: Literal["click", "conversion"]
    bare: float
    given: float
    least: float
    most: float
    effects: tuple[Effect, ...]


class Climb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the ladder came to its answer; see `client.ladder`.

    Attributes:
        asked: the step whose model answered; None when none did.
        faults: why each step above it did not.
    """

    asked: Level | None = None
    faults: tuple[str, ...] = ()


class Evidence(msgspec.Struct, frozen=True):
    """Facts that the explanation may state, all about what the model was given.

    Attributes:
        signals: what each group did; None when no model chose, or when it could not be measured.
        remembered: past impressions that the model was given.
        shown: those of them in the winner's category (any shared category).
        clicked: those of `shown` that were clicked.
        read: pages that the model was given as read before.
        about: those of them that are about what the winner sells, by the model's own list.
        topics: the page's categories in words.
        publisher: bundle or domain of the app or site.
        first: no ad that takes part was worth more than the winner.
        besides: the ranking counted more than what ads pay; see `client.value`.
        wished: interests that the person edited weighed in it.
        taste: what this device learned that the person likes decided how often each was drawn.
    """

    signals: Signals | None = None
    remembered: int = 0
    shown: int = 0
    clicked: int = 0
    read: int = 0
    about: int = 0
    topics: tuple[str, ...] = ()
    publisher: str = ""
    first: bool = True
    besides: bool = False
    wished: bool = False
    taste: bool = False


class Used(msgspec.Struct, frozen=True):
    """What a decision was made from, besides the request.

    Attributes:
        catalogue: SHA-256 of the catalogue as JSON.
        model: what the caller calls the model; empty when there was none.
        events: how many events of the log were read.
    """

    catalogue: str
    model: str
    events: int


class Workings(Protocol):
    """What it takes to say more about a decision."""

    def losers(self) -> tuple[Loser, ...]:
        """Every other ad of the catalogue: scored ones first, best first."""
        ...

    def evidence(self) -> Evidence:
        """Facts for the explanation."""
        ...

    @property
    def catalogue(self) -> Catalogue:
        """All ads."""
        ...

    @property
    def impid(self) -> str:
        """Of the place that was asked for."""
        ...

    @property
    def climb(self) -> Climb | None:
        """How the ladder came to its answer; None where no model was to be asked."""
        ...

    @property
    def creatives(self) -> str:
        """Digest of what may be shown of creatives with combinations; empty without any."""
        ...


class Decision(msgspec.Struct, frozen=True, dict=True):
    """The answer to one request.

    Attributes:
        request: its id.
        now: when.
        cur: currency of every amount.
        winner: None when there is no ad.
        nbr: why there is none; None when there is one.
        nbr_words: the same in words.
        mode: what was allowed to choose.
        mode_words: why.
        fallback: `model` when the model chose; `previous` when the last good one did; `contextual` when a table did,
            by the page alone; `rotation` when the ads took turns; `house` when nobody who pays fitted; `none` without
            an ad.
        fault: why each step above `fallback` gave no answer, and what else went wrong; empty when nothing did.
        consent: the gates as they were given.
        draw: the random number that exploration was given.
        propensity: chance that this ad was chosen, over all draws; 1 without exploration, 0 without an ad.
        considered: the ads that exploration drew from, each with its chance; empty without exploration.
        reasons: how many ads lost by each code.
        used: what it was made from.
        combination: of the winner's parts, with its probability given that this ad won: that of both is the product
            with `propensity`. None where the ad is shown as the catalogue has it.
    """

    request: str
    now: datetime
    cur: str
    winner: Winner | None
    nbr: NoBid | None
    nbr_words: str
    mode: Mode
    mode_words: str
    fallback: Level
    fault: str
    consent: Consent
    draw: float
    propensity: float
    considered: tuple[tuple[str, float], ...]
    reasons: dict[int, int]
    used: Used
    combination: Combination | None = None

    def explained_by(self, workings: Workings) -> "Decision":
        """This decision, able to say more."""
        self.__dict__["_workings"] = workings
        return self

    @cached_property
    def losers(self) -> tuple[Loser, ...]:
        """Every other ad of the catalogue: scored ones first, best first.

        Raises:
            DeviceError: the decision was read back.
        """
        return self.workings.losers()

    @cached_property
    def evidence(self) -> Evidence:
        """Facts for the explanation; the model is asked again.

        Raises:
            DeviceError: the decision was read back.
        """
        return self.workings.evidence()

    def in_full(self) -> dict[str, Any]:
        """The decision with losers and evidence, as plain data.

        Raises:
            DeviceError: the decision was read back.
        """
        more = {"losers": self.losers, "evidence": self.evidence}
        plain: dict[str, Any] = msgspec.to_builtins(more)
        return {**msgspec.to_builtins(self), **plain}

    @property
    def workings(self) -> Workings:
        """What it takes to say more.

        Raises:
            DeviceError: the decision was read back.
        """
        workings: Workings | None = self.__dict__.get("_workings")
        if workings is None:
            raise DeviceError(
                f"the decision about request {self.request!r} was read back and holds no more than is written in it",
                "pick again with the same request, log, catalogue, model and draw",
            )
        return workings
