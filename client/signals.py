"""What each group of signals did to the chance that the winner is paid for, measured by asking the model again.

The groups are what the device remembers (`history`), the offset that the personal layer fitted on it (`habit`), what
the page says (`page`) and what the device is (`device`); the ad's own features are there without any of them. The model
is asked about every combination, and each group's share of the change is its Shapley value.

Shares are in log odds, because there the model adds things up: the personal layer adds its offset to the click logit,
so that for an ad paid per click its share is that offset, whatever else is known. The winner's value would do as well,
but is the same thing in a unit in which nothing adds up. The chance is the one that the advertiser pays for: of a
click, and for an ad paid per conversion of a click that is followed by one.

A call reads one context and one history, so each combination of history, page and device is one call of one candidate,
eight at most; the offset costs none, because it is added afterwards.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from sottovoce.client.decision import Effect, Group, Signals
from sottovoce.client.features import Encoder, Inputs
from sottovoce.client.personal import logit, shifted
from sottovoce.client.personal_scorer import PersonalScorer
from sottovoce.client.scorer import Scorer, ask
from sottovoce.client.shapley import shares
from sottovoce.privacy.errors import DeviceError


def signals(
    scorer: Scorer, encoder: Encoder, inputs: Inputs, candidate: int, of: Literal["click", "conversion"] = "click"
) -> Signals | None:
    """What each group of signals did to one candidate's chance, largest share first.

    A group that the model was not given (an empty history, features that are missing) is left out. None when the model
    fails on the way; the pick itself does not depend on this.

    Args:
        scorer: the model that picked, with the personal layer in it or without.
        encoder: tells device columns from page columns.
        inputs: what it read.
        candidate: row of `inputs.ad`.
        of: a click, or a click that is followed by a conversion; the model must have that head.
    """
    alone = replace(inputs, ad=inputs.ad[candidate : candidate + 1])
    shared, offset = (scorer.scorer, scorer.offset) if isinstance(scorer, PersonalScorer) else (scorer, 0.0)
    columns = {"page": encoder.page_columns, "device": encoder.device_columns}
    asked: list[Group] = ["history"] if alone.outcomes.any() else []
    for group in ("page", "device"):
        if alone.context[0, list(columns[group])].any():
            asked.append(group)
    # The personal layer says nothing about a device that remembers nothing.
    groups = [*asked, "habit"] if offset and alone.outcomes.any() else asked
    try:
        chances = [_chances(shared, _only(alone, asked, columns, known)) for known in range(1 << len(asked))]
    except DeviceError:
        return None
    heads = {len(row) for row in chances}
    if len(heads) > 1 or (of == "conversion" and heads == {1}):
        return None  # a model that answers one question now and two then has said nothing that can be compared
    table = np.asarray(chances, np.float64)
    if len(groups) > len(asked):
        moved = table.copy()
        moved[:, 0] = shifted(table[:, 0], offset)
        table = np.concatenate([table, moved])
    chance = table[:, 0] if of == "click" else table.prod(1)
    found = shares(logit(chance))
    everything = len(chance) - 1
    effects = [
        Effect(group, float(found[at]), float(chance[everything ^ 1 << at]), float(chance[1 << at]))
        for at, group in enumerate(groups)
    ]
    return Signals(
        of=of,
        bare=float(chance[0]),
        given=float(chance[-1]),
        least=float(chance.min()),
        most=float(chance.max()),
        effects=tuple(sorted(effects, key=lambda effect: (-abs(effect.share), effect.group))),
    )


def _only(inputs: Inputs, asked: list[Group], columns: dict[str, tuple[int, ...]], known: int) -> Inputs:
    """The inputs with only the groups whose bits are set in `known`."""
    for at, group in enumerate(asked):
        if not known >> at & 1:
            inputs = inputs.without_history() if group == "history" else inputs.without(columns[group])
    return inputs


def _chances(scorer: Scorer, inputs: Inputs) -> list[float]:
    chances: list[float] = ask(scorer, inputs.context, inputs.events, inputs.outcomes, inputs.ad)[0].tolist()
    return chances
