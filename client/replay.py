"""Replay: a trace picked again, and where the answer is not the one of then, what differs and why.

A log that has grown since is no obstacle: its first events, as many as there were then, are those of the trace. One
that lost its oldest events has no such start, and is named. Where an input is not the one of then, the answer may
still be the same; both are told.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.events import EventLog
from sottovoce.client.occasion import Occasion
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.trace import Trace, outcome, policy_digest, reference

Input = Literal["log", "catalogue", "model", "policy"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What replaying came to.

    Attributes:
        identical: every field of the outcome is what it was.
        field: the first that is not, in dots (`winner.price`); empty when identical.
        then, now: its values.
        changed: inputs that are not those of then; empty when all are.
    """

    identical: bool
    field: str
    then: object
    now: object
    changed: tuple[Input, ...]

    @property
    def sentence(self) -> str:
        """The same for a reader."""
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
    )
    decision = occasion.pick()
    same: dict[Input, bool] = {
        "log": hmac.compare_digest(reference(before, secret).mac, trace.log.mac),
        "catalogue": decision.used.catalogue == trace.catalogue,
        "model": decision.used.model == trace.model,
        "policy": policy_digest(policy) == trace.policy,
    }
    changed = tuple(name for name, is_same in same.items() if not is_same)
    # Compared as it would be written: a float that JSON reads back is the same float.
    then, again = msgspec.to_builtins(trace.outcome), msgspec.to_builtins(outcome(decision))
    field, was, now = _difference(then, again)
    return Replayed(not field, field, was, now, changed)


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
