"""`bench faults` in small: the same three trials, added up, with the figures that the command promises."""

import msgspec
import pytest

from sottovoce.simulations.fault_bench import Effort, bench
from sottovoce.simulations.fault_soak import DROPOUTS

PROMISED = {"rounds", "rounds_closed", "violations", "kills", "resumes", "double_counts", "noise_ratio"}


def held(found, effort):
    rounds = effort.rounds + len(DROPOUTS) * effort.dropout_rounds
    assert (found.rounds, found.rounds_closed, found.violations) == (rounds, rounds, 0)
    assert (found.kills, found.resumes) == (effort.kills, effort.kills)
    assert (found.double_counts, found.wrong_rounds, found.epsilon_fell) == (0, 0, 0)


def test_rounds_close_noise_holds_and_a_killed_coordinator_goes_on():
    effort = Effort(rounds=3, devices=40, rate=0.1, kills=2, dropout_rounds=2)
    found = bench(effort)
    held(found, effort)
    assert abs(found.noise_ratio - 1) < 6 * found.noise_error
    assert set(msgspec.json.decode(msgspec.json.encode(found))) >= PROMISED


@pytest.mark.soak
def test_many_rounds_hold_and_neither_memory_nor_files_run_away():
    effort = Effort(rounds=300, devices=1000, kills=40)
    found = bench(effort)
    held(found, effort)
    for one in found.dropouts:
        assert one.error < 0.003
        assert abs(one.noise_ratio - 1) < 0.01
    soaked = found.soak
    if soaked.open_files is not None:
        assert soaked.open_files.least == soaked.open_files.most
    if soaked.rss_kib is not None:
        assert soaked.rss_kib.per_1000_rounds < 5_000
