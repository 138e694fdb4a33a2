"""The quantized ranker as an ONNX file that old runtimes read too.

Opset 17 and IR version 8 load on ONNX Runtime from 1.12 on; the exporter's own default (opset 18, IR 10) does not. Only
operators of the `ai.onnx` domain on a closed list are let through, because an operator that is missing on one runtime
shows up on a phone, not here. Source paths and code lines that the exporter writes into the file are removed, and the
same weights give the same bytes.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch

from sottovoce.models.quantize import QuantizedRanker
from sottovoce.models.request import INPUTS, OUTPUT
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import GateError

OPSET = 17
IR_VERSION = 8
MOST_CANDIDATES = 4096
"""Largest N of one call."""

OPERATORS = frozenset(
    {
        "Add", "And", "Cast", "Concat", "Constant", "Div", "Equal", "Expand", "Gather", "Greater", "GreaterOrEqual",
        "Log", "MatMul", "Mul", "Not", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Sub",
        "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Every operator an exported file may hold; each has been in ai.onnx since opset 13 or earlier."""


def to_onnx(module: QuantizedRanker, schema: FeatureSchema) -> bytes:
    """The ONNX file: inputs `context`, `events`, `outcomes`, `ad` (N rows, N free), output `scores` (N, heads).

    Args:
        module: the quantized ranker.
        schema: the features it reads; they fix the shapes of the inputs.

    Raises:
        GateError: the exporter produced another opset, an operator that is not on the list, or an invalid file.
    """
    candidates = torch.export.Dim("N", min=1, max=MOST_CANDIDATES)
    with _quiet():
        program = torch.onnx.export(
            module,
            example(schema, 2),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes={"context": None, "events": None, "outcomes": None, "ad": {0: candidates}},
            verbose=False,
        )
    if program is None:
        raise GateError("the ONNX exporter returned no program", "use the torch version of the constraints file")
    proto = program.model_proto
    proto.ir_version = IR_VERSION
    _strip(proto)
    _refuse_strangers(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the exported ONNX file is not valid: {error}", "report it with the schema") from error
    return bytes(proto.SerializeToString(deterministic=True))


def example(schema: FeatureSchema, candidates: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shape and dtype to trace with, all padding; in the order of `INPUTS`."""
    sizes = (
        (1, len(schema.context)),
        (schema.history_length, len(schema.history)),
        (schema.history_length,),
        (candidates, len(schema.ad)),
    )
    return tuple(torch.zeros(size, dtype=torch.int32) for size in sizes)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what names this machine: paths, code lines and the types derived from them."""
    proto.ClearField("metadata_props")
    proto.ClearField("doc_string")
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _refuse_strangers(proto: onnx.ModelProto) -> None:
    """Refuse anything but plain operators of the one opset, with every weight inside the file."""
    opsets = [(entry.domain, entry.version) for entry in proto.opset_import]
    if opsets != [("", OPSET)]:
        raise GateError(f"the ONNX file uses opsets {opsets}, not {OPSET}", "use the versions of the constraints file")
    strangers = {
        f"{node.domain}:{node.op_type}" for node in proto.graph.node if node.domain or node.op_type not in OPERATORS
    }
    if strangers or proto.functions:
        raise GateError(f"the ONNX file uses operators {sorted(strangers)}", "keep to the operators of the list")
    if any(weight.external_data for weight in proto.graph.initializer):
        raise GateError("the ONNX file keeps weights outside", "export a smaller model")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter where what it says is known and checked afterwards.

    It warns that opset 17 is converted from 18 (the result is checked), that torchvision is absent, and uses a
    deprecated call of torch's own.
    """
    noisy = logging.getLogger("torch.onnx"), logging.getLogger("onnxscript")
    levels = [logger.level for logger in noisy]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*", category=FutureWarning)
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(noisy, levels, strict=True):
                logger.setLevel(level)
