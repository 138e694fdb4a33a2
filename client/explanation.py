"""Why this ad: what each group of signals measurably did, a few true sentences, and the DSA fields.

An effect is measured, not guessed (`client.signals`). What the sentence names is the group with the largest Shapley
value; the chances that it states are those that the model gave with and without that group, and where a group does
something only together with others, or nothing that others had not done already, it says so.
"""

from typing import Any

import msgspec

from sottovoce.client.bid_response import bid_response
from sottovoce.client.decision import PROFILED, Decision, Effect, Evidence, Signals, Winner
from sottovoce.client.reasons import Loss

DSA_LIMIT = 100
"""Most characters of `behalf` and `paid`."""

PROFILING, CONTEXTUAL = 1, 2

_PREVIOUS = "The newest ranking model could not be used, so the one before it chose."
_PAGE_ALONE = "the ranking model could not be used, so the page alone chose"

_BESIDES = "what the app weighs besides money"
_WISHED = "the interests that you edited"
_TASTE = ", in which counts what this device learned that you like"

_TIE = 1e-6


class Explanation(msgspec.Struct, frozen=True):
    """Why this ad, or why none.

    Attributes:
        sentence: for the person.
        dsa: `bid.ext.dsa` of OpenRTB; empty without an ad.
        losers: one line for each other ad.
        openrtb: the answer as OpenRTB has it, with a code for every ad that was not chosen.
    """

    sentence: str
    dsa: dict[str, Any]
    losers: tuple[str, ...]
    openrtb: dict[str, Any]


def why(decision: Decision) -> Explanation:
    """The explanation of a decision that was not read back.

    Raises:
        DeviceError: the decision was read back.
    """
    lines = tuple(
        f"{loser.crid}: {loser.words} ({int(loser.reason)}; {loser.rule}: {loser.detail})" for loser in decision.losers
    )
    dsa = _dsa(decision, decision.winner) if decision.winner else {}
    return Explanation(sentence(decision), dsa, lines, bid_response(decision, dsa, losses=True))


def sentence(decision: Decision) -> str:
    """What the person is told."""
    if decision.winner is None:
        return f"No ad is shown: {decision.nbr_words}."
    return " ".join(_sentences(decision, decision.winner))


def _sentences(decision: Decision, winner: Winner) -> list[str]:
    paid, version = f"{winner.seat} pays for this ad.", _version(decision)
    if decision.fallback == "rotation":
        turn = "The ads take turns, because the ranking model could not be used, and it was this one's turn."
        return [turn, *version, paid]
    if decision.fallback == "house":
        turn = "No ad that is paid for fits here, so the place's own ads take turns, and it was this one's turn."
        return [turn, *version]
    offer = _offer(decision)
    if winner.pricing == "cpm":
        said = [offer, "It is paid per view, so no estimate about you decided its value.", *version, paid]
    else:
        said = [_main(decision.evidence), offer, *version, paid]
    if decision.fallback == "previous":
        said.append(_PREVIOUS)
    unused = [decision.mode_words] if decision.mode == "contextual" else []
    unused += [] if decision.fallback in PROFILED else [_PAGE_ALONE]
    if unused:
        # Frequency caps count what was shown, whoever chooses.
        reason = "; ".join(unused)
        said.append(f"Nothing about your earlier activity was used, except to keep ads from repeating: {reason}.")
    return said


def _offer(decision: Decision) -> str:
    """How it came out on top, or that it did not and was drawn."""
    evidence, drawn = decision.evidence, sum(chance > 0 for _, chance in decision.considered)
    chance = f"a chance of {_percent(decision.propensity)}{_TASTE if evidence.taste else ''}"
    more = [_BESIDES] if evidence.besides else []
    counting = " and ".join([*more, _WISHED] if evidence.wished else more)
    if not evidence.first:
        most = f"its offer was worth the most{f', counting {counting}' if counting else ''}"
        return (
            f"It is shown to learn how it does, and not because {most}: it was drawn from the {drawn} best offers, "
            f"with {chance}."
        )
    others = sum(loser.reason in (Loss.OUTBID, Loss.BELOW_FLOOR) and bool(loser.scores) for loser in decision.losers)
    if not others:
        return "No other ad that is paid for fits here."
    most = f"Its offer was worth the most among {others + 1} ads that fit here"
    most += f", counting {counting}" if counting else ""
    return f"{most}, and it was drawn from the {drawn} best with {chance}." if drawn > 1 else f"{most}."


