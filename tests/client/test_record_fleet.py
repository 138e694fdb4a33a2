"""Devices trained together with record-level privacy are what Opacus makes of each alone, noise and batches alike."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from small_records import CONFIG, PLAN, RATE, SCHEMA, by_opacus, examples, gap, norm, parameters

from sottovoce.client import record_fleet
from sottovoce.client.record_fleet import record_fleet_update
from sottovoce.client.record_level import record_level_update, rows_of
from sottovoce.privacy.entropy import OsEntropy, SeededEntropy
from sottovoce.privacy.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")

RAGGED = [7, 1, 0, 12, 1, 31, 3]
SHORT = replace(PLAN, steps=2)


def together(values, rows, devices, bound=1e9, plan=PLAN, entropy=None, round=1, using=record_fleet_update):
    return using(
        values, rows, SCHEMA, CONFIG, plan, RATE, bound, np.array(devices), entropy or SeededEntropy(3), "0", round
    )


def alone(values, rows, devices, bound, round):
    """Opacus on each device, its update then clipped as a whole; the sum."""
    total = {name: np.zeros(value.shape) for name, value in values.items()}
    for device in devices:
        batches, noise = (
            SeededEntropy(3).generator(f"record {kind} 0/{device}", round) for kind in ("batches", "noise")
        )
        update = by_opacus(values, *rows_of(rows, device), SHORT, batches, noise)
        for name, value in update.items():
            total[name] += value * min(1.0, bound / norm(update))
    return total


def with_repeated_ids(rows):
    """Every second page is also the topic of some ad, so that a record reads one table row twice."""
    page = rows.context.copy()
    page[::2, 0] = rows.catalogue[rows.ad[::2], 1]
    return replace(rows, context=page)


def test_ten_rounds_end_where_opacus_ends_on_each_device_alone():
    rows = with_repeated_ids(examples(RAGGED))
    devices = [0, 1, 2, 3, 3, 4, 5, 6]  # one asked twice
    fast, slow, clipped = parameters(), parameters(), 0
    for round in range(1, 11):
        update = together(fast, rows, devices, bound=0.75, plan=SHORT, round=round)
        assert update.devices == len(devices)
        clipped += update.clipped
        fast = {name: value + torch.from_numpy(update.total[name]).float() / 4 for name, value in fast.items()}
        update = alone(slow, rows, devices, 0.75, round)
        slow = {name: value + torch.from_numpy(update[name]).float() / 4 for name, value in slow.items()}
    for name in fast:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-5, rtol=0)
    assert 10 <= clipped <= 10 * len(devices) - 10
    assert max((value - parameters()[name]).abs().max() for name, value in fast.items()) > 0.1


@pytest.mark.parametrize("limit", ["MOST_VALUES", "MOST_ROWS"])
def test_how_devices_and_records_are_grouped_makes_no_difference(monkeypatch, limit):
    values, rows = parameters(), examples(RAGGED)
    whole = together(values, rows, range(7)).total
    monkeypatch.setattr(record_fleet, limit, 1)
    assert gap(whole, together(values, rows, range(7)).total) <= 1e-6


def test_a_record_that_overflows_counts_as_zero_as_it_does_alone_and_its_device_trains_on():
    values, rows = parameters(), examples([6, 4])
    values["table"][rows.context[1, 0]] = 1e30  # the page of one row of the first device
    quiet = replace(PLAN, noise_multiplier=1e-6, sampling_rate=1.0)
    fast, slow = (
        together(values, rows, [0, 1], plan=quiet, using=using).total
        for using in (record_fleet_update, record_level_update)
    )
    fast["table"][rows.context[1, 0]] = slow["table"][rows.context[1, 0]] = 0.0  # too large to change by noise
    assert gap(fast, slow) <= 1e-5
    assert 0.01 < norm(fast) < math.inf


def test_a_device_whose_weights_are_no_numbers_counts_as_zero():
    values, rows = parameters(), examples([6, 4])
    values["hidden.weight"][0, 0] = float("nan")
    update = together(values, rows, [0, 1])
    assert norm(update.total) == 0
    assert update.clipped == 2


@pytest.mark.parametrize("rows", [0, 4], ids=["no rows at all", "rows of which none is drawn"])
def test_an_empty_batch_releases_noise_of_the_promised_size_on_every_weight_but_padding(rows):
    """As for one device: about 390 numbers a step, 40 steps; two thirds or three halves of the noise are far out."""
    plan = replace(PLAN, steps=40, sampling_rate=1e-9, records=10**9, delta=1e-12)
    update = together(parameters(), examples([rows, 9]), [0], plan=plan).total
    assert not update["table"][0].any()
    flat = np.concatenate([value.ravel() for value in update.values()])[update["table"].shape[1] :]
    assert (flat != 0).all()
    size = 0.8 * 0.3 * math.sqrt(40) * RATE / plan.expected_batch
    assert abs(flat.std() / size - 1) < 5 / math.sqrt(2 * len(flat))


def test_the_sum_is_bounded_device_by_device_and_no_two_share_noise():
    values, rows = parameters(), examples([5, 5, 0])
    for device in range(3):
        assert 0 < norm(together(values, rows, [device], bound=0.2).total) <= 0.2 * (1 + 1e-6)
    both = together(values, examples([0, 0]), [0, 1], entropy=OsEntropy()).total
    first, second = (together(values, examples([0, 0]), [device]).total for device in (0, 1))
    a, b = (np.concatenate([value.ravel() for value in one.values()]) for one in (first, second))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.2
    assert norm(both) / math.hypot(norm(first), norm(second)) == pytest.approx(
        1, abs=0.25
    )  # not twice one and the same


@pytest.mark.parametrize("using", [record_fleet_update, record_level_update])
def test_no_personal_layer_is_fitted_because_it_would_be_fitted_on_all_rows(using):
    values, rows = parameters(), examples([6, 4])
    without = together(values, rows, [0, 1], plan=SHORT, using=using).total
    personal = msgspec.structs.replace(CONFIG, personal_variance=1.0)
    found = using(values, rows, SCHEMA, personal, SHORT, RATE, 1e9, np.arange(2), SeededEntropy(3), "0", 1).total
    assert gap(found, without) == 0


def test_what_has_no_gradient_by_record_is_refused():
    values, rows = parameters(), examples([5])
    with pytest.raises(ValueError, match=r"no gradient by record for \['personal\.weight'\]"):
        together(values | {"personal.weight": torch.zeros(3)}, rows, [0], plan=replace(PLAN, sampling_rate=1.0))
    with pytest.raises(DataError, match="model of"):
        together(values | {"table": torch.zeros(1, 1).expand(2**24, 9)}, rows, [0])
