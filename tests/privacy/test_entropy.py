"""Secure randomness never repeats; seeded randomness always does."""

import numpy as np
import pytest

from sottovoce.privacy.entropy import OsEntropy, SeededEntropy


def test_kinds_are_named():
    assert OsEntropy().kind == "secure"
    assert SeededEntropy(1).kind == "seeded"


def test_secure_sources_never_repeat():
    entropy = OsEntropy()
    words = [entropy.generator("noise", 1).bits(1000) for _ in range(20)]
    assert len(np.unique(np.concatenate(words))) == 20_000


def test_seeded_sources_repeat_for_the_same_seed_purpose_and_round():
    first = SeededEntropy(7).generator("noise", 3)
    again = SeededEntropy(7).generator("noise", 3)
    assert (first.bits(100) == again.bits(100)).all()
    assert (first.uniform53(100) == again.uniform53(100)).all()


@pytest.mark.parametrize(
    "other",
    [(8, "noise", 3), (7, "cohort", 3), (7, "noise", 4), (-7, "noise", 3), (73, "noise", 3), (7, "noise3", 3)],
)
def test_seeded_sources_differ_in_every_part_of_their_name(other):
    seed, purpose, round = other
    one = SeededEntropy(7).generator("noise", 3).uniform53(20_000)
    two = SeededEntropy(seed).generator(purpose, round).uniform53(20_000)
    assert not np.isin(one, two).any()
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(20_000)


def test_a_digit_cannot_move_between_purpose_and_round():
    one, two = SeededEntropy(7).generator("a1", 1), SeededEntropy(7).generator("a", 11)
    assert (one.bits(10) != two.bits(10)).any()


@pytest.mark.parametrize("entropy", [OsEntropy(), SeededEntropy(5)])
def test_uniforms_are_uniform_multiples_of_two_to_the_minus_53(entropy):
    draws = entropy.generator("test", 0).uniform53(400_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert (draws * 2.0**53 == np.floor(draws * 2.0**53)).all()
    cells = np.bincount((draws * 100).astype(int), minlength=100)
    chi_square = ((cells - 4000) ** 2 / 4000).sum()
    assert 40 < chi_square < 190  # 99 degrees of freedom: beyond 1e-6 on either side
    low_bits = (draws * 2.0**53).astype(np.uint64) & np.uint64(1)
    assert abs(low_bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(400_000)
