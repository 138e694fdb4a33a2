"""Scales of rows: they never clip, one byte rounds them up a little, and they stay while they fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models.row_scales import CODES, RowScales, row_scales

ROWS, WIDTH = 40, 3
POWERS = st.lists(st.floats(-28, 28), min_size=ROWS, max_size=ROWS)
"""Far enough from the smallest normal number, at which scales end, for any change that is tried here."""
EXACT = 1 + 1e-6
"""What float32 rounding may add to a ratio."""


def vectors(seed, powers):
    """Random rows of very different sizes; the first and the last are zero."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(ROWS, WIDTH, generator=generator) * 10.0 ** torch.tensor(powers)[:, None]
    made[0] = made[-1] = 0.0
    return made


def ratio(scales, made):
    """Scale of each row that is not zero, in units of the smallest that does not clip."""
    least = made.abs().amax(1, keepdim=True).double() / CODES
    return (scales.values.double() / least)[1:-1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), POWERS)
def test_a_scale_of_one_byte_is_rounded_up_and_by_no_more_than_promised(seed, powers):
    made = vectors(seed, powers)
    scales = row_scales(made, one_byte=True)
    largest = made.abs().amax(1)[1:-1].double()
    step = float(4 * largest.max() / largest.min()) ** (1 / 255)
    found = ratio(scales, made)
    assert float(found.min()) >= 1 / EXACT
    assert float(found.max()) <= step * EXACT
    assert step < 2


def test_rows_that_differ_five_thousand_times_lose_four_percent_at_most():
    made = torch.logspace(0, 3.69, 500)[:, None]
    scales = row_scales(made, one_byte=True)
    assert float((scales.values[:, 0] / made[:, 0] * CODES).max()) < 1.04


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), POWERS)
def test_the_byte_finds_its_scale_again(seed, powers):
    scales = row_scales(vectors(seed, powers), one_byte=True)
    assert scales.codes.dtype == torch.int8
    assert torch.equal(scales.levels[scales.codes.long()[:, 0] + 128], scales.values)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), POWERS, st.floats(0, 3), st.booleans(), st.booleans())
def test_with_the_scales_of_before_nothing_clips_and_no_scale_is_twice_too_large(
    seed, powers, change, before, one_byte
):
    earlier = vectors(seed, powers)
    factor = torch.randn(ROWS, 1, generator=torch.Generator().manual_seed(seed + 1)).mul(change).exp()
    made = earlier * factor
    old = row_scales(earlier, before)
    found = ratio(row_scales(made, one_byte, old), made)
    assert float(found.min()) >= 1 / EXACT
    assert float(found.max()) <= 2 * EXACT


@pytest.mark.parametrize("one_byte", [False, True])
def test_a_row_keeps_its_scale_while_it_fits_and_only_then(one_byte):
    earlier = torch.tensor([[0.0], [1.0], [1.0], [1.0], [1.0], [2.0]])
    made = earlier * torch.tensor([[0.0], [1.0], [0.6], [0.4], [1.5], [1.0]])
    old = row_scales(earlier, one_byte)
    new = row_scales(made, one_byte, old)
    assert (new.values == old.values)[:, 0].tolist() == [True, True, True, False, False, True]
    if one_byte:
        assert torch.equal(new.levels, old.levels)


def test_a_row_that_became_zero_keeps_its_scale():
    old = row_scales(torch.tensor([[0.0], [3.0]]))
    assert torch.equal(row_scales(torch.zeros(2, 1), previous=old).values, old.values)


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_levels_are_made_anew_where_a_row_leaves_them(size):
    earlier = torch.tensor([[0.0], [1.0], [2.0]])
    made = torch.tensor([[0.0], [1.0], [size]])
    old = row_scales(earlier, one_byte=True)
    new = row_scales(made, True, old)
    assert not torch.equal(new.levels, old.levels)
    assert float((new.values / made * CODES)[1:].max()) < 1.1


def test_scales_of_four_bytes_may_follow_scales_of_one_and_the_other_way_round():
    earlier = torch.tensor([[0.0], [1.0], [2.0]])
    one, four = row_scales(earlier, one_byte=True), row_scales(earlier)
    assert torch.equal(row_scales(earlier, False, one).values, one.values)
    assert torch.equal(row_scales(earlier, True, four).values, one.values)


def test_a_table_of_zeros_has_scales_all_the_same():
    for one_byte in (False, True):
        scales = row_scales(torch.zeros(3, 2), one_byte)
        assert bool((torch.isfinite(scales.values) & (scales.values > 0)).all())


def test_scales_of_another_table_or_none_at_all_are_the_programmers_mistake():
    made = torch.ones(3, 2)
    for wrong in (torch.ones(2, 1), torch.zeros(3, 1), torch.full((3, 1), float("nan")), torch.full((3, 1), torch.inf)):
        with pytest.raises(ValueError, match="previous scales"):
            row_scales(made, previous=RowScales(wrong))
    with pytest.raises(ValueError, match="four bytes"):
        _ = row_scales(made).codes
