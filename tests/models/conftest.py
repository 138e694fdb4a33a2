"""A tiny ranker and a publisher of bundles that a test can bend in one line."""

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from sottovoce.models import ranker
from sottovoce.models.bundle import pack
from sottovoce.models.calibration import identity
from sottovoce.models.golden import draw_golden, write_golden
from sottovoce.models.manifest import File, Manifest, Port, Runtimes
from sottovoce.models.passport import PrivacyPassport
from sottovoce.models.rollout import Rollout
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.models.signing import generate_key, sign

torch.set_num_threads(1)  # tiny products; threads that wait for a busy machine make them a hundred times slower

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def schema():
    return FeatureSchema(
        features=(
            Feature(name="size", source="device", kind="integer", buckets=3),
            Feature(name="hour", source="context", kind="integer", buckets=4),
            Feature(name="ad", source="ad", kind="integer", buckets=30, in_history=True, privacy="public"),
            Feature(name="topic", source="ad", buckets=8, privacy="public"),
        ),
        history_length=4,
        heads=("click", "conversion"),
    )


@pytest.fixture(scope="session")
def config():
    return ranker.RankerConfig(embedding_width=4, tower_width=4, hidden_width=8)


@pytest.fixture(scope="session")
def parameters(schema, config):
    generator = torch.Generator().manual_seed(5)
    made = {
        name: torch.randn(shape, generator=generator) * 0.4 for name, shape in ranker.shapes(schema, config).items()
    }
    made["table"][0] = 0.0
    return made


@pytest.fixture(scope="session")
def passport():
    return PrivacyPassport(
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


@pytest.fixture(scope="session")
def key():
    return generate_key()


class Publisher:
    """Makes bundles; every field may be bent before `bundle` is called."""

    def __init__(self, schema, passport, keys):
        scorer = hash_scorer(schema)
        self.schema, self.passport, self.keys = schema, passport, keys
        self.version, self.model_id, self.parent_version = 7, "line", None
        self.created, self.expires = NOW, NOW + timedelta(days=30)
        self.min_runtime = Runtimes(litert="1.2.0", onnxruntime="1.15.0")
        self.key_threshold, self.rollout = 1, Rollout(percent=100.0, salt="line 7")
        self.schema_digest, self.heads, self.checkpoint_digest = schema.digest(), schema.heads, "cd" * 32
        self.files = {
            "model.onnx": b"onnx bytes",
            "model.tflite": b"tflite bytes",
            "schema.json": schema.canonical(),
            "calibration.json": identity(schema.heads).canonical(),
            "passport.json": passport.canonical(),
            "golden.json": write_golden(draw_golden(schema, scorer, np.random.default_rng(0))[:1]),
            "LICENSE.txt": b"Apache-2.0",
        }

    def manifest(self):
        return Manifest(
            model_id=self.model_id,
            version=self.version,
            created=self.created,
            expires=self.expires,
            min_runtime=self.min_runtime,
            schema_digest=self.schema_digest,
            passport_digest=hashlib.sha256(self.files["passport.json"]).hexdigest(),
            checkpoint_digest=self.checkpoint_digest,
            heads=self.heads,
            files={
                name: File(sha256=hashlib.sha256(data).hexdigest(), length=len(data))
                for name, data in self.files.items()
            },
            parent_version=self.parent_version,
            quantization="int8",
            inputs=(Port(name="ad", shape=(-1, 2), dtype="int32"),),
            outputs=(Port(name="scores", shape=(-1, 2), dtype="float32"),),
            key_threshold=self.key_threshold,
            rollout=self.rollout,
        )

    def signed(self, manifest=None):
        """All files with a signature over them; the manifest's bytes may be replaced."""
        files = self.files | {"manifest.json": self.manifest().canonical() if manifest is None else manifest}
        return files | {"model.sig": sign(files, self.keys, self.model_id)}

    def bundle(self, manifest=None):
        return pack(self.signed(manifest))


def hash_scorer(schema):
    """Scores that depend on every input and need no model."""

    def score(request):
        mixed = request.ad.sum(1) * 37 + request.context.sum() * 11 + request.events.sum() * 3 + request.outcomes.sum()
        return np.stack([(mixed % 97 + 1) / 100.0] * len(schema.heads), 1).astype(np.float32)

    return score


@pytest.fixture
def publisher(schema, passport, key):
    return Publisher(schema, passport, [key])


@pytest.fixture(scope="session")
def good_files(schema, passport, key):
    return Publisher(schema, passport, [key]).signed()


@pytest.fixture(scope="session")
def scorer(schema):
    return hash_scorer(schema)


@pytest.fixture(scope="session")
def now():
    return NOW
