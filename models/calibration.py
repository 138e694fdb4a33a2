"""Calibration by head: the chance that ships is sigmoid(slope * logit + intercept), and who paid for the two numbers.

The file `calibration.json` is a statement. The model's files apply it already, because slope and intercept enter the
ranker as two parameters that are not trained (`ranker.calibrated`): scorers, exports, golden requests and the personal
layer, which a device fits on calibrated chances, all follow without a second way of computing anything.

Slope and intercept say something about people, so they are either 1 and 0, which say nothing, or come from a release
that a ledger paid for, whose row is named here.

Source: Platt 1999, "Probabilistic outputs for support vector machines", without the prior of its section 2.2.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from sottovoce.models.request import Request, Scorer, Scores
from sottovoce.privacy.errors import BundleError, GateError

LEAST_SLOPE, MOST_SLOPE = 0.1, 10.0
"""A slope outside says that the model ranks hardly, wrongly or absurdly well: that is no calibration."""

MOST_INTERCEPT = 20.0
"""Either way, in logits; with a slope of 5, a click rate of 1.8 % moves by 16."""

CLOSE = 1e-5
"""Largest difference of a score between the statement and the graph, as of golden requests."""

KEEP = "keep the bundle in use"

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]


class PaidMeasurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The release that slope and intercept were computed from.

    Attributes:
        run_id: of the run that was measured.
        number: of the measurement in its run, from 1.
        model_round: rounds of training in the model that was measured.
        ledger_row: that paid for it.
        ledger_hash: of that row.
        artifact_sha256: of what was released, as the ledger committed it.
        noise_std: standard deviation of the noise in each number of the histogram.
    """

    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    number: Count
    model_round: Count
    ledger_row: Count
    ledger_hash: Digest
    artifact_sha256: Digest
    noise_std: Annotated[float, msgspec.Meta(gt=0, le=1e12)]


class HeadCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done to the logit of one head.

    Attributes:
        head: its name.
        slope: 1 changes nothing.
        intercept: in logits; 0 changes nothing.
        source: what paid for the two; None for 1 and 0, which need no payment.
    """

    head: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    slope: Annotated[float, msgspec.Meta(ge=LEAST_SLOPE, le=MOST_SLOPE)] = 1.0
    intercept: Annotated[float, msgspec.Meta(ge=-MOST_INTERCEPT, le=MOST_INTERCEPT)] = 0.0
    source: PaidMeasurement | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are out of bounds, or that nobody paid for."""
        # A struct that is built in code, and not decoded, is checked by nobody else. NaN fails both comparisons.
        if not (LEAST_SLOPE <= self.slope <= MOST_SLOPE and abs(self.intercept) <= MOST_INTERCEPT):
            raise ValueError(
                f"slope {self.slope:g} and intercept {self.intercept:g} are no calibration: the slope lies between "
                f"{LEAST_SLOPE:g} and {MOST_SLOPE:g}, the intercept within {MOST_INTERCEPT:g} of 0"
            )
        if self.source is None and not self.identity:
            raise ValueError(f"head {self.head!r} is changed, and no measurement that paid for it is named")

    @property
    def identity(self) -> bool:
        """Whether it changes nothing."""
        return self.slope == 1.0 and self.intercept == 0.0

    def __str__(self) -> str:
        """One line."""
        if self.source is None:
            return f"{self.head}: as trained"
        paid = self.source
        return (
            f"{self.head}: {self.slope:.4f} * logit {self.intercept:+.4f}, measurement {paid.number} of run "
            f"{paid.run_id} after round {paid.model_round}, paid for by ledger row {paid.ledger_row}"
        )


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done to the logits of a model, in the order of its heads.

    Attributes:
        heads: one for each head of the schema.
    """

    heads: tuple[HeadCalibration, ...]

    @property
    def identity(self) -> bool:
        """Whether it changes nothing."""
        return all(head.identity for head in self.heads)

    def canonical(self) -> bytes:
        """The calibration as JSON with sorted keys and no spaces."""
        return msgspec.json.encode(self, order="sorted")

    def expected(self, logits: Scores) -> Scores:
        """What a calibrated model scores whose logits were these as it was trained, in double precision.

        Args:
            logits: (N, heads), before any calibration.
        """
        slope, intercept = (np.array([getattr(one, name) for one in self.heads]) for name in ("slope", "intercept"))
        moved = slope * logits.astype(np.float64) + intercept
        small = np.exp(-np.abs(moved))
        made: Scores = np.where(moved >= 0, 1.0, small) / (1.0 + small)
        return made


def identity(heads: Sequence[str]) -> Calibration:
    """The calibration that changes nothing."""
    return Calibration(heads=tuple(HeadCalibration(head=head) for head in heads))


def load_calibration(data: bytes, heads: Sequence[str]) -> Calibration:
    """The calibration written by `Calibration.canonical`.

    Args:
        data: content of `calibration.json`.
        heads: of the schema.

    Raises:
        BundleError: not JSON, unknown, missing or impossible values, not in canonical form, or of other heads.
    """
    try:
        found = msgspec.json.decode(data, type=Calibration)
        canonical = found.canonical()
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError) as error:
        raise BundleError(f"calibration.json cannot be read: {error}", KEEP) from error
    if canonical != data:
        raise BundleError("calibration.json is not in canonical form", KEEP)
    named = tuple(one.head for one in found.heads)
    if named != tuple(heads):
        raise BundleError(f"calibration.json is of heads {named}, schema.json has {tuple(heads)}", KEEP)
    return found


def require_applied(stated: Calibration, as_trained: Scorer, shipped: Scorer, requests: Sequence[Request]) -> None:
    """Let a model pass that is calibrated as stated.

    Args:
        stated: what `calibration.json` says.
        as_trained: logits of the same model before calibration, see `parity.logits_as_trained`.
        shipped: scores of what is about to be signed.
        requests: to compare on.

    Raises:
        GateError: a score is off by more than `CLOSE`, or not finite.
    """
    for request in requests:
        made = shipped(request)
        off = float(np.abs(stated.expected(as_trained(request)) - made).max())
        if not off <= CLOSE:  # NaN is not
            raise GateError(
                f"the exported model does not apply calibration.json: a score is off by {off:.1e}",
                "export the calibrated model again: what a file does has to be what its statement says",
            )
