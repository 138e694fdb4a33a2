"""A device believes approvals because of who signed them."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_creative import DAY, NOW, approved, creative

from sottovoce.client.signed_approvals import Statement, open_approvals, sign_approvals
from sottovoce.models.signing import generate_key
from sottovoce.privacy.errors import BundleError, ExpiredError, RollbackError, SignatureError

BRAND, LEGAL, THIEF = (generate_key() for _ in range(3))
TRUSTED = (BRAND.public_key(), LEGAL.public_key())
STATEMENT = Statement(version=3, expires=NOW + DAY, approvals=approved(creative()))
BOTH = sign_approvals(STATEMENT, (BRAND, LEGAL))


def test_enough_signatures_are_believed():
    assert open_approvals(BOTH, TRUSTED, 2, NOW, 3) == STATEMENT


@pytest.mark.parametrize(
    ("data", "now", "least", "error"),
    [
        (sign_approvals(STATEMENT, (BRAND,)), NOW, 1, SignatureError),
        (sign_approvals(STATEMENT, (BRAND, BRAND)), NOW, 1, SignatureError),  # one key twice
        (sign_approvals(STATEMENT, (BRAND, THIEF)), NOW, 1, SignatureError),
        (BOTH, NOW, 4, RollbackError),
        (BOTH, NOW + DAY, 1, ExpiredError),
        (BOTH + b"\n", NOW, 1, BundleError),
        (b"{}", NOW, 1, BundleError),
        (b"\xff", NOW, 1, BundleError),
    ],
)
def test_everything_else_is_refused(data, now, least, error):
    with pytest.raises(error):
        open_approvals(data, TRUSTED, 2, now, least)


def test_a_key_that_is_trusted_twice_counts_once():
    with pytest.raises(SignatureError):
        open_approvals(sign_approvals(STATEMENT, (BRAND,)), (TRUSTED[0], TRUSTED[0]), 2, NOW)


@settings(max_examples=60, deadline=timedelta(seconds=5))
@given(st.integers(0, len(BOTH) - 1), st.integers(1, 255))
def test_no_flipped_byte_is_believed(place, mask):
    with pytest.raises(BundleError):
        open_approvals(BOTH[:place] + bytes([BOTH[place] ^ mask]) + BOTH[place + 1 :], TRUSTED, 2, NOW)
