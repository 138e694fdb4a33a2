"""Int8 rows: how far a value may move, and what must not move at all."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models import ranker
from sottovoce.models.parity import float_scorer, module_scorer, quantization_cost
from sottovoce.models.quantize import PLANES, quantize
from sottovoce.models.request import random_requests
from sottovoce.models.row_scales import RowScales, row_scales
from sottovoce.privacy.errors import GateError


def table(module):
    """The float32 table that the module reads, shape (rows, 1 + d)."""
    return module.look_up(module.codes, torch.arange(len(module.codes)))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.sampled_from(PLANES), st.booleans(), st.booleans())
def test_each_value_moves_by_at_most_the_promised_part_of_its_rows_largest(
    parameters, schema, config, seed, power, planes, one_byte, again
):
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(parameters["table"].shape, generator=generator) * 10.0**power
    wanted[0] = 0.0
    largest = wanted[:, 1:].abs().amax(1, keepdim=True).double()
    previous = None
    if again:
        previous = row_scales(wanted[:, 1:] * (1 + torch.rand(len(wanted), 1, generator=generator)), one_byte)
    module = quantize(
        dict(parameters) | {"table": wanted}, schema, config, planes, one_byte_scales=one_byte, previous=previous
    )
    found = table(module)
    assert torch.equal(found[:, 0], wanted[:, 0])
    more = 1.0
    if again:
        more = 2.0
    elif one_byte:
        more = float(4 * largest[1:].max() / largest[1:].min()) ** (1 / 255)
    bound = more * largest / (254 if planes == 1 else 254 * 254) + largest * 6e-7
    assert bool(((found - wanted)[:, 1:].abs().double() <= bound).all())


@pytest.mark.parametrize("one_byte", [False, True])
@pytest.mark.parametrize("planes", PLANES)
def test_padding_and_empty_rows_stay_exactly_zero(parameters, schema, config, planes, one_byte):
    wanted = parameters["table"].clone()
    wanted[3] = 0.0
    previous = row_scales(parameters["table"][:, 1:], one_byte)
    for before in (None, previous):
        found = table(
            quantize(
                dict(parameters) | {"table": wanted},
                schema,
                config,
                planes,
                one_byte_scales=one_byte,
                previous=before,
            )
        )
        assert not bool(found[0].any())
        assert not bool(found[3].any())


@pytest.mark.parametrize("planes", PLANES)
def test_a_scale_of_one_byte_saves_three_bytes_a_row_less_its_levels(parameters, schema, config, planes):
    stored = [
        sum(
            value.numel() * value.element_size()
            for name, value in quantize(parameters, schema, config, planes, one_byte_scales=one_byte).named_buffers()
            if name in ("codes", "exact", "levels")
        )
        for one_byte in (False, True)
    ]
    assert stored[0] - stored[1] == 3 * schema.rows - 256 * 4


@pytest.mark.parametrize("one_byte", [False, True])
def test_with_the_scales_of_before_a_small_change_changes_fewer_bytes(one_byte, schema):
    config = ranker.RankerConfig(embedding_width=16)
    before = ranker.initial(schema, config, 0)
    table = before["table"].clone()
    table[1:, 1:] += 5e-5 * torch.randn(table[1:, 1:].shape, generator=torch.Generator().manual_seed(1))
    old = row_scales(before["table"][:, 1:], one_byte)

    def stored(table, previous):
        made = quantize(dict(before) | {"table": table}, schema, config, one_byte_scales=one_byte, previous=previous)
        return np.frombuffer(b"".join(part.numpy().tobytes() for part in made.buffers()), np.uint8)

    first = stored(before["table"], None)
    kept, new = (int((stored(table, previous) != first).sum()) for previous in (old, None))
    assert 0 < kept < 0.75 * new


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.sampled_from(PLANES), st.booleans(), st.booleans())
def test_its_own_scales_give_a_table_back_whether_they_were_new_or_kept(
    parameters, schema, config, seed, power, planes, one_byte, kept
):
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(parameters["table"].shape, generator=generator) * 10.0**power
    wanted[[0, 5]] = 0.0
    previous = None
    if kept:
        previous = row_scales(wanted[:, 1:] * (1 + torch.rand(len(wanted), 1, generator=generator)), one_byte)
    weights = dict(parameters) | {"table": wanted}
    first = quantize(weights, schema, config, planes, one_byte_scales=one_byte, previous=previous)
    if first.levels is None:
        own = RowScales(first.exact[:, 1:])
    else:
        own = RowScales(first.levels[first.codes[:, -1].long() + 128, :], first.levels)
    second = quantize(weights, schema, config, planes, one_byte_scales=one_byte, previous=own)
    assert all(torch.equal(one, other) for one, other in zip(first.buffers(), second.buffers(), strict=True))


def test_a_vector_of_one_value_with_a_scale_of_one_byte_has_one_plane(schema):
    config = ranker.RankerConfig(embedding_width=1)
    module = quantize(ranker.initial(schema, config, 0), schema, config, one_byte_scales=True)
    assert (module.planes, module.codes.shape[1]) == (1, 2)
    assert "one byte" in module.storage


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
