"""The quantized ranker as a TFLite file for LiteRT.

A TFLite graph has fixed shapes, so the file holds one signature per number of candidates, `rank_1` to `rank_1024`, all
reading the same weights; the caller pads to the next size. Only built-in operators on a closed list are let through,
each of which also exists in runtimes of 2023.

The converter imports jax and takes seconds to load, so it is imported where it is used.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from sottovoce.models.onnx_export import example
from sottovoce.models.quantize import QuantizedRanker
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.request import INPUTS, OUTPUT
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import GateError

SIZES = (1, 16, 64, 256, 1024)
"""Candidates of each signature; `signature(n)` is its name."""

OPERATORS = frozenset(
    {
        "ADD", "BATCH_MATMUL", "BROADCAST_TO", "CAST", "CONCATENATION", "DIV", "EMBEDDING_LOOKUP", "EQUAL",
        "FULLY_CONNECTED", "GREATER", "GREATER_EQUAL", "LOG", "LOGICAL_AND", "LOGISTIC", "MUL", "NOT_EQUAL", "RESHAPE",
        "SLICE", "SOFTMAX", "SUB", "SUM", "TRANSPOSE",
    }
)  # fmt: skip
"""Every operator an exported file may hold."""


def signature(candidates: int) -> str:
    """Name of the signature for exactly this many candidates."""
    return f"rank_{candidates}"


def to_tflite(module: QuantizedRanker, schema: FeatureSchema, sizes: Sequence[int] = SIZES) -> bytes:
    """The TFLite file: per signature inputs `context`, `events`, `outcomes`, `ad`, output `scores` (N, heads).

    Args:
        module: the quantized ranker.
        schema: the features it reads; they fix the shapes of the inputs.
        sizes: candidates of each signature, at least one.

    Raises:
        GateError: the converter produced an operator that is not on the list, or not the signatures asked for.
    """
    named = _Named(module).eval()
    with _quiet(), quiet_stderr():
        import litert_torch  # takes seconds and pulls jax: only who exports pays for it

        converter = litert_torch
        for size in sizes:
            inputs = dict(zip(INPUTS, example(schema, size), strict=True))
            converter = converter.signature(signature(size), named, sample_kwargs=inputs)
        data = bytes(converter.convert().model_content())
    _refuse_strangers(data, sizes)
    return data


class _Named(nn.Module):
    """Gives the output its name, which the converter takes from a dictionary's key."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, context: Tensor, events: Tensor, outcomes: Tensor, ad: Tensor) -> dict[str, Tensor]:
        return {OUTPUT: self.module(context, events, outcomes, ad)}


def _refuse_strangers(data: bytes, sizes: Sequence[int]) -> None:
    """Refuse anything but built-in operators of the list and the signatures asked for."""
    from ai_edge_litert import schema_py_generated as layout

    model = layout.ModelT.InitFromPackedBuf(data, 0)
    names = {code: name for name, code in vars(layout.BuiltinOperator).items() if not name.startswith("_")}
    # Codes above 127 do not fit the older of the two fields, which then holds 127.
    used = {names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes}
    if used - OPERATORS:
        raise GateError(f"the TFLite file uses operators {sorted(used - OPERATORS)}", "keep to those of the list")
    found = sorted(bytes(entry.signatureKey).decode() for entry in model.signatureDefs)
    if found != sorted(signature(size) for size in sizes):
        raise GateError(f"the TFLite file has signatures {found}", "use the versions of the constraints file")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converter's progress lines, and one deprecation inside torch."""
    name = "LITERT_TORCH_SHOW_PROGRESS"
    before = os.environ.get(name)
    os.environ[name] = "n"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*", category=FutureWarning)
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
