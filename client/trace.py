"""Traces: a decision written down so that it can be made again later, and held against what it was then.

A trace holds what the page asked, the moment, consent, controls and the random number as they were; catalogue, model,
policy and combinations of creatives as digests; and of the log no event, but its length and a digest keyed with a
secret of the device, so that nobody without the secret can test a guess about what happened there. What was learnt of
the person is a keyed digest too. It does say which ad was chosen and at which price: it is personal all the same, and
stays on the device.

How the ladder came to its answer is written down as well, because how fast a model was, and whether memory was short,
cannot be had again.
"""

import hashlib
import hmac
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sottovoce.client.catalogue import Moment
from sottovoce.client.combination_choice import Choice as Combination
from sottovoce.client.combination_posterior import Posterior as PartsPosterior
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.decision import Climb, Decision, Level, Mode, Winner
from sottovoce.client.events import EventLog, encode_log
from sottovoce.client.occasion import Occasion
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.posterior import Posterior
from sottovoce.client.request import Request
from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 64 * 1024 * 1024
"""Largest file of traces that is read."""

SHORTEST_SECRET = 16
"""Bytes."""

_LOG, _TASTE, _PARTS = (
    f"sottovoce trace of {what}\n".encode() for what in ("an event log", "a taste", "what parts do")
)
"""What a keyed digest is of: the same bytes give another one for each."""

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
DigestOrNone = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]


class LogReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many events there were, and HMAC-SHA256 of them as JSON lines with the device's secret."""

    events: Annotated[int, Meta(ge=0)]
    mac: Digest


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a decision came to: see `Decision`, in whose order the fields are compared."""

    winner: Winner | None
    nbr: int | None
    mode: Mode
    mode_words: str
    fallback: Level
    fault: str
    propensity: float
    considered: tuple[tuple[str, float], ...]
    reasons: dict[int, int]
    combination: Combination | None


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One decision.

    Attributes:
        version: of this format.
        request: what the page asked, as it was read.
        now: when, on the device's clock.
        consent: the gates.
        controls: of the person.
        draw: the random number.
        log: see `LogReference`.
        catalogue: SHA-256 of the catalogue as JSON.
        model: what the caller calls the model, the bundle's SHA-256 for instance; empty without one.
        policy: SHA-256 of the policy as JSON.
        creatives: digest of what may be shown of creatives with combinations; empty without any.
        posterior: keyed digest of what was learnt of the person's taste; empty without it.
        parts: keyed digest of what was learnt of parts of creatives; empty without it.
        climb: how the ladder came to its answer; None where no model was to be asked.
        outcome: see there.
    """

    version: Literal[1]
    request: Request
    now: Moment
    consent: Consent
    controls: Controls
    draw: float
    log: LogReference
    catalogue: Digest
    model: str
    policy: Digest
    creatives: DigestOrNone
    posterior: DigestOrNone
    parts: DigestOrNone
    climb: Climb | None
    outcome: Outcome


def traced(occasion: Occasion, decision: Decision, secret: bytes) -> Trace:
    """The trace of a decision.

    Args:
        occasion: it was made on.
        decision: of it.
        secret: of the device, random, at least `SHORTEST_SECRET` bytes, and never in a trace.

    Raises:
        ValueError: the secret is too short.
    """
    return Trace(
        version=1,
        request=occasion.request,
        now=occasion.now,
        consent=occasion.consent,
        controls=occasion.controls,
        draw=occasion.draw,
        log=reference(occasion.log, secret),
        catalogue=decision.used.catalogue,
        model=decision.used.model,
        policy=policy_digest(occasion.policy),
        creatives=decision.workings.creatives,
        posterior=taste_mac(occasion.posterior, secret),
        parts=parts_mac(occasion.parts, secret),
        climb=decision.workings.climb,
        outcome=outcome(decision),
    )


def reference(log: EventLog, secret: bytes) -> LogReference:
    """The log without its events.

    Raises:
        ValueError: the secret is too short.
    """
    return LogReference(len(log.events), _mac(secret, _LOG + encode_log(log.events)))


def taste_mac(posterior: Posterior | None, secret: bytes) -> str:
    """HMAC-SHA256 of it as JSON with the device's secret, in hexadecimal; empty without it.

    Raises:
        ValueError: the secret is too short.
    """
    return "" if posterior is None else _mac(secret, _TASTE + msgspec.json.encode(posterior))


def parts_mac(parts: PartsPosterior | None, secret: bytes) -> str:
    """The same of what was learnt of parts of creatives."""
    return "" if parts is None else _mac(secret, _PARTS + msgspec.json.encode(parts))


def _mac(secret: bytes, what: bytes) -> str:
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(f"a secret of {len(secret)} bytes can be guessed; use at least {SHORTEST_SECRET}")
    return hmac.new(secret, what, hashlib.sha256).hexdigest()


def policy_digest(policy: PickerPolicy) -> str:
    """SHA-256 of the policy as JSON, in hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(policy)).hexdigest()


def encode_trace(trace: Trace) -> bytes:
    """One line of JSON, with its end."""
    return msgspec.json.encode(trace) + b"\n"


_decoder = msgspec.json.Decoder(Trace)


def decode_traces(data: bytes, name: str = "traces.jsonl") -> tuple[Trace, ...]:
    """The traces in `data`, one JSON object a line; empty lines are skipped.

    Args:
        data: JSON lines.
        name: of the file, for messages.

    Raises:
        DeviceError: too large, or a line that is no trace; the message names the line.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "replay it in parts")
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                trace = _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise DeviceError(f"{name}, line {number}: {error}", "correct or remove that line") from error
            if not 0 <= trace.draw < 1:
                raise DeviceError(f"{name}, line {number}: draw {trace.draw} is not in [0, 1)", "correct that line")
            found.append(trace)
    return tuple(found)


def outcome(decision: Decision) -> Outcome:
    """What a decision came to."""
    return Outcome(
        winner=decision.winner,
        nbr=None if decision.nbr is None else int(decision.nbr),
        mode=decision.mode,
        mode_words=decision.mode_words,
        fallback=decision.fallback,
        fault=decision.fault,
        propensity=decision.propensity,
        considered=decision.considered,
        reasons=decision.reasons,
        combination=decision.combination,
    )
