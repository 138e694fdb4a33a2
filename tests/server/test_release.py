"""From parameters to a signed file, or to a named reason why not."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import numpy as np
import pytest
import torch

from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, request_scorer
from sottovoce.models import ranker
from sottovoce.models.bundle import unpack
from sottovoce.models.calibration import Calibration, HeadCalibration, PaidMeasurement, identity
from sottovoce.models.manifest import load_manifest
from sottovoce.models.parity import float_scorer, module_scorer, quantization_cost
from sottovoce.models.passport import SIMULATION, PrivacyPassport
from sottovoce.models.quantize import quantize
from sottovoce.models.request import random_requests
from sottovoce.models.rollout import Rollout
from sottovoce.models.row_scales import row_scales
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.models.signing import generate_key
from sottovoce.models.stored_scales import stored_scales
from sottovoce.models.trust import Trust, check_golden
from sottovoce.privacy.errors import GateError, SignatureError
from sottovoce.server import release as release_module
from sottovoce.server.gates import Gates
from sottovoce.server.release import _smallest, release

torch.set_num_threads(1)

NOW = datetime(2026, 11, 23, 14, tzinfo=timezone(timedelta(hours=2)))
SCHEMA = FeatureSchema(
    features=(
        Feature(name="hour", source="context", kind="integer", buckets=4),
        Feature(name="ad", source="ad", kind="integer", buckets=40, in_history=True, privacy="public"),
    ),
    history_length=3,
)
CONFIG = ranker.RankerConfig(embedding_width=4, tower_width=4, hidden_width=8)
PASSPORT = PrivacyPassport(
    sampling="poisson",
    sampling_rate=0.1,
    population=1000,
    mechanism="gaussian",
    noise_multiplier=1.0,
    clip_norm=1.0,
    rounds=10,
    releases={"training": 10},
    accountant="pld",
    epsilon=4.0,
    epsilon_known_cohort=30.0,
    delta=1e-5,
    ledger_head="0" * 64,
    ledger_length=21,
    noise_source="secure",
)
REQUESTS = random_requests(SCHEMA, 100, 12, np.random.default_rng(0))


def trained(spread=0.4, config=CONFIG):
    generator = torch.Generator().manual_seed(1)
    made = {n: torch.randn(s, generator=generator) * spread for n, s in ranker.shapes(SCHEMA, config).items()}
    made["table"][0] = 0.0
    return made


def released(parameters=None, passport=PASSPORT, keys=None, config=CONFIG, **changed):
    arguments = {
        "checkpoint_digest": "cd" * 32,
        "model_id": "market",
        "version": 4,
        "now": NOW,
        "expires_days": 30,
        "notice": "Apache-2.0",
        "metrics": {"auc": 0.7},
        "gates": Gates(),
        "sizes": (64,),
    }
    keys = [generate_key()] if keys is None else keys
    return release(parameters or trained(), SCHEMA, config, passport, REQUESTS, keys, **(arguments | changed))


@pytest.fixture(scope="module")
def key():
    return generate_key()


@pytest.fixture(scope="module")
def good(key):
    return released(keys=[key], parent_version=3)


def test_a_device_accepts_the_released_bundle_and_scores_its_golden_requests(good, key):
    belief, bundle = Trust((key.public_key(),)).accept(
        good.bundle, now=NOW, runtimes={"litert": "2.3.0", "onnxruntime": "1.32.0"}, schemas={SCHEMA.digest()}
    )
    assert belief.version == 4
    for scorer in (request_scorer(OnnxScorer(bundle.onnx)), request_scorer(LiteRTScorer(bundle.tflite))):
        check_golden(bundle, scorer)


def test_the_report_tells_what_is_in_the_bundle(good):
    report = good.report
    assert report.bundle_bytes == len(good.bundle)
    assert report.file_bytes == {name: len(data) for name, data in unpack(good.bundle).items()}
    assert report.parity.requests == 100
    assert report.parity.runtime_difference <= 1e-6
    assert report.parity.runtime_decision_change == 0.0
    assert [(one.name, one.requests) for one in report.parity.slices] == [("candidates 5-16", 100)]
    assert report.parameters == sum(math.prod(shape) for shape in ranker.shapes(SCHEMA, CONFIG).values())
    assert all(gate.passed for gate in report.gates)
    assert msgspec.json.decode(msgspec.json.encode(report))["metrics"] == {"auc": 0.7}


def test_the_manifest_states_utc_times_parent_and_storage(good):
    manifest = load_manifest(unpack(good.bundle)["manifest.json"])
    assert manifest.created == NOW
    assert manifest.created.tzinfo == UTC
    assert manifest.expires - manifest.created == timedelta(days=30)
    assert (manifest.version, manifest.parent_version, manifest.checkpoint_digest) == (4, 3, "cd" * 32)
    assert "int8" in manifest.quantization
    assert manifest.personal_variance == 0.0
    assert [port.name for port in manifest.inputs] == ["context", "events", "outcomes", "ad"]


def test_a_linear_model_with_a_personal_layer_is_released_whole(key):
    """Without interest counts: the model that would rather not read all of its inputs."""
    linear = ranker.RankerConfig(embedding_width=0, personal_variance=0.7, interest_counts=False)
    out = released(trained(config=linear), keys=[key], config=linear)
    assert out.report.parity.runtime_difference <= 1e-6
    assert out.report.parity.quantization_error <= 1e-6
    assert all(gate.passed for gate in out.report.gates)
    belief, bundle = Trust((key.public_key(),)).accept(
        out.bundle, now=NOW, runtimes={"litert": "2.3.0", "onnxruntime": "1.32.0"}, schemas={SCHEMA.digest()}
    )
    assert (belief.version, bundle.manifest.personal_variance) == (4, 0.7)
    for scorer in (request_scorer(OnnxScorer(bundle.onnx)), request_scorer(LiteRTScorer(bundle.tflite))):
        check_golden(bundle, scorer)


PAID = PaidMeasurement(
    run_id="run",
    number=1,
    model_round=10,
    ledger_row=20,
    ledger_hash="ab" * 32,
    artifact_sha256="cd" * 32,
    noise_std=20.0,
)
MEASURED = Calibration(heads=(HeadCalibration(head="click", slope=0.8, intercept=-0.3, source=PAID),))


@pytest.fixture(scope="module")
def calibrated(key):
    return released(keys=[key], calibration=MEASURED)


def test_a_calibrated_bundle_scores_on_both_runtimes_what_its_statement_says(calibrated, good, key):
    """The logits are those of the bundle without it, from the files that devices run."""
    plain, made = (
        Trust((key.public_key(),)).accept(out.bundle, now=NOW, runtimes={"litert": "2.3.0", "onnxruntime": "1.32.0"})[1]
        for out in (good, calibrated)
    )
    assert made.calibration == MEASURED
    assert plain.calibration.identity
    assert calibrated.report.calibration == MEASURED.heads
    assert calibrated.report.parameters == good.report.parameters  # devices trained no more than before
    for before, after in ((plain.onnx, made.onnx), (plain.tflite, made.tflite)):
        runtime = OnnxScorer if before == plain.onnx else LiteRTScorer
        one, other = (request_scorer(runtime(model)) for model in (before, after))
        check_golden(made, other)
        for request in REQUESTS[:20]:
            logits = [np.log(p / (1 - p)) for p in (one(request).astype(np.float64), other(request).astype(np.float64))]
            np.testing.assert_allclose(logits[1], 0.8 * logits[0] - 0.3, atol=1e-4)


@pytest.mark.usefixtures("exported_before")
def test_exports_that_ignore_the_calibration_are_refused_however_wide_the_gates_are():
    wide = Gates(max_runtime_difference=1.0, max_runtime_decision_change=1.0, max_decision_change=1.0)
    small = msgspec.structs.replace(MEASURED.heads[0], slope=1.0, intercept=0.01)
    with pytest.raises(GateError, match=r"does not apply calibration\.json"):
        released(calibration=Calibration(heads=(small,)), gates=wide)


def test_a_calibration_of_other_heads_is_the_programmers_mistake():
    for heads in ((), ("conversion",), ("click", "conversion")):
        with pytest.raises(ValueError, match="heads"):
            released(calibration=identity(heads))


def test_golden_requests_are_not_the_sample_requests(good):
    """Sample requests may be real people's; nothing of them may travel."""
    golden = msgspec.json.decode(unpack(good.bundle)["golden.json"])
    sampled = {request.ad.tobytes() for request in REQUESTS}
    assert all(np.asarray(one["ad"], np.int32).tobytes() not in sampled for one in golden)


