"""Int8 rows: how far a value may move, and what must not move at all."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models.parity import float_scorer, module_scorer, quantization_cost
from sottovoce.models.quantize import PLANES, quantize
from sottovoce.models.request import random_requests
from sottovoce.privacy.errors import GateError


def table(module):
    """The float32 table that the module reads, shape (rows, 1 + d)."""
    return module.look_up(module.codes, torch.arange(len(module.codes)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.sampled_from(PLANES))
def test_each_value_moves_by_at_most_the_promised_part_of_its_rows_largest(
    parameters, schema, config, seed, power, planes
):
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(parameters["table"].shape, generator=generator) * 10.0**power
    wanted[0] = 0.0
    found = table(quantize(dict(parameters) | {"table": wanted}, schema, config, planes))
    assert torch.equal(found[:, 0], wanted[:, 0])
    largest = wanted[:, 1:].abs().amax(1, keepdim=True).double()
    bound = largest / (254 if planes == 1 else 254 * 254) + largest * 3e-7
    assert bool(((found - wanted)[:, 1:].abs().double() <= bound).all())


@pytest.mark.parametrize("planes", PLANES)
def test_padding_and_empty_rows_stay_exactly_zero(parameters, schema, config, planes):
    wanted = parameters["table"].clone()
    wanted[3] = 0.0
    found = table(quantize(dict(parameters) | {"table": wanted}, schema, config, planes))
    assert not bool(found[0].any())
    assert not bool(found[3].any())


def test_dense_layers_are_kept_exactly_and_not_shared(parameters, schema, config):
    module = quantize(parameters, schema, config)
    buffers = dict(module.named_buffers())
    for name, value in parameters.items():
        if name != "table":
            assert torch.equal(buffers[name.replace(".", "_")], value)
            assert buffers[name.replace(".", "_")].data_ptr() != value.data_ptr()
    assert buffers["codes"].dtype == torch.int8


def test_a_second_plane_costs_bytes_and_buys_precision(parameters, schema, config):
    requests = random_requests(schema, 100, 16, np.random.default_rng(0))
    reference = float_scorer(parameters, schema, config)
    costs = [
        quantization_cost(reference, module_scorer(quantize(parameters, schema, config, planes)), requests)
        for planes in PLANES
    ]
    assert 1e-5 < costs[0][0] < 5e-2
    assert costs[1][0] < costs[0][0] / 50


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["table", "hidden.weight"])
def test_a_parameter_that_is_not_finite_is_named(parameters, schema, config, bad, name):
    broken = parameters[name].clone()
    broken[1, 1] = bad
    with pytest.raises(GateError, match=name):
        quantize(dict(parameters) | {name: broken}, schema, config)


def test_foreign_parameters_are_the_programmers_mistake(parameters, schema, config):
    padded = parameters["table"].clone()
    padded[0, 0] = 1.0
    missing = {name: value for name, value in parameters.items() if name != "head.bias"}
    for wrong, planes in (
        (missing, 1),
        (dict(parameters) | {"more": torch.zeros(1)}, 1),
        (dict(parameters) | {"table": parameters["table"][:-1]}, 1),
        (dict(parameters) | {"table": padded}, 1),
        (parameters, 3),
    ):
        with pytest.raises(ValueError, match=r"shapes|padding|planes"):
            quantize(wrong, schema, config, planes)