def _version(decision: Decision) -> list[str]:
    """How its parts were chosen, where there was a choice."""
    parts = decision.combination
    if parts is None or parts.level != "bandit" or parts.among < 2:
        return []
    chance = _percent(parts.propensity)
    return [f"It has {parts.among} versions that may be shown here, and this one was drawn with a chance of {chance}."]


def _main(evidence: Evidence) -> str:
    """The group with the largest share of the change, and what it did."""
    signals = evidence.signals
    if signals is None:
        return "What counted most could not be measured."
    chance = f"the ad's estimated chance of a {signals.of}"
    if _percent(signals.least) == _percent(signals.most):
        return f"Neither your activity, this device nor the page changed {chance} noticeably."
    effect = signals.effects[0]
    tied = len(signals.effects) > 1 and abs(signals.effects[1].share) > abs(effect.share) - _TIE
    most = f"{'Nothing counted more than' if tied else 'What counted most is'} {_name(effect, evidence)}"
    return f"{most}{_did(signals, effect, chance)}{_fact(effect, evidence)}"


def _did(signals: Signals, effect: Effect, chance: str) -> str:
    """What the group did, as far as it is true with everything else there, without it, or both."""
    verb = "raised" if effect.share > 0 else "lowered"
    last = _moves(effect, effect.without, signals.given)
    first = _moves(effect, signals.bare, effect.alone)
    if last:
        did = f": that {verb} {chance} from {_percent(effect.without)} to {_percent(signals.given)}"
        return f"{did}." if first else f"{did}, but only together with the rest that is known here."
    if first:
        return (
            f": that alone would have {verb} {chance} from {_percent(signals.bare)} to {_percent(effect.alone)}; with "
            f"the rest that is known here it is {_percent(signals.given)}, and without this {_percent(effect.without)}."
        )
    return (
        f", together with the rest that is known here: {chance} is {_percent(signals.given)} with all of it, and "
        f"{_percent(signals.bare)} with none of it."
    )


def _moves(effect: Effect, before: float, after: float) -> bool:
    """Whether the step is one that a reader sees, in the direction of the share."""
    return _percent(before) != _percent(after) and (after > before) == (effect.share > 0)


def _name(effect: Effect, evidence: Evidence) -> str:
    if effect.group == "page":
        return f"the page, which is about {' and '.join(evidence.topics)}" if evidence.topics else "the page"
    return {
        "device": "the kind of device this is",
        "history": "what this device remembers of earlier ads and pages",
        "habit": "how often ads are clicked on this device, which it learned by itself",
    }[effect.group]


def _fact(effect: Effect, evidence: Evidence) -> str:
    if effect.group != "history":
        return ""
    clicked = (
        f" You clicked or acted on {evidence.clicked} of the {evidence.shown} ads that share a category with this one,"
        f" among the last {evidence.remembered} remembered here."
    )
    read = f" Of the last {evidence.read} pages remembered here, {evidence.about} were about what it offers."
    return (clicked if evidence.shown else "") + (read if evidence.read else "")


def _percent(chance: float) -> str:
    return f"{100 * chance:.3g} %"


def _dsa(decision: Decision, winner: Winner) -> dict[str, Any]:
    """Who paid, for whom, and whether a profile was used: a history on the device is profiling too."""
    used = [CONTEXTUAL]
    if decision.mode == "personalised" and decision.fallback in PROFILED:
        used.insert(0, PROFILING)
    return {
        "behalf": (winner.sponsored or winner.seat)[:DSA_LIMIT],
        "paid": winner.seat[:DSA_LIMIT],
        "adrender": 0,
        "transparency": [{"domain": decision.evidence.publisher, "dsaparams": used}],
    }
