"""A line of small signed bundles, made once, and a store that takes them."""

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from sottovoce.client.bundle_store import BundleStore
from sottovoce.models.bundle import pack
from sottovoce.models.calibration import identity
from sottovoce.models.golden import draw_golden, write_golden
from sottovoce.models.key_set import KeySet, sign_key_set
from sottovoce.models.manifest import File, Manifest, Port, Runtimes
from sottovoce.models.passport import PrivacyPassport
from sottovoce.models.request import OUTPUT
from sottovoce.models.rollout import Rollout
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.models.signing import generate_key, public_pem, sign
from sottovoce.models.trust import Trust

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RUNTIMES = {"litert": "2.3.0"}
KEY = generate_key()
SCHEMA = FeatureSchema(
    features=(
        Feature(name="hour", source="context", kind="integer", buckets=4),
        Feature(name="ad", source="ad", kind="integer", buckets=30, in_history=True, privacy="public"),
    ),
    history_length=2,
)
PASSPORT = PrivacyPassport(
    sampling="poisson",
    sampling_rate=0.1,
    population=20_000,
    mechanism="gaussian",
    noise_multiplier=1.1,
    clip_norm=0.5,
    rounds=200,
    releases={"training": 200},
    accountant="pld",
    epsilon=4.0,
    epsilon_known_cohort=40.0,
    delta=1e-5,
    ledger_head="ab" * 32,
    ledger_length=401,
    noise_source="secure",
)


class TableScorer:
    """Reads a click rate per ad out of the model file, which holds nothing else: 16 bits for each."""

    def __init__(self, model, off=0.0):
        self.rates = np.frombuffer(model, "<u2")[:30] / np.float32(65536)
        self.off = off

    def scores(self, context, events, outcomes, ad):
        return np.clip(self.rates[ad[:, 0] % 30] + self.off, 0, 1).astype(np.float32)[:, None]


def scorer_of(bundle, off=0.0):
    return TableScorer(bundle.tflite, off)


def store_in(folder, scorer=scorer_of):
    return BundleStore(folder, Trust((KEY.public_key(),)), RUNTIMES, scorer)


def model(number, size):
    """A model file of that many bytes: like the last version's but for a few codes."""
    codes = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    for step in range(number):
        rng = np.random.default_rng(1 + step)
        codes[rng.integers(0, size, size // 20)] += rng.integers(0, 3, size // 20).astype(np.uint8)
    return codes.tobytes()


def onnx_model(number, step=1):
    """The same table as a real ONNX model."""
    rates = (np.frombuffer(model(number, 4000), "<u2")[:30][::step] / np.float32(65536)).astype(np.float32)[:, None]
    ports = {"context": [1, 1], "events": [2, 1], "outcomes": [2], "ad": ["n", 1]}
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["ad", "axes"], ["flat"]),
            helper.make_node("Gather", ["rates", "flat"], [OUTPUT]),
        ],
        "table",
        [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name, shape in ports.items()],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(rates, "rates"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@cache
def version(number, *, created=NOW, size=4000, key=KEY, model_id="line", onnx=None):
    tflite = model(number, size)
    onnx = onnx or tflite
    scorer = TableScorer(tflite)
    golden = draw_golden(
        SCHEMA, lambda one: scorer.scores(one.context, one.events, one.outcomes, one.ad), np.random.default_rng(number)
    )
    files = {
        "model.onnx": onnx,
        "model.tflite": tflite,
        "schema.json": SCHEMA.canonical(),
        "calibration.json": identity(SCHEMA.heads).canonical(),
        "passport.json": PASSPORT.canonical(),
        "golden.json": write_golden(golden[:1]),
        "LICENSE.txt": b"Apache-2.0",
    }
    manifest = Manifest(
        model_id=model_id,
        version=number,
        created=created,
        expires=created + timedelta(days=30),
        min_runtime=Runtimes(litert="1.2.0", onnxruntime="1.15.0"),
        schema_digest=SCHEMA.digest(),
        passport_digest=hashlib.sha256(files["passport.json"]).hexdigest(),
        checkpoint_digest=hashlib.sha256(tflite).hexdigest(),
        heads=SCHEMA.heads,
        files={name: File(sha256=hashlib.sha256(data).hexdigest(), length=len(data)) for name, data in files.items()},
        quantization="int8",
        key_threshold=1,
        rollout=Rollout(percent=100.0, salt=model_id),
        inputs=(Port(name="ad", shape=(-1, 1), dtype="int32"),),
        outputs=(Port(name="scores", shape=(-1, 1), dtype="float32"),),
    )
    files["manifest.json"] = manifest.canonical()
    keys = key if isinstance(key, tuple) else (key,)
    return pack(files | {"model.sig": sign(files, keys, model_id)})


def key_set(number, keys, signers, *, days=365, line="line", threshold=1, last=None):
    """A signed key set of the line: its keys, and who signs it."""
    pems = tuple(public_pem(key.public_key()).decode() for key in keys)
    made = KeySet(
        model_id=line,
        version=number,
        threshold=threshold,
        keys=pems,
        expires=NOW + timedelta(days=days),
        last_version=last,
    )
    return sign_key_set(made, signers)
