"""From trained parameters to one signed file, or to a reason why not.

The steps: the passport must state a real guarantee; calibrate; quantize, as small as the gates allow; export to both
formats; compare all four scorers; pack and sign; judge every gate on the real figures; hold both exports against the
calibration that is stated; accept the bundle as a device would, and score its golden requests with both runtimes.
Everything happens in memory: when any step refuses, there is nothing to clean up.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product

import msgspec
import numpy as np

from sottovoce.client.runtimes import required
from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, request_scorer
from sottovoce.models import ranker
from sottovoce.models.bundle import Bundle, pack
from sottovoce.models.calibration import Calibration, HeadCalibration, identity, require_applied
from sottovoce.models.golden import draw_golden, write_golden
from sottovoce.models.manifest import File, Manifest, Port, Runtimes
from sottovoce.models.onnx_export import to_onnx
from sottovoce.models.parity import (
    ParityReport,
    float_scorer,
    logits_as_trained,
    module_scorer,
    parity,
    quantization_cost,
)
from sottovoce.models.passport import PrivacyPassport, releasable
from sottovoce.models.quantize import PLANES, QuantizedRanker, quantize
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.request import INPUTS, OUTPUT, Request, random_requests
from sottovoce.models.rollout import Rollout
from sottovoce.models.row_scales import RowScales
from sottovoce.models.schema import FeatureSchema
from sottovoce.models.signing import SIGNATURE_NAME, PrivateKey, key_id, sign
from sottovoce.models.stored_scales import stored_scales
from sottovoce.models.tflite_export import SIZES, to_tflite
from sottovoce.models.trust import Trust, check_golden
from sottovoce.privacy.errors import GateError
from sottovoce.server.gates import GateResult, Gates, Measured, check, refuse_failures
from sottovoce.server.latency_ratio import latency_ratio

OLDEST_RUNTIMES = Runtimes(litert="1.2.0", onnxruntime="1.15.0")
"""Oldest runtimes that exported files were scored on, to within 1.2e-7 of torch."""


class ReleaseReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was released and how it measured.

    Attributes:
        model_id: the line.
        version: of this release.
        bundle_sha256: of the `.svb` file.
        bundle_bytes: its length.
        file_bytes: length of each file in it.
        parameters: number of trained values.
        calibration: by head, as `calibration.json` states it; empty for a release of an older version.
        parity: how far the four scorers are apart.
        metrics: evaluation figures as they were passed in.
        gates: every gate, judged.
    """

    model_id: str
    version: int
    bundle_sha256: str
    bundle_bytes: int
    file_bytes: Mapping[str, int]
    parameters: int
    parity: ParityReport
    metrics: Mapping[str, float]
    gates: tuple[GateResult, ...]
    calibration: tuple[HeadCalibration, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """A release that passed.

    Attributes:
        report: figures.
        bundle: content of the `.svb` file; write it with `sottovoce.models.atomic.write_atomically`.
    """

    report: ReleaseReport
    bundle: bytes


def release(
    parameters: ranker.Parameters,
    schema: FeatureSchema,
    config: ranker.RankerConfig,
    passport: PrivacyPassport,
    requests: Sequence[Request],
    keys: Sequence[PrivateKey],
    *,
    checkpoint_digest: str,
    model_id: str,
    version: int,
    now: datetime,
    expires_days: int,
    notice: str,
    metrics: Mapping[str, float],
    gates: Gates,
    parent_version: int | None = None,
    sizes: Sequence[int] = SIZES,
    key_threshold: int | None = None,
    rollout_percent: float = 100.0,
    rollout_salt: str | None = None,
    one_byte_scales: bool = False,
    parent: Bundle | None = None,
    calibration: Calibration | None = None,
) -> Release:
    """The signed bundle of a trained model, once every gate passed.

    The golden requests are drawn at random from the schema and never from `requests`, which may hold real people's
    events in a simulation.

    Args:
        parameters: float32, without a device axis, as trained: not calibrated yet.
        schema: the features they were trained on.
        config: the sizes they were made with.
        passport: from the ledger of the run.
        requests: to compare the scorers on; at most as many candidates each as the largest of `sizes`.
        keys: 1 to 8 signing keys.
        checkpoint_digest: SHA-256, in hexadecimal, of the checkpoint that the parameters were read from; that the
            ledger committed it is for the caller to see to, who has the ledger.
        model_id: the line of models that versions count along.
        version: above that of every earlier release of the line.
        now: time of signing, with time zone.
        expires_days: days until devices stop accepting it, at least 1.
        notice: licence and data attribution, for `LICENSE.txt`.
        metrics: `auc`, `calibration_error`, `fairness_gap` and `age_days` are judged when a gate asks for them.
        gates: limits.
        parent_version: of the model it was trained on from, if any; with `parent`, None or that one's.
        sizes: candidates of the TFLite signatures.
        key_threshold: how many of the keys a device must trust and find signed; None for all of them. Pass fewer while
            keys are being rotated and devices know only the old ones.
        rollout_percent: of devices that take it, 0 to 100.
        rollout_salt: to widen an earlier rollout, its salt; None draws devices anew, by line and version.
        one_byte_scales: whether the scale of a row takes one byte instead of four; see `quantize`.
        parent: an earlier release of the line, on the same schema; rows keep its scales where they fit, so that the
            difference between the two files is small.
        calibration: that ships, in the order of the schema's heads; None for one that changes nothing.

    Raises:
        GateError: the passport states no guarantee, the parent is of another line or schema or not older, a parameter
            is not finite, an export is not plain or does not apply the calibration, or a gate is missed (each missed
            gate is named, with by how much).
        GoldenError: a runtime does not score the golden requests like torch.
        ValueError: parameters of another schema, no key, no request, or impossible times, versions, thresholds or
            shares.
    """
    releasable(passport)
    signers = len({key_id(key.public_key()) for key in keys})
    if key_threshold is not None and not 1 <= key_threshold <= signers:
        raise ValueError(f"key_threshold must be from 1 to the {signers} different keys, got {key_threshold}")
    rollout = Rollout(percent=float(rollout_percent), salt=rollout_salt or f"{model_id} {version}")
    previous = None
    if parent is not None:
        parent_version = _parent_version(parent, schema, model_id, version, parent_version)
        previous = stored_scales(parent.onnx, schema.rows)
    stated = identity(schema.heads) if calibration is None else calibration
    if tuple(one.head for one in stated.heads) != schema.heads:
        raise ValueError("the calibration is not of the schema's heads")
    shipped = ranker.calibrated(parameters, stated)
    module = _smallest(shipped, schema, config, requests, gates, one_byte_scales, previous)
    onnx, tflite = to_onnx(module, schema), to_tflite(module, schema, sizes)
    by_module = module_scorer(module)
    by_onnx, by_tflite = request_scorer(OnnxScorer(onnx)), request_scorer(LiteRTScorer(tflite))
    with quiet_stderr():  # LiteRT announces itself when a model is first run
        exact = float_scorer(shipped, schema, config)
        compared = parity(exact, by_module, by_onnx, by_tflite, requests, schema)
    rng = np.random.default_rng(version)
    golden = draw_golden(schema, by_module, rng)
    (alone,) = random_requests(schema, 1, 1, rng)
    files = {
        "model.onnx": onnx,
        "model.tflite": tflite,
        "schema.json": schema.canonical(),
        "calibration.json": stated.canonical(),
        "passport.json": passport.canonical(),
        "golden.json": write_golden(golden),
        "LICENSE.txt": notice.encode(),
    }
    manifest = Manifest(
        model_id=model_id,
        version=version,
        created=now.astimezone(UTC),
        expires=now.astimezone(UTC) + timedelta(days=expires_days),
        min_runtime=OLDEST_RUNTIMES,
        schema_digest=schema.digest(),
        passport_digest=passport.digest(),
        checkpoint_digest=checkpoint_digest,
        heads=schema.heads,
        files={name: File(sha256=hashlib.sha256(data).hexdigest(), length=len(data)) for name, data in files.items()},
        parent_version=parent_version,
        quantization=module.storage,
        personal_variance=config.personal_variance,
        inputs=_inputs(schema),
        outputs=(Port(name=OUTPUT, shape=(-1, len(schema.heads)), dtype="float32"),),
        key_threshold=signers if key_threshold is None else key_threshold,
        rollout=rollout,
    )
    files["manifest.json"] = manifest.canonical()
    files[SIGNATURE_NAME] = sign(files, keys, model_id)
    bundle = pack(files)
    results = check(
        Measured(
            bundle_bytes=len(bundle),
            runtime_difference=compared.runtime_difference,
            runtime_decision_change=compared.runtime_decision_change,
            quantization_error=compared.quantization_error,
            decision_change=compared.decision_change,
            epsilon=passport.epsilon,
            epsilon_known_cohort=passport.epsilon_known_cohort,
            auc=metrics.get("auc"),
            calibration_error=metrics.get("calibration_error"),
            latency_ratio=None if gates.max_latency_ratio is None else latency_ratio(tflite, onnx, alone),
            fairness_gap=metrics.get("fairness_gap"),
            age_days=metrics.get("age_days"),
        ),
        gates,
    )
    refuse_failures(results)
    for exported in (by_onnx, by_tflite):
        require_applied(stated, logits_as_trained(module), exported, [one.request() for one in golden])
    trust = Trust(
        tuple(key.public_key() for key in keys),
        threshold=signers,
        version=version - 1,
    )
    _, accepted = trust.accept(bundle, now=now, runtimes=required("litert", "onnxruntime"), schemas={schema.digest()})
    check_golden(accepted, by_onnx)
    check_golden(accepted, by_tflite)
    report = ReleaseReport(
        model_id=model_id,
        version=version,
        bundle_sha256=hashlib.sha256(bundle).hexdigest(),
        bundle_bytes=len(bundle),
        file_bytes={name: len(data) for name, data in sorted(files.items())},
        parameters=sum(value.numel() for value in parameters.values()),
        parity=compared,
        metrics=dict(metrics),
        gates=tuple(results),
        calibration=stated.heads,
    )
    return Release(report, bundle)


def _smallest(
    parameters: ranker.Parameters,
    schema: FeatureSchema,
    config: ranker.RankerConfig,
    requests: Sequence[Request],
    gates: Gates,
    one_byte_scales: bool = False,
    previous: RowScales | None = None,
) -> QuantizedRanker:
    """The quantized ranker with the fewest planes that meets the quantization gates, or else with the most.

    Kept scales may round twice as coarsely as new ones. A second plane costs far more than an update with new scales.
    """
    reference = float_scorer(parameters, schema, config)
    for planes, scales in product(PLANES, (None,) if previous is None else (previous, None)):
        module = quantize(parameters, schema, config, planes, one_byte_scales=one_byte_scales, previous=scales)
        error, changed = quantization_cost(reference, module_scorer(module), requests)
        if error <= gates.max_quantization_error and changed <= gates.max_decision_change:
            break
    return module


def _parent_version(
    parent: Bundle, schema: FeatureSchema, model_id: str, version: int, parent_version: int | None
) -> int:
    """The version of a parent that a release may follow."""
    found = parent.manifest
    if parent_version not in (None, found.version):
        raise ValueError(f"parent_version is {parent_version}, the parent's {found.version}")
    if found.schema_digest != schema.digest():
        raise GateError("the parent has another feature schema, so its rows are not these", "release without a parent")
    if found.model_id != model_id:
        raise GateError(f"the parent is of line {found.model_id!r}, not {model_id!r}", "name a release of this line")
    if found.version >= version:
        raise GateError(f"the parent has version {found.version}, not below {version}", "raise the version")
    return found.version


def _inputs(schema: FeatureSchema) -> tuple[Port, ...]:
    """The model's inputs as a manifest describes them."""
    length = schema.history_length
    shapes = ((1, len(schema.context)), (length, len(schema.history)), (length,), (-1, len(schema.ad)))
    return tuple(Port(name=name, shape=shape, dtype="int32") for name, shape in zip(INPUTS, shapes, strict=True))
