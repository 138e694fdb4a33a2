"""Scales read back from a released file are the ones it was made with."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sottovoce.models.onnx_export import to_onnx
from sottovoce.models.quantize import quantize
from sottovoce.models.row_scales import row_scales
from sottovoce.models.stored_scales import stored_scales
from sottovoce.privacy.errors import GateError


@pytest.fixture(scope="module")
def wanted(parameters):
    return row_scales(parameters["table"][:, 1:], one_byte=True)


@pytest.fixture(scope="module")
def data(parameters, schema, config):
    return to_onnx(quantize(parameters, schema, config, one_byte_scales=True), schema)


def changed(data, name, change):
    """The file with one of its weights replaced, or without it where `change` is None."""
    model = onnx.load_from_string(data)
    (weight,) = (one for one in model.graph.initializer if one.name == name)
    model.graph.initializer.remove(weight)
    if change is not None:
        model.graph.initializer.append(numpy_helper.from_array(change(numpy_helper.to_array(weight).copy()), name))
    return model.SerializeToString()


def test_scales_of_one_byte_are_read_as_they_were_written(data, wanted, schema):
    found = stored_scales(data, schema.rows)
    assert torch.equal(found.values, wanted.values)
    assert torch.equal(found.levels, wanted.levels)


def test_a_file_without_levels_has_its_scales_next_to_the_first_order_weights(data, wanted, schema):
    four = changed(changed(data, "levels", None), "exact", lambda kept: np.hstack([kept, wanted.values.numpy()]))
    found = stored_scales(four, schema.rows)
    assert torch.equal(found.values, wanted.values)
    assert found.levels is None


def test_a_file_of_another_table_and_no_file_at_all_are_refused(data, schema):
    for wrong in (
        b"onnx bytes",
        b"",
        changed(data, "exact", None),
        changed(data, "levels", lambda kept: kept[::-1].copy()),
        changed(data, "levels", lambda kept: np.sort(-kept, 0)),
        changed(data, "levels", lambda kept: kept[1:]),
        changed(data, "levels", None),
    ):
        with pytest.raises(GateError, match="ONNX"):
            stored_scales(wrong, schema.rows)
    with pytest.raises(GateError, match="scales"):
        stored_scales(data, schema.rows + 1)


def test_a_linear_model_has_none(data, schema):
    assert stored_scales(changed(data, "codes", None), schema.rows) is None
