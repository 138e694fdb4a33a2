"""The privacy passport: what a released model says about the people it was learned from.

It is written by whoever holds the ledger, travels inside the bundle, and names the ledger's head, so that an auditor
who has the bundle and the ledger needs nothing else. A model without a passport that can be released is not signed.
"""

import hashlib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

from sottovoce.privacy.errors import BundleError, GateError

SIMULATION = "SIMULATION: NO GUARANTEE"
"""Label of everything made with seeded noise or none."""

CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "ledger_whole": "every row of the ledger follows from the one before it",
        "noise_secure": "all noise came from the operating system",
        "within_budget": "what was spent is within the budget of the campaign",
        "choices_guarded": "nothing was chosen after seeing a release, or a filter stood guard",
        "sampling_counted": "every condition of amplification by sampling holds",
        "cohorts_as_planned": "no recorded cohort contradicts its plan",
        "accountants_agree": "independent accountants do not contradict the figure",
        "all_settled": "no release was left open or lost in a crash",
    }
)
"""Checks of an audit that a passport may say were passed, in words."""

Count = Annotated[int, msgspec.Meta(ge=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]


class PrivacyPassport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was released, by which mechanism, and how much it can tell about one device.

    Attributes:
        unit: whose presence is hidden.
        adjacency: two populations are neighbours when one device's contributions are replaced by zero.
        sampling: scheme that draws each cohort, such as `poisson`.
        sampling_rate: chance of a device to be drawn in a round, in [0, 1].
        population: devices that could be drawn.
        mechanism: such as `gaussian`.
        noise_multiplier: standard deviation of the noise on the sum, in units of `clip_norm`.
        clip_norm: largest L2 norm of one device's update.
        rounds: training rounds that were paid for, including those that failed afterwards.
        releases: number of paid releases by purpose, such as `{"training": 200, "metrics": 3}`.
        accountant: such as `PLD`.
        epsilon: against `observer`; None (or infinity) when there is no finite bound.
        observer: `outsider`, who does not know who took part; `knows_cohorts` where sampling could not be counted.
        max_participations: most rounds of one run that a device takes part in, kept by device and coordinator; None for
            no cap.
        epsilon_known_cohort: for an observer who knows who took part in which round; None as above.
        delta: of both, in [0, 1).
        ledger_head: SHA-256 of the ledger's last row, hexadecimal; empty when there is no ledger.
        ledger_length: rows of the ledger.
        noise_source: `secure` is the operating system's generator; `seeded` is for simulations.
        label: `SIMULATION` when the noise is not secure, otherwise free text such as the guarantee in words.
        audit: names of the checks that the ledger's audit passed, see `CHECKS`; empty in older bundles.
        plan_hash: digest of the plan, in the ledger, of the run that made the model; empty likewise.
    """

    unit: Literal["device"] = "device"
    adjacency: Literal["zero_out"] = "zero_out"
    sampling: str
    sampling_rate: Annotated[float, msgspec.Meta(ge=0, le=1)]
    population: Count
    mechanism: str
    noise_multiplier: NonNegative
    clip_norm: NonNegative
    rounds: Count
    releases: dict[str, Count]
    accountant: str
    epsilon: NonNegative | None
    epsilon_known_cohort: NonNegative | None
    delta: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    ledger_head: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
    ledger_length: Count
    noise_source: Literal["secure", "seeded", "none"]
    label: str = ""
    observer: Literal["outsider", "knows_cohorts"] = "outsider"
    max_participations: Count | None = None
    audit: tuple[str, ...] = ()
    plan_hash: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""

    def __post_init__(self) -> None:
        """Refuse a passport whose label promises more than its noise."""
        if self.noise_source != "secure" and self.label != SIMULATION:
            raise ValueError(f"noise_source {self.noise_source!r} needs the label {SIMULATION!r}")

    def canonical(self) -> bytes:
        """The passport as JSON with sorted keys and no spaces; an infinite epsilon is written as null."""
        return msgspec.json.encode(self, order="sorted")

    def digest(self) -> str:
        """SHA-256 of `canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical()).hexdigest()


def load_passport(data: bytes) -> PrivacyPassport:
    """The passport written by `PrivacyPassport.canonical`.

    Raises:
        BundleError: not JSON, unknown, missing or impossible values.
    """
    try:
        return msgspec.json.decode(data, type=PrivacyPassport)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"passport.json cannot be read: {error}", "export the bundle again") from error


def releasable(passport: PrivacyPassport) -> None:
    """Let a passport pass that states a real guarantee.

    ==============================  =========
    passport                        result
    ==============================  =========
    seeded noise, or none           GateError
    labelled as a simulation        GateError
    noise multiplier or clip of 0   GateError
    no ledger head, or no row       GateError
    epsilon None, infinite, NaN     GateError
    known-cohort epsilon likewise   GateError
    known-cohort below outsider's   GateError
    anything else                   None
    ==============================  =========

    Raises:
        GateError: as above; the message starts with `SIMULATION: NO GUARANTEE` and says why.
    """
    wrong = _why_not(passport)
    if wrong:
        raise GateError(f"{SIMULATION}: {wrong}", "train with secure noise and a ledger, then release that run")


def _why_not(passport: PrivacyPassport) -> str:
    """The first reason against a release, or nothing."""
    epsilons = (passport.epsilon, passport.epsilon_known_cohort)
    if passport.noise_source != "secure":
        return f"the noise is {passport.noise_source!r}, not from the operating system"
    if passport.label == SIMULATION:
        return "the run is labelled a simulation"
    if not (passport.noise_multiplier > 0 and passport.clip_norm > 0):
        return "noise multiplier and clip norm must be positive"
    if not passport.ledger_head or passport.ledger_length < 1:
        return "the passport names no ledger head"
    if any(value is None or not math.isfinite(value) for value in epsilons):
        return (
            f"epsilon is not finite ({passport.epsilon} for an outsider, {passport.epsilon_known_cohort} known cohort)"
        )
    if passport.epsilon_known_cohort < passport.epsilon:  # type: ignore[operator]  # both are finite here
        return "an observer who knows the cohort cannot learn less than an outsider"
    return ""
