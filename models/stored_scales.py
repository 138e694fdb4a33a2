"""The scales of a released model, read back from its ONNX file, for the version that follows it.

Only a server needs them. They stand in the file as they are: the exporter keeps the names of the module's weights.
"""

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from sottovoce.models.row_scales import LEVELS, RowScales
from sottovoce.privacy.errors import GateError


def stored_scales(data: bytes, rows: int) -> RowScales | None:
    """Scales of all rows of an exported file; None where it is of a linear model, which has none.

    Args:
        data: an ONNX file that `onnx_export.to_onnx` wrote.
        rows: of its table, from its schema.

    Raises:
        GateError: it is not such a file.
    """
    advice = "release without a parent: every device then downloads the whole bundle"
    try:
        graph = onnx.load_from_string(data).graph
    except Exception as error:  # protobuf's DecodeError, from a package without types
        raise GateError("the parent's ONNX file cannot be read", advice) from error
    stored = {weight.name: weight for weight in graph.initializer}
    if "exact" not in stored:
        raise GateError("the parent's ONNX file holds no table of this version", advice)
    exact = numpy_helper.to_array(stored["exact"])
    if "codes" not in stored:
        return None
    if "levels" not in stored:
        values, levels = exact[:, -1:], None
    else:
        codes, levels = (numpy_helper.to_array(stored[name]) for name in ("codes", "levels"))
        if levels.shape != (LEVELS, 1) or codes.dtype != np.int8 or not (np.diff(levels[:, 0]) >= 0).all():
            raise GateError("the parent's ONNX file holds levels of another version", advice)
        values = levels[codes[:, -1].astype(np.int64) + LEVELS // 2]
    if values.shape != (rows, 1) or values.dtype != np.float32 or not (np.isfinite(values) & (values > 0)).all():
        raise GateError(f"the parent's ONNX file does not hold {rows} scales", advice)
    return RowScales(torch.tensor(values), None if levels is None else torch.tensor(levels))