@pytest.fixture
def exported_before(good, monkeypatch):
    """The exports of the good release again: they are reproducible, which other tests show, and slow."""
    files = unpack(good.bundle)
    monkeypatch.setattr(release_module, "to_onnx", lambda *_: files["model.onnx"])
    monkeypatch.setattr(release_module, "to_tflite", lambda *_: files["model.tflite"])


@pytest.mark.usefixtures("exported_before")
def test_the_same_release_has_the_same_bytes_the_second_time(good, key):
    assert released(keys=[key], parent_version=3).bundle == good.bundle


@pytest.mark.usefixtures("exported_before")
def test_the_manifest_asks_for_all_signers_and_goes_to_all_devices_unless_told_otherwise(good, key):
    several, runtimes = [key, generate_key(), key], {"litert": "2.3.0"}
    staged = released(keys=several, key_threshold=1, rollout_percent=5, rollout_salt="market 3").bundle
    whole, only = released(keys=several).bundle, Trust((key.public_key(),))
    claims = [load_manifest(unpack(data)["manifest.json"]) for data in (good.bundle, whole, staged)]
    assert [claim.key_threshold for claim in claims] == [1, 2, 1]
    everybody, some = Rollout(percent=100.0, salt="market 4"), Rollout(percent=5.0, salt="market 3")
    assert [claim.rollout for claim in claims] == [everybody, everybody, some]
    only.accept(staged, now=NOW, runtimes=runtimes)  # while keys are rotated, devices know one of them
    with pytest.raises(SignatureError):
        only.accept(whole, now=NOW, runtimes=runtimes)


