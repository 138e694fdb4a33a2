import numpy as np
import pytest

from sottovoce.client.fleet import LocalTraining, fleet_update
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations import market
from sottovoce.simulations.cli_bench import bench
from sottovoce.simulations.dataset import open_memory_mapped, save
from sottovoce.simulations.fleet_profile import PARTS, large_case, profile
from sottovoce.simulations.fleet_scale import build, measure_rounds, measure_scale
from sottovoce.simulations.loading import partition


def test_a_node_trains_from_mapped_columns_and_copies_none_of_them(tmp_path):
    dataset = market.load(40)
    save(dataset, tmp_path / "market")
    mapped = open_memory_mapped(tmp_path / "market")
    parameters = initial(dataset.schema, RankerConfig(), 0)
    for number in range(3):
        share = partition(mapped.train, number, 3)
        for column in (share.ad, share.labels, share.context, share.device):
            assert not column.flags.owndata
            assert not column.flags.writeable
        begin, end = (int(bound) for bound in np.linspace(0, 40, 4)[number : number + 2])
        asked = np.arange(end - begin)
        whole = (dataset.train, dataset.schema, RankerConfig(), LocalTraining(), 1.0, np.arange(begin, end))
        ours = fleet_update(parameters, share, *whole[1:5], asked).total
        for name, value in fleet_update(parameters, *whole).total.items():
            np.testing.assert_array_equal(ours[name], value)


def test_a_round_over_a_mapped_market_is_timed_by_its_cohort(tmp_path):
    point = measure_rounds(tmp_path, rounds=1, built=build(tmp_path, 300))
    assert (point.devices, point.cohort) == (300, 300)
    assert 0 < point.ms_range[0] <= point.ms_per_device_round <= point.ms_range[1] < 1000
    assert 50 < point.build_peak_rss_mib <= point.peak_rss_mib


@pytest.mark.soak
def test_memory_of_a_million_devices_stays_within_four_gigabytes():
    few, many = measure_scale([10_000, 1_000_000], rounds=1)
    assert many.cohort > 9_000
    assert many.peak_rss_mib < 4096
    assert many.build_peak_rss_mib < 4096
    assert many.ms_per_device_round < 1.15 * few.ms_per_device_round


@pytest.mark.parametrize("scale", ["0", "1000,", "many", "10,-1"])
def test_populations_that_are_none_are_refused(scale):
    with pytest.raises(ConfigError, match="not a list of populations"):
        bench.main(["fleet", "--scale", scale], standalone_mode=False)


def test_a_profile_names_every_part_and_they_add_up():
    found = profile(large_case(devices=8, rows=6, steps=1), repeats=1)
    assert set(found.percent) == {*PARTS, "rest"}
    assert all(value > 0 for value in found.percent.values())
    assert abs(sum(found.percent.values()) - 100) < 0.5
    assert found.parameters == 139_323
    assert 0 < found.floor_ms < found.ms_per_device_round
