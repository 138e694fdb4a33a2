"""A bundle held against the checkpoint it names: the same file, and exactly the weights that quantizing it gives.

Quantization is deterministic, and a row keeps a scale that fits it. So the bundle's own scales give its own codes back,
whether they were new in it or kept from a parent, and neither the parent nor the gates are needed here.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper
from torch import Tensor

from sottovoce.client.scorer import LiteRTScorer, request_scorer
from sottovoce.models.bundle import Bundle
from sottovoce.models.parity import module_scorer
from sottovoce.models.quantize import quantize
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.ranker import RankerConfig, calibrated
from sottovoce.models.request import random_requests
from sottovoce.models.stored_scales import stored_scales
from sottovoce.privacy.errors import DigestError
from sottovoce.server.checkpoint import decode
from sottovoce.server.optimizer import averaged

REQUESTS, CANDIDATES = 50, 16
CLOSE = 1e-6
"""Largest difference of a score between the checkpoint's weights and `model.tflite`, which lays its tables out anew."""

ASK = "do not put this bundle to use; ask who signed it"


def require_made_from(bundle: Bundle, checkpoint: bytes, name: str) -> int:
    """Let a bundle pass that was made from this checkpoint; how many tables of `model.onnx` are equal, bit for bit.

    `model.tflite` is run by LiteRT on requests drawn at random and must score as these weights do.

    Args:
        bundle: that a device would take.
        checkpoint: bytes of the file.
        name: of the file, for messages.

    Raises:
        DigestError: another file, or the bundle's weights are not those that it holds.
        CheckpointError: it has the digest and cannot be read.
        GateError: `model.onnx` is not as `release` writes it.
    """
    found = hashlib.sha256(checkpoint).hexdigest()
    if found != bundle.manifest.checkpoint_digest:
        raise DigestError(
            f"checkpoint_digest: the manifest says {bundle.manifest.checkpoint_digest}, {name} has {found}",
            "name the checkpoint of the release, such as RUN/checkpoints/round-000200.safetensors",
        )
    state, facts = decode(checkpoint, name)
    if facts.schema_digest != bundle.manifest.schema_digest:
        raise DigestError(f"schema.json is not the schema of {name}", ASK)
    scales = stored_scales(bundle.onnx, bundle.schema.rows)
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(bundle.onnx).graph.initializer}
    one_byte = scales is not None and scales.levels is not None
    try:
        parameters = averaged(state)
        config = _sizes(parameters)
        width = config.embedding_width
        planes = (stored["codes"].shape[1] - one_byte) // width if width else 1
        module = quantize(
            calibrated(parameters, bundle.calibration),
            bundle.schema,
            config,
            planes,
            one_byte_scales=one_byte,
            previous=scales,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise DigestError(f"model.onnx and {name} are of different sizes: {error}", ASK) from error
    tables = {key: value.numpy() for key, value in module.named_buffers() if value.numel()}
    wrong = sorted(key for key, value in tables.items() if not _same(value, stored.get(key)))
    if wrong:
        raise DigestError(f"model.onnx does not hold the weights of {name}: {', '.join(wrong)}", ASK)
    exact = module_scorer(module)
    with quiet_stderr():  # LiteRT announces itself when a model is first run
        scorer = request_scorer(LiteRTScorer(bundle.tflite))
        drawn = random_requests(bundle.schema, REQUESTS, CANDIDATES, np.random.default_rng(0))
        apart = max(float(np.abs(scorer(one) - exact(one)).max()) for one in drawn)
    if not apart <= CLOSE:
        raise DigestError(f"model.tflite does not score as the weights of {name}: {apart:.3g} apart", ASK)
    return len(tables)


def _same(value: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and value.dtype == other.dtype and np.array_equal(value, other)


def _sizes(parameters: Mapping[str, Tensor]) -> RankerConfig:
    """The sizes that parameters were made with, as far as scores depend on them."""
    width = parameters["table"].shape[1] - 1
    if not width:
        return RankerConfig(embedding_width=0, interest_counts="interest.weight" in parameters)
    return RankerConfig(
        embedding_width=width,
        tower_width=parameters["tower.bias"].shape[1],
        cross_layers=sum(name.startswith("cross.") and name.endswith(".bias") for name in parameters),
        hidden_width=parameters["hidden.bias"].shape[1],
    )
