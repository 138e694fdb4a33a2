"""Enough shares give the secret back, fewer say nothing: counted out in a field small enough to count."""

from collections import Counter
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.secret_sharing import PRIME, combine, split, weights

SMALL = 7


def scripted(numbers):
    left = list(numbers)
    return lambda below: left.pop(0)


def test_the_modulus_is_the_least_prime_above_two_to_the_256():
    def composite(n):
        return any(pow(base, n - 1, n) != 1 for base in (2, 3, 5, 7, 11, 13, 17))

    assert not composite(PRIME)
    assert all(composite(n) for n in range(2**256 + 1, PRIME, 2))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, PRIME - 1), st.integers(1, 12))
def test_any_threshold_of_shares_gives_the_secret_back(data, secret, holders):
    threshold = data.draw(st.integers(1, holders))
    points = data.draw(st.lists(st.integers(1, 2**40), min_size=holders, max_size=holders, unique=True))
    shares = split(secret, threshold, points)
    kept = data.draw(st.lists(st.sampled_from(points), min_size=threshold, unique=True))
    assert combine({one: shares[one] for one in kept}, threshold) == secret


def test_shares_below_the_threshold_fit_every_secret_equally_often():
    # Every secret and every polynomial of degree 2 over the integers modulo 7: two shares out of four.
    for seen in combinations((1, 2, 3, 4), 2):
        views = {}
        for secret, *rest in product(range(SMALL), repeat=3):
            shares = split(secret, 3, (1, 2, 3, 4), scripted(rest), SMALL)
            views.setdefault(tuple(shares[one] for one in seen), Counter())[secret] += 1
        assert len(views) == SMALL**2
        assert all(counts == Counter(dict.fromkeys(range(SMALL), 1)) for counts in views.values())


def test_shares_at_the_threshold_tell_the_secret():
    views = {}
    for secret, *rest in product(range(SMALL), repeat=3):
        shares = split(secret, 3, (1, 2, 3, 4), scripted(rest), SMALL)
        views.setdefault((shares[1], shares[2], shares[4]), set()).add(secret)
    assert all(len(secrets) == 1 for secrets in views.values())


def test_one_share_less_gives_another_secret_and_too_few_are_refused():
    shares = split(123456789, 3, (1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match="2 shares, 3 are needed"):
        combine({one: shares[one] for one in (1, 2)}, 3)
    assert combine({one: shares[one] for one in (1, 2)}, 2) != 123456789


@pytest.mark.parametrize(
    ("threshold", "holders"), [(0, (1, 2)), (3, (1, 2)), (2, (1, 1)), (2, (0, 1)), (2, (1, PRIME))]
)
def test_sharing_that_would_leak_or_fail_is_refused(threshold, holders):
    with pytest.raises(ValueError, match=r"holders"):
        split(5, threshold, holders)


def test_a_repeated_holder_has_no_weights():
    with pytest.raises(ValueError, match="different"):
        weights((1, 2, 2))
