import numpy as np
import pytest

from sottovoce.client.touched_rows import touched_rows


@pytest.mark.parametrize("largest", [7, 3000, 2**30], ids=["few rows", "a table", "more than a packed word holds"])
def test_places_are_grouped_by_device_and_row(largest):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, largest, (5, 23)).astype(np.int32)
    ids[2] = 0
    ids[3, 4:] = 0
    ids[1, :7] = ids[0, :7]
    found = touched_rows(ids)
    np.testing.assert_array_equal(found.row[found.flat], ids)
    held = found.flat[found.flat > 0]
    np.testing.assert_array_equal(found.owner[held - 1], np.nonzero(ids)[0])
    assert len(found.row) == 1 + sum(len(np.unique(some[some > 0])) for some in ids)
    ends = [*found.starts[1:], len(found.order)]
    for number, (begin, end) in enumerate(zip(found.starts, ends, strict=True), 1):
        places = np.flatnonzero(found.flat.ravel() == number)
        np.testing.assert_array_equal(np.sort(found.order[begin:end]), places)