@pytest.mark.parametrize("changed", [{"key_threshold": 0}, {"key_threshold": 2}, {"rollout_percent": 101}])
def test_thresholds_and_shares_that_cannot_be_are_the_callers_mistake(key, changed):
    with pytest.raises(ValueError, match=r"threshold|percent"):
        released(keys=[key, key], **changed)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_source": "seeded", "label": SIMULATION},
        {"noise_source": "none", "label": SIMULATION, "epsilon": None},
        {"ledger_head": ""},
        {"epsilon": math.inf},
    ],
    ids=str,
)
def test_a_simulation_is_never_signed(wrong):
    with pytest.raises(GateError, match="SIMULATION: NO GUARANTEE"):
        released(passport=msgspec.structs.replace(PASSPORT, **wrong))


@pytest.mark.usefixtures("exported_before")
def test_missed_gates_are_named_with_by_how_much():
    with pytest.raises(GateError, match=r"max_bundle_bytes: .* misses 1000 by .*; max_epsilon: .*; min_auc: 0\.7"):
        released(gates=Gates(max_bundle_bytes=1000, max_epsilon=1.0, min_auc=0.9))


def test_a_second_plane_is_used_only_where_one_does_not_meet_the_gates(good):
    assert good.report.parity.quantization_error > 1e-4
    planes = [
        _smallest(trained(), SCHEMA, CONFIG, REQUESTS, gates).planes
        for gates in (Gates(), Gates(max_quantization_error=1e-4), Gates(max_quantization_error=0.0))
    ]
    assert planes == [1, 2, 2]


