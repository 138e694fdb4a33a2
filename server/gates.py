"""Release gates: limits that every released model meets, written down in `release.toml`.

A gate that cannot be judged because nothing was measured fails: silence is not a pass.
"""

import math
import tomllib
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from sottovoce.privacy.errors import ConfigError, GateError

Limit = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Gates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The limits; None means that a gate is not asked for.

    Attributes:
        max_bundle_bytes: size of the `.svb` file.
        max_runtime_difference: score difference between torch, ONNX Runtime and LiteRT.
        max_runtime_decision_change: share of requests on whose winner these three do not agree, ads of the same worth
            apart.
        max_quantization_error: score difference between the quantized and the float32 ranker.
        max_decision_change: share of requests whose winner quantization changes.
        max_epsilon: outsider epsilon of the passport.
        max_epsilon_known_cohort: epsilon for an observer who knows who took part.
        min_auc: area under the ROC curve on held-out impressions.
        max_calibration_error: expected calibration error on held-out impressions.
        max_latency_ratio: median time of one candidate's scores on LiteRT over that on ONNX Runtime, where released.
        max_fairness_gap: largest difference of `fairness_figure` between slices of held-out impressions by
            `fairness_feature`.
        max_age_days: days since the ledger committed the weights that ship.
        fairness_feature: device or context feature of the schema, such as `device_class`; goes with the gap.
        fairness_figure: `auc`, or `calibration`, the mean prediction minus the observed rate.
    """

    max_bundle_bytes: Annotated[int, msgspec.Meta(ge=0)] = 2 * 1024 * 1024
    max_runtime_difference: Limit = 1e-6
    max_runtime_decision_change: Share = 0.0
    max_quantization_error: Limit = 5e-3
    max_decision_change: Share = 1e-3
    max_epsilon: Limit | None = 10.0
    max_epsilon_known_cohort: Limit | None = None
    min_auc: Share | None = None
    max_calibration_error: Share | None = None
    max_latency_ratio: Limit | None = None
    max_fairness_gap: Share | None = None
    max_age_days: Limit | None = None
    fairness_feature: str | None = None
    fairness_figure: Literal["auc", "calibration"] = "auc"

    def __post_init__(self) -> None:
        """Refuse a gap of nothing, and a feature that is not judged."""
        if (self.max_fairness_gap is None) != (self.fairness_feature is None):
            raise ValueError("max_fairness_gap and fairness_feature go together")


LIMITS = tuple(name for name in Gates.__struct_fields__ if name.startswith(("max_", "min_")))
"""Names of the gates; the other settings say how one is measured."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, one value for each gate; None when it was not."""

    bundle_bytes: int
    runtime_difference: float
    runtime_decision_change: float
    quantization_error: float
    decision_change: float
    epsilon: float | None
    epsilon_known_cohort: float | None
    auc: float | None = None
    calibration_error: float | None = None
    latency_ratio: float | None = None
    fairness_gap: float | None = None
    age_days: float | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate judged.

    Attributes:
        name: as in `release.toml`.
        measured: None when nothing was measured.
        limit: what it was held against.
        passed: whether it holds.
    """

    name: str
    measured: float | None
    limit: float
    passed: bool

    def __str__(self) -> str:
        """One line: which gate, what was measured, and by how much it is missed."""
        if self.measured is None:
            return f"{self.name}: nothing measured, limit {self.limit:g}"
        measured, limit = _plain(self.measured), _plain(self.limit)
        if self.passed:
            return f"{self.name}: {measured} within {limit}"
        return f"{self.name}: {measured} misses {limit} by {_plain(abs(self.measured - self.limit))}"


def _plain(value: float) -> str:
    """Bytes in full, everything else to six digits."""
    return f"{value:,.0f}" if value >= 1e4 else f"{value:g}"


def load_gates(data: bytes) -> Gates:
    """The gates of a `release.toml`; keys that are left out keep their defaults.

    Raises:
        ConfigError: not TOML, an unknown key, or a value out of range; the message names the key.
    """
    try:
        return msgspec.convert(tomllib.loads(data.decode()), type=Gates)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"release.toml: {error}", f"use the keys {', '.join(Gates.__struct_fields__)}") from error


def check(measured: Measured, gates: Gates) -> list[GateResult]:
    """Every gate that is asked for, judged, in the order of `Gates`.

    Args:
        measured: the figures of one release.
        gates: their limits; a measurement equal to its limit passes, NaN never does.
    """
    results = []
    for name in LIMITS:
        limit = getattr(gates, name)
        if limit is None:
            continue
        side, _, figure = name.partition("_")
        value = getattr(measured, figure)
        within = value is not None and not math.isnan(value) and (value <= limit if side == "max" else value >= limit)
        results.append(GateResult(name, value, limit, within))
    return results


def refuse_failures(results: list[GateResult]) -> None:
    """Let a release pass whose every gate passed.

    Raises:
        GateError: naming each failed gate and by how much it was missed.
    """
    failed = [str(result) for result in results if not result.passed]
    if failed:
        raise GateError("; ".join(failed), "improve the model, or change release.toml and say why")
