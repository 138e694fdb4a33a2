"""Masks are uniform to whoever lacks the seed, and packing loses nothing."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sottovoce.privacy.masks import centred, mask, pack, packed_bytes, unpack, word_type


def uniform(words, bits):
    """p value of a chi-square of the low `bits` bits in 256 cells, by their top 8 bits."""
    low = words.astype(np.uint64) & np.uint64((1 << bits) - 1)
    return stats.chisquare(np.bincount((low >> np.uint64(bits - 8)).astype(int), minlength=256)).pvalue


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 62))
def test_what_was_packed_comes_back(data, bits):
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=20))
    words = np.array(numbers, np.uint64).astype(word_type(bits))
    assert unpack(pack(words, bits), len(numbers), bits).tolist() == numbers
    assert len(pack(words, bits)) == packed_bytes(len(numbers), bits)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 62))
def test_a_residue_stands_for_the_number_nearest_to_zero(data, bits):
    numbers = data.draw(st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), min_size=1, max_size=9))
    words = unpack(pack(np.array(numbers), bits), len(numbers), bits)
    assert centred(words, bits).tolist() == numbers


def test_bits_after_the_last_number_and_other_lengths_are_refused():
    assert unpack(b"\xff\xf0", 4, 3).tolist() == [7, 7, 7, 7]
    with pytest.raises(ValueError, match="after the last"):
        unpack(b"\xff\xf8", 4, 3)
    with pytest.raises(ValueError, match="3 bytes, 2 expected"):
        unpack(b"\xff\xf0\x00", 4, 3)


@pytest.mark.parametrize("bits", [9, 24, 32, 33, 62])
def test_a_mask_is_uniform_modulo_the_modulus_and_the_same_on_both_sides(bits):
    drawn = mask(bytes(range(32)), 100_000, bits)
    assert uniform(drawn, bits) > 1e-4
    assert np.array_equal(drawn, mask(bytes(range(32)), 100_000, bits))
    assert not np.array_equal(drawn, mask(bytes(range(1, 33)), 100_000, bits))


def test_a_mask_is_the_counter_stream_of_aes_256():
    stream = Cipher(algorithms.AES(bytes(32)), modes.ECB()).encryptor()  # noqa: S305 - block by block, to compare
    blocks = stream.update(b"".join(number.to_bytes(16, "big") for number in range(4)))
    assert mask(bytes(32), 16, 24).tolist() == np.frombuffer(blocks, "<u4").tolist()


def test_a_vector_without_its_mask_is_told_apart_and_so_is_one_masked_by_half():
    # The same test that masked vectors pass: small numbers, and a mask of half the bits.
    small = np.random.default_rng(0).integers(0, 2**23, 20_000).astype(np.uint32)
    assert uniform(small, 24) < 1e-9
    assert uniform(small // 64 + (mask(bytes(32), 20_000, 24) & np.uint32(0xFFF)), 24) < 1e-9
    assert uniform(small + mask(bytes(32), 20_000, 24), 24) > 1e-4


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        mask(bytes(31), 4, 20)
    with pytest.raises(ValueError, match="63 bits"):
        mask(bytes(32), 4, 63)
