"""The quantized torch module of a bundle again, from the weights in its ONNX file.

A bundle holds no torch file, because a phone has no torch. To measure or compare with the module that was evaluated it
is built from the same weights; the sizes follow from their shapes.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from sottovoce.models.quantize import PLANES, QuantizedRanker
from sottovoce.models.ranker import INTERCEPT, SLOPE, RankerConfig, shapes
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import DeviceError

Weights = Mapping[str, npt.NDArray[np.generic]]

_DENSE = {
    name.replace(".", "_"): name
    for name in (
        "tower.weight",
        "tower.bias",
        "interest.weight",
        "hidden.weight",
        "hidden.bias",
        "head.weight",
        "head.bias",
        SLOPE,
        INTERCEPT,
    )
}


def weights_of(file: bytes) -> Weights:
    """Every named weight of an exported ONNX file, with the names of the module's buffers.

    Raises:
        DeviceError: not an ONNX file.
    """
    import onnx  # who only rebuilds the module does not pay for it
    from onnx import numpy_helper

    try:
        graph = onnx.load_from_string(file).graph
        return {one.name: numpy_helper.to_array(one) for one in graph.initializer if _named(one.name)}
    except Exception as error:  # protobuf's errors have no common base
        raise DeviceError(
            f"model.onnx cannot be read: {error}", "name a bundle that `sottovoce release` made"
        ) from None


def module_of(weights: Weights, schema: FeatureSchema) -> QuantizedRanker:
    """The module that was exported.

    Args:
        weights: from `weights_of`.
        schema: of the same bundle.

    Raises:
        DeviceError: these are not the weights of a ranker on this schema.
    """
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    dense = {_dotted(name): value for name, value in tensors.items() if name not in ("codes", "exact")}
    refused = DeviceError("model.onnx does not hold the weights of a ranker", "name a bundle that was released here")
    try:
        exact = tensors["exact"]
        if "codes" not in tensors:
            config, codes = RankerConfig(embedding_width=0), torch.zeros((len(exact), 0), dtype=torch.int8)
        else:
            codes = tensors["codes"]
            width = dense["tower.weight"].shape[0] // len(schema.context)
            config = RankerConfig(
                embedding_width=width,
                tower_width=dense["tower.weight"].shape[1],
                hidden_width=dense["hidden.weight"].shape[1],
                cross_layers=sum(name.startswith("cross.") for name in dense) // 2,
            )
            if codes.shape not in {(schema.rows, planes * width) for planes in PLANES}:
                raise refused
    except (KeyError, IndexError, ValueError) as error:
        raise refused from error
    expected = {name: shape for name, shape in shapes(schema, config).items() if name != "table"}
    if SLOPE in dense:
        expected |= dict.fromkeys((SLOPE, INTERCEPT), (1, len(schema.heads)))
    if {name: tuple(value.shape) for name, value in dense.items()} != expected or len(exact) != schema.rows:
        raise refused
    return QuantizedRanker(codes, exact, dense, schema, config).eval()


def _named(name: str) -> bool:
    return name in ("codes", "exact") or name in _DENSE or name.startswith("cross_")


def _dotted(name: str) -> str:
    """From a buffer's name to a parameter's: "cross_0_bias" is "cross.0.bias"."""
    return _DENSE.get(name) or name.replace("_", ".")
