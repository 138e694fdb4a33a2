"""Why this ad: what each group of signals measurably did, one true sentence, and the DSA fields.

An effect is measured, not guessed: the winner is scored again with one group of inputs missing and everything else the
same. The sentence states the group with the largest effect, the two probabilities, and only facts about inputs that
the model was really given.
"""

from dataclasses import replace
from typing import Any

import msgspec

from sottovoce.client.decision import Decision, Effect, Winner
from sottovoce.client.features import Encoder, Inputs
from sottovoce.client.scorer import Scorer, ask
from sottovoce.models.request import GRID
from sottovoce.privacy.errors import DeviceError

DSA_LIMIT = 100
"""Most characters of `behalf` and `paid`."""

PROFILING, CONTEXTUAL = 1, 2


class Explanation(msgspec.Struct, frozen=True):
    """Why this ad, or why none.

    Attributes:
        sentence: for the person.
        dsa: `bid.ext.dsa` of OpenRTB; empty without an ad.
        losers: one line for each other ad.
    """

    sentence: str
    dsa: dict[str, Any]
    losers: tuple[str, ...]


def effects(scorer: Scorer, encoder: Encoder, inputs: Inputs, candidate: int) -> tuple[Effect, ...] | None:
    """What each group of signals did to P(click) of one candidate, largest change first.

    A group that the model was not given (an empty history, features that are missing) is left out: without it nothing
    changes. None when the model fails on the way; the pick itself does not depend on this.

    Args:
        scorer: the model that picked.
        encoder: tells device columns from page columns.
        inputs: what it read.
        candidate: row of `inputs.ad`.
    """
    alone = replace(inputs, ad=inputs.ad[candidate : candidate + 1])
    others: dict[str, Inputs] = {}
    if alone.outcomes.any():
        others["history"] = alone.without_history()
    for group, columns in (("page", encoder.page_columns), ("device", encoder.device_columns)):
        if alone.context[0, list(columns)].any():
            others[group] = alone.without(columns)
    try:
        given = _click(scorer, alone)
        measured = [
            msgspec.convert({"group": group, "without": without, "change": given - without}, Effect)
            for group, without in ((group, _click(scorer, other)) for group, other in others.items())
        ]
    except DeviceError:
        return None
    return tuple(sorted(measured, key=lambda effect: (-abs(effect.change), effect.group)))


def _click(scorer: Scorer, inputs: Inputs) -> float:
    return float(ask(scorer, inputs.context, inputs.events, inputs.outcomes, inputs.ad)[0, 0])


def why(decision: Decision) -> Explanation:
    """The explanation of a decision, from what the decision itself holds."""
    lines = tuple(
        f"{loser.crid}: {loser.words} ({int(loser.reason)}; {loser.rule}: {loser.detail})" for loser in decision.losers
    )
    if decision.winner is None:
        return Explanation(f"No ad is shown: {decision.nbr_words}.", {}, lines)
    return Explanation(" ".join(_sentences(decision, decision.winner)), _dsa(decision, decision.winner), lines)


def _sentences(decision: Decision, winner: Winner) -> list[str]:
    paid = f"{winner.seat} pays for this ad."
    if decision.fallback == "rotation":
        return ["The ads take turns, because the ranking model could not be used, and it was this one's turn.", paid]
    if decision.fallback == "house":
        return ["No ad that is paid for fits here, so the place's own ads take turns, and it was this one's turn."]
    scored = sum(loser.value is not None for loser in decision.losers)
    offer = (
        f"Its offer was worth the most among {scored + 1} ads that fit here." if scored else "No other ad fits here."
    )
    said = [offer, paid] if winner.pricing == "cpm" else [_main(decision), offer, paid]
    if winner.pricing == "cpm":
        said.insert(1, "It is paid per view, so no estimate about you decided its value.")
    if decision.mode == "contextual":
        said.append(f"Nothing about your earlier activity was used: {decision.mode_words}.")
    return said


def _main(decision: Decision) -> str:
    """The group with the largest measured effect, and what it was."""
    evidence = decision.evidence
    if evidence.effects is None:
        return "What counted most could not be measured."
    effect = next(iter(evidence.effects), None)
    if effect is None or abs(effect.change) < GRID:
        return "Neither your activity nor the page changed the ad's estimated chance of a click."
    moved = (
        f"{'raised' if effect.change > 0 else 'lowered'} the ad's estimated chance of a click "
        f"from {_percent(effect.without)} to {_percent(effect.without + effect.change)}"
    )
    if effect.group == "page":
        about = f", which is about {' and '.join(evidence.topics)}" if evidence.topics else ""
        return f"What counted most is the page{about}: that {moved}."
    if effect.group == "device":
        return f"What counted most is this device, not what was done on it: that {moved}."
    fact = (
        f" You clicked or acted on {evidence.clicked} of the {evidence.shown} ads that share a category with this one,"
        f" among the last {evidence.remembered} remembered here."
        if evidence.shown
        else ""
    )
    return f"What counted most is what this device remembers of earlier ads: that {moved}.{fact}"


def _percent(chance: float) -> str:
    return f"{100 * chance:.3g} %"


def _dsa(decision: Decision, winner: Winner) -> dict[str, Any]:
    """Who paid, for whom, and whether a profile was used: a history on the device is profiling too."""
    used = [CONTEXTUAL]
    if decision.mode == "personalised" and decision.fallback == "model":
        used.insert(0, PROFILING)
    return {
        "behalf": (winner.sponsored or winner.seat)[:DSA_LIMIT],
        "paid": winner.seat[:DSA_LIMIT],
        "adrender": 0,
        "transparency": [{"domain": decision.evidence.publisher, "dsaparams": used}],
    }