def test_scales_take_one_byte_only_where_that_is_asked_for():
    modules = [_smallest(trained(), SCHEMA, CONFIG, REQUESTS, Gates(), asked) for asked in (False, True)]
    assert [module.levels is not None for module in modules] == [False, True]
    assert [module.planes for module in modules] == [1, 1]


@pytest.fixture(scope="module")
def parent(good, key):
    _, bundle = Trust((key.public_key(),)).accept(
        good.bundle, now=NOW, runtimes={"litert": "2.3.0", "onnxruntime": "1.32.0"}
    )
    return bundle


def moved():
    """The released model a little later: the vectors are 0.7 to 0.9 times what they were."""
    later = trained()
    generator = torch.Generator().manual_seed(2)
    later["table"][:, 1:] *= 0.7 + 0.2 * torch.rand(len(later["table"]), 1, generator=generator)
    return later


@pytest.mark.usefixtures("exported_before")
def test_a_release_with_a_parent_names_its_version(parent, key):
    out = released(keys=[key], version=5, parent=parent)
    assert load_manifest(unpack(out.bundle)["manifest.json"]).parent_version == 4


def test_what_is_exported_has_the_scales_that_stand_in_the_parents_file(parent, monkeypatch):
    class SeenError(Exception):
        pass

    def stop(module, _):
        raise SeenError(module)

    monkeypatch.setattr(release_module, "to_onnx", stop)
    with pytest.raises(SeenError) as seen:
        released(moved(), version=5, parent=parent)
    (module,) = seen.value.args
    assert torch.equal(module.exact[:, 1:], row_scales(trained()["table"][:, 1:]).values)


def test_new_scales_are_tried_before_a_second_plane_is(parent):
    """Kept scales are coarser: where only new ones meet the gate, the file stays small and the update does not."""
    kept = stored_scales(parent.onnx, SCHEMA.rows)
    reference = float_scorer(moved(), SCHEMA, CONFIG)
    old, new = (
        quantization_cost(reference, module_scorer(quantize(moved(), SCHEMA, CONFIG, previous=one)), REQUESTS)[0]
        for one in (kept, None)
    )
    assert new < old < 2 * new
    for limit, wanted in ((old, kept.values), (new, row_scales(moved()["table"][:, 1:]).values)):
        gates = Gates(max_quantization_error=limit, max_decision_change=1.0)
        module = _smallest(moved(), SCHEMA, CONFIG, REQUESTS, gates, previous=kept)
        assert module.planes == 1
        assert torch.equal(module.exact[:, 1:], wanted)


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"version": 4}, "not below 4"), ({"model_id": "other"}, "line"), ({"schema_digest": "0" * 64}, "schema")],
    ids=str,
)
def test_a_parent_that_is_not_one_is_refused(parent, changed, word):
    digest = changed.pop("schema_digest", SCHEMA.digest())
    manifest = msgspec.structs.replace(parent.manifest, schema_digest=digest)
    with pytest.raises(GateError, match=word):
        released(parent=dataclasses.replace(parent, manifest=manifest), **({"version": 5} | changed))


def test_two_parents_are_the_programmers_mistake(parent):
    with pytest.raises(ValueError, match="parent_version is 3"):
        released(parent=parent, parent_version=3, version=5)


@pytest.mark.usefixtures("exported_before")
def test_an_export_that_scores_differently_is_refused():
    """The exports of one model must not go out with the golden requests of another."""
    with pytest.raises(GateError, match="max_runtime_difference"):
        released(trained(spread=0.3))


def test_parameters_that_are_not_finite_are_refused():
    broken = trained()
    broken["head.bias"][0, 0] = float("nan")
    with pytest.raises(GateError, match=r"head\.bias"):
        released(broken)
