"""The audit block runs the real mechanism and records what it released, whom it asked and what it paid."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations.audit_block import MOST_ROUNDS, block_plan, run_block

PLAN = MechanismPlan(6040, 0.1, 0.5, 1.5, 30, 1e-5)
QUIET = replace(PLAN, noise_multiplier=1e-6, rounds=12)
"""So little noise that a sum can be read off exactly."""


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return run_block(QUIET, SeededEntropy(1), 40, tmp_path_factory.mktemp("quiet"))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    return run_block(PLAN, SeededEntropy(2), 100, folder), folder


def test_a_canary_moves_its_own_direction_by_the_bound_when_it_is_in_and_asked(quiet):
    lengths = quiet.along * quiet.std
    expected = (quiet.took_part & quiet.included) * QUIET.clip_norm
    np.testing.assert_allclose(lengths, expected, atol=1e-4)
    np.testing.assert_allclose(quiet.across * quiet.std, 0.0, atol=1e-4)
    assert expected.any()


def test_the_crowd_gives_a_bound_each_and_the_denominator_is_the_public_one(quiet):
    members = np.delete(quiet.asked, quiet.canary, axis=1).sum(1)
    np.testing.assert_allclose(quiet.crowd, members * QUIET.clip_norm, atol=1e-4)
    assert len(set(quiet.asked.sum(1))) > 3


def test_what_nobody_touches_holds_noise_of_the_promised_size(noisy):
    block, _ = noisy
    assert block.untouched.shape == (30, 100 + (~block.included).sum())
    # 4,500 numbers: standard error 1.1 %
    assert block.untouched.std() == pytest.approx(1.0, abs=0.05)
    assert block.std == pytest.approx(0.75, rel=1e-4)


def test_about_half_the_canaries_are_in(noisy):
    block, _ = noisy
    assert 25 < block.included.sum() < 75


def test_every_release_is_on_the_ledger_before_its_devices_are_asked(noisy):
    block, folder = noisy
    assert block.debited_before == block.debited_after == tuple(range(1, 31))
    assert block.strangers == 0
    with Ledger.open(folder / "ledger.db", readonly=True) as ledger:
        book = ledger.book()
    assert book.releases == 30
    assert book.spent[block.plan.event()] == 30


def test_what_could_be_read_is_known_for_every_number(noisy):
    block, _ = noisy
    assert block.error.shape == block.released.shape == (30, 201)
    assert 0 < block.error.max() < 2.0**-13


def test_no_reply_is_dropped_and_no_checkpoint_is_missing(noisy):
    block, folder = noisy
    assert block.dropped == ()
    assert (folder / "checkpoints" / "round-000030.safetensors").exists()


def test_the_same_seed_gives_the_same_block_and_another_another(tmp_path):
    plan = replace(PLAN, rounds=3)
    blocks = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        blocks.append(run_block(plan, SeededEntropy(seed), 20, tmp_path / name))
    np.testing.assert_array_equal(blocks[0].released, blocks[1].released)
    assert (blocks[0].released != blocks[2].released).all()


def test_the_block_keeps_the_mechanism_and_takes_a_population_of_its_own():
    plan = MechanismPlan(10**6, 0.01, 2.0, 3.0, 5000, 1e-7, max_participations=9, cohorts="visible")
    block = block_plan(plan, 300)
    kept = ("sampling_rate", "clip_norm", "noise_multiplier", "sampling", "cohorts", "noise")
    assert all(getattr(block, name) == getattr(plan, name) for name in kept)
    assert (block.population, block.rounds, block.purpose) == (600, MOST_ROUNDS, "audit")
    assert block.max_participations is None
    assert block.delta == 1e-7
    assert block_plan(replace(plan, population=5, delta=0.1), 300).delta < 1 / 600


def test_a_cap_stays_as_many_standard_deviations_above_the_mean():
    plan = MechanismPlan(6040, 0.02, 1.0, 1.0, 10, 1e-5, sampling="truncated_poisson", cap=160)
    block = block_plan(plan, 1000)

    def above(plan):
        return (plan.cap - 0.02 * plan.population) / math.sqrt(0.02 * 0.98 * plan.population)

    assert above(block) == pytest.approx(above(plan), abs=1 / math.sqrt(0.0196 * 2000))


def test_a_plan_without_noise_has_nothing_to_audit(tmp_path):
    with pytest.raises(ConfigError, match="no noise"):
        run_block(replace(PLAN, noise_multiplier=0.0), SeededEntropy(0), 20, tmp_path)
