"""Replay: a trace picked again, and where the answer is not the one of then, what differs and why.

A log that has grown since is no obstacle: its first events, as many as there were then, are those of the trace. One
that lost its oldest events has no such start, and is named. Where an input is not the one of then, the answer may
still be the same; both are told.

The step of the ladder that answered then is asked again, and no other: that a model above it was late or failed is
taken from the trace, and told.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.combination_posterior import Posterior as PartsPosterior
from sottovoce.client.decision import Climb
from sottovoce.client.events import EventLog
from sottovoce.client.occasion import Occasion
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.posterior import Posterior
from sottovoce.client.trace import Trace, outcome, parts_mac, policy_digest, reference, taste_mac

Input = Literal["log", "catalogue", "model", "policy", "creatives", "posterior", "parts"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What replaying came to.

    Attributes:
        identical: every field of the outcome is what it was.
        field: the first that is not, in dots (`winner.price`); empty when identical.
        then, now: its values.
        changed: inputs that are not those of then; empty when all are.
        climb: how the ladder came to its answer then, which was not measured again; None where no model was asked.
    """

    identical: bool
    field: str
    then: object
    now: object
    changed: tuple[Input, ...]
    climb: Climb | None

    @property
    def sentence(self) -> str:
        """The same for a reader."""
        return self._compared + self._climbed

    @property
    def _climbed(self) -> str:
        if self.climb is None or not self.climb.faults:
            return ""
        asked = f"the step {self.climb.asked}" if self.climb.asked else "no model"
        return f"; {asked} was asked as then, by what was written down of those above: {'; '.join(self.climb.faults)}"

    @property
    def _compared(self) -> str:
        inputs = f"not the one of then: {', '.join(self.changed)}" if self.changed else "every input is the one of then"
        if self.identical:
            return f"identical; {inputs}"
        return f"{self.field} differs, {self.then!r} then and {self.now!r} now; {inputs}"


def replay(
    trace: Trace,
    catalogue: Catalogue,
    build: Callable[[Catalogue], Picker],
    log: EventLog,
    secret: bytes,
    policy: PickerPolicy | None = None,
    picker: Picker | None = None,
    posterior: Posterior | None = None,
    parts: PartsPosterior | None = None,
) -> Replayed:
    """Pick again as the trace says, and compare.

    Args:
        trace: of then.
        catalogue: of now.
        build: the picker for it, with the model and policy of now.
        log: of now; what came after the trace is left out.
        secret: of the device.
        policy: of now, the same as in `build`.
        picker: what `build` makes of the catalogue, where it is at hand.
        posterior: what was learnt of the person's taste, as of then.
        parts: what was learnt of parts of creatives, as of then.
    """
    policy = policy or PickerPolicy()
    before = EventLog(log.events[: trace.log.events])
    occasion = Occasion(
        build=build,
        picker=picker or build(catalogue),
        catalogue=catalogue,
        request=trace.request,
        log=before,
        consent=trace.consent,
        now=trace.now,
        controls=trace.controls,
        draw=trace.draw,
        policy=policy,
        posterior=posterior,
        parts=parts,
        then=trace.climb,
    )
    decision = occasion.pick()
    same: dict[Input, bool] = {
        "log": hmac.compare_digest(reference(before, secret).mac, trace.log.mac),
        "catalogue": decision.used.catalogue == trace.catalogue,
        "model": decision.used.model == trace.model,
        "policy": policy_digest(policy) == trace.policy,
        "creatives": decision.workings.creatives == trace.creatives,
        "posterior": hmac.compare_digest(taste_mac(posterior, secret), trace.posterior),
        "parts": hmac.compare_digest(parts_mac(parts, secret), trace.parts),
    }
    changed = tuple(name for name, is_same in same.items() if not is_same)
    # Compared as it would be written: a float that JSON reads back is the same float.
    then, again = msgspec.to_builtins(trace.outcome), msgspec.to_builtins(outcome(decision))
    field, was, now = _difference(then, again)
    return Replayed(not field, field, was, now, changed, trace.climb)


def _difference(then: object, now: object, path: str = "") -> tuple[str, object, object]:
    """Path and values of the first difference; an empty path when there is none."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*then, *now)):
            found = _difference(then.get(key), now.get(key), f"{path}.{key}".lstrip("."))
            if found[0]:
                return found
        return "", None, None
    if isinstance(then, list | tuple) and isinstance(now, list | tuple) and len(then) == len(now):
        for place, (one, other) in enumerate(zip(then, now, strict=True)):
            found = _difference(one, other, f"{path}[{place}]")
            if found[0]:
                return found
        return "", None, None
    return ("", None, None) if then == now else (path, then, now)
