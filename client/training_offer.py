"""May this device take part in a round now? Every reason that says no, in closed codes with words.

Reasons are of two kinds, because whoever asks can see some of them. Those of the phone (battery, network, heat, use, a
model of another schema) say nothing about its owner: the device stays away. Those of the person (consent, pause, how
much there is to learn from, what was deleted) must not show: the device answers with zeros, of the same fields and the
same size, as it does beyond its participation cap.

A pure function: the host says what it sees. Whatever it cannot see it must report as what refuses.

Source: eligibility policies of federated computing systems (minimum separation, data availability, minimum
trustworthiness period), with the battery and heat limits of Android's.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sottovoce.client.consent import Consent

MODERATE = 2
"""Android's thermal status from which on the phone is being slowed down."""

Purpose = Literal["learn", "report"]
"""What the device is asked for: an update (`train`), or a measurement (`evaluate`)."""

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]


class Hold(Enum):
    """Why a device does not take part.

    Attributes:
        code: stable, for logs on the device and for its owner's screen; in no message.
        words: a short clause.
        personal: it says something about the person, so that the device must not show that it holds back.
    """

    code: str
    words: str
    personal: bool

    def __init__(self, code: str, words: str, personal: bool) -> None:
        self.code, self.words, self.personal = code, words, personal

    POWER = "power", "it does not charge and its battery is low", False
    IN_USE = "in_use", "somebody is using it", False
    METERED = "metered", "its network counts what is sent", False
    HOT = "hot", "it is warm", False
    OTHER_SCHEMA = "other_schema", "the model asked about has other features than its own", False
    NO_CONSENT = "no_consent", "its owner did not agree to this", True
    PAUSED = "paused", "its owner paused learning", True
    UNTRIED = "untried", "it has not been in use for long enough since it was new or wiped", True
    TOO_LITTLE = "too_little", "it has seen too little to learn from", True
    TOO_SOON = "too_soon", "it took part a short while ago", True
    ROUND_TOO_SOON = "round_too_soon", "it took part in this round or one shortly before", True
    CAP = "cap", "it took part in this run as often as it may", True
    NO_RECORD = "no_record", "how often it took part cannot be read or written", True


class OfferRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the device offers itself. A setting of the app; no coordinator can change it.

    Attributes:
        battery: least charge without a charger.
        thermal: first thermal status at which it stays away, on Android's scale of 0 to 6.
        examples: fewest examples.
        separation_s: least seconds between two rounds, of any runs.
        separation_rounds: least distance of two rounds of one run; with 1 no round counts twice.
        participations: most rounds of one run; the smaller one of this and what the run allows holds. None for no
            limit of its own.
        days: minimum trustworthiness period: days of use since the device was new or wiped.
    """

    battery: Share = 0.30
    thermal: Annotated[int, Meta(ge=1, le=6)] = MODERATE
    examples: Annotated[int, Meta(ge=1)] = 5
    separation_s: Annotated[float, Meta(ge=0, le=6 * 86_400)] = 300.0
    separation_rounds: Annotated[int, Meta(ge=1)] = 1
    participations: Annotated[int, Meta(ge=1)] | None = None
    days: Annotated[int, Meta(ge=0, le=366)] = 7


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the phone is doing, as its operating system says. As it stands, every limit refuses.

    Attributes:
        battery: charge, 0 to 1.
        charging: whether it charges.
        idle: whether nobody uses it.
        unmetered: whether its network is free of charge.
        thermal: Android's thermal status, 0 none to 6 shutting down.
    """

    battery: float = 0.0
    charging: bool = False
    idle: bool = False
    unmetered: bool = False
    thermal: int = 6


class DeviceState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that the gate looks at on the device. As it stands, every limit refuses.

    Attributes:
        condition: of the phone.
        consent: the person's gates, read now and not when the run began.
        paused: the person paused learning.
        days: of use since the device was new or wiped, see `store_rows.Memory`.
        examples: rows it would train on.
        schema: digest of its own feature schema.
        recorded: whether its own count of rounds could be read.
        rounds: of this run that it joined, by its own count.
        last_round: newest of them; None when there is none.
        since_s: seconds since it last joined a round of any run; None when it never did.
    """

    condition: Condition = Condition()
    consent: Consent = Consent()
    paused: bool = True
    days: Count = 0
    examples: Count = 0
    schema: str = ""
    recorded: bool = False
    rounds: Count = 0
    last_round: int | None = None
    since_s: float | None = None


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the device is asked to join.

    Attributes:
        purpose: learning or measuring; separation and cap are rules of learning.
        schema: digest of the feature schema of the model asked about.
        round: of the run, from 1.
        cap: most rounds of the run for one device, as the coordinator says; None for no cap.
    """

    purpose: Purpose
    schema: str
    round: int = 1
    cap: int | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """The answer.

    Attributes:
        holds: every reason that says no, in the order of `Hold`.
    """

    holds: tuple[Hold, ...]

    @property
    def comes(self) -> bool:
        """Whether the device answers at all: with an update, or with zeros."""
        return all(hold.personal for hold in self.holds)

    @property
    def joins(self) -> bool:
        """Whether anything of the person is in what it answers."""
        return not self.holds

    @property
    def words(self) -> str:
        """All reasons as one sentence without its end, for the owner's screen; empty when there is none."""
        return "; ".join(hold.words for hold in self.holds)


LEARNING_ONLY = frozenset({Hold.TOO_SOON, Hold.ROUND_TOO_SOON, Hold.CAP, Hold.NO_RECORD})
"""Rules that a measurement, which the coordinator's budget pays for alone, does not have."""


def offer(state: DeviceState, invitation: Invitation, rules: OfferRules) -> Offer:
    """Whether the device takes part, and every reason why not.

    Args:
        state: of the device, now.
        invitation: what it is asked to join.
        rules: of the app.
    """
    passed = _passed(state, invitation, rules)
    ruled = [hold for hold in Hold if invitation.purpose == "learn" or hold not in LEARNING_ONLY]
    return Offer(tuple(hold for hold in ruled if not passed[hold]))


def _passed(at: DeviceState, to: Invitation, rules: OfferRules) -> dict[Hold, bool]:
    """For each reason, what must be true for it not to be given. NaN makes none of them true."""
    phone = at.condition
    caps = [cap for cap in (to.cap, rules.participations) if cap is not None]
    return {
        Hold.POWER: phone.charging or phone.battery >= rules.battery,
        Hold.IN_USE: phone.idle,
        Hold.METERED: phone.unmetered,
        Hold.HOT: phone.thermal < rules.thermal,
        Hold.OTHER_SCHEMA: at.schema == to.schema != "",
        Hold.NO_CONSENT: at.consent.learn if to.purpose == "learn" else at.consent.report,
        Hold.PAUSED: not at.paused,
        Hold.UNTRIED: at.days >= rules.days,
        Hold.TOO_LITTLE: at.examples >= rules.examples,
        Hold.TOO_SOON: at.since_s is None or at.since_s >= rules.separation_s,
        Hold.ROUND_TOO_SOON: at.last_round is None or to.round - at.last_round >= rules.separation_rounds,
        Hold.CAP: all(at.rounds < cap for cap in caps),
        Hold.NO_RECORD: at.recorded,
    }
