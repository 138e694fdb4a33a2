"""What is remembered of a page between a decision and what becomes of its ad, and which lesson comes of it.

Only where the decision was personalised: so nothing of a sensitive page, of a page for children, of a time without
consent or of a pause.
"""

from collections import OrderedDict
from datetime import datetime
from typing import NamedTuple

from sottovoce.client.catalogue import FeatureValue
from sottovoce.client.decision import Decision
from sottovoce.client.own_examples import page_context
from sottovoce.client.request import Request
from sottovoce.client.showing import moment_of
from sottovoce.models.schema import FeatureSchema

_MOST = 64
"""Decisions whose page is remembered until their impression is logged."""


class Page(NamedTuple):
    """A page that was personalised.

    Attributes:
        features: of the model that tell of the page, not of the device.
        moment: where and when it was, see `combination_choice.Moment`.
    """

    features: dict[str, FeatureValue]
    moment: tuple[str, ...]


class Pages:
    """The newest pages by the id of their request."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Page] = OrderedDict()

    def keep(self, request: Request, decision: Decision, schema: FeatureSchema | None, now: datetime) -> None:
        """Remember the page of a decision, if it may be.

        Args:
            request: of the page.
            decision: that answered it.
            schema: of the model in use; None without one.
            now: when.
        """
        self._known.pop(request.id, None)
        if decision.mode != "personalised":
            return
        features = page_context(request, schema) if schema else {}
        self._known[request.id] = Page(features, moment_of(request, now).features)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)

    def of(self, request: str) -> Page | None:
        """The page of a request; None where it may not be remembered, or is forgotten."""
        return self._known.get(request)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
